"""spotipy: the files of its `CacheFileHandler`, after the exchange of a code and after a refresh."""

from endpoint import DIRECTORY, issue, serve
from spotipy.cache_handler import CacheFileHandler
from spotipy.oauth2 import SpotifyClientCredentials, SpotifyOAuth, SpotifyPKCE

token_url = serve(issue) + "/token"
redirect_url = "http://127.0.0.1:9/"


def file(name):
    return CacheFileHandler(cache_path=str(DIRECTORY / name))


oauth = SpotifyOAuth("client", "client-secret", redirect_url, scope="read write", cache_handler=file("code"))
oauth.OAUTH_TOKEN_URL = token_url
oauth.get_access_token("code", as_dict=False, check_cache=False)

oauth.cache_handler = file("refreshed")
oauth.refresh_access_token("first")

oauth = SpotifyOAuth("client", "client-secret", redirect_url, cache_handler=file("no-scope"))
oauth.OAUTH_TOKEN_URL = token_url
oauth.get_access_token("code", as_dict=False, check_cache=False)

pkce = SpotifyPKCE("client", redirect_url, scope=["read", "write"], cache_handler=file("pkce"))
pkce.OAUTH_TOKEN_URL = token_url
pkce.get_pkce_handshake_parameters()
pkce.get_access_token("code", check_cache=False)

client = SpotifyClientCredentials("client", "client-secret", cache_handler=file("client-credentials"))
client.OAUTH_TOKEN_URL = token_url
client.get_access_token(as_dict=False, check_cache=False)
