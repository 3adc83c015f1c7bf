//! Tests of the contract of [`TokenStore`], for this crate's stores and for yours.
//! This module needs the feature `conformance`: `cargo add --dev tokenkeep --features conformance`.
//! [The guide](crate::docs::guide#which-store) tells more about stores of your own.
//!
//! ```
//! use tokenkeep::conformance;
//! use tokenkeep::stores::MemoryStore;
//!
//! #[tokio::main(flavor = "current_thread")]
//! async fn main() {
//!     let slot = MemoryStore::new();
//!     conformance::check(|| slot.clone()).await;
//! }
//! ```
//!
//! In your own tests, call `check` in a `#[tokio::test]`. It panics with the text of the first rule that
//! does not hold.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use chrono::{DateTime, Utc};

use crate::error::StoreError;
use crate::record::{Intent, MAX_RECORD, Record, RefreshState, Rejection, Throttle};
use crate::store::{Lease, Precondition, Revision, Stored, TokenStore};
use crate::tokens::AuthTokens;

/// Checks every rule. Each call of `open` must return a new store of the same slot, as in another process.
/// The slot is emptied before each rule and after the last one.
///
/// # Panics
///
/// Panics if a rule does not hold.
pub async fn check<S: TokenStore>(open: impl Fn() -> S) {
    let slot = || Arc::new(open()) as Arc<dyn TokenStore>;
    round_trips(slot()).await;
    empty(&slot).await;
    expectations(&slot).await;
    every_change_has_its_revision(&slot).await;
    one_of_many_wins(&slot).await;
    limits(&slot).await;
    leases(&slot).await;
    an_intent_is_a_save(&slot).await;
    all_that_is_known_about_refreshing_is_kept(&slot).await;
    what_was_reserved_serves_the_end_of_a_refresh(&slot).await;
    writers_do_not_wait_for_a_lease(&slot).await;
    a_dropped_future_does_no_harm(&slot).await;
    nothing_secret_is_shown(&slot).await;
    fresh(&slot).await;
}

type Store = Arc<dyn TokenStore>;

async fn fresh(slot: &impl Fn() -> Store) -> Store {
    let store = slot();
    store.clear(Precondition::Anything).await.expect("clear(Anything) empties the slot");
    store
}

async fn stored(store: &Store) -> Stored {
    let stored = store.load().await.expect("a sound record loads");
    stored.expect("a saved record is there")
}

fn tokens(name: &str) -> AuthTokens {
    AuthTokens::new(format!("access-{name}")).with_refresh_token(format!("refresh-{name}"))
}

fn record(name: &str) -> Record {
    tokens(name).into()
}

fn date(seconds: i64, nanos: u32) -> DateTime<Utc> {
    DateTime::from_timestamp(seconds, nanos).expect("a date in range")
}

async fn round_trips(store: Store) {
    store.clear(Precondition::Anything).await.expect("clear(Anything) empties the slot");
    let records = [
        AuthTokens::new("access alone"),
        tokens("dates")
            .with_expires_at(date(1_700_000_000, 123_456_789))
            .with_obtained_at(date(-1, 0)),
        tokens("extra")
            .with_extra("id_token", "ey.ey.sig".into())
            .with_extra("scope", "a b".into())
            .with_extra("", "\"\\\u{0}\n\u{1F511}".into())
            .with_json_extra("number", "7".into()),
        AuthTokens::new("\"quotes\" \\ \u{0} \n \u{1F511} ÿ".to_owned()),
        AuthTokens::without_access_token("refresh alone"),
        tokens("backup").with_backup(true).with_client_secret("secret".into()),
    ];
    for record in records.map(Record::from) {
        let revision =
            store.save(&record, Precondition::Anything).await.expect("save(Anything) saves");
        let found = stored(&store).await;
        assert_eq!(found.record, record, "what is loaded is what was saved");
        assert_eq!(found.revision, revision, "save returns the revision that load sees");
    }
}

async fn empty(slot: &impl Fn() -> Store) {
    let store = fresh(slot).await;
    assert!(store.load().await.expect("an empty slot loads").is_none(), "an empty slot is None");
    let never = Precondition::Unchanged(Revision::new(*b"never"));
    conflict(store.clear(never).await, "clear(Unchanged) of an empty slot");
    for precondition in [Precondition::Absent, Precondition::Anything] {
        store.clear(precondition).await.expect("emptying an empty slot succeeds");
    }
    assert!(slot().load().await.expect("it loads").is_none(), "a cleared slot is None");
}

async fn expectations(slot: &impl Fn() -> Store) {
    let store = fresh(slot).await;
    let (one, two) = (record("one"), record("two"));

    let never = Precondition::Unchanged(Revision::new(*b"never"));
    conflict(store.save(&one, never.clone()).await, "save(Unchanged) over an empty slot");
    let first =
        store.save(&one, Precondition::Absent).await.expect("save(Absent) fills an empty slot");
    conflict(store.save(&two, Precondition::Absent).await, "save(Absent) over a record");
    conflict(store.save(&two, never.clone()).await, "save(Unchanged) over another revision");
    conflict(store.clear(never).await, "clear(Unchanged) of another revision");
    conflict(store.clear(Precondition::Absent).await, "clear(Absent) of a record");
    assert_eq!(stored(&slot()).await.record, one, "a conflict changes nothing");

    let second = store.save(&two, Precondition::Unchanged(first.clone())).await;
    let second = second.expect("save(Unchanged) over the revision that is there");
    conflict(
        store.save(&one, Precondition::Unchanged(first)).await,
        "save over a revision that passed",
    );
    let other = slot();
    assert_eq!(stored(&other).await.revision, second, "another handle sees the same revision");
    other
        .clear(Precondition::Unchanged(second.clone()))
        .await
        .expect("clear(Unchanged) of what is there");
    assert!(store.load().await.expect("it loads").is_none(), "a cleared slot is None everywhere");
    conflict(store.clear(Precondition::Unchanged(second)).await, "clear(Unchanged) after a logout");
}

async fn every_change_has_its_revision(slot: &impl Fn() -> Store) {
    let store = fresh(slot).await;
    let mut seen: Vec<Revision> = Vec::new();
    for round in 0..8 {
        let record = tokens("turn").with_obtained_at(date(round, 0)).into();
        let revision = store.save(&record, Precondition::Anything).await.expect("it saves");
        assert!(!seen.contains(&revision), "a changed record has a revision of its own");
        seen.push(revision);
    }
}

async fn one_of_many_wins(slot: &impl Fn() -> Store) {
    for round in 0..8 {
        let store = fresh(slot).await;
        let start = store.save(&record("start"), Precondition::Absent).await.expect("it saves");
        let (precondition, name) = if round % 2 == 0 {
            (Precondition::Unchanged(start), "over one revision")
        } else {
            store.clear(Precondition::Anything).await.expect("it clears");
            (Precondition::Absent, "into an empty slot")
        };
        let racers: Vec<_> = (0..8).map(|n| (slot(), record(&n.to_string()))).collect();
        let saves = racers.iter().map(|(store, record)| store.save(record, precondition.clone()));
        let results = all(saves.collect()).await;
        let mut winner = None;
        for (result, (_, record)) in results.into_iter().zip(&racers) {
            match result {
                Ok(_) => {
                    assert!(winner.replace(record).is_none(), "one racer wins {name}, no more");
                }
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => panic!("a racer that loses {name} gets a Conflict: {error}"),
            }
        }
        let winner = winner.unwrap_or_else(|| panic!("one racer wins {name}"));
        assert_eq!(stored(&store).await.record, *winner, "the winner's record is there");
    }
}

async fn limits(slot: &impl Fn() -> Store) {
    let store = fresh(slot).await;
    let large = AuthTokens::new("x".repeat(60_000)).with_refresh_token("r").into();
    store.save(&large, Precondition::Absent).await.expect("a record of 60 kB fits");
    assert_eq!(stored(&store).await.record, large);

    let too_large =
        store.save(&AuthTokens::new("x".repeat(MAX_RECORD)).into(), Precondition::Anything).await;
    assert!(matches!(too_large, Err(StoreError::TooLarge { .. })), "over 64 KiB is TooLarge");
    let invalid = store.save(&AuthTokens::new("").into(), Precondition::Anything).await;
    assert!(matches!(invalid, Err(StoreError::InvalidTokens { .. })), "an empty token is invalid");
    assert_eq!(stored(&store).await.record, large, "a refused save changes nothing");
}

async fn leases(slot: &impl Fn() -> Store) {
    let store = fresh(slot).await;
    let lease = lease(&store).await;
    for other in [store.clone(), slot()] {
        let second = other.try_lease().await.expect("asking for a taken lease is no error");
        assert!(second.is_none(), "there is one lease");
        let is_leased = other.is_leased().await.expect("it answers");
        assert!(is_leased, "a taken lease is seen");
    }
    lease.release().await.expect("a lease can be released");
    assert!(!slot().is_leased().await.expect("it answers"), "a released lease is seen");
    let again = self::lease(&slot()).await;
    assert!(store.try_lease().await.expect("it answers").is_none(), "there is one lease");
    drop(again);
    self::lease(&store).await.release().await.expect("a dropped lease is free again");
}

fn with_intent(name: &str, at: i64) -> Record {
    let (mut record, mut refresh) = (record(name), RefreshState::default());
    refresh.intent = record.tokens.refresh_token.as_ref().map(|it| Intent::new(it, date(at, 5)));
    record.refresh = refresh;
    record
}

async fn an_intent_is_a_save(slot: &impl Fn() -> Store) {
    let store = fresh(slot).await;
    let intended = with_intent("one", 1);
    let never = Precondition::Unchanged(Revision::new(*b"never"));
    conflict(store.save(&intended, never).await, "an intent in an empty slot");
    let first = store.save(&record("one"), Precondition::Absent).await.expect("it saves");
    let mut held = lease(&store).await;
    held.reserve().await.expect("the successor can be reserved");
    let second =
        store.save(&intended, Precondition::Unchanged(first.clone())).await.expect("it saves");
    assert_ne!(first, second, "an intent is another state of the slot");
    drop(held);
    let found = stored(&slot()).await;
    assert_eq!((&found.record, &found.revision), (&intended, &second), "others see the intent");
    assert_eq!(found.record.tokens, tokens("one"), "and the same tokens");
    conflict(
        store.save(&intended, Precondition::Unchanged(first)).await,
        "an intent after a change",
    );

    // An intent to send another token is saved like any other, but is not the intent of this record.
    let foreign = record("two").with_refresh(intended.refresh.clone());
    let third =
        store.save(&foreign, Precondition::Unchanged(second.clone())).await.expect("it saves");
    assert_eq!(stored(&store).await.record.intent(), None, "an intent is about one token");
    store
        .save(&record("two"), Precondition::Unchanged(third))
        .await
        .expect("an intent can be removed");
    assert_eq!(stored(&slot()).await.record, record("two"), "a removed intent is gone");

    store.save(&intended, Precondition::Anything).await.expect("it saves");
    store.clear(Precondition::Anything).await.expect("it clears");
    conflict(
        store.save(&intended, Precondition::Unchanged(second)).await,
        "an intent after a logout",
    );
    assert!(store.load().await.expect("it loads").is_none(), "an intent is no login");
}

async fn all_that_is_known_about_refreshing_is_kept(slot: &impl Fn() -> Store) {
    let store = fresh(slot).await;
    let mut record = with_intent("state", 1);
    let token = record.tokens.refresh_token.clone().expect("it has one");
    record.refresh.throttle = Some(Throttle::new(date(1, 0), date(2, 7), "client", Some("busy")));
    record.refresh.rejection = Some(Rejection::new(&token, "client", date(3, 0), "refused"));
    store.save(&record, Precondition::Absent).await.expect("it saves");
    assert_eq!(stored(&slot()).await.record, record, "all of it comes back");

    // There is room for it, even with the largest tokens.
    let mut length = MAX_RECORD;
    let largest = loop {
        let tokens = AuthTokens::new("x".repeat(length)).with_refresh_token("refresh-state");
        match store.save(&tokens.clone().into(), Precondition::Anything).await {
            Ok(_) => break tokens,
            Err(StoreError::TooLarge { .. }) if length > MAX_RECORD / 2 => length -= 16,
            Err(error) => panic!("tokens near the limit are saved, or too large: {error}"),
        }
    };
    record.tokens = largest;
    store.save(&record, Precondition::Anything).await.expect("there is room for what is known");
    assert_eq!(stored(&slot()).await.record, record, "all of it comes back");
}

async fn what_was_reserved_serves_the_end_of_a_refresh(slot: &impl Fn() -> Store) {
    let store = fresh(slot).await;
    let start = store.save(&record("old"), Precondition::Absent).await.expect("it saves");
    let mut held = lease(&store).await;
    held.reserve().await.expect("the successor can be reserved");
    held.reserve().await.expect("and again");
    let intended = store.save(&with_intent("old", 1), Precondition::Unchanged(start)).await;
    let intended = intended.expect("the intent is saved");
    let new = AuthTokens::new("x".repeat(60_000)).with_refresh_token("new").into();
    store
        .save(&new, Precondition::Unchanged(intended.clone()))
        .await
        .expect("the successor is saved");
    assert_eq!(stored(&slot()).await.record, new, "the successor is there");
    conflict(
        store.save(&record("late"), Precondition::Unchanged(intended)).await,
        "a second successor",
    );
    assert_eq!(held.take_warning().map(|it| it.to_string()), None, "nothing went wrong");
    held.release().await.expect("a lease can be released");

    // A login in between wins, and the reservation does no harm.
    let before = stored(&store).await.revision;
    let mut held = lease(&store).await;
    held.reserve().await.expect("the successor can be reserved");
    slot().save(&record("login"), Precondition::Anything).await.expect("a login needs no lease");
    conflict(
        store.save(&record("late"), Precondition::Unchanged(before)).await,
        "a late successor",
    );
    drop(held);
    assert_eq!(stored(&store).await.record, record("login"), "the login is there");
    lease(&slot()).await.release().await.expect("a dropped lease is free again");
}

async fn writers_do_not_wait_for_a_lease(slot: &impl Fn() -> Store) {
    let store = fresh(slot).await;
    let lease = lease(&store).await;
    let other = slot();
    other.save(&record("login"), Precondition::Anything).await.expect("a login needs no lease");
    other.clear(Precondition::Anything).await.expect("a logout needs no lease");
    lease.release().await.expect("a lease can be released");
}

async fn a_dropped_future_does_no_harm(slot: &impl Fn() -> Store) {
    let store = fresh(slot).await;
    let (old, new) = (record("old"), record("new"));
    store.save(&old, Precondition::Absent).await.expect("it saves");
    let mut save = store.save(&new, Precondition::Anything);
    // The future is polled once and then dropped.
    let _ = save.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    drop(save);
    let found = stored(&store).await.record;
    assert!(found == old || found == new, "a dropped save has happened or has not");
    store.save(&old, Precondition::Anything).await.expect("the slot can be written afterwards");
    assert_eq!(stored(&store).await.record, old, "a later save is not overtaken by a dropped one");
    drop(store.save(&new, Precondition::Anything));
    store.clear(Precondition::Anything).await.expect("it clears");
    assert!(store.load().await.expect("it loads").is_none(), "nothing comes back after a logout");
}

async fn nothing_secret_is_shown(slot: &impl Fn() -> Store) {
    let store = fresh(slot).await;
    let canary = with_intent("canary", 1);
    let revision = store.save(&canary, Precondition::Anything).await.expect("it saves");
    let error = store.save(&canary, Precondition::Absent).await.expect_err("it is not absent");
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

/// Polls all futures at the same time, on any executor.
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
