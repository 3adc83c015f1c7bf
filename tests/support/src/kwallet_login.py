"""Becomes kwalletd5. With a password, opens the user's wallet first, as pam_kwallet does at a login."""

import hashlib
import os
import secrets
import socket
import sys

if len(sys.argv) < 2:
    os.execvp("kwalletd5", ["kwalletd5"])

wallets = os.path.join(os.environ["XDG_DATA_HOME"], "kwalletd")
os.makedirs(wallets, mode=0o700, exist_ok=True)
salt_file = os.path.join(wallets, "kdewallet.salt")
if not os.path.exists(salt_file):
    with open(salt_file, "wb") as file:
        file.write(secrets.token_bytes(56))
with open(salt_file, "rb") as file:
    salt = file.read()

# The daemon reads the key from a pipe, and its environment from a socket.
reader, writer = os.pipe()
os.write(writer, hashlib.pbkdf2_hmac("sha512", sys.argv[1].encode(), salt, 50000, 56))
os.close(writer)
path = os.path.join(os.environ["XDG_RUNTIME_DIR"], "kwallet5.socket")
if os.path.exists(path):
    os.unlink(path)
listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
listener.listen(1)
login = socket.socket(socket.AF_UNIX)
login.connect(path)
login.sendall("".join(f"{name}={value}\n" for name, value in os.environ.items()).encode())
login.close()

os.set_inheritable(reader, True)
os.set_inheritable(listener.fileno(), True)
os.environ["PAM_KWALLET5_LOGIN"] = path
os.execvp("kwalletd5", ["kwalletd5", "--pam-login", str(reader), str(listener.fileno())])
