#![allow(clippy::disallowed_methods, reason = "tests look at what they made")]

use chrono::DateTime;

use super::super::OAuth2Client;
use super::*;
use crate::tokens::RefreshToken;

fn read(json: &str) -> Option<AuthTokens> {
    let answer: Answer = serde_json::from_str(json).ok()?;
    assert!(!format!("{answer:?}").contains("canary"));
    Some(answer.into_tokens(SystemTime::UNIX_EPOCH))
}

#[test]
fn everything_is_kept() {
    let tokens = read(
        r#"{"access_token":"canary\u002da","token_type":"bearer","expires_in":3600,
            "refresh_token":"canary-r","scope":"a b","id_token":"canary-i","x":{"y":[1]},"n":null}"#,
    )
    .unwrap();
    assert_eq!(tokens.access_token.expose_secret(), "canary-a");
    assert_eq!(tokens.refresh_token.as_ref().unwrap().expose_secret(), "canary-r");
    assert_eq!(tokens.expires_at, DateTime::from_timestamp(3600, 0));
    assert_eq!(tokens.obtained_at, Some(DateTime::UNIX_EPOCH));
    let extra: Vec<_> =
        tokens.extras().map(|(name, value)| (name, value.expose_secret())).collect();
    assert_eq!(
        extra,
        [
            ("id_token", "canary-i"),
            ("scope", "a b"),
            ("token_type", "bearer"),
            ("x", r#"{"y":[1]}"#)
        ]
    );
}

#[test]
fn a_rotated_token_is_kept_although_another_field_is_invalid() {
    for (beside, lifetime) in [
        (r#""expires_in":"3600""#, Some(3600)),
        (r#""expires_in":3599.9"#, Some(3599)),
        (r#""expires_in":0"#, Some(0)),
        // It has expired, and does not live for ever.
        (r#""expires_in":-1"#, Some(0)),
        (r#""expires_in":"3.6e3""#, Some(3600)),
        (r#""expires_in":3.1536E7"#, Some(31_536_000)),
        (r#""expires_in":" 3600 ""#, Some(3600)),
        (r#""expires_on":1700000000"#, Some(1_700_000_000)),
        (r#""expires_on":"1700000000""#, Some(1_700_000_000)),
        (r#""expires_on":"2023-11-14T23:13:20+01:00""#, Some(1_700_000_000)),
        (r#""expires_on":"soon""#, None),
        (r#""expires_on":1700000000000"#, Some(1_700_000_000)),
        (r#""expires_at":1700000000"#, Some(1_700_000_000)),
        (r#""expires_at":"1700000000123""#, Some(1_700_000_000)),
        (r#""expires_at":"2023-11-14T22:13:20Z""#, Some(1_700_000_000)),
        (r#""expires_at":null"#, None),
        (r#""expires_at":"tomorrow""#, None),
        (r#""expires_at":1700000000,"expires_in":60"#, Some(60)),
        (r#""expires":5184000"#, Some(5_184_000)),
        (r#""expires":"5184000""#, Some(5_184_000)),
        (r#""expires":1700000000"#, Some(1_700_000_000)),
        (r#""expires":"2023-11-14T22:13:20Z""#, Some(1_700_000_000)),
        (r#""expires":0"#, None),
        (r#""expires":1e400"#, None),
        (r#""expires":90,"expires_in":60"#, Some(60)),
        (r#""expires_in":60,"expires":90"#, Some(60)),
        (r#""expires_in":60,"expires_on":1700000000"#, Some(60)),
        (r#""expires_in":18446744073709551615"#, None),
        (r#""expires_in":1e400"#, None),
        (r#""expires_in":true"#, None),
        (r#""token_type":5"#, None),
        (r#""scope":["a","b"]"#, None),
    ] {
        let json = format!(r#"{{"access_token":"a","refresh_token":"r",{beside}}}"#);
        let tokens = read(&json).unwrap_or_else(|| panic!("{json}"));
        assert_eq!(tokens.refresh_token.unwrap().expose_secret(), "r", "{json}");
        assert_eq!(tokens.expires_at.map(|date| date.timestamp()), lifetime, "{json}");
    }
}

#[test]
fn the_refresh_tokens_own_expiry_is_read_in_the_forms_that_providers_write() {
    for (beside, expiry) in [
        (r#""refresh_expires_in":1800"#, Some(1800)),
        (r#""refresh_token_expires_in":"15811200""#, Some(15_811_200)),
        (r#""refresh_token_expires_in":1.5811200E7"#, Some(15_811_200)),
        (r#""x_refresh_token_expires_in":8640000"#, Some(8_640_000)),
        (r#""refresh_token_expires_at":1700000000"#, Some(1_700_000_000)),
        (r#""refresh_token_expires_at":"1700000000""#, Some(1_700_000_000)),
        (r#""refresh_token_expires_at":"2023-11-14T22:13:20Z""#, Some(1_700_000_000)),
        (r#""refresh_expires_in":0,"refresh_token_expires_in":60"#, Some(60)),
        (r#""refresh_token_expires_at":1700000000123"#, Some(1_700_000_000)),
        (r#""refresh_token_expires_at":"1.7e12""#, Some(1_700_000_000)),
        (r#""refresh_token_expires_at":1e300"#, None),
        (r#""refresh_token_expires_in":60,"refresh_expires_in":0"#, Some(60)),
        (r#""refresh_expires_in":0"#, None),
        (r#""refresh_expires_in":-1"#, None),
        (r#""refresh_expires_in":null"#, None),
        (r#""refresh_expires_in":"never""#, None),
        (r#""refresh_token_expires_in":1e300"#, None),
        (r#""refresh_token_expires_at":"soon""#, None),
        (r#""refresh_token_expires_at":99999999999"#, Some(99_999_999_999)),
    ] {
        let json = format!(r#"{{"access_token":"a","refresh_token":"r",{beside}}}"#);
        let tokens = read(&json).unwrap_or_else(|| panic!("{json}"));
        assert_eq!(tokens.refresh_expires_at.map(|date| date.timestamp()), expiry, "{json}");
        // A number of seconds from then on would say nothing later.
        assert_eq!(tokens.extras().count(), 0, "{json}");
    }
    let nested = r#"{"authed_user":{"access_token":"a","refresh_token_expires_in":60}}"#;
    assert_eq!(read(nested).unwrap().refresh_expires_at, DateTime::from_timestamp(60, 0));
}

#[test]
fn a_default_lifetime_counts_only_if_the_answer_says_nothing() {
    // Its claims are {"exp":1700000000}.
    const JWT: &str = "e30.eyJleHAiOjE3MDAwMDAwMDB9.c2ln";
    let client = OAuth2Client::new("https://issuer.example/token", "app").unwrap();
    let client = client.with_default_lifetime(Duration::from_secs(7200));
    for (answer, expiry) in [
        (r#"{"access_token":"a"}"#.to_owned(), 7200),
        (r#"{"access_token":"a","expires_in":"soon"}"#.to_owned(), 7200),
        (r#"{"access_token":"a","expires_in":60}"#.to_owned(), 60),
        (r#"{"access_token":"a","expires_in":-1}"#.to_owned(), 0),
        (r#"{"access_token":"a","expires_on":90}"#.to_owned(), 90),
        (format!(r#"{{"access_token":"{JWT}"}}"#), 1_700_000_000),
    ] {
        let read = serde_json::from_str(&answer).unwrap();
        let tokens = client.received(read, SystemTime::UNIX_EPOCH);
        assert_eq!(tokens.expiry(), DateTime::from_timestamp(expiry, 0), "{answer}");
    }
}

#[test]
fn an_answer_without_a_refresh_token_has_none() {
    for json in [
        r#"{"access_token":"a"}"#,
        r#"{"access_token":"a","refresh_token":null}"#,
        r#"{"access_token":"a","refresh_token":""}"#,
        r#"{"access_token":"a","refresh_token":" "}"#,
        r#"{"access_token":"a","refresh_token":false}"#,
        r#"{"access_token":"a","refresh_token":{}}"#,
        r#"{"access_token":"a","refresh_token":[]}"#,
        r#"{"access_token":"a","refresh_token":"null"}"#,
        r#"{"access_token":"a","refresh_token":"undefined"}"#,
        r#"{"access_token":"a","refresh_token":"********"}"#,
        r#"{"access_token":"a","refresh_token":"\u200b"}"#,
        r#"{"access_token":"a","refresh_token":"\u0000"}"#,
    ] {
        assert_eq!(read(json).unwrap().refresh_token, None, "{json}");
    }
}

#[test]
fn an_answer_without_tokens_is_refused() {
    for json in [
        "",
        "{}",
        "[]",
        "null",
        r#"{"access_token":""}"#,
        r#"{"access_token":null}"#,
        r#"{"access_token":5}"#,
        r#"{"access_token":"null"}"#,
        r#"{"access_token":"a\nb"}"#,
        r#"{"data":{"data":{"access_token":"a"}}}"#,
        r#"{"data":{"x":"y"}}"#,
        r#"{"access_token":"a","access_token":"b"}"#,
        r#"{"access_token":"a","refresh_token":"r","refresh_token":"s"}"#,
    ] {
        assert!(read(json).is_none(), "{json}");
    }
}

#[test]
fn a_duplicate_field_that_holds_no_token_loses_no_tokens() {
    let tokens = read(r#"{"access_token":"a","refresh_token":"r","x":"1","x":"2"}"#).unwrap();
    assert_eq!(tokens.refresh_token.as_ref().unwrap().expose_secret(), "r");
    assert_eq!(tokens.extra("x").unwrap().expose_secret(), "2");
}

#[test]
fn the_same_token_twice_is_one_token() {
    let json = r#"{"access_token":"a","refresh_token":"r","access_token":"a","refresh_token":"r"}"#;
    let tokens = read(json).unwrap();
    assert_eq!(tokens.access_token.expose_secret(), "a");
    assert_eq!(tokens.refresh_token.unwrap().expose_secret(), "r");
}

#[test]
fn tokens_in_an_inner_object_are_found_and_kept_once() {
    for name in ["authed_user", "data"] {
        let json = format!(
            r#"{{"ok":true,"{name}":{{"id":"U1","access_token":"canary-a","refresh_token":"canary-r","expires_in":60}}}}"#
        );
        let tokens = read(&json).unwrap();
        assert_eq!(tokens.access_token.expose_secret(), "canary-a");
        assert_eq!(tokens.refresh_token.as_ref().unwrap().expose_secret(), "canary-r");
        assert_eq!(tokens.expires_at, DateTime::from_timestamp(60, 0));
        let extra: Vec<_> = tokens.extras().map(|(name, it)| (name, it.expose_secret())).collect();
        assert_eq!(extra, [("id", "U1"), ("ok", "true")]);
    }
    // A token of the whole answer counts.
    let json = r#"{"access_token":"bot","authed_user":{"access_token":"user"}}"#;
    assert_eq!(read(json).unwrap().access_token.expose_secret(), "bot");
}

#[test]
fn tokens_that_are_apart_are_put_together_if_they_belong_together() {
    for (json, access, refresh, expiry) in [
        (
            r#"{"refresh_token":"r","expires_in":60,"data":{"access_token":"a"}}"#,
            "a",
            Some("r"),
            Some(60),
        ),
        (
            r#"{"access_token":"a","expires_in":60,"data":{"refresh_token":"r"}}"#,
            "a",
            Some("r"),
            Some(60),
        ),
        (
            r#"{"access_token":"a","authed_user":{"access_token":"b","refresh_token":"s","expires_in":9}}"#,
            "a",
            None,
            None,
        ),
        (
            r#"{"refresh_token":"r","authed_user":{"access_token":"b","refresh_token":"s"}}"#,
            "b",
            Some("s"),
            None,
        ),
    ] {
        let tokens = read(json).unwrap();
        assert_eq!(tokens.access_token.expose_secret(), access, "{json}");
        let found = tokens.refresh_token.as_ref().map(RefreshToken::expose_secret);
        assert_eq!(found, refresh, "{json}");
        assert_eq!(tokens.expires_at.map(|at| at.timestamp()), expiry, "{json}");
    }
}

#[test]
fn an_answer_of_any_depth_is_read_without_a_deep_stack() {
    let deep = format!(r#"{}1{}"#, r#"{"data":"#.repeat(600), "}".repeat(600));
    assert!(read(&deep).is_none());
    let beside = format!(r#"{{"access_token":"a","data":{deep}}}"#);
    let on_a_small_stack = std::thread::Builder::new().stack_size(256 << 10);
    let read = on_a_small_stack.spawn(move || read(&beside).is_some()).unwrap();
    assert!(read.join().unwrap());
}

#[test]
fn tokens_in_a_large_answer_are_kept_with_the_fields_that_a_record_has_room_for() {
    let (large, id) = ("x".repeat(70_000), "i".repeat(9_000));
    let json = format!(
        r#"{{"access_token":"a","refresh_token":"r","large":"{large}","id_token":"{id}","scope":"s"}}"#
    );
    let tokens = read(&json).unwrap();
    assert_eq!(tokens.refresh_token.as_ref().unwrap().expose_secret(), "r");
    assert_eq!(tokens.extras().map(|(name, _)| name).collect::<Vec<_>>(), ["id_token", "scope"]);
    tokens.to_record("here").unwrap();
}
