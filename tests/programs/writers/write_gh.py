"""gh: `gh auth login --with-token` for two hosts. A proxy plays both, with a certificate of its own."""

import datetime
import os
import shutil
import socketserver
import ssl
import subprocess
import tempfile
import threading
from http.server import BaseHTTPRequestHandler

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from endpoint import DIRECTORY

HOSTS = ["github.com", "api.github.com", "git.example.com"]


def certificate(path):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "tests")])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host) for host in HOSTS]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    key_form = serialization.PrivateFormat.PKCS8
    with open(path, "wb") as file:
        file.write(key.private_bytes(pem, key_form, serialization.NoEncryption()))
        file.write(made.public_bytes(pem))


class GitHub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_CONNECT(self):
        self.send_response(200)
        self.end_headers()
        self.connection = context.wrap_socket(self.connection, server_side=True)
        self.rfile = self.connection.makefile("rb")
        self.wfile = self.connection.makefile("wb", buffering=0)

    def do_GET(self):
        self.answer(b"{}")

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(b'{"data":{"viewer":{"login":"octocat"}}}')

    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Oauth-Scopes", "gist, read:org, repo")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


with tempfile.TemporaryDirectory() as home:
    pem = os.path.join(home, "certificate.pem")
    certificate(pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), GitHub)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = {
        "HOME": home,
        "GH_CONFIG_DIR": home,
        "HTTPS_PROXY": f"http://127.0.0.1:{server.server_address[1]}",
        "PATH": os.environ["PATH"],
        "SSL_CERT_FILE": pem,
    }
    for host, token in [("github.com", "gho_access"), ("git.example.com", "ghp_other")]:
        command = ["gh", "auth", "login", "--hostname", host, "--with-token"]
        subprocess.run(command, input=token, text=True, env=environment, timeout=60, check=True)
        shutil.copy(os.path.join(home, "hosts.yml"), DIRECTORY / host)
