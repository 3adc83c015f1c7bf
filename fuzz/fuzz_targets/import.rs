//! Reads a file of another program: its form is told by its content, and no expiry is lost.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use tokenkeep::AuthTokens;
use tokenkeep::chrono::DateTime;
use tokenkeep::import::{Format, Options, Source, recognize};
use tokenkeep_fuzz::{assert_ages, assert_redacted, assert_round_trip};

/// Names under which programs write when an access token expires.
const NAMES: [&str; 6] =
    ["expires_at", "expiry", "expires_on", "expiry_date", "expiresAt", "token_expiry"];

/// Numbers of seconds that are dates, and nothing else.
const DATES: std::ops::Range<f64> = 1e9..1e11;

fuzz_target!(|data: &[u8]| {
    let dated =
        Options { obtained_at: DateTime::from_timestamp(1_700_000_000, 0), ..Options::default() };
    for options in [Options::default(), dated] {
        let Ok(source) = Source::parse(data, &options) else { continue };
        assert_eq!(recognize(data), Some(source.format));
        assert!(!source.accounts.is_empty() && !source.fields.is_empty());
        for account in &source.accounts {
            assert_round_trip(&account.tokens);
            assert_redacted(&account.tokens);
            assert_ages(&account.tokens);
        }
        if source.format == Format::TokenResponse {
            assert_has_expiry(data, &source.accounts[0].tokens);
        }
    }
    for format in Format::all() {
        let options = Options { format: Some(format), ..Options::default() };
        if let Ok(source) = Source::parse(data, &options) {
            assert_eq!(source.format, format);
        }
    }
    if let Ok(tokens) = AuthTokens::from_record(data, "here") {
        assert_has_expiry(data, &tokens);
    }
});

/// Asserts that the expiry which a record of another program states is taken over.
fn assert_has_expiry(data: &[u8], tokens: &AuthTokens) {
    let Ok(Value::Object(fields)) = serde_json::from_slice(data) else { return };
    if fields.contains_key("version") {
        return;
    }
    let states = |name: &&str| {
        fields.get(*name).and_then(Value::as_f64).is_some_and(|number| DATES.contains(&number))
    };
    if NAMES.iter().any(states) {
        assert!(tokens.expires_at.is_some(), "the expiry is lost");
    }
}
