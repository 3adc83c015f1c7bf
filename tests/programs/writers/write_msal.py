"""MSAL: its `SerializableTokenCache`, after sign-ins of two people, and after one of a service."""

import base64
import json
import time

import msal
from endpoint import write

AUTHORITY = "https://login.microsoftonline.com/tenant"


def encoded(value):
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


class Answer:
    def __init__(self, value):
        self.status_code, self.headers, self.text = 200, {}, json.dumps(value)

    def raise_for_status(self):
        pass


class Microsoft:
    """Answers the requests of MSAL, which accepts only hosts of Microsoft."""

    def get(self, url, **_):
        if "userrealm" in url:
            return Answer({"account_type": "Managed"})
        return Answer(
            {
                "issuer": AUTHORITY,
                "authorization_endpoint": AUTHORITY + "/oauth2/v2.0/authorize",
                "token_endpoint": AUTHORITY + "/oauth2/v2.0/token",
            }
        )

    def post(self, url, data=None, **_):
        answer = {"access_token": "access-of-the-service", "token_type": "Bearer", "expires_in": 3600}
        if data["grant_type"] == "client_credentials":
            return Answer(answer)
        name = data["username"]
        now = int(time.time())
        claims = {"iss": AUTHORITY, "aud": "client", "exp": now + 3600, "nbf": now, "preferred_username": name}
        return Answer(
            {
                **answer,
                "access_token": f"access-of-{name}",
                "refresh_token": f"refresh-of-{name}",
                "ext_expires_in": 7200,
                "scope": data["scope"].replace(" offline_access", "").replace("openid ", "").replace("profile ", ""),
                "id_token": f"{encoded({'alg': 'none'})}.{encoded(claims)}.{encoded({})}",
                "client_info": encoded({"uid": name.partition("@")[0], "utid": "tenant"}),
            }
        )

    def close(self):
        pass


def signed_in(*names):
    cache = msal.SerializableTokenCache()
    application = msal.PublicClientApplication(
        "client", authority=AUTHORITY, token_cache=cache, http_client=Microsoft()
    )
    for name in names:
        answer = application.acquire_token_by_username_password(name, "password", ["User.Read"])
        assert "access_token" in answer, answer
    return cache.serialize()


write("one-account", signed_in("ada@example.com"))
write("two-accounts", signed_in("ada@example.com", "bob@example.com"))

cache = msal.SerializableTokenCache()
service = msal.ConfidentialClientApplication(
    "client",
    client_credential="client-secret",
    authority=AUTHORITY,
    token_cache=cache,
    http_client=Microsoft(),
)
service.acquire_token_for_client(["https://graph.microsoft.com/.default"])
write("service", cache.serialize())
