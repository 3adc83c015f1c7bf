"""A token endpoint that demands a client certificate: CERTIFICATE AUTHORITY. It prints its port, and then one line
for each request: the certificate's subject, and the names of the form's fields."""

import http.server
import json
import ssl
import sys
import urllib.parse

CERTIFICATE, AUTHORITY = sys.argv[1:]


class Endpoint(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        form = self.rfile.read(int(self.headers["Content-Length"])).decode()
        fields = urllib.parse.parse_qs(form)
        subject = dict(part[0] for part in self.connection.getpeercert()["subject"])
        has_header = "Authorization" in self.headers
        print(subject["commonName"], self.path, has_header, *sorted(fields), flush=True)
        answer = {"access_token": "access-canary-new", "refresh_token": "refresh-canary-new", "expires_in": 3600}
        if self.path == "/device":
            answer = {"device_code": "d", "user_code": "u", "verification_uri": "https://a.example/d", "expires_in": 60}
        body = json.dumps(answer if self.path != "/revoke" else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=AUTHORITY)
context.verify_mode = ssl.CERT_REQUIRED
context.load_cert_chain(CERTIFICATE)
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
server.handle_error = lambda *_: None
server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
print(server.server_address[1], flush=True)
server.serve_forever()
