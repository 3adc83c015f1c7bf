//! The contract of [`TokenStore`] as tests, for this crate's stores and for yours.
//!
//! ```
//! use tokenkeep::{MemoryStore, conformance};
//!
//! #[tokio::main(flavor = "current_thread")]
//! async fn main() {
//!     let slot = MemoryStore::new();
//!     conformance::check(|| slot.clone()).await;
//! }
//! ```
//!
//! In a test of your own this is the body of a `#[tokio::test]`. A rule that does not hold makes
//! it panic with the rule's words.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use chrono::{DateTime, Utc};

use crate::error::StoreError;
use crate::store::{Expect, Intent, Lease, MAX_RECORD, Revision, Stored, TokenStore};
use crate::tokens::{AuthTokens, RefreshToken};

/// Checks every rule. `open` opens the same slot anew each time, as another process would; it is
/// emptied before each rule and after the last one.
///
/// # Panics
///
/// When a rule does not hold.
pub async fn check<S: TokenStore>(open: impl Fn() -> S) {
    let slot = || Arc::new(open()) as Arc<dyn TokenStore>;
    round_trips(slot()).await;
    empty(&slot).await;
    expectations(&slot).await;
    every_change_has_its_revision(&slot).await;
    one_of_many_wins(&slot).await;
    limits(&slot).await;
    leases(&slot).await;
    intents(&slot).await;
    writers_do_not_wait_for_a_lease(&slot).await;
    a_dropped_future_does_no_harm(&slot).await;
    nothing_secret_is_shown(&slot).await;
    fresh(&slot).await;
}

type Store = Arc<dyn TokenStore>;

async fn fresh(slot: &impl Fn() -> Store) -> Store {
    let store = slot();
    store.clear(Expect::Anything).await.expect("clear(Anything) empties the slot");
    store
}

async fn stored(store: &Store) -> Stored {
    let stored = store.load().await.expect("a sound record loads");
    stored.expect("a saved record is there")
}

fn tokens(name: &str) -> AuthTokens {
    AuthTokens::new(format!("access-{name}")).with_refresh_token(format!("refresh-{name}"))
}

fn date(seconds: i64, nanos: u32) -> DateTime<Utc> {
    DateTime::from_timestamp(seconds, nanos).expect("a date in range")
}

async fn round_trips(store: Store) {
    store.clear(Expect::Anything).await.expect("clear(Anything) empties the slot");
    let records = [
        AuthTokens::new("access alone"),
        tokens("dates")
            .with_expires_at(date(1_700_000_000, 123_456_789))
            .with_obtained_at(date(-1, 0)),
        tokens("extra")
            .with_extra("id_token", "ey.ey.sig".into())
            .with_extra("scope", "a b".into())
            .with_extra("", "\"\\\u{0}\n\u{1F511}".into()),
        AuthTokens::new("\"quotes\" \\ \u{0} \n \u{1F511} ÿ".to_owned()),
        tokens("backup").with_backup(true),
    ];
    for record in records {
        let revision = store.save(&record, Expect::Anything).await.expect("save(Anything) saves");
        let found = stored(&store).await;
        assert_eq!(found.tokens, record, "what is loaded is what was saved");
        assert_eq!(found.revision, revision, "save returns the revision that load sees");
    }
}

async fn empty(slot: &impl Fn() -> Store) {
    let store = fresh(slot).await;
    assert!(store.load().await.expect("an empty slot loads").is_none(), "an empty slot is None");
    let never = Expect::Unchanged(Revision::new(*b"never"));
    conflict(store.clear(never).await, "clear(Unchanged) of an empty slot");
    for expect in [Expect::Absent, Expect::Anything] {
        store.clear(expect).await.expect("emptying an empty slot succeeds");
    }
    assert!(slot().load().await.expect("it loads").is_none(), "a cleared slot is None");
}

async fn expectations(slot: &impl Fn() -> Store) {
    let store = fresh(slot).await;
    let (one, two) = (tokens("one"), tokens("two"));

    let never = Expect::Unchanged(Revision::new(*b"never"));
    conflict(store.save(&one, never.clone()).await, "save(Unchanged) over an empty slot");
    let first = store.save(&one, Expect::Absent).await.expect("save(Absent) fills an empty slot");
    conflict(store.save(&two, Expect::Absent).await, "save(Absent) over a record");
    conflict(store.save(&two, never.clone()).await, "save(Unchanged) over another revision");
    conflict(store.clear(never).await, "clear(Unchanged) of another revision");
    conflict(store.clear(Expect::Absent).await, "clear(Absent) of a record");
    assert_eq!(stored(&slot()).await.tokens, one, "a conflict changes nothing");

    let second = store.save(&two, Expect::Unchanged(first.clone())).await;
    let second = second.expect("save(Unchanged) over the revision that is there");
    conflict(store.save(&one, Expect::Unchanged(first)).await, "save over a revision that passed");
    let other = slot();
    assert_eq!(stored(&other).await.revision, second, "another handle sees the same revision");
    other
        .clear(Expect::Unchanged(second.clone()))
        .await
        .expect("clear(Unchanged) of what is there");
    assert!(store.load().await.expect("it loads").is_none(), "a cleared slot is None everywhere");
    conflict(store.clear(Expect::Unchanged(second)).await, "clear(Unchanged) after a logout");
}

async fn every_change_has_its_revision(slot: &impl Fn() -> Store) {
    let store = fresh(slot).await;
    let mut seen: Vec<Revision> = Vec::new();
    for round in 0..8 {
        let record = tokens("turn").with_obtained_at(date(round, 0));
        let revision = store.save(&record, Expect::Anything).await.expect("it saves");
        assert!(!seen.contains(&revision), "a changed record has a revision of its own");
        seen.push(revision);
    }
}

async fn one_of_many_wins(slot: &impl Fn() -> Store) {
    for round in 0..8 {
        let store = fresh(slot).await;
        let start = store.save(&tokens("start"), Expect::Absent).await.expect("it saves");
        let (expect, name) = if round % 2 == 0 {
            (Expect::Unchanged(start), "over one revision")
        } else {
            store.clear(Expect::Anything).await.expect("it clears");
            (Expect::Absent, "into an empty slot")
        };
        let racers: Vec<_> = (0..8).map(|n| (slot(), tokens(&n.to_string()))).collect();
        let saves = racers.iter().map(|(store, tokens)| store.save(tokens, expect.clone()));
        let results = all(saves.collect()).await;
        let mut winner = None;
        for (result, (_, tokens)) in results.into_iter().zip(&racers) {
            match result {
                Ok(_) => {
                    assert!(winner.replace(tokens).is_none(), "one racer wins {name}, no more");
                }
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => panic!("who loses the race {name} gets a Conflict: {error}"),
            }
        }
        let winner = winner.unwrap_or_else(|| panic!("one racer wins {name}"));
        assert_eq!(stored(&store).await.tokens, *winner, "the winner's record is there");
    }
}

async fn limits(slot: &impl Fn() -> Store) {
    let store = fresh(slot).await;
    let large = AuthTokens::new("x".repeat(60_000));
    store.save(&large, Expect::Absent).await.expect("a record of 60 kB fits");
    assert_eq!(stored(&store).await.tokens, large);

    let too_large = store.save(&AuthTokens::new("x".repeat(MAX_RECORD)), Expect::Anything).await;
    assert!(matches!(too_large, Err(StoreError::TooLarge { .. })), "over 64 KiB is TooLarge");
    let invalid = store.save(&AuthTokens::new(""), Expect::Anything).await;
    assert!(matches!(invalid, Err(StoreError::InvalidTokens { .. })), "an empty token is invalid");
    assert_eq!(stored(&store).await.tokens, large, "a refused save changes nothing");
}

async fn leases(slot: &impl Fn() -> Store) {
    let store = fresh(slot).await;
    let lease = lease(&store).await;
    for other in [store.clone(), slot()] {
        let second = other.try_lease().await.expect("asking for a taken lease is no error");
        assert!(second.is_none(), "there is one lease");
    }
    lease.release().await.expect("a lease can be released");
    let again = self::lease(&slot()).await;
    assert!(store.try_lease().await.expect("it answers").is_none(), "there is one lease");
    drop(again);
    self::lease(&store).await.release().await.expect("a dropped lease is free again");
}

async fn intents(slot: &impl Fn() -> Store) {
    let store = fresh(slot).await;
    let token = RefreshToken::from("refresh");
    let (one, two) = (Intent::new(&token, date(1, 0)), Intent::new(&token, date(2, 5)));
    let mut first = lease(&store).await;
    assert_eq!(first.intent().await.expect("it reads"), None, "at first there is no intent");
    first.remove_intent().await.expect("removing no intent succeeds");
    first.write_intent(&one).await.expect("an intent can be written");
    first.write_intent(&two).await.expect("an intent can be written over another");
    drop(first);

    let mut second = lease(&slot()).await;
    let found = second.intent().await.expect("it reads");
    assert_eq!(found, Some(two), "the next holder sees what the last one left");
    second.remove_intent().await.expect("an intent can be removed");
    assert_eq!(second.intent().await.expect("it reads"), None, "a removed intent is gone");
    assert!(store.load().await.expect("it loads").is_none(), "an intent is no record");
    second.release().await.expect("a lease can be released");
}

async fn writers_do_not_wait_for_a_lease(slot: &impl Fn() -> Store) {
    let store = fresh(slot).await;
    let lease = lease(&store).await;
    let other = slot();
    other.save(&tokens("login"), Expect::Anything).await.expect("a login needs no lease");
    other.clear(Expect::Anything).await.expect("a logout needs no lease");
    lease.release().await.expect("a lease can be released");
}

async fn a_dropped_future_does_no_harm(slot: &impl Fn() -> Store) {
    let store = fresh(slot).await;
    let (old, new) = (tokens("old"), tokens("new"));
    store.save(&old, Expect::Absent).await.expect("it saves");
    let mut save = store.save(&new, Expect::Anything);
    // One step, then the caller gives up.
    let _ = save.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    drop(save);
    let found = stored(&store).await.tokens;
    assert!(found == old || found == new, "a dropped save has happened or has not");
    store.save(&old, Expect::Anything).await.expect("the slot can be written afterwards");
    assert_eq!(stored(&store).await.tokens, old, "a later save is not overtaken by a dropped one");
    drop(store.save(&new, Expect::Anything));
    store.clear(Expect::Anything).await.expect("it clears");
    assert!(store.load().await.expect("it loads").is_none(), "nothing comes back after a logout");
}

async fn nothing_secret_is_shown(slot: &impl Fn() -> Store) {
    let store = fresh(slot).await;
    let canary = tokens("canary");
    let revision = store.save(&canary, Expect::Anything).await.expect("it saves");
    let error = store.save(&canary, Expect::Absent).await.expect_err("it is not absent");
    let lease = lease(&store).await;
    let found = stored(&store).await;
    let shown = format!(
        "{store} {store:?} {revision:?} {error} {error:?} {lease:?} {found:?} {}",
        store.slot()
    );
    assert!(!shown.contains("canary"), "nothing secret is shown");
    assert_eq!(store.slot(), slot().slot(), "one slot has one name");
    lease.release().await.expect("a lease can be released");
}

async fn lease(store: &Store) -> Box<dyn Lease> {
    let lease = store.try_lease().await.expect("it answers");
    lease.expect("a lease that nobody has can be had")
}

fn conflict<T>(result: Result<T, StoreError>, what: &str) {
    match result {
        Err(StoreError::Conflict { .. }) => {}
        Err(error) => panic!("{what} is a Conflict, and not: {error}"),
        Ok(_) => panic!("{what} is a Conflict, and did not fail"),
    }
}

/// Drives all futures at once, on whatever executor this runs on.
async fn all<F: Future + Unpin>(mut futures: Vec<F>) -> Vec<F::Output> {
    let mut done: Vec<Option<F::Output>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(move |context| {
        for (future, done) in futures.iter_mut().zip(&mut done) {
            if done.is_none()
                && let Poll::Ready(output) = Pin::new(future).poll(context)
            {
                *done = Some(output);
            }
        }
        if done.iter().all(Option::is_some) {
            Poll::Ready(done.iter_mut().map(|output| output.take().expect("all are")).collect())
        } else {
            Poll::Pending
        }
    })
    .await
}
