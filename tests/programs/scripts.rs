//! Libraries in Python and JavaScript.

use std::fs;
use std::path::Path;

use serde_json::Value;
use tokenkeep::import::Format;

use crate::taken::assert_taken;
use crate::writers::{node, python};

#[test]
fn credentials_of_google_auth_are_taken_over_with_their_client() {
    let test = "credentials_of_google_auth_are_taken_over_with_their_client";
    let Some(files) = python(test, "write_google_auth.py") else { return };
    let scopes = r#"scopes=["read", "write"] universe_domain=googleapis.com client_id=client"#;
    let secret = "client_secret=client-secret";
    let url = "token_url=https://provider.example/token";
    let tokens = "access=access refresh=rotated";
    let fraction = "expires=2020-11-22T10:00:00.123456Z";
    for (file, account) in [
        (
            "refreshed",
            format!("google: {tokens} expires=2020-11-22T10:00:00Z {scopes} {secret} {url}"),
        ),
        ("microseconds", format!("google: {tokens} {fraction} {scopes} {secret} {url}")),
        ("no-access-token", format!("google: refresh=rotated {scopes} {secret} {url}")),
        ("no-client-secret", format!("google: {tokens} {fraction} {scopes} {url}")),
        ("no-expiry", format!("google: {tokens} {scopes} {secret} {url}")),
        ("with-account", format!("me@example.com: {tokens} {scopes} {secret} {url}")),
        (
            "only-access-token",
            format!("google: access=access {fraction} universe_domain=googleapis.com"),
        ),
    ] {
        assert_taken(&files.path().join(file), Format::Google, &[&account]);
    }
}

#[test]
fn caches_of_spotipy_keep_their_expiry() {
    let Some(files) = python("caches_of_spotipy_keep_their_expiry", "write_spotipy.py") else {
        return;
    };
    let tokens = "token: access=access refresh=rotated expires=2020-11-22T10:00:00Z \
                  obtained=2020-11-22T09:00:00Z";
    for (file, account) in [
        ("code", format!("{tokens} scope=read write token_type=Bearer")),
        ("refreshed", format!("{tokens} scope=read write token_type=Bearer")),
        ("no-scope", format!("{tokens} token_type=Bearer")),
        ("pkce", format!("{tokens} token_type=Bearer")),
        ("client-credentials", format!("{tokens} token_type=Bearer")),
    ] {
        assert_taken(&files.path().join(file), Format::TokenResponse, &[&account]);
    }
}

#[test]
fn tokens_of_requests_oauthlib_keep_their_expiry_and_their_list_of_scopes() {
    let test = "tokens_of_requests_oauthlib_keep_their_expiry_and_their_list_of_scopes";
    let Some(files) = python(test, "write_requests_oauthlib.py") else { return };
    let tokens = "token: access=access refresh=rotated";
    let whole = format!("{tokens} expires=2020-11-22T10:00:00Z obtained=2020-11-22T09:00:00Z");
    let fraction =
        format!("{tokens} expires=2020-11-22T10:00:00.250Z obtained=2020-11-22T09:00:00.250Z");
    let rest = r#"scope=["read", "write"] token_type=Bearer"#;
    for (file, account) in [
        ("fetched", format!("{whole} {rest}")),
        ("refreshed", format!("{whole} {rest}")),
        ("fraction", format!("{fraction} {rest}")),
        // Two lifetimes from the same moment.
        (
            "keycloak",
            format!(
                "{tokens} expires=2020-11-22T10:00:00Z refresh_expires=2020-11-22T11:00:00Z \
                 obtained=2020-11-22T09:00:00Z token_type=Bearer"
            ),
        ),
        ("no-expiry", "token: access=access token_type=Bearer".to_owned()),
    ] {
        assert_taken(&files.path().join(file), Format::TokenResponse, &[&account]);
    }
}

#[test]
fn tokens_of_authlib_keep_their_expiry() {
    let Some(files) = python("tokens_of_authlib_keep_their_expiry", "write_authlib.py") else {
        return;
    };
    let expires = "expires=2020-11-22T10:00:00Z";
    let tokens =
        format!("token: access=access refresh=rotated {expires} obtained=2020-11-22T09:00:00Z");
    for (file, account) in [
        ("fetched", format!("{tokens} scope=read write token_type=Bearer")),
        ("updated", format!("{tokens} token_type=Bearer")),
        ("no-expiry", "token: access=access token_type=Bearer".to_owned()),
        ("from-text", format!("token: access=access {expires}")),
    ] {
        assert_taken(&files.path().join(file), Format::TokenResponse, &[&account]);
    }
}

#[test]
fn each_account_of_msal_for_python_has_its_own_tokens() {
    let test = "each_account_of_msal_for_python_has_its_own_tokens";
    let Some(files) = python(test, "write_msal.py") else { return };
    let one = files.path().join("one-account");
    assert_taken(&one, Format::Msal, &[&of_msal(&one, "ada", "User.Read profile")]);
    assert_two_accounts_and_a_service(files.path(), "User.Read profile");
}

#[test]
fn each_account_of_msal_for_node_has_its_own_tokens() {
    let test = "each_account_of_msal_for_node_has_its_own_tokens";
    let Some(files) = node(test, "write_msal_node.mjs") else { return };
    assert_two_accounts_and_a_service(files.path(), "User.Read openid profile");
}

#[track_caller]
fn assert_two_accounts_and_a_service(files: &Path, scope: &str) {
    let two = files.join("two-accounts");
    let [ada, bob] = ["ada", "bob"].map(|id| of_msal(&two, id, scope));
    assert_taken(&two, Format::Msal, &[&ada, &bob]);
    let service = "client (https://graph.microsoft.com/.default): access=access-of-the-service \
                   expires=2020-11-22T10:00:00Z obtained=2020-11-22T09:00:00Z \
                   credential_type=AccessToken extended_expires_on=1606039200 \
                   scope=https://graph.microsoft.com/.default token_type=Bearer client_id=client \
                   token_url=https://login.microsoftonline.com/tenant/oauth2/v2.0/token";
    assert_taken(&files.join("service"), Format::Msal, &[service]);
}

/// Returns what is expected of one person, whose two values without a meaning of ours are those of the file.
fn of_msal(file: &Path, id: &str, scope: &str) -> String {
    let cache: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    let entry = |kind: &str| {
        let entries = cache[kind].as_object().unwrap().values();
        let mut own = entries.filter(|entry| entry["home_account_id"] == format!("{id}.tenant"));
        own.next().unwrap().clone()
    };
    let extended = entry("AccessToken")["extended_expires_on"].as_str().unwrap().to_owned();
    let id_token = entry("IdToken")["secret"].as_str().unwrap().to_owned();
    let name = format!("{id}@example.com");
    format!(
        "{name} ({scope}): access=access-of-{name} refresh=refresh-of-{name} \
         expires=2020-11-22T10:00:00Z obtained=2020-11-22T09:00:00Z credential_type=AccessToken \
         extended_expires_on={extended} id_token={id_token} scope={scope} token_type=Bearer \
         client_id=client token_url=https://login.microsoftonline.com/tenant/oauth2/v2.0/token"
    )
}

#[test]
fn a_cache_of_aws_sso_is_taken_over_with_its_client() {
    let test = "a_cache_of_aws_sso_is_taken_over_with_its_client";
    let Some(files) = python(test, "write_botocore.py") else { return };
    let name = "https://work.awsapps.com/start";
    let place = format!("startUrl={name}");
    let registration = "registrationExpiresAt=2021-02-20T09:00:00UTC";
    let client = "client_id=client client_secret=client-secret";
    let first = "access=first-access";
    let soon = "expires=2020-11-22T09:01:00Z";
    for (file, account) in [
        (
            "signed-in",
            format!(
                "{first} refresh=first {soon} region=eu-west-1 {registration} {place} {client}"
            ),
        ),
        (
            "refreshed",
            format!(
                "access=access refresh=rotated expires=2020-11-22T10:00:00Z region=eu-west-1 \
                 {registration} {place} {client}"
            ),
        ),
        ("old", format!("{first} {soon} region=eu-west-1 {place}")),
    ] {
        let account = format!("{name}: {account}");
        assert_taken(&files.path().join(file), Format::AwsSso, &[&account]);
    }
}

#[test]
fn the_milliseconds_of_google_auth_library_are_an_expiry() {
    let test = "the_milliseconds_of_google_auth_library_are_an_expiry";
    let Some(files) = node(test, "write_google_auth_library.mjs") else { return };
    let rest = "expires=2020-11-22T10:00:00Z scope=read write token_type=Bearer";
    for (file, refresh) in [("fetched", "rotated"), ("heard", "first"), ("kept", "first")] {
        let account = format!("token: access=access refresh={refresh} {rest}");
        assert_taken(&files.path().join(file), Format::GoogleAuthLibrary, &[&account]);
    }
    let account = "token: access=access token_type=Bearer";
    assert_taken(&files.path().join("no-expiry"), Format::TokenResponse, &[account]);
}

#[test]
fn tokens_of_simple_oauth2_keep_their_expiry() {
    let test = "tokens_of_simple_oauth2_keep_their_expiry";
    let Some(files) = node(test, "write_simple_oauth2.mjs") else { return };
    let account = "token: access=access refresh=rotated expires=2020-11-22T10:00:00Z \
                   obtained=2020-11-22T09:00:00Z scope=read write token_type=Bearer";
    for file in ["signed-in", "refreshed"] {
        assert_taken(&files.path().join(file), Format::TokenResponse, &[account]);
    }
}
