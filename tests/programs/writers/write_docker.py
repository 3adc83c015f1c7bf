"""docker: `docker login` at a registry that issues refresh tokens, and at one that only knows passwords."""

import json
import os
import shutil
import subprocess
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from endpoint import DIRECTORY


class Registry(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path.startswith("/token"):
            return self.answer(200, {"token": "access", "refresh_token": "refresh"})
        is_signed_in = self.headers.get("Authorization") == self.accepted
        return self.answer(200 if is_signed_in else 401, {})

    def answer(self, status, body):
        body = json.dumps(body).encode()
        self.send_response(status)
        if status == 401:
            self.send_header("WWW-Authenticate", self.challenge.format(self.headers["Host"]))
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Tokens(Registry):
    accepted = "Bearer access"
    challenge = 'Bearer realm="http://{}/token",service="registry"'


class Passwords(Registry):
    accepted = "Basic dXNlcjpwYXNzd29yZA=="
    challenge = 'Basic realm="registry"'


for name, registry in [("tokens", Tokens), ("passwords", Passwords)]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), registry)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    host = f"127.0.0.1:{server.server_port}"
    with tempfile.TemporaryDirectory() as home:
        # Without a daemon, docker signs in itself.
        environment = {"DOCKER_HOST": f"unix://{home}/none", "HOME": home, "PATH": os.environ["PATH"]}
        command = ["docker", "--config", home, "login", "--username", "user", "--password-stdin", host]
        subprocess.run(
            command, input="password", text=True, env=environment, capture_output=True, timeout=60, check=True
        )
        shutil.copy(os.path.join(home, "config.json"), DIRECTORY / name)
