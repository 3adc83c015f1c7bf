//! What the command says, and how it ends, if only a sign-in helps; what it shows of the provider's own words.
#![cfg(unix)]

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;

use crate::home::{Home, done};
use crate::login::home;
use crate::refresh_command::{expire, expired, sign_in_for};
use crate::token_server::{Act, TokenServer, fetch};

const LOGIN: &str = "sign in again with `tokenkeep login --profile default`";

/// Returns what `status` shows, whatever its exit code is.
fn status(home: &Home) -> String {
    home.run("status").out
}

#[test]
fn each_error_that_needs_a_sign_in_says_so_with_exit_code_4_and_names_the_command() {
    for (status, code) in [
        (400, "invalid_grant"),
        (400, "interaction_required"),
        (400, "login_required"),
        (400, "consent_required"),
        (400, "account_selection_required"),
        (401, "invalid_token"),
        (400, "expired_token"),
        (200, "bad_refresh_token"),
        (200, "invalid_refresh_token"),
        (200, "token_expired"),
        (200, "token_revoked"),
    ] {
        let server = TokenServer::start();
        let home = expired(&server);
        server.script([Act::error(status, code)]);
        for line in ["get", "refresh", "exec -- true"] {
            let said = home.run(line).failed(4);
            assert!(said.contains(code) && said.contains(LOGIN), "{code}: {line}: {said}");
        }
        let status = home.run("status");
        assert_eq!(status.code, 4, "{code}: {status:?}");
        assert!(status.out.contains(LOGIN), "{code}: {status:?}");
        assert!(home.run("doctor").out.contains(LOGIN), "{code}");
        assert_eq!(server.calls(), 1, "{code}");
    }
}

#[test]
fn a_profile_without_a_provider_says_where_the_new_tokens_go() {
    let home = Home::signed_in();
    home.feed("set", r#"{"access_token":"a","expires_at":"2020-01-01T00:00:00Z"}"#).ok();
    let said = home.run("get").failed(4);
    let advice = "sign in again, and give the new tokens to `tokenkeep set --profile default`";
    assert!(said.contains(advice), "{said}");
    let store = format!("--store plaintext:{}", home.path("b.json").display());
    home.feed(
        &format!("set {store}"),
        r#"{"access_token":"a","expires_at":"2020-01-01T00:00:00Z"}"#,
    )
    .ok();
    let said = home.run(&format!("get {store}")).failed(4);
    let advice = format!("sign in again, and give the new tokens to `tokenkeep set {store}`");
    assert!(said.contains(&advice), "{said}");
    // An empty slot needs the same.
    home.run("clear").ok();
    let said = home.run("get").failed(3);
    assert!(said.contains("sign in first, and give the new tokens to `tokenkeep set"), "{said}");
}

#[test]
fn a_client_that_worked_and_is_refused_now_hears_both_possible_reasons() {
    for code in ["invalid_client", "unauthorized_client"] {
        let server = TokenServer::start();
        let home = expired(&server);
        server.script([Act::error(401, code)]);
        let said = home.run("get").failed(1);
        assert!(
            said.contains("check the client's id and secret, which may have changed"),
            "{said}"
        );
        assert!(said.contains(LOGIN), "{said}");
    }
}

#[test]
fn a_client_that_acts_for_itself_is_never_told_to_sign_in_again() {
    let server = TokenServer::start();
    let home = home(&server, "grant_type = \"client_credentials\"\n");
    home.feed("set", r#"{"access_token":"canary-a","expires_at":"2020-01-01T00:00:00Z"}"#).ok();
    let before = home.run("status");
    assert!(before.out.contains("`get` refreshes them first"), "{before:?}");
    assert_eq!(before.code, 0, "{before:?}");
    assert!(!home.run("doctor").out.contains("sign in again"));
    for code in ["invalid_grant", "invalid_client"] {
        server.script([Act::error(400, code)]);
        let said = home.run("refresh").failed(1);
        assert!(said.contains(code) && !said.contains("sign in again"), "{said}");
    }
    server.script([Act::answer(200, r#"{"access_token":"own-canary","expires_in":3600}"#)]);
    assert_eq!(home.run("get").line(), "own-canary");
}

#[test]
fn a_good_access_token_without_a_refresh_token_is_told_apart_from_an_ended_session() {
    let server = TokenServer::start();
    let home = home(&server, "");
    home.feed("set", r#"{"access_token":"canary-a","expires_at":"2099-01-01T00:00:00Z"}"#).ok();
    let said = home.run("refresh").failed(3);
    assert!(
        said.ends_with("there is no refresh token; the access token stays valid until 2099-01-01 00:00:00 UTC\n"),
        "{said}"
    );
    assert_eq!(home.run("get").line(), "canary-a");
    assert_eq!(home.run("status").code, 0);
    home.feed("set", "canary-a").ok();
    assert!(home.run("refresh").failed(3).ends_with("the access token has no known expiry\n"));

    home.feed("set", r#"{"access_token":"canary-a","expires_at":"2020-01-01T00:00:00Z"}"#).ok();
    for line in ["get", "get --header", "exec -- true", "refresh"] {
        let said = home.run(line).failed(4);
        assert!(said.contains("has expired, and there is no refresh token"), "{line}: {said}");
        assert!(said.contains(LOGIN) && said.contains("offline_access"), "{line}: {said}");
    }
    assert_eq!(home.run("status").code, 4);
    assert_eq!(server.calls(), 0);
}

const REFUSAL: &str = r#"{"error":"invalid_grant","error_description":"AADSTS700082: it expired\u001b[2J","error_codes":[700082]}"#;
const SAID: &str =
    "127.0.0.1:PORT says invalid_grant \"AADSTS700082: it expired[2J\", error_codes \"[700082]\"";

/// Returns what the provider says, as it is shown.
fn words(server: &TokenServer) -> String {
    let authority = server.url("").trim_start_matches("http://").to_owned();
    format!("tokenkeep: {}\n", SAID.replace("127.0.0.1:PORT", &authority))
}

#[test]
fn the_words_of_the_provider_are_shown_with_verbose_and_not_without() {
    let server = TokenServer::start();
    for (line, is_shown) in [
        ("get", false),
        ("get --verbose", true),
        ("-v refresh", true),
        ("exec -v -- true", true),
        ("refresh", false),
    ] {
        let home = expired(&server);
        server.script([Act::answer(400, REFUSAL)]);
        let said = home.run(line).failed(4);
        assert_eq!(said.contains(&words(&server)), is_shown, "{line}: {said}");
        assert!(said.contains("invalid_grant"), "{line}: {said}");
        // They are not kept.
        assert!(!status(&home).contains("AADSTS"), "{line}");
        assert!(!home.run("get --verbose").failed(4).contains("AADSTS"), "{line}");
    }
    // What succeeds says nothing.
    let home = expired(&server);
    assert_eq!(home.run("get -v").err, "");
}

#[test]
fn the_words_of_the_provider_are_always_shown_at_a_sign_in() {
    let server = TokenServer::start();
    let home =
        home(&server, &format!("device_authorization_url = \"{}\"\n", server.url("/device")));
    server.script([Act::answer(400, REFUSAL)]);
    let login = home.run("login");
    assert!(login.err.contains(&words(&server)), "{login:?}");
    assert_eq!(login.code, 4, "{login:?}");
}

#[test]
fn what_the_provider_says_twice_is_shown_once() {
    let server = TokenServer::start();
    let home = expired(&server);
    let down = || Act::answer(500, r#"{"message":"down for maintenance"}"#);
    // A lost answer is asked for once more.
    server.script([down(), down()]);
    let said = home.run("get -v").failed(1);
    assert_eq!(said.matches("says \"down for maintenance\"").count(), 1, "{said}");
    assert_eq!(server.calls(), 2);
}

#[test]
fn the_words_that_a_browser_brings_back_are_shown() {
    let server = TokenServer::start();
    server.deny();
    let home = home(&server, "");
    let mut login = home.command();
    let login = login.args(["login", "--browser"]).stdin(Stdio::null()).stderr(Stdio::piped());
    let mut login = login.spawn().unwrap();
    let mut said = BufReader::new(login.stderr.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    let url = line.trim_end().split_once(": ").unwrap().1;
    let (_, back, _) = fetch(url);
    fetch(&back.unwrap());
    let mut rest = String::new();
    said.read_to_string(&mut rest).unwrap();
    assert_eq!(login.wait().unwrap().code(), Some(4), "{rest}");
    // The server says "canary".
    assert!(rest.contains(" says access_denied \"canary\"\n"), "{rest}");
}

#[test]
fn a_secret_that_the_provider_repeats_is_not_shown() {
    let server = TokenServer::start();
    server.require_client("app", "client-secret-canary", true);
    let home = home(&server, "client_secret_env = \"APP_SECRET\"\n");
    expire(&server, &home);
    let sent = home.run("get --field refresh").line();
    let body = serde_json::json!({
        "error": "invalid_grant",
        "error_description": format!("{sent} of client-secret-canary is unknown"),
    });
    server.script([Act::answer(400, &body.to_string())]);
    let mut get = home.command();
    get.args(["get", "--verbose"]).env("APP_SECRET", "client-secret-canary");
    let said = done(&mut get, "").failed(4);
    assert!(said.contains("\"[secret] of [secret] is unknown\""), "{said}");
}

#[test]
fn a_secret_that_the_provider_repeats_as_its_error_code_is_not_shown() {
    let server = TokenServer::start();
    let home = home(&server, "");
    let secret = "only_letters_in_a_token";
    for line in ["get", "get -v", "refresh"] {
        let record = format!(
            r#"{{"access_token":"a","refresh_token":"{secret}","expires_at":"2020-01-01T00:00:00Z"}}"#
        );
        home.feed("set", &record).ok();
        let body = format!(r#"{{"error":"{secret}","error_description":"no"}}"#);
        server.script([Act::answer(400, &body)]);
        let said = home.run(line).failed(1);
        assert!(said.contains("400 and an error code that is not registered"), "{line}: {said}");
        assert!(!said.contains("letters"), "{line}: {said}");
    }
}

#[test]
fn the_access_token_that_a_refresh_replaces_is_not_shown() {
    let server = TokenServer::start();
    let home = home(&server, "");
    let record =
        r#"{"access_token":"old-access","refresh_token":"r","expires_at":"2020-01-01T00:00:00Z"}"#;
    home.feed("set", record).ok();
    let said = r#"{"error":"invalid_grant","error_description":"old-\u200baccess expired"}"#;
    server.script([Act::answer(400, said)]);
    let said = home.run("get -v").failed(4);
    assert!(said.contains("says invalid_grant \"[secret] expired\"\n"), "{said}");
}

#[test]
fn the_refresh_tokens_own_expiry_is_shown_and_warned_of_before_it_comes() {
    let server = TokenServer::start();
    let home = home(&server, "");
    for (name, seconds, shown, warns) in [
        (
            "refresh_token_expires_in",
            180 * 86_400,
            "the refresh token expires in 179 days (",
            false,
        ),
        ("refresh_expires_in", 1_800, "the refresh token expires in 29 minutes (", false),
        ("refresh_expires_in", 0, "", false),
    ] {
        expire(&server, &home);
        server.script([Act::answer(
            200,
            &format!(
                r#"{{"access_token":"canary-a","refresh_token":"canary-r","expires_in":3600,"{name}":{seconds}}}"#
            ),
        )]);
        home.run("get").ok();
        let text = status(&home);
        assert!(text.contains(shown), "{text}");
        assert_eq!(text.contains("the refresh token"), !shown.is_empty(), "{text}");
        assert_eq!(text.contains("sign in again"), warns, "{text}");
        let json = home.run("status --json").ok();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["refresh_expires_at"].is_string(), !shown.is_empty(), "{json}");
    }
    let now = tokenkeep::chrono::Utc::now();
    let day = tokenkeep::chrono::TimeDelta::days(1);
    for (days, shown) in [
        (2, "warning  the refresh token expires in 47 hours ("),
        (-2, "warning  the refresh token expired 2 days ago ("),
    ] {
        let record = format!(
            r#"{{"access_token":"a","refresh_token":"r","expires_at":"2099-01-01T00:00:00Z","obtained_at":"{}","refresh_expires_at":"{}"}}"#,
            (now - day * 60).to_rfc3339(),
            (now + day * days).to_rfc3339(),
        );
        home.feed("set", &record).ok();
        let text = status(&home);
        assert!(text.contains(shown) && text.contains(LOGIN), "{text}");
        let json = home.run("status --json").ok();
        assert!(json.contains(LOGIN), "{json}");
    }
    // What `set` gets may be the answer of a provider.
    home.feed(
        "set",
        r#"{"access_token":"a","refresh_token":"r","refresh_token_expires_in":"86400"}"#,
    )
    .ok();
    assert!(status(&home).contains("the refresh token expires in 23 hours ("), "{}", status(&home));
    // The server decides, and the message names the date.
    home.feed(
        "set",
        r#"{"access_token":"a","refresh_token":"r","expires_at":"2020-01-01T00:00:00Z","refresh_expires_at":"2020-02-01T00:00:00Z"}"#,
    )
    .ok();
    let calls = server.calls();
    let said = home.run("get").failed(4);
    assert!(said.contains("the refresh token expired at 2020-02-01T00:00:00Z; "), "{said}");
    assert_eq!(server.calls(), calls + 1);
}

#[test]
fn get_prints_any_field_and_names_those_that_there_are() {
    let server = TokenServer::start();
    let home = home(&server, "");
    expire(&server, &home);
    server.script([Act::answer(
        200,
        r#"{"access_token":"canary-a","expires_in":3600,"id_token":"canary-i","scope":"read write",
            "instance_url":"https://na1.example","id":"https://login.example/id","n":7,"l":["a",{"b":1}]}"#,
    )]);
    home.run("get").ok();
    for (name, value) in [
        ("id", "canary-i"),
        ("id_token", "canary-i"),
        ("scope", "read write"),
        ("instance_url", "https://na1.example"),
        ("extra.id", "https://login.example/id"),
        ("n", "7"),
        ("l", r#"["a",{"b":1}]"#),
    ] {
        assert_eq!(home.run(&format!("get --field {name}")).line(), value, "{name}");
    }
    let said = home.run("get --field canary").failed(2);
    assert!(
        said.contains(
            "they have access, refresh, id, json, id, id_token, instance_url, l, n, scope"
        ),
        "{said}"
    );
    // Nothing is refreshed for them.
    let calls = server.calls();
    home.feed("set", r#"{"access_token":"a","refresh_token":"r","scope":"s","expires_at":"2020-01-01T00:00:00Z"}"#)
        .ok();
    assert_eq!(home.run("get --field scope").line(), "s");
    let said = home.run("get --field id").failed(3);
    assert!(
        said.contains("add the scope openid, and sign in again with `tokenkeep login"),
        "{said}"
    );
    assert_eq!(server.calls(), calls);
    home.run("clear").ok();
    home.run("get --field scope").failed(3);
}

#[test]
fn the_header_has_the_token_type_of_the_record() {
    let home = Home::signed_in();
    for (token_type, header) in [
        ("\"bearer\"", "Authorization: Bearer canary-a"),
        ("\"token\"", "Authorization: token canary-a"),
        ("null", "Authorization: Bearer canary-a"),
        ("5", "Authorization: Bearer canary-a"),
    ] {
        home.feed("set", &format!(r#"{{"access_token":"canary-a","token_type":{token_type}}}"#))
            .ok();
        assert_eq!(home.run("get --header").line(), header, "{token_type}");
    }
    for (token_type, code, reason) in [
        ("\"DPoP\"", 1, "the token type is DPoP, which no fixed header can carry"),
        (r#""a\r\nX-Evil: b""#, 6, "characters that a header cannot contain"),
    ] {
        home.feed("set", &format!(r#"{{"access_token":"canary-a","token_type":{token_type}}}"#))
            .ok();
        let said = home.run("get --header").failed(code);
        assert!(said.contains(reason), "{said}");
        assert_eq!(home.run("get").line(), "canary-a");
    }
}

#[test]
fn a_provider_that_states_no_lifetime_has_the_one_of_the_profile() {
    let server = TokenServer::start();
    let home = home(&server, "expires_after = 7200\n");
    expire(&server, &home);
    let without = |mut answer: serde_json::Value| {
        answer.as_object_mut().unwrap().remove("expires_in");
        answer
    };
    server.script([Act::Change(without)]);
    home.run("get").ok();
    assert!(status(&home).contains("due in 1 hour"), "{}", status(&home));
    // A lifetime that is stated counts.
    home.run("refresh").ok();
    assert!(status(&home).contains("due in 44 minutes"), "{}", status(&home));
    sign_in_for(&server, &home, 12);
    for wrong in ["0", "-1", "\"2h\"", "99999999999"] {
        let home = crate::login::home(&server, &format!("expires_after = {wrong}\n"));
        assert!(home.run("get").failed(2).contains("value of the wrong type"), "{wrong}");
    }
}
