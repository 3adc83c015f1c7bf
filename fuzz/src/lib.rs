//! Code that the fuzz targets share.
#![allow(clippy::disallowed_methods, reason = "the fuzzer makes up the secrets")]

mod file;

use std::future::Future;
use std::io;

use tokenkeep::chrono::{DateTime, TimeDelta, Utc};
use tokenkeep::secrecy::{ExposeSecret, SecretString};
use tokenkeep::store::{MAX_RECORD, Record};
use tokenkeep::tokens::Freshness;
use tokenkeep::{AuthTokens, RefreshToken, StoreError};
use tokio::runtime::{Builder, Runtime};

pub use self::file::File;

/// An age identity that is used only for fuzzing.
pub const IDENTITY: &str =
    "AGE-SECRET-KEY-1FGFCMPELEDMMMV2UDKWYRFG0WTV6EZMLJT0R72X9XEHG7N7AH9UQRYRAUS";

const PASSPHRASE: &str = "passphrase";

/// The length from which a run of characters counts as a secret.
const RUN: usize = 8;

/// Asserts that `shown` repeats no secret of `input`. A secret is a run of 8 letters and digits that contains
/// both. No message of the crate contains such a run, and almost every token does.
#[track_caller]
pub fn assert_hidden(shown: &str, input: &[u8]) {
    for run in runs(shown) {
        let is_repeated = input.windows(RUN).any(|window| window == run);
        assert!(!is_repeated, "{} is repeated: {shown}", String::from_utf8_lossy(run));
    }
}

/// Asserts that the `Debug` form of these tokens contains none of their secrets. It contains dates and the
/// names of extra fields. These are removed first, because a secret may have the same text.
#[track_caller]
pub fn assert_redacted(tokens: &AuthTokens) {
    let mut shown = format!("{tokens:?}");
    for (name, _) in tokens.extras() {
        shown = shown.replace(&format!("{name:?}"), "");
    }
    let dates = [tokens.expires_at, tokens.obtained_at, tokens.refresh_expires_at];
    for date in dates.into_iter().flatten() {
        shown = shown.replace(&format!("{date:?}"), "");
    }
    for secret in secrets(tokens) {
        assert_hidden(&shown, secret.as_bytes());
    }
}

/// Asserts that these tokens stay the same when they are written and read again. Tokens that are too large to
/// be written are skipped.
#[track_caller]
pub fn assert_round_trip(tokens: &AuthTokens) {
    match tokens.to_record("here") {
        Ok(record) => {
            let record = record.expose_secret();
            assert!(record.len() <= MAX_RECORD);
            let again = AuthTokens::from_record(record.as_bytes(), "here").expect("it was written");
            assert!(again == *tokens, "the record changed");
            let twice = again.to_record("here").expect("it was written before");
            assert!(twice.expose_secret() == record, "the second text differs");
        }
        Err(StoreError::TooLarge { .. }) => {}
        Err(error) => panic!("what was read cannot be written: {error}"),
    }
}

/// Asserts the same for a record with its refresh state.
#[track_caller]
pub fn assert_record_round_trip(record: &Record) {
    match record.encode("here") {
        Ok(text) => {
            let text = text.expose_secret();
            let again = Record::decode(text.as_bytes(), "here").expect("it was written");
            assert!(again == *record, "the record changed");
            let twice = again.encode("here").expect("it was written before");
            assert!(twice.expose_secret() == text, "the second text differs");
        }
        Err(StoreError::TooLarge { .. }) => {}
        Err(error) => panic!("what was read cannot be written: {error}"),
    }
}

/// Asserts that the freshness of a token never improves with time, and that it is due and expired at the
/// right moments. A missing access token counts as expired.
#[track_caller]
pub fn assert_ages(tokens: &AuthTokens) {
    if !tokens.has_access_token() {
        for moment in [DateTime::<Utc>::MIN_UTC, now(), DateTime::<Utc>::MAX_UTC] {
            assert_eq!(tokens.freshness(moment), Freshness::Expired);
            assert!(tokens.needs_refresh(moment));
        }
        return;
    }
    let Some(expiry) = tokens.expiry() else {
        return assert_eq!(tokens.freshness(DateTime::<Utc>::MAX_UTC), Freshness::Fresh);
    };
    let due = tokens.refresh_due().expect("it expires");
    assert!(due <= expiry);
    let near = |moment: DateTime<Utc>| {
        [TimeDelta::nanoseconds(-1), TimeDelta::zero(), TimeDelta::nanoseconds(1)]
            .into_iter()
            .filter_map(move |step| moment.checked_add_signed(step))
    };
    let mut moments: Vec<DateTime<Utc>> = near(due).chain(near(expiry)).collect();
    moments.extend([DateTime::<Utc>::MIN_UTC, now(), DateTime::<Utc>::MAX_UTC]);
    moments.sort_unstable();
    assert!(moments.is_sorted_by_key(|moment| tokens.freshness(*moment)));
    for moment in moments {
        assert_eq!(tokens.freshness(moment) == Freshness::Expired, moment >= expiry);
        assert_eq!(tokens.needs_refresh(moment), moment >= due);
    }
}

/// Returns the passphrase for this file. The passphrase fails for work factors from 9 to 20, because scrypt
/// would take more time and memory than a fuzzer has. The crate refuses work factors above 20 at once.
pub fn passphrase_for(
    sealed: &[u8],
) -> impl Fn() -> io::Result<SecretString> + Send + Sync + 'static + use<> {
    let header = String::from_utf8_lossy(&sealed[..sealed.len().min(256)]).into_owned();
    let stanza = header.lines().find_map(|line| line.strip_prefix("-> scrypt "));
    let factor = stanza.and_then(|stanza| stanza.split(' ').nth(1)?.parse::<u64>().ok());
    // In an armored file the work factor cannot be seen, so it has no passphrase.
    let is_cheap = factor.is_some_and(|factor| factor <= 8 || factor > 20);
    move || if is_cheap { Ok(PASSPHRASE.to_owned().into()) } else { Err(io::Error::other("none")) }
}

/// Runs a future on a runtime that has one thread for blocking work.
pub fn wait<T>(future: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: Runtime = Builder::new_current_thread()
            .max_blocking_threads(1)
            .build()
            .expect("a thread can be started");
    }
    RUNTIME.with(|runtime| runtime.block_on(future))
}

/// Returns a time that is the same in each run.
pub fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000, 0).expect("it is in range")
}

/// Returns the first line and the rest. The line is empty if it is not valid UTF-8.
pub fn split_line(data: &[u8]) -> (&str, &[u8]) {
    let end = data.iter().position(|&byte| byte == b'\n').unwrap_or(data.len());
    let rest = data.get(end + 1..).unwrap_or_default();
    (str::from_utf8(&data[..end]).unwrap_or_default(), rest)
}

/// Returns the first `N` words of a line. The last one contains the rest of the line.
pub fn words<const N: usize>(line: &str) -> [&str; N] {
    let mut words = line.splitn(N, ' ');
    std::array::from_fn(|_| words.next().unwrap_or_default())
}

fn secrets(tokens: &AuthTokens) -> Vec<&str> {
    let own = [
        Some(tokens.access_token.expose_secret()),
        tokens.refresh_token.as_ref().map(RefreshToken::expose_secret),
        tokens.client_secret().map(ExposeSecret::expose_secret),
    ];
    own.into_iter().flatten().chain(tokens.extras().map(|(_, it)| it.expose_secret())).collect()
}

fn runs(shown: &str) -> impl Iterator<Item = &[u8]> {
    shown.as_bytes().windows(RUN).filter(|run| {
        run.iter().all(u8::is_ascii_alphanumeric)
            && run.iter().any(u8::is_ascii_digit)
            && run.iter().any(u8::is_ascii_alphabetic)
    })
}
