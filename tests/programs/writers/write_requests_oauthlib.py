"""requests-oauthlib: what a program keeps of `fetch_token`, and what its `token_updater` gets."""

import json
import os

os.environ["OAUTHLIB_INSECURE_TRANSPORT"] = "1"

from endpoint import issue, issue_only_access, serve, write
from requests_oauthlib import OAuth2Session

url = serve(issue)
redirect_url = "http://127.0.0.1:9/"
session = OAuth2Session("client", redirect_uri=redirect_url, scope=["read", "write"])
fetched = session.fetch_token(url + "/token", code="code", client_secret="client-secret", scope="read write")
write("fetched", json.dumps(fetched))
write("refreshed", json.dumps(session.refresh_token(url + "/token", client_id="client")))
# Older releases kept a fraction of a second.
write("fraction", json.dumps({**fetched, "expires_at": fetched["expires_at"] + 0.25}))

url = serve(issue_only_access)
session = OAuth2Session("client", redirect_uri=redirect_url)
write("no-expiry", json.dumps(session.fetch_token(url + "/token", code="code", client_secret="client-secret")))

url = serve(lambda path, fields: {**issue(path, fields), "refresh_expires_in": 7200})
session = OAuth2Session("client", redirect_uri=redirect_url)
write("keycloak", json.dumps(session.fetch_token(url + "/token", code="code", client_secret="client-secret")))
