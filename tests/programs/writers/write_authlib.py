"""Authlib: its `OAuth2Token`, which programs keep as JSON."""

import json

from authlib.integrations.requests_client import OAuth2Session
from authlib.oauth2.rfc6749 import OAuth2Token
from endpoint import issue, issue_only_access, serve, write

url = serve(issue)


def session(**options):
    return OAuth2Session("client", "client-secret", redirect_uri="http://127.0.0.1:9/", **options)


fetched = session().fetch_token(url + "/token", code="code", scope="read write")
write("fetched", json.dumps(fetched))
updated = []
refreshing = session(token=fetched, update_token=lambda token, **_: updated.append(token))
refreshing.refresh_token(url + "/token", refresh_token="first")
write("updated", json.dumps(updated[0]))
url = serve(issue_only_access)
write("no-expiry", json.dumps(session().fetch_token(url + "/token", code="code")))
write("from-text", json.dumps(OAuth2Token.from_dict({"access_token": "access", "expires_at": "1606039200"})))
