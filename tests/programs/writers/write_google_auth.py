"""google-auth: `Credentials.to_json`, after a refresh."""

from endpoint import issue, serve, write
from google.auth.transport.requests import Request
from google.oauth2.credentials import Credentials

url = serve(issue) + "/token"


def written(name, credentials, **options):
    # The port is another one in each run.
    write(name, credentials.to_json(**options).replace(url, "https://provider.example/token"))


credentials = Credentials(
    None,
    refresh_token="first",
    token_uri=url,
    client_id="client",
    client_secret="client-secret",
    scopes=["read", "write"],
)
credentials.refresh(Request())
written("refreshed", credentials)
credentials.expiry = credentials.expiry.replace(microsecond=123456)
written("microseconds", credentials)
written("no-access-token", credentials, strip=["token", "expiry"])
written("no-client-secret", credentials, strip=["client_secret"])
written("no-expiry", credentials, strip=["expiry"])
written("with-account", credentials.with_account("me@example.com"))
# Such a file works until the token expires.
written("only-access-token", Credentials("access", expiry=credentials.expiry))
