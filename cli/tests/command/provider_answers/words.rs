//! What the command says about an answer, and what it keeps of it besides the tokens.

use serde_json::{Value, json};

use super::waits::later;
use super::{EXPIRED, Row, answer, check, error, failed, home, record, tokens};
use crate::support::can_fake_time;
use crate::token_server::{Act, TokenServer};

fn refusal(changes: &Value) -> Vec<u8> {
    let mut body = json!({ "error": "invalid_grant" });
    let more = changes.as_object().unwrap().clone();
    body.as_object_mut().unwrap().extend(more);
    answer(400, "Content-Type: application/json\r\n", body.to_string())
}

#[test]
fn sign_in_again_names_the_command() {
    check([
        failed("get", error(400, "invalid_grant"), 4, vec!["sign in again", "tokenkeep login"]),
        Row {
            line: "refresh",
            ..failed("refresh", error(400, "login_required"), 4, vec!["tokenkeep login"])
        },
        Row {
            line: "exec -- true",
            ..failed("exec", error(400, "token_revoked"), 4, vec!["tokenkeep login"])
        },
    ]);
}

#[test]
fn a_reason_is_shown_only_when_it_is_asked_for() {
    let reason = "The session was ended by an administrator.";
    let given = json!({
        "error_codes": [50173, 7000],
        "error_description": reason,
        "error_uri": "https://issuer.example/why",
    });
    let row = |name: &str, line: &'static str, body: &Value, says: Vec<&'static str>| Row {
        line,
        ..failed(name, refusal(body), 4, says)
    };
    let quiet = row("get", "get", &given, vec!["invalid_grant"]);
    let quiet =
        Row { says_not: vec!["administrator", "50173", "https://issuer.example/why"], ..quiet };
    let long = format!("begin {} end", "x".repeat(5000));
    let hidden = "one\n\u{1b}[31mtwo\u{202e}\u{200b}";
    check([
        quiet,
        row("get -v", "get --verbose", &given, vec![reason, "50173", "https://issuer.example/why"]),
        row("refresh -v", "refresh --verbose", &given, vec![reason]),
        Row {
            says_not: vec![" end"],
            ..row(
                "a long reason",
                "get --verbose",
                &json!({ "error_description": long }),
                vec!["begin"],
            )
        },
        Row {
            says_not: vec!["\u{1b}", "\u{202e}", "\u{200b}", "one\n"],
            ..row(
                "hidden characters",
                "get --verbose",
                &json!({ "error_description": hidden }),
                vec!["two"],
            )
        },
        // `check` looks for `canary`.
        row(
            "a reason that repeats the refresh token",
            "get --verbose",
            &json!({ "error_description": "the token canary-old-r is unknown" }),
            vec!["is unknown"],
        ),
        Row {
            says_not: vec!["http://issuer.example/why"],
            ..row(
                "an error_uri that is not https",
                "get --verbose",
                &json!({ "error_uri": "http://issuer.example/why" }),
                vec!["invalid_grant"],
            )
        },
    ]);
}

#[test]
fn a_client_that_worked_before_and_is_refused_now_hears_both_possibilities() {
    let says = || vec!["check the client's id and secret", "sign in again"];
    check([
        failed("invalid_client", error(401, "invalid_client"), 1, says()),
        failed("unauthorized_client", error(400, "unauthorized_client"), 1, says()),
    ]);
}

#[test]
fn a_good_token_without_a_refresh_token_is_no_failed_session() {
    let server = TokenServer::start();
    let good =
        json!({ "access_token": "canary-a", "expires_at": "2099-01-01T00:00:00Z", "version": 2 });
    let home = home(&server, &good.to_string());
    let refreshed = home.run("refresh");
    assert_ne!(refreshed.code, 0, "{refreshed:?}");
    assert!(refreshed.err.contains("no refresh token"), "{refreshed:?}");
    assert!(refreshed.err.contains("stays valid until 2099-01-01"), "{refreshed:?}");
    assert_eq!(home.run("get").line(), "canary-a");
    assert_eq!(server.calls(), 0);
}

#[test]
fn the_expiry_of_the_refresh_token_is_kept() {
    let lives = |name: &str, changes: &Value, has: bool| {
        let server = TokenServer::start();
        let home = home(&server, EXPIRED);
        server.script([Act::Raw(tokens(changes))]);
        home.run("get").ok();
        let record = record(&home);
        assert_eq!(record["refresh_expires_at"].is_string(), has, "{name}: {record}");
        home
    };
    lives("GitHub", &json!({ "refresh_token_expires_in": 15_811_200 }), true);
    lives("Azure B2C, as a string", &json!({ "refresh_token_expires_in": "1209600" }), true);
    lives("Keycloak", &json!({ "refresh_expires_in": 1800 }), true);
    lives("Keycloak, offline", &json!({ "refresh_expires_in": 0 }), false);
    lives("none", &json!({}), false);
    let soon = lives("soon", &json!({ "refresh_token_expires_in": 600, "expires_in": 300 }), true);
    let status = soon.run("status");
    assert!(status.out.contains("the refresh token expires in"), "{status:?}");
    if can_fake_time("provider_answers::words::the_expiry_of_the_refresh_token_is_kept") {
        let status = later(&soon, 540, "status");
        let said = format!("{}{}", status.out, status.err);
        assert!(said.contains("tokenkeep login"), "{said}");
    }
}

#[test]
fn each_field_and_the_type_of_the_token_can_be_had() {
    for (kind, header) in [
        (json!("bearer"), Some("Authorization: Bearer canary-new-a")),
        (json!("Bearer"), Some("Authorization: Bearer canary-new-a")),
        (json!(null), Some("Authorization: Bearer canary-new-a")),
        (json!("DPoP"), None),
        (json!("x\r\ny: z"), None),
    ] {
        let server = TokenServer::start();
        let home = home(&server, EXPIRED);
        server.script([Act::Raw(tokens(&json!({ "token_type": kind })))]);
        let got = home.run("get --header");
        match header {
            Some(header) => assert_eq!(got.line(), header, "{kind}"),
            // Either an error, or the scheme that everybody knows: never a header of the provider's.
            None => {
                assert!(!got.out.contains("y: z") && !got.out.contains("DPoP"), "{kind}: {got:?}");
            }
        }
    }
    let server = TokenServer::start();
    let home = home(&server, EXPIRED);
    assert_eq!(home.run("get --field id").line(), "canary-i");
    assert_eq!(home.run("get --field scope").line(), "read write");
    assert_eq!(home.run("get --field realmId").line(), "7");
    let unknown = home.run("get --field nonsense");
    assert_ne!(unknown.code, 0);
    assert!(unknown.err.contains("instance_url") && !unknown.err.contains("canary"), "{unknown:?}");
}

#[test]
fn a_lifetime_is_assumed_only_if_the_provider_states_none() {
    for (changes, seconds) in [(json!({ "expires_in": null }), 7200), (json!({}), 3600)] {
        let server = TokenServer::start();
        let home = home(&server, EXPIRED);
        let path = home.path("config/profiles/default.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{text}expires_after = 7200\n")).unwrap();
        server.script([Act::Raw(tokens(&changes))]);
        home.run("get").ok();
        assert_eq!(super::lifetime(&record(&home)), json!(seconds), "{changes}");
    }
}
