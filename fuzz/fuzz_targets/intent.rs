//! Reads the refresh state of a record. The input is the `refresh` field of a record, the text of its intent,
//! the file that an earlier version left next to a record, and a refresh token. None of these may stop
//! refreshes for ever.
#![no_main]

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use tokenkeep::chrono::{DateTime, TimeDelta, Utc};
use tokenkeep::store::{Intent, Precondition, Record, Stored};
use tokenkeep::stores::{MemoryStore, PlaintextStore};
use tokenkeep::{AuthTokens, RefreshToken, TokenManager, TokenStore};
use tokenkeep_fuzz::{File, assert_hidden, assert_record_round_trip, now, wait};

static RECORD: LazyLock<File> = LazyLock::new(|| File::new("tokens.json"));
static INTENT: LazyLock<File> = LazyLock::new(|| File::new("tokens.json.intent"));

/// The refresh token of the intents in the seeds. It is the one in tests/golden/.
const REFRESH_TOKEN: &str = "r";

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    // An input that does not begin with `{` is the text of an intent.
    let is_json = serde_json::from_slice::<Value>(data).is_ok();
    let state = if data.starts_with(b"{") {
        data.to_vec()
    } else {
        serde_json::json!({ "intent": text.trim_end() }).to_string().into_bytes()
    };
    let start = format!(
        r#"{{"access_token":"a","refresh_token":"{REFRESH_TOKEN}","expires_at":"2026-01-15T10:30:00Z","version":2,"refresh":"#
    );
    RECORD.write(&[start.as_bytes(), &state, b"}"].concat());
    INTENT.remove();
    match load() {
        Ok(stored) => {
            assert_known(&stored.record);
            assert_can_refresh(stored.record);
        }
        Err(error) => {
            assert!(data.starts_with(b"{") && !is_json, "{error}");
            assert_hidden(&format!("{error} {error:?}"), data);
        }
    }

    let plain = AuthTokens::new("a").with_refresh_token(REFRESH_TOKEN);
    let record = plain.to_record("here").expect("it has an access token");
    RECORD.write(tokenkeep::secrecy::ExposeSecret::expose_secret(&record).as_bytes());
    INTENT.write(data);
    let stored = load().expect("a file beside a record does not make it unreadable");
    assert!(stored.record.tokens == plain);
    // An intent about another token is ignored.
    assert!(stored.record.refresh.intent.as_ref() == stored.record.intent());
    assert_known(&stored.record);

    // An intent is for its own token and for no other.
    if let Ok(token) = str::from_utf8(data) {
        let intent = Intent::new(&RefreshToken::from(token), now());
        let read: Intent = intent.to_string().parse().expect("it was written so");
        assert!(read == intent && read.is_for(&RefreshToken::from(token)));
        assert!(!read.is_for(&RefreshToken::from(format!("{token}x"))));
        assert_hidden(&intent.to_string(), data);
    }
});

fn load() -> Result<Stored, tokenkeep::StoreError> {
    let loaded = wait(PlaintextStore::new(RECORD.path()).load());
    loaded.map(|stored| stored.expect("there is a file, and so it is not empty"))
}

/// Asserts that the refresh state is within its limits, and that it stays the same when it is written.
fn assert_known(record: &Record) {
    assert_record_round_trip(record);
    let (token, refresh) = (RefreshToken::from("another token"), &record.refresh);
    if let Some(intent) = &refresh.intent {
        let text = intent.to_string();
        assert!(text.is_ascii() && !text.contains('\n'), "{text:?}");
        assert!(text.parse::<Intent>().expect("it was written so") == *intent);
        // An intent contains a digest of its token, and no other token has that digest.
        assert!(!intent.is_for(&token));
    }
    if let Some(throttle) = &refresh.throttle {
        for moment in [DateTime::<Utc>::MIN_UTC, throttle.from(), now(), DateTime::<Utc>::MAX_UTC] {
            if let Some(until) = throttle.holds("", moment) {
                assert!(moment < until && until - throttle.from() <= TimeDelta::hours(1));
            }
        }
        throttle.reason().into_iter().for_each(assert_can_be_shown);
    }
    if let Some(rejection) = &refresh.rejection {
        assert!(!rejection.is_for(&token, ""));
        assert_can_be_shown(rejection.reason());
    }
}

fn assert_can_be_shown(reason: &str) {
    assert!(reason.chars().count() <= 200 && !reason.contains(char::is_control), "{reason:?}");
}

/// Asserts that a refresh of these tokens ends, and that a forced refresh succeeds at one of three moments.
/// The moments are more than 1 h apart. So a throttle and a rejection can each hold it back at one of them.
fn assert_can_refresh(record: Record) {
    let is_held = |later: Duration| {
        let store = MemoryStore::new();
        wait(store.save(&record, Precondition::Absent)).expect("it is empty");
        let now = SystemTime::from(now()).checked_add(later).expect("it is in range");
        let manager = TokenManager::builder()
            .store(store.clone())
            .clock(move || now)
            .refresh_with(|_| async { Ok(AuthTokens::new("b").with_refresh_token("s")) })
            .build();
        let refreshed = wait(manager.refresh());
        if let Ok(refreshed) = &refreshed {
            let there = wait(store.load()).expect("it can be read").expect("it is not empty");
            // The intent was about the token that was replaced, so it is gone.
            assert!(there.record.tokens == *refreshed && there.record.refresh.intent.is_none());
        }
        refreshed.is_err()
    };
    assert!(![0, 3700, 7400].map(Duration::from_secs).into_iter().all(is_held));
}
