"""A token endpoint for the libraries, and the place of the files that they write."""

import json
import pathlib
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

# A writer that waits for something never outlives its test for long.
signal.alarm(60)

DIRECTORY = pathlib.Path(sys.argv[1])


def write(name, text):
    (DIRECTORY / name).write_text(text)


def serve(answer):
    """Serves `answer(path, fields)` as JSON, and returns the URL of the server."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            try:
                fields = json.loads(body)
            except ValueError:
                fields = {name: values[0] for name, values in parse_qs(body).items()}
            said = json.dumps(answer(self.path, fields)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


def issue(_path, fields):
    """Answers like most providers: the refresh token is always another one."""
    answer = {"access_token": "access", "token_type": "Bearer", "expires_in": 3600, "refresh_token": "rotated"}
    if "scope" in fields:
        answer["scope"] = fields["scope"]
    return answer


def issue_only_access(_path, _fields):
    """Answers without a refresh token and without a lifetime."""
    return {"access_token": "access", "token_type": "Bearer"}
