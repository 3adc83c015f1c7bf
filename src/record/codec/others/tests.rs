#![allow(clippy::disallowed_methods, reason = "tests look at what they made")]

use chrono::DateTime;

use crate::error::StoreError;
use crate::record::MAX_RECORD;
use crate::record::codec::decode_text;
use crate::tokens::AuthTokens;

/// A record of this crate begins like this.
const OURS: &str = r#""version":1,"expires_at":null,"#;

fn at(seconds: i64) -> DateTime<chrono::Utc> {
    DateTime::from_timestamp(seconds, 0).unwrap()
}

fn decode(bytes: &[u8], place: &str) -> Result<AuthTokens, StoreError> {
    crate::record::codec::decode(bytes, place).map(|record| record.tokens)
}

/// Returns why something is no record of this crate.
fn not_ours(text: &[u8]) -> String {
    match decode_text(text, "here").unwrap_err() {
        StoreError::NotARecord { place, reason, advice } => {
            assert_eq!(place, "here");
            assert!(!advice.contains("clear"), "{advice}");
            reason
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_bare_token_is_accepted_and_what_is_none_is_refused() {
    for text in [
        &b" token\n"[..],
        b"\xef\xbb\xbftoken",
        b"t\0o\0k\0e\0n\0",
        b"\xff\xfet\0o\0k\0e\0n\0\r\0\n\0",
    ] {
        assert_eq!(decode_text(text, "here").unwrap().access_token.expose_secret(), "token");
    }
    for token in ["abc==", "ya29.a0-_~+/x", "ghp_1", "1//0e", "a=="] {
        assert_eq!(decode_text(token.as_bytes(), "here").unwrap(), AuthTokens::new(token));
    }
    for (text, expected) in [
        (b"canary \x00\xff".as_slice(), "it is not text"),
        (b"canary\0canary", "characters that no token has"),
        (b"canary\ncanary", "characters that no token has"),
        (b"can\xc3\xa4ry", "characters that no token has"),
        (b"Bearer canary", "leave out `Bearer`"),
        (b"\x1b[200~canary", "characters that no token has"),
        (b"\"canary\"", "`jq -r`"),
        (b"'canary'", "in quotes"),
        (b"[\"canary\"]", "`jq -r`"),
        (b"<html>canary</html>", "markup"),
        (b"APP_TOKEN=canary", "NAME=VALUE"),
        (b"ACCESS_TOKEN=canary", "a form or a URL"),
        (b"https://x.example/cb#state=canary", "a URL"),
        (b"error=canary&state=1", "NAME=VALUE"),
        (b"null\n", "a word"),
        (b"undefined", "a word"),
        (b"age-secret-key-1canary", "an age identity"),
    ] {
        let reason = not_ours(text);
        assert!(reason.contains(expected) && !reason.contains("canary"), "{reason}");
    }
    for empty in [&b""[..], b" \n", b"\xef\xbb\xbf"] {
        let error = decode_text(empty, "here").unwrap_err().to_string();
        assert!(error.starts_with("here is damaged: it is empty"), "{error}");
    }
    let long = [b'a'; MAX_RECORD + 1];
    assert!(matches!(decode_text(&long, "here"), Err(StoreError::TooLarge { .. })));
}

#[test]
fn a_form_is_read_as_the_answer_that_it_is() {
    let text = b"access_token=gho_1&scope=repo%2Cgist&token_type=bearer\n";
    let tokens = decode_text(text, "here").unwrap();
    let expected = AuthTokens::new("gho_1")
        .with_extra("scope", "repo,gist".into())
        .with_extra("token_type", "bearer".into());
    assert_eq!(tokens, expected);
    let error = not_ours(b"access_token=canary&expires_in=3600");
    assert!(error.contains("its expires_in counts from a time"), "{error}");
    let tokens = AuthTokens::from_token_response(
        b"access_token=a&expires_in=3600&refresh_token=r&refresh_token_expires_in=7200",
        at(1_800_000_000),
    )
    .unwrap();
    assert_eq!(tokens.expires_at, Some(at(1_800_003_600)));
    assert_eq!(tokens.refresh_expires_at, Some(at(1_800_007_200)));
    assert_eq!(tokens.obtained_at, Some(at(1_800_000_000)));
}

#[test]
fn the_expiry_of_another_programs_record_is_taken_over_under_whatever_name() {
    let (date, number) = ("2027-01-15T08:00:00Z", 1_800_000_000);
    for (fields, expected) in [
        (format!(r#""expires_at":{number}"#), Some(number)),
        (format!(r#""expires_at":{number}.0"#), Some(number)),
        (format!(r#""expires_at":"{number}""#), Some(number)),
        (format!(r#""expiry":"{date}""#), Some(number)),
        (format!(r#""expiry":"{date}","expires_in":1"#), Some(number)),
        (format!(r#""expires_in":1,"expires_at":{number}"#), Some(number)),
        (format!(r#""expires_on":"{number}""#), Some(number)),
        (format!(r#""expiry_date":{number}000"#), Some(number)),
        (format!(r#""expiresAt":{number}000"#), Some(number)),
        (format!(r#""expires":{number}"#), Some(number)),
        (format!(r#""expires":3600,"created_at":{}"#, number - 3600), Some(number)),
        (format!(r#""token_expiry":"{date}""#), Some(number)),
        (format!(r#""accessTokenExpirationDate":"{date}""#), Some(number)),
        (format!(r#""Expiration":"{date}""#), Some(number)),
        (format!(r#""exp":{number}"#), Some(number)),
        (format!(r#""created_at":{},"expires_in":"3600""#, number - 3600), Some(number)),
        (format!(r#""expires_at":{number},"expires_on":"{date}","expired":false"#), Some(number)),
        (r#""expires_at":0"#.into(), None),
        (r#""expires_at":"0001-01-01T00:00:00Z""#.into(), None),
        (r#""expiry":null"#.into(), None),
        (format!(r#""exp_at":{number}"#), Some(number)),
        (format!(r#""valid_till":"{date}""#), Some(number)),
        (format!(r#""auth_token_expires_at":{number}"#), Some(number)),
        (format!(r#""session_expires_at":{number}"#), Some(number)),
        (format!(r#""ttl_seconds":3600,"issued_at":{}"#, number - 3600), Some(number)),
        (format!(r#""expires_at":{number},"version":1"#), Some(number)),
        (format!(r#""expires_at":{number},"version":"1.2.0""#), Some(number)),
        // These are about something else.
        (
            format!(
                r#""id_token_expires_in":5,"ext_expires_in":6,"client_secret_expires_at":{number}"#
            ),
            None,
        ),
    ] {
        let json = format!(r#"{{"access_token":"a","refresh_token":"r",{fields}}}"#);
        let tokens = decode(json.as_bytes(), "here").unwrap();
        assert_eq!(tokens.expires_at, expected.map(at), "{json}");
        // No earlier expiry stays beside the next one.
        let stays = |name: &str| tokens.extra(name).is_some();
        assert!(
            !["expiry", "expires_in", "expires_on", "expires", "exp"].iter().any(|it| stays(it))
        );
    }
    // What an access token says of itself needs no date.
    let claims = "e30.eyJleHAiOjE4MDAwMDAwMDB9.c2ln";
    let json = format!(r#"{{"access_token":"{claims}","expires_in":3600}}"#);
    assert_eq!(decode(json.as_bytes(), "here").unwrap().expiry(), Some(at(number)));
}

#[test]
fn an_expiry_that_cannot_be_read_is_refused_by_its_name() {
    for (fields, expected) in [
        (r#""expires_at":"canary""#, "its expires_at is not a time in any form that is known"),
        (r#""expires_at":3600"#, "its expires_at is not a time in any form that is known"),
        (r#""expiry":{"canary":1}"#, "its expiry is not a time in any form that is known"),
        (r#""expires_in":3600"#, "its expires_in counts from a time that it does not name"),
        (r#""expires_in":"canary""#, "its expires_in is not a number of seconds"),
        (r#""expires_in_days":5"#, "its expires_in_days is in a unit that is not known"),
        (r#""expiry":"2027-01-15T08:00:00""#, "its expiry has no time zone"),
        (r#""ttl_minutes":5"#, "its ttl_minutes is in a unit that is not known"),
        (r#""meta":{"expires_at":1800000000}"#, "its meta.expires_at may be when"),
        (r#""a":{"b":[{"exp_at":1800000000}]}"#, "its a.exp_at may be when"),
        (r#""expires_at":1800000000,"expiry":1800009999"#, "its expiry is not the expiry that"),
        (r#""refresh_token_expires_at":"soon""#, "its refresh_token_expires_at is not a time"),
        (r#""created_at":1800000000,"expires_in":1e13"#, "its expires_in is beyond all dates"),
    ] {
        let reason = not_ours(format!(r#"{{"access_token":"canary",{fields}}}"#).as_bytes());
        assert!(reason.contains(expected) && !reason.contains("canary"), "{fields}: {reason}");
    }
}

#[test]
fn a_token_of_another_program_has_no_blanks_around_it_and_none_in_it() {
    let tokens = decode(br#"{"access_token":" a\n","refresh_token":"r\r\n"}"#, "here").unwrap();
    assert_eq!(tokens, AuthTokens::new("a").with_refresh_token("r"));
    for json in [
        r#"{"access_token":"a canary"}"#,
        r#"{"access_token":"a\ncanary"}"#,
        r#"{"access_token":"a\u0000canary"}"#,
        r#"{"access_token":"a","refresh_token":"Bearer canary"}"#,
        r#"{"access_token":"\"canary\""}"#,
        r#"{"access_token":"<html>canary"}"#,
        r#"{"access_token":"b'canary'"}"#,
        r#"{"access_token":"can\"ary"}"#,
        r#"{"access_token":"null"}"#,
        r#"{"access_token":"Bearer:canary"}"#,
        r#"{"access_token":"${TOKEN}"}"#,
        r#"{"access_token":"access_token=canary&x=1"}"#,
    ] {
        let reason = not_ours(json.as_bytes());
        assert!(reason.contains("its ") && !reason.contains("canary"), "{reason}");
    }
    // A record of this crate has the text that a provider sent.
    let ours = format!(r#"{{{OURS}"access_token":"a b"}}"#);
    assert_eq!(decode(ours.as_bytes(), "here").unwrap(), AuthTokens::new("a b"));
}

#[test]
fn what_another_program_wrote_is_not_called_damaged() {
    for (text, expected) in [
        ("{}", "it has no access_token"),
        (r#"{"access_token":null}"#, "it has no access_token"),
        (r#"{"access_token":""}"#, "its access_token is empty"),
        (r#"{"tokens":{"a":1},"version":"2.0"}"#, "its version is not a number"),
        ("[\"canary\"]", "it is not a JSON object"),
        ("\"canary\"", "it is not a JSON object"),
        ("{} canary", "it is not valid JSON at line 1, column 4"),
        ("{\"a\":1}\n{\"b\":2}\n", "it is not valid JSON at line 2, column 1"),
        ("{\"version\":3,\"tokens\":{}}", "it has no access_token"),
        ("SQLite format 3\0", "it is not valid JSON at line 1, column 1"),
        ("xyz_0123456789abcdef0123", "it is not valid JSON at line 1, column 1"),
        (
            "machine example login me password canary\n# netrc\n",
            "it is not valid JSON at line 1, column 1",
        ),
        ("<html>no</html>", "it is not valid JSON at line 1, column 1"),
        ("[section]\ntoken = canary\n", "it is not a JSON object"),
        ("# settings\nhost: example\n", "it is not valid JSON at line 1, column 1"),
    ] {
        match decode(text.as_bytes(), "here").unwrap_err() {
            StoreError::NotARecord { reason, .. } => assert_eq!(reason, expected, "{text}"),
            other => panic!("{text}: {other}"),
        }
    }
}
