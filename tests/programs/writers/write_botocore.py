"""botocore: the cache of `aws sso login`, and the same after a refresh by its `SSOTokenProvider`."""

import datetime
import os

from endpoint import DIRECTORY, serve, write

config = DIRECTORY / "config"
config.write_text(
    "[default]\nsso_session = work\n"
    "[sso-session work]\nsso_start_url = https://work.awsapps.com/start\nsso_region = eu-west-1\n"
)
os.environ.update(AWS_CONFIG_FILE=str(config), AWS_SHARED_CREDENTIALS_FILE="/dev/null")

from botocore.session import Session
from botocore.tokens import SSOTokenProvider
from botocore.utils import JSONFileCache, SSOTokenLoader

url = serve(lambda _path, _fields: {"accessToken": "access", "refreshToken": "rotated", "expiresIn": 3600})
os.environ["AWS_ENDPOINT_URL_SSO_OIDC"] = url

now = datetime.datetime.now(datetime.timezone.utc)
cache = JSONFileCache(working_dir=str(DIRECTORY))
loader = SSOTokenLoader(cache=cache)
signed_in = {
    "startUrl": "https://work.awsapps.com/start",
    "region": "eu-west-1",
    "accessToken": "first-access",
    "expiresAt": now + datetime.timedelta(seconds=60),
    "clientId": "client",
    "clientSecret": "client-secret",
    "registrationExpiresAt": now + datetime.timedelta(days=90),
    "refreshToken": "first",
}
loader.save_token(signed_in["startUrl"], signed_in, session_name="work")
[written] = DIRECTORY.glob("*.json")
write("signed-in", written.read_text())

provider = SSOTokenProvider(Session(), cache=cache)
assert provider.load_token().get_frozen_token().token == "access"
write("refreshed", written.read_text())

# An older form, without a session: no refresh token and no client.
written.unlink()
cache["old"] = {name: signed_in[name] for name in ("startUrl", "region", "accessToken", "expiresAt")}
[written] = DIRECTORY.glob("*.json")
write("old", written.read_text())
written.unlink()
