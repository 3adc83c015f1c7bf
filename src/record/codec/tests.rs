#![allow(clippy::disallowed_methods, reason = "tests look at what they made")]

use std::collections::BTreeMap;

use chrono::TimeDelta;
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::record::Intent;

fn encode(tokens: &AuthTokens, place: &str) -> Result<Bytes, StoreError> {
    super::encode(&Record::new(tokens.clone()), place)
}

fn decode(bytes: &[u8], place: &str) -> Result<AuthTokens, StoreError> {
    super::decode(bytes, place).map(|record| record.tokens)
}

/// A record of this crate begins like this.
const OURS: &str = r#""version":1,"expires_at":null,"#;

fn reason(json: &str) -> String {
    match decode(json.as_bytes(), "here").unwrap_err() {
        StoreError::Corrupt { place, reason } => {
            assert_eq!(place, "here");
            reason
        }
        other => panic!("{json}: {other}"),
    }
}

#[test]
fn a_file_of_the_seed_document_loads_unchanged() {
    let tokens = decode(
        br#"{
  "access_token": "eyJhbGciOiJIUzI1NiIs...",
  "refresh_token": "refresh_token_value",
  "expires_at": "2024-01-15T10:30:00Z"
}"#,
        "here",
    )
    .unwrap();
    let expected = AuthTokens::new("eyJhbGciOiJIUzI1NiIs...")
        .with_refresh_token("refresh_token_value")
        .with_expires_at("2024-01-15T10:30:00Z".parse::<DateTime<Utc>>().unwrap());
    assert_eq!(tokens, expected);
}

#[test]
fn a_null_or_missing_expiry_and_an_empty_refresh_token_are_none() {
    for json in [
        r#"{"access_token":"a","refresh_token":"","expires_at":null}"#,
        r#"{"access_token":"a","refresh_token":null}"#,
        r#"{"access_token":"a"}"#,
    ] {
        assert_eq!(decode(json.as_bytes(), "here").unwrap(), AuthTokens::new("a"), "{json}");
    }
}

#[test]
fn a_program_that_knows_only_three_fields_can_read_a_record() {
    #[derive(serde::Deserialize)]
    struct Seed {
        access_token: String,
        refresh_token: String,
        expires_at: Option<String>,
    }
    let now: DateTime<Utc> = "2026-01-02T03:04:05.678Z".parse().unwrap();
    let tokens = AuthTokens::new("a")
        .with_expires_at(now)
        .with_obtained_at(now)
        .with_extra("scope", "x".into());
    let seed: Seed = serde_json::from_slice(&encode(&tokens, "here").unwrap()).unwrap();
    assert_eq!((seed.access_token.as_str(), seed.refresh_token.as_str()), ("a", ""));
    assert_eq!(seed.expires_at.as_deref(), Some("2026-01-02T03:04:05.678Z"));
}

#[test]
fn each_fault_has_its_own_error_text() {
    for (json, expected) in [
        ("", "it is empty"),
        ("   ", "it ends too early, at line 1, column 3"),
        ("{\n\"access_token\": \"canary", "it ends too early, at line 2, column 23"),
        ("{\n\"access_token\": canary}", "it is not valid JSON at line 2, column 17"),
        ("{\n  \"acc", "it ends too early, at line 2, column 6"),
        ("garbage", "it is not valid JSON at line 1, column 1"),
        ("\0\0\0\0", "it is not valid JSON at line 1, column 1"),
        (r#"{"access_token":"canary","access_token":"canary"}"#, "it has the same field twice"),
        (r#"{"access_token":"a","\u0061ccess_token":"b"}"#, "it has the same field twice"),
    ] {
        assert_eq!(reason(json), expected, "{json}");
    }
    for (fields, expected) in [
        (r#""access_token":null"#, "it has no access_token"),
        (r#""access_token":"""#, "its access_token is empty"),
        (r#""access_token":"","refresh_token":"r""#, "its access_token is empty"),
        (r#""access_token":{"canary":1}"#, "its access_token is not a string"),
        (r#""access_token":"canary","refresh_token":12"#, "its refresh_token is not a string"),
        (
            r#""access_token":"a","x":"1","extra":{"x":"2"}"#,
            "it has the same field twice, in extra and beside it",
        ),
        (r#""access_token":"a","extra":["canary"]"#, "in its extra: it is not a JSON object"),
        (r#""access_token":"a","backup":"yes""#, "its backup is neither true nor false"),
    ] {
        assert_eq!(reason(&format!("{{{OURS}{fields}}}")), expected, "{fields}");
    }
    for (json, expected) in [
        (
            r#"{"access_token":"canary","expires_at":"canary","version":1}"#,
            "its expires_at is not an RFC 3339 date",
        ),
        (r#"{"access_token":"a","expires_at":null,"version":-1}"#, "its version is not a number"),
    ] {
        assert_eq!(reason(json), expected, "{json}");
    }
    let deep = format!("{{{OURS}\"access_token\":{}{}}}", "[".repeat(9_000), "]".repeat(9_000));
    assert_eq!(reason(&deep), "its access_token is not a string");
    let error = decode(b"{\"access_token\":\"\xff\"}", "here").unwrap_err().to_string();
    assert!(error.contains("is damaged: it is not UTF-8 text (byte 17)"), "{error}");
}

#[test]
fn a_newer_version_is_refused_whatever_its_other_fields() {
    let error = decode(br#"{"access_token":[],"version":3}"#, "here").unwrap_err();
    assert!(matches!(error, StoreError::NewerVersion { found: 3, known: 2, .. }), "{error}");
}

#[test]
fn a_record_over_the_limit_is_neither_written_nor_read() {
    let largest = AuthTokens::new("x".repeat(MAX_RECORD - 128));
    assert!(encode(&largest, "here").unwrap().len() <= MAX_RECORD);
    let tokens = AuthTokens::new("x".repeat(MAX_RECORD));
    assert!(matches!(encode(&tokens, "here"), Err(StoreError::TooLarge { .. })));
    let json = format!("{{\"access_token\":\"{}\"}}", "x".repeat(MAX_RECORD));
    assert!(matches!(decode(json.as_bytes(), "here"), Err(StoreError::TooLarge { .. })));
}

#[test]
fn a_value_that_is_not_a_string_is_kept_as_its_json() {
    let tokens = decode(br#"{"access_token":"a","realm":900,"roles":["a", "b"]}"#, "here").unwrap();
    assert_eq!(tokens.extra("realm").unwrap().expose_secret(), "900");
    assert_eq!(tokens.extra("roles").unwrap().expose_secret(), r#"["a", "b"]"#);
    let again = decode(&encode(&tokens, "here").unwrap(), "here").unwrap();
    assert_eq!(again, tokens);
    // A number is a number after a round trip.
    let written: Value = serde_json::from_slice(&encode(&tokens, "here").unwrap()).unwrap();
    let expected = serde_json::json!({"realm": 900, "roles": ["a", "b"]});
    assert_eq!(written["extra"], expected);
}

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(seconds, 0).unwrap()
}

fn known() -> RefreshState {
    let token = RefreshToken::from("r");
    let client = "https://x/token app";
    RefreshState {
        intent: Some(Intent::new(&token, at(1))),
        throttle: Some(Throttle::new(at(1), at(2), client, Some("429"))),
        rejection: Some(Rejection::new(&token, client, at(3), "refused")),
    }
}

#[test]
fn the_refresh_state_is_kept_and_refused_by_older_versions() {
    let tokens = AuthTokens::new("a").with_refresh_token("r");
    let whole = known();
    for known in [
        RefreshState { intent: whole.intent.clone(), ..RefreshState::default() },
        RefreshState { throttle: whole.throttle.clone(), ..RefreshState::default() },
        RefreshState { rejection: whole.rejection.clone(), ..RefreshState::default() },
        whole,
    ] {
        let record = Record::new(tokens.clone()).with_refresh(known);
        let bytes = super::encode(&record, "here").unwrap();
        assert_eq!(super::decode(&bytes, "here").unwrap(), record);
        let written: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(written["version"], 2);
        assert_eq!(
            (&written["access_token"], &written["refresh_token"]),
            (&"a".into(), &"r".into())
        );
    }
    let written: Value = serde_json::from_slice(&encode(&tokens, "here").unwrap()).unwrap();
    assert_eq!(written["version"], 1, "older versions can read a record without a refresh state");
}

#[test]
fn an_invalid_refresh_state_is_ignored() {
    for state in [
        "5",
        "{}",
        r#"{"intent":"tokenkeep-intent/9 x"}"#,
        r#"{"intent":7,"throttle":[],"rejection":{"at":"x"}}"#,
        r#"{"throttle":{"from":"2026-01-01T00:00:00Z","until":1,"client":""}}"#,
        // A longer digest would take the room that the intent needs.
        &format!(
            r#"{{"throttle":{{"from":"2026-01-01T00:00:00Z","until":"2026-01-01T00:00:00Z","client":"{}"}}}}"#,
            "x".repeat(60_000)
        ),
    ] {
        let json = format!(r#"{{"access_token":"a","version":2,"refresh":{state}}}"#);
        let record = super::decode(json.as_bytes(), "here").unwrap();
        assert_eq!(record, Record::new(AuthTokens::new("a")), "{state}");
    }
}

#[test]
fn the_largest_tokens_leave_room_for_the_refresh_state() {
    let mut size = MAX_RECORD;
    let largest = loop {
        let tokens = AuthTokens::new("x".repeat(size)).with_refresh_token("r");
        match encode(&tokens, "here") {
            Ok(bytes) => break (tokens, bytes.len()),
            Err(_) => size -= 1,
        }
    };
    assert_eq!(largest.1, MAX_RECORD, "the limit itself is allowed");
    let mut known = known();
    known.throttle.as_mut().unwrap().reason = Some("\"".repeat(200));
    let record = Record::new(largest.0).with_refresh(known);
    let bytes = super::encode(&record, "here").unwrap();
    assert!(bytes.len() > MAX_RECORD && bytes.len() + 1024 < MAX_STORED, "{}", bytes.len());
    assert_eq!(super::decode(&bytes, "here").unwrap(), record);
}

#[test]
fn a_missing_access_token_is_kept_and_counts_as_expired() {
    let tokens = AuthTokens::without_access_token("r");
    let bytes = encode(&tokens, "here").unwrap();
    let written: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!((&written["access_token"], &written["version"]), (&"".into(), &2.into()));
    let tokens = decode(&bytes, "here").unwrap();
    assert!(!tokens.has_access_token() && tokens.is_expired(at(0)));
    assert!(matches!(encode(&AuthTokens::new(""), "here"), Err(StoreError::InvalidTokens { .. })));
    // Other programs write a refresh token alone too.
    for json in [r#"{"access_token":"","refresh_token":"r"}"#, r#"{"refresh_token":"r"}"#] {
        assert_eq!(decode(json.as_bytes(), "here").unwrap(), AuthTokens::without_access_token("r"));
    }
}

#[test]
fn the_refresh_tokens_own_expiry_and_a_client_secret_are_kept() {
    let mut tokens = AuthTokens::new("a").with_client_secret("canary".into());
    tokens.refresh_expires_at = Some(at(7));
    tokens.refresh_obtained_at = Some(at(3));
    assert!(!format!("{tokens:?}").contains("canary"));
    assert_eq!(decode(&encode(&tokens, "here").unwrap(), "here").unwrap(), tokens);
    // Other programs use fields with these names for other content.
    let json = r#"{"access_token":"a","client_secret":5,"refresh_obtained_at":5,"refresh":"x"}"#;
    let tokens = decode(json.as_bytes(), "here").unwrap();
    assert!(tokens.client_secret().is_none() && tokens.refresh_expires_at.is_none());
    assert_eq!(tokens.extras().count(), 3);
}

/// Reads one file of each form that any version wrote.
#[test]
fn a_golden_file_of_each_version_can_be_read() {
    let whole = Record::new(
        AuthTokens::new("a")
            .with_refresh_token("r")
            .with_expires_at(at(1_800_000_000))
            .with_obtained_at(at(1_799_999_000))
            .with_client_secret("s".into())
            .with_extra("scope", "x y".into())
            .with_json_extra("realm", "7".into()),
    );
    let golden = |name: &str| -> Record {
        let path = format!("{}/tests/golden/{name}.json", env!("CARGO_MANIFEST_DIR"));
        super::decode(&std::fs::read(path).unwrap(), "here").unwrap()
    };
    let seed = AuthTokens::new("a").with_refresh_token("r").with_expires_at(at(1_800_000_000));
    assert_eq!(golden("seed"), Record::new(seed.clone()));
    let first = seed.with_obtained_at(at(1_799_999_000)).with_extra("scope", "x y".into());
    assert_eq!(golden("version-1"), Record::new(first));
    let mut second = whole.tokens;
    second.refresh_expires_at = Some(at(1_900_000_000));
    let read = golden("version-2");
    assert_eq!(read.tokens, second);
    let token = RefreshToken::from("r");
    assert_eq!(read.intent().map(Intent::at), Some(at(1_800_000_000)));
    let throttle = read.refresh.throttle.as_ref().unwrap();
    let until = throttle.holds("https://issuer.example/token app", at(1_800_000_001));
    assert_eq!((until, throttle.reason()), (Some(at(1_800_000_060)), Some("429")));
    let rejection = read.refresh.rejection.as_ref().unwrap();
    assert!(rejection.is_for(&token, "https://issuer.example/token app"));
    assert_eq!(golden("version-2-no-access-token").tokens, AuthTokens::without_access_token("r"));
    // The bytes that are written today are the same.
    let path = format!("{}/tests/golden/version-2.json", env!("CARGO_MANIFEST_DIR"));
    assert_eq!(*super::encode(&read, "here").unwrap(), std::fs::read(path).unwrap().trim_ascii());
}

fn any_date() -> impl Strategy<Value = DateTime<Utc>> {
    prop_oneof![
        Just(DateTime::<Utc>::MIN_UTC),
        Just(DateTime::<Utc>::MAX_UTC),
        (any::<i32>(), 0..1_000_000_000_i64).prop_map(|(secs, nanos)| {
            DateTime::from_timestamp(i64::from(secs) * 1000, 0).unwrap()
                + TimeDelta::nanoseconds(nanos)
        }),
    ]
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".*".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(".{0,4}", inner, 0..4).prop_map(Value::from_iter),
        ]
    })
}

proptest! {
    #[test]
    fn fields_of_other_programs_in_a_record_are_kept(
        // The first letter is not that of any field of this crate.
        beside in prop::collection::btree_map("[^abeorv].{0,6}|", any_json(), 0..4),
        nested in prop::collection::btree_map("[^abeorv].{0,6}|.{0,8}", any_json(), 0..4),
    ) {
        let nested: BTreeMap<_, _> =
            nested.into_iter().filter(|(name, _)| !beside.contains_key(name)).collect();
        let mut record = serde_json::json!({"access_token": "a", "extra": nested});
        let fields = record.as_object_mut().unwrap();
        fields.extend(beside.iter().map(|(name, value)| (name.clone(), value.clone())));
        let tokens = decode(&serde_json::to_vec(&record).unwrap(), "here").unwrap();
        prop_assert_eq!(tokens.extras().count(), beside.len() + nested.len());
        for (name, value) in beside.iter().chain(&nested) {
            let kept = tokens.extra(name).unwrap().expose_secret();
            let expected = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            prop_assert_eq!(kept, expected);
        }
        let again = decode(&encode(&tokens, "here").unwrap(), "here").unwrap();
        prop_assert_eq!(again, tokens);
    }

    #[test]
    fn every_record_is_the_same_after_it_was_written_and_read(
        access in ".+",
        refresh in proptest::option::of(".+"),
        expires in proptest::option::of(any_date()),
        obtained in proptest::option::of(any_date()),
        extra in proptest::collection::btree_map(".*", ".*", 0..4),
        backup: bool,
    ) {
        let mut tokens = AuthTokens::new(access).with_backup(backup);
        tokens.refresh_token = refresh.map(RefreshToken::from);
        tokens.expires_at = expires;
        tokens.obtained_at = obtained;
        for (name, value) in extra {
            tokens = tokens.with_extra(name, value.into());
        }
        let bytes = encode(&tokens, "here").unwrap();
        prop_assert_eq!(bytes.capacity(), bytes.len());
        prop_assert_eq!(decode(&bytes, "here").unwrap(), tokens);
    }

    #[test]
    fn no_input_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        // Either an error or a record is returned. An error quotes nothing of the input.
        if let Err(error) = decode(&bytes, "here") {
            prop_assert!(error.to_string().starts_with("here "));
        }
    }
}
