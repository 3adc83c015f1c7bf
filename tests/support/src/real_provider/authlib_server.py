"""A server of Authlib on Flask, for the tests.

It prints one line of JSON as soon as it listens. After that it obeys lines on its standard input, and answers
each with a line. It ends when its standard input ends, so it never outlives a test. Unlike `oidc-provider` it does not end a session when a spent refresh token is sent, answers a revocation
with JSON, and repeats the scope in each answer.
"""

import json
import os
import secrets
import sys
import threading
import time

# The tests reach it by plain HTTP, at a loopback address.
os.environ["AUTHLIB_INSECURE_TRANSPORT"] = "1"

from authlib.integrations.flask_oauth2 import AuthorizationServer
from authlib.oauth2.rfc6749 import grants
from authlib.oauth2.rfc6749.models import AuthorizationCodeMixin, ClientMixin, TokenMixin
from authlib.oauth2.rfc7009 import RevocationEndpoint
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oauth2.rfc8628 import DeviceAuthorizationEndpoint, DeviceCodeGrant, DeviceCredentialMixin
from authlib.oauth2.rfc9207 import IssuerParameter
from flask import Flask, jsonify, request
from werkzeug.serving import make_server

DEVICE = "urn:ietf:params:oauth:grant-type:device_code"
METHODS = ["client_secret_basic", "client_secret_post", "none"]


class Client(ClientMixin):
    def __init__(self, client_id, method, grant_types):
        self.client_id, self.method, self.grant_types = client_id, method, grant_types

    def get_client_id(self):
        return self.client_id

    def get_default_redirect_uri(self):
        return None

    def get_allowed_scope(self, scope):
        return " ".join(word for word in (scope or "").split() if word in ("read", "write"))

    def check_redirect_uri(self, redirect_uri):
        # Any port of the loopback address (RFC 8252, 7.3).
        return redirect_uri.startswith("http://127.0.0.1:") and redirect_uri.endswith("/callback")

    def check_client_secret(self, client_secret):
        return secrets.compare_digest(client_secret, "canary-secret")

    def check_endpoint_auth_method(self, method, endpoint):
        return method == self.method

    def check_response_type(self, response_type):
        return response_type == "code"

    def check_grant_type(self, grant_type):
        return grant_type in self.grant_types


PERSON = ["authorization_code", "refresh_token", DEVICE]
CLIENTS = {
    client.client_id: client
    for client in [
        Client("public", "none", PERSON),
        Client("basic", "client_secret_basic", PERSON),
        Client("post", "client_secret_post", PERSON),
        Client("service-basic", "client_secret_basic", ["client_credentials"]),
    ]
}


class Token(TokenMixin):
    def __init__(self, client, token):
        self.client, self.token, self.born, self.revoked = client, token, time.time(), False

    def check_client(self, client):
        return self.client is client

    def get_client(self):
        return self.client

    def get_user(self):
        return "person"

    def get_scope(self):
        return self.token.get("scope", "")

    def get_expires_in(self):
        return self.token["expires_in"]

    def is_expired(self):
        return time.time() > self.born + self.get_expires_in()

    def is_revoked(self):
        return self.revoked


class Code(AuthorizationCodeMixin):
    def __init__(self, code, payload, client):
        self.code, self.client_id = code, client.client_id
        self.redirect_uri, self.scope = payload.redirect_uri, payload.scope
        self.code_challenge = payload.data.get("code_challenge")
        self.code_challenge_method = payload.data.get("code_challenge_method")

    def get_redirect_uri(self):
        return self.redirect_uri

    def get_scope(self):
        return self.scope


class DeviceCode(DeviceCredentialMixin):
    def __init__(self, client_id, scope, data):
        self.client_id, self.scope, self.data, self.born = client_id, scope, data, time.time()
        self.approved = None

    def get_client_id(self):
        return self.client_id

    def get_scope(self):
        return self.scope

    def get_user_code(self):
        return self.data["user_code"]

    def is_expired(self):
        return time.time() > self.born + self.data["expires_in"]


TOKENS, CODES, DEVICE_CODES, PATHS = [], {}, {}, []


class AuthorizationCodeGrant(grants.AuthorizationCodeGrant):
    TOKEN_ENDPOINT_AUTH_METHODS = METHODS

    def save_authorization_code(self, code, request):
        CODES[code] = Code(code, request.payload, request.client)

    def query_authorization_code(self, code, client):
        found = CODES.get(code)
        return found if found and found.client_id == client.client_id else None

    def delete_authorization_code(self, authorization_code):
        del CODES[authorization_code.code]

    def authenticate_user(self, authorization_code):
        return "person"


class RefreshTokenGrant(grants.RefreshTokenGrant):
    INCLUDE_NEW_REFRESH_TOKEN = True
    TOKEN_ENDPOINT_AUTH_METHODS = METHODS

    def authenticate_refresh_token(self, refresh_token):
        return find(lambda token: token.token.get("refresh_token") == refresh_token)

    def authenticate_user(self, refresh_token):
        return refresh_token.get_user()

    def revoke_old_credential(self, refresh_token):
        refresh_token.revoked = True


class DeviceGrant(DeviceCodeGrant):
    def query_device_credential(self, device_code):
        return DEVICE_CODES.get(device_code)

    def query_user_grant(self, user_code):
        code = with_user_code(user_code)
        return None if code.approved is None else ("person", code.approved)

    def should_slow_down(self, credential):
        return False


class DeviceAuthorization(DeviceAuthorizationEndpoint):
    INTERVAL = 1

    def get_verification_uri(self):
        return f"{ISSUER}/device"

    def save_device_credential(self, client_id, scope, data):
        DEVICE_CODES[data["device_code"]] = DeviceCode(client_id, scope, data)


class Revocation(RevocationEndpoint):
    CLIENT_AUTH_METHODS = METHODS

    def query_token(self, token_string, token_type_hint):
        return find(lambda token: token_string in (token.token["access_token"], token.token.get("refresh_token")))

    def revoke_token(self, token, request):
        token.revoked = True


class Issuer(IssuerParameter):
    def get_issuer(self):
        return ISSUER


def find(fits):
    return next((token for token in TOKENS if not token.revoked and fits(token)), None)


def with_user_code(user_code):
    return next((code for code in DEVICE_CODES.values() if code.get_user_code() == user_code), None)


def page(action, fields):
    hidden = "".join(f'<input type="hidden" name="{name}" value="{value}">' for name, value in fields.items())
    return f'<form method="post" action="{action}">{hidden}<button>Allow</button></form><a href="?abort=1">Cancel</a>'


app = Flask(__name__)
app.config["OAUTH2_REFRESH_TOKEN_GENERATOR"] = True
app.config["OAUTH2_TOKEN_EXPIRES_IN"] = {"authorization_code": 3600, "refresh_token": 3600, DEVICE: 3600}
server = AuthorizationServer(app, CLIENTS.get, lambda token, request: TOKENS.append(Token(request.client, token)))
server.register_grant(AuthorizationCodeGrant, [CodeChallenge(required=True)])
server.register_grant(RefreshTokenGrant)
server.register_grant(DeviceGrant)
server.register_grant(grants.ClientCredentialsGrant)
server.register_endpoint(DeviceAuthorization)
server.register_endpoint(Revocation)
server.register_extension(Issuer())


@app.before_request
def count():
    PATHS.append(request.path)


@app.get("/authorize")
def ask():
    grant = server.get_consent_grant(end_user="person")
    if "abort" in request.args:
        return server.create_authorization_response(grant_user=None, grant=grant)
    return page(f"/authorize?{request.query_string.decode()}", {"confirm": "yes"})


@app.post("/authorize")
def answer():
    grant = server.get_consent_grant(end_user="person")
    return server.create_authorization_response(grant_user="person", grant=grant)


@app.get("/device")
def ask_for_code():
    code = request.args.get("user_code", "")
    return f'<form method="post" action="/device"><input name="user_code" value="{code}"><button>Allow</button></form>'


@app.post("/device")
def allow_device():
    code = with_user_code(request.form["user_code"])
    if code is None:
        return "unknown code", 400
    code.approved = True
    return "signed in"


@app.post("/token")
def token():
    return server.create_token_response()


@app.post("/device_authorization")
def device_authorization():
    return server.create_endpoint_response(DeviceAuthorization.ENDPOINT_NAME)


@app.post("/revoke")
def revoke():
    return server.create_endpoint_response(Revocation.ENDPOINT_NAME)


@app.get("/api")
def api():
    bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
    return ("ok", 200) if find(lambda token: token.token["access_token"] == bearer) else ("no", 401)


@app.get("/.well-known/oauth-authorization-server")
def metadata():
    # RFC 8414. There is no document of OpenID Connect.
    return jsonify(
        issuer=ISSUER,
        authorization_endpoint=f"{ISSUER}/authorize",
        authorization_response_iss_parameter_supported=True,
        device_authorization_endpoint=f"{ISSUER}/device_authorization",
        grant_types_supported=[*PERSON, "client_credentials"],
        response_types_supported=["code"],
        revocation_endpoint=f"{ISSUER}/revoke",
        token_endpoint=f"{ISSUER}/token",
        token_endpoint_auth_methods_supported=METHODS,
    )


listener = make_server("127.0.0.1", 0, app, threaded=True)
ISSUER = f"http://127.0.0.1:{listener.server_port}"
threading.Thread(target=listener.serve_forever, daemon=True).start()
print(json.dumps({"issuer": ISSUER, "keys": {}}), flush=True)
for line in sys.stdin:
    order, _, argument = line.strip().partition(" ")
    print(PATHS.count(argument) if order == "requests" else "unknown order", flush=True)
