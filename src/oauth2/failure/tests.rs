use http::StatusCode;
use zeroize::Zeroizing;

use super::super::http::Reply;
use super::*;

/// What a failure means for the refresh token.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Says {
    Ambiguous,
    MisconfiguredAndUnspent,
    MisconfiguredAndMaybeSpent,
    Rejected,
    TransientAndUnspent,
    TransientAndMaybeSpent,
}

use Says::*;

fn says(failed: Failed) -> Says {
    let failure = RefreshFailure::from(failed);
    match (&failure, failure.proves_unspent()) {
        (RefreshFailure::Ambiguous { .. }, false) => Ambiguous,
        (RefreshFailure::Misconfigured { .. }, true) => MisconfiguredAndUnspent,
        (RefreshFailure::Misconfigured { .. }, false) => MisconfiguredAndMaybeSpent,
        (RefreshFailure::Rejected { .. }, true) => Rejected,
        (RefreshFailure::Transient { .. }, true) => TransientAndUnspent,
        (RefreshFailure::Transient { .. }, false) => TransientAndMaybeSpent,
        _ => panic!("{failure:?}"),
    }
}

/// Returns how a refresh fails with this answer, or `None` if it succeeds.
fn failed(status: u16, body: &str) -> Option<Failed> {
    failed_with(None, status, body)
}

fn failed_with(retry_after: Option<Duration>, status: u16, body: &str) -> Option<Failed> {
    let status = StatusCode::from_u16(status).unwrap();
    let reply = Reply { status, retry_after, body: Zeroizing::new(body.into()) };
    reply.judge_tokens("issuer.example").err()
}

fn code(code: &str) -> String {
    format!(r#"{{"error":"{code}"}}"#)
}

#[test]
fn each_answer_says_whether_the_refresh_token_may_be_spent() {
    let page = "<html>no</html>";
    for (status, body, expected) in [
        // A success without tokens.
        (200, "", Ambiguous),
        (200, page, Ambiguous),
        (200, r#"{"access_token":"#, Ambiguous),
        (200, r#"["a"]"#, Ambiguous),
        (200, r#"{"token_type":"bearer"}"#, Ambiguous),
        (200, r#"{"access_token":""}"#, Ambiguous),
        (200, r#"{"error":"","data":{}}"#, Ambiguous),
        (400, r#"{"error":""}"#, MisconfiguredAndMaybeSpent),
        (204, "", Ambiguous),
        // A redirect, and answers of gateways, with any content.
        (301, "", Ambiguous),
        (302, "", Ambiguous),
        (303, "", Ambiguous),
        (307, "", Ambiguous),
        (308, &code("invalid_client"), Ambiguous),
        (408, "", Ambiguous),
        (425, "", Ambiguous),
        (500, &code("invalid_client"), Ambiguous),
        (501, "", Ambiguous),
        (502, page, Ambiguous),
        (504, page, Ambiguous),
        (520, page, Ambiguous),
        (599, "", Ambiguous),
        // Temporary failures. Only 429 proves that the token is unspent.
        (429, &code("slow_down"), TransientAndUnspent),
        (429, page, TransientAndUnspent),
        (503, page, TransientAndMaybeSpent),
        (503, &code("temporarily_unavailable"), TransientAndMaybeSpent),
        (403, page, TransientAndMaybeSpent),
        (403, r#"{"message":"no"}"#, TransientAndMaybeSpent),
        // Failures that signing in again would not fix.
        (404, page, MisconfiguredAndMaybeSpent),
        (404, &code("invalid_grant"), Rejected),
        (500, &code("invalid_grant"), Rejected),
        (400, page, MisconfiguredAndMaybeSpent),
        (401, "", MisconfiguredAndMaybeSpent),
        (405, "", MisconfiguredAndMaybeSpent),
    ] {
        let failed = failed(status, body).unwrap_or_else(|| panic!("{status} {body}"));
        assert_eq!(says(failed), expected, "{status} {body}");
    }
    // Tokens are read whatever the status is, if there is no error.
    for status in [200, 302, 400, 404, 408, 429, 500, 503] {
        assert!(failed(status, r#"{"access_token":"a"}"#).is_none(), "{status}");
        let refused = r#"{"access_token":"a","error":"invalid_grant"}"#;
        assert_eq!(failed(status, refused).is_none(), status == 200, "{status}");
    }
}

#[test]
fn each_error_code_says_whether_the_refresh_token_may_be_spent() {
    for (name, expected) in [
        ("invalid_client", MisconfiguredAndUnspent),
        ("invalid_request", MisconfiguredAndUnspent),
        ("unauthorized_client", MisconfiguredAndUnspent),
        ("unsupported_grant_type", MisconfiguredAndUnspent),
        ("access_denied", MisconfiguredAndMaybeSpent),
        ("account_selection_required", Rejected),
        ("consent_required", Rejected),
        ("expired_token", Rejected),
        ("interaction_required", Rejected),
        ("invalid_refresh_token", Rejected),
        ("invalid_token", Rejected),
        ("login_required", Rejected),
        ("token_expired", Rejected),
        ("token_revoked", Rejected),
        ("ratelimited", TransientAndMaybeSpent),
        ("invalid_scope", MisconfiguredAndMaybeSpent),
        ("not a code", MisconfiguredAndMaybeSpent),
        ("bad_refresh_token", Rejected),
        ("invalid_grant", Rejected),
        ("server_error", TransientAndMaybeSpent),
        ("slow_down", TransientAndMaybeSpent),
        ("temporarily_unavailable", TransientAndMaybeSpent),
    ] {
        // Some providers send an error with status 200.
        for status in [200, 400, 401, 403] {
            let failed = failed(status, &code(name)).unwrap();
            assert_eq!(says(failed), expected, "{status} {name}");
        }
    }
}

#[test]
fn a_token_that_was_not_sent_is_unspent_and_a_lost_answer_is_ambiguous() {
    let reason = String::new;
    assert_eq!(says(Failed::NotSent { reason: reason() }), TransientAndUnspent);
    let ended = RefreshFailure::transient(reason());
    assert_eq!(says(Failed::NotPermitted(ended)), TransientAndUnspent);
    assert_eq!(says(Failed::Unsendable { reason: reason() }), MisconfiguredAndUnspent);
    assert_eq!(says(Failed::NotAdmitted { reason: reason() }), MisconfiguredAndUnspent);
    assert_eq!(says(Failed::NoAnswer { reason: reason() }), Ambiguous);
    assert_eq!(says(Failed::NotHttp { reason: reason() }), MisconfiguredAndMaybeSpent);
}

#[test]
fn a_client_that_is_refused_now_is_told_both_possible_reasons() {
    for name in ["invalid_client", "unauthorized_client"] {
        let failed = || failed(401, &code(name)).unwrap();
        let refresh = RefreshFailure::from(failed().in_a_session()).to_string();
        assert!(refresh.contains("check the client's id and secret"), "{refresh}");
        assert!(refresh.contains("sign in again"), "{refresh}");
        // At a sign-in, only the settings can be wrong.
        let sign_in = OAuth2Error::from(failed()).to_string();
        assert!(!sign_in.contains("sign in again"), "{sign_in}");
    }
}

#[test]
fn the_wait_that_a_server_asks_for_is_in_the_failure() {
    let wait = Some(Duration::from_secs(7));
    for (status, body, is_unspent) in [
        (400, "", false),
        (400, &*code("temporarily_unavailable"), false),
        (400, &*code("too_many_requests"), false),
        (400, r#"{"error":{"code":400}}"#, false),
        (403, "", false),
        (404, "", false),
        (408, "", false),
        (425, "", false),
        (429, "", true),
        (500, &*code("invalid_client"), false),
        (502, "", false),
        (503, "", false),
        (504, "", false),
        (302, "", false),
    ] {
        let failure = RefreshFailure::from(failed_with(wait, status, body).unwrap());
        let RefreshFailure::Transient { retry_after, unspent, .. } = failure else {
            panic!("{failure:?}");
        };
        assert_eq!((retry_after, unspent), (wait, is_unspent), "{status}");
        let sign_in = OAuth2Error::from(failed_with(wait, status, body).unwrap());
        let OAuth2Error::Unavailable { retry_after, .. } = sign_in else {
            panic!("{sign_in:?}");
        };
        assert_eq!(retry_after, wait, "{status}");
    }
    // Waiting does not help here.
    for (status, name) in [(400, "invalid_grant"), (401, "invalid_client"), (400, "invalid_scope")]
    {
        let failure = RefreshFailure::from(failed_with(wait, status, &code(name)).unwrap());
        assert!(!matches!(failure, RefreshFailure::Transient { .. }), "{failure:?}");
    }
}

#[test]
fn a_failed_sign_in_says_to_wait_or_to_check_the_settings() {
    for (status, body, waits) in [
        (408, "", true),
        (429, "", true),
        (500, "", true),
        (503, "", true),
        (400, &*code("server_error"), true),
        (403, "", true),
        (307, "", false),
        (404, "", false),
        (400, &*code("invalid_client"), false),
        (200, "", false),
    ] {
        let error = OAuth2Error::from(failed(status, body).unwrap());
        let is_right = match error {
            OAuth2Error::Unavailable { .. } => waits,
            OAuth2Error::Misconfigured { .. } => !waits,
            _ => false,
        };
        assert!(is_right, "{status} {body}: {error:?}");
    }
}

#[test]
fn text_that_does_not_look_like_an_error_code_is_not_shown() {
    assert_eq!(error_code("invalid_grant"), Some("invalid_grant"));
    assert_eq!(error_code(&"a".repeat(48)).map(str::len), Some(48));
    let long = "a".repeat(49);
    for text in ["", "refresh-canary-1", "eyJhbGciOiJIUzI1NiJ9", "a b", "\u{1b}[2J", &long] {
        assert_eq!(error_code(text), None, "{text}");
    }
}

#[test]
fn a_refresh_that_a_status_ends_says_which() {
    for (status, body, expected) in [
        (404, "<html>no</html>", Some(404)),
        (404, r#"{"error":"invalid_client"}"#, Some(404)),
        (400, "<html>no</html>", Some(400)),
        (400, r#"{"error":"invalid_client"}"#, None),
    ] {
        let failure = RefreshFailure::from(failed(status, body).unwrap());
        let RefreshFailure::Misconfigured { status: said, .. } = failure else {
            panic!("{failure:?}")
        };
        assert_eq!(said, expected, "{status} {body}");
    }
}
