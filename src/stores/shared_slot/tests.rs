//! Cases that are hard to cause with a real server.

mod leases;
mod refreshes;
mod states;

use std::sync::MutexGuard;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use age::secrecy::SecretString;
use tokio::sync::Notify;

use super::envelope::Envelope;
use super::*;
use crate::record::Intent;
use crate::refresh::interrupted_refresh;
use crate::store::TokenStore;
use crate::tokens::AuthTokens;
use crate::transfer::migrate;
use crate::{RefreshFailure, TokenManager};

/// A store with its record in a [`Table`].
#[derive(Debug)]
struct Store(SharedSlot<Table>);

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.engine().fmt(f)
    }
}

keep_in_shared_slot!(Store);

/// A table with one row, and a connection to it that can fail.
#[derive(Clone, Debug)]
struct Table {
    row: Arc<Mutex<Option<Row>>>,
    /// Each store has its own name, as if it were in its own process.
    name: u32,
    faults: Arc<Mutex<Faults>>,
}

#[derive(Clone, Debug, Default)]
struct Faults {
    /// Writes are done, but their answers are lost.
    loses_answers: bool,
    /// After this many writes, one write is done and then repeated, as a library does after an error. The
    /// next read fails.
    repeats: Option<usize>,
    is_away: bool,
    /// Another process always changes the row first.
    refuses: bool,
    /// The next answer to a read waits for this.
    slow: Option<Arc<Notify>>,
    /// When the row was written, if that is known.
    written: Option<SystemTime>,
    writes: usize,
}

impl Table {
    fn new() -> Self {
        Self { row: Arc::default(), name: number(), faults: Arc::default() }
    }

    /// The same row, seen by another process.
    fn elsewhere(&self) -> Self {
        Self { row: self.row.clone(), name: number(), faults: Arc::default() }
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap()
    }

    fn row(&self) -> Row {
        self.row.lock().unwrap().clone().unwrap()
    }

    fn put(&self, row: Row) {
        *self.row.lock().unwrap() = Some(row);
    }

    fn lost(&self) -> StoreError {
        let (place, reason) = (self.to_string(), "the answer was lost".to_owned());
        StoreError::Unavailable { place, reason, advice: String::new() }
    }

    fn end_lease(&self) {
        let mut row = self.row.lock().unwrap();
        row.as_mut().unwrap().hold.as_mut().unwrap().is_over = true;
    }
}

fn number() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);

    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "table {}", self.name)
    }
}

#[async_trait]
impl Engine for Table {
    type Version = String;

    async fn read(&self) -> Result<Option<Found<String>>, StoreError> {
        if std::mem::take(&mut self.faults().is_away) {
            return Err(self.lost());
        }
        let row = self.row.lock().unwrap().clone();
        let slow = self.faults().slow.take();
        if let Some(slow) = slow {
            slow.notified().await;
        }
        let written = self.faults().written;
        Ok(row.map(|row| Found { version: row.revision.clone(), row, written }))
    }

    async fn replace(&self, over: Option<&String>, row: &Row) -> Result<bool, StoreError> {
        let mut there = self.row.lock().unwrap();
        let mut faults = self.faults();
        faults.writes += 1;
        if faults.refuses || there.as_ref().map(|there| &there.revision) != over {
            return Ok(false);
        }
        *there = Some(row.clone());
        if faults.loses_answers {
            return Err(self.lost());
        }
        let is_repeated = faults.repeats == Some(0);
        faults.repeats = faults.repeats.and_then(|repeats| repeats.checked_sub(1));
        faults.is_away |= is_repeated;
        Ok(!is_repeated)
    }

    fn slot(&self) -> String {
        format!("table {}", self.name)
    }
}

fn key() -> AgeKey {
    const IDENTITY: &str =
        "AGE-SECRET-KEY-1GQ9778VQXMMJVE8SK7J6VT8UJ4HDQAJUVSFCWCM02D8GEWQ72PVQ2Y5J33";

    AgeKey::custom("a key for these tests", || Ok(SecretString::from(IDENTITY)))
}

fn slot(table: &Table) -> SharedSlot<Table> {
    SharedSlot::new(table.clone(), key(), "fleet").unwrap()
}

fn tokens(name: &str) -> AuthTokens {
    AuthTokens::new(name).with_refresh_token("refresh")
}

fn record(name: &str) -> Record {
    tokens(name).into()
}

/// Adds an intent to the record.
async fn save_intent(slot: &SharedSlot<Table>) -> Result<Revision, StoreError> {
    let stored = slot.load().await?.expect("a record");
    let mut record = stored.record;
    let token = record.tokens.refresh_token.as_ref().expect("a refresh token");
    record.refresh.intent = Some(Intent::new(token, chrono::Utc::now()));
    slot.save(&record, Precondition::Unchanged(stored.revision)).await
}

async fn lease(slot: &SharedSlot<Table>) -> Box<dyn Lease> {
    slot.try_lease().await.unwrap().expect("nobody has it")
}

#[tokio::test]
async fn a_write_whose_answer_was_lost_is_recognised_as_done() {
    let table = Table::new();
    let slot = slot(&table);
    table.faults().loses_answers = true;
    let revision = slot.save(&record("one"), Precondition::Absent).await.unwrap();
    let mut lease = lease(&slot).await;
    assert!(lease.renew(Duration::from_secs(90)).await.unwrap());
    lease.release().await.unwrap();
    slot.clear(Precondition::Unchanged(revision)).await.unwrap();
    assert!(slot.load().await.unwrap().is_none());
}

#[tokio::test]
async fn a_writer_gives_up_if_the_row_changes_before_each_attempt() {
    let table = Table::new();
    let slot = slot(&table);
    slot.save(&record("one"), Precondition::Anything).await.unwrap();
    let (mut lease, before) = (lease(&slot).await, table.faults().writes);
    table.faults().refuses = true;
    let refused = slot.save(&record("two"), Precondition::Anything).await.unwrap_err();
    assert!(matches!(refused, StoreError::Conflict { .. }), "{refused}");
    assert_eq!(table.faults().writes - before, ATTEMPTS);
    let refused = lease.renew(Duration::from_secs(90)).await.unwrap_err();
    assert!(matches!(refused, StoreError::Conflict { .. }), "{refused}");
}

#[tokio::test]
async fn the_name_of_a_slot_is_authenticated_with_its_record() {
    let table = Table::new();
    let name = SharedSlot::new(table.clone(), key(), "another").unwrap();
    name.save(&record("one"), Precondition::Anything).await.unwrap();
    let swapped = slot(&table).load().await.unwrap_err();
    assert!(matches!(swapped, StoreError::NotAuthentic { .. }), "{swapped}");
}

#[test]
fn it_works_outside_a_runtime_and_in_one_that_does_not_run() {
    let table = Table::new();
    let slot = slot(&table);
    // This runtime is not running.
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for entered in [false, true] {
        let _entered = entered.then(|| runtime.enter());
        block_on(async {
            slot.save(&record("one"), Precondition::Anything).await.unwrap();
            assert_eq!(slot.load().await.unwrap().unwrap().record, record("one"));
            let mut lease = lease(&slot).await;
            lease.reserve().await.unwrap();
            assert!(lease.renew(Duration::from_secs(90)).await.unwrap());
            lease.release().await.unwrap();
        });
    }
}

/// Waits like an executor without tokio.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(std::thread::Thread);

    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut std::task::Context::from_waker(&waker)) {
            std::task::Poll::Ready(done) => return done,
            std::task::Poll::Pending => std::thread::park(),
        }
    }
}

#[tokio::test]
async fn a_migration_does_not_lose_the_tokens_if_a_write_is_repeated() {
    // The write that clears the source, and those before it.
    for repeats in 0..3 {
        let (one, two) = (Table::new(), Table::new());
        let (from, to) = (Store(slot(&one)), Store(slot(&two)));
        from.save(&record("live"), Precondition::Absent).await.unwrap();
        one.faults().repeats = Some(repeats);
        let migrated = migrate(&from, &to).await;
        one.faults().repeats = None;
        let found = [from.load().await.unwrap(), to.load().await.unwrap()];
        assert!(found.iter().any(Option::is_some), "the tokens are lost: {migrated:?}");
        // When it is run again, it completes.
        assert!(migrated.is_ok() || migrate(&from, &to).await.is_ok(), "{migrated:?}");
        assert_eq!(to.load().await.unwrap().unwrap().record.tokens, tokens("live"));
        assert!(from.load().await.unwrap().is_none());
    }
}

#[tokio::test]
async fn a_saved_record_is_recognised_even_if_the_lease_was_taken_since() {
    let table = Table::new();
    let slot = slot(&table);
    slot.save(&record("one"), Precondition::Absent).await.unwrap();
    let found = slot.engine().read().await.unwrap().unwrap();
    let saved = Row { record: b"made once".to_vec(), ..found.row.clone() };
    // The record is saved, in a row that changed again before the next read.
    table.put(Row { revision: "another".into(), fence: 9, ..saved.clone() });
    assert!(slot.0.put(Some(&found), saved.clone()).await.unwrap());
    table.put(Row { revision: "another".into(), record: b"other".to_vec(), ..saved.clone() });
    assert!(!slot.0.put(Some(&found), saved).await.unwrap());
}

#[tokio::test]
async fn a_login_that_arrives_after_a_logout_is_refused() {
    for was_used in [false, true] {
        let table = Table::new();
        let slot = slot(&table);
        if was_used {
            slot.save(&record("one"), Precondition::Absent).await.unwrap();
            slot.clear(Precondition::Anything).await.unwrap();
        }
        let found = table.read().await.unwrap();
        let late = Row { record: b"a login's".to_vec(), ..Row::default() };
        slot.clear(Precondition::Anything).await.unwrap();
        let over = found.as_ref().map(|found| &found.version);
        assert!(!table.replace(over, &late).await.unwrap(), "it is out of date");
    }
}

/// A slot that waits for `time` at most.
fn impatient(table: &Table, time: Duration) -> SharedSlot<Table> {
    let mut slot = slot(table);
    let inner = Arc::get_mut(&mut slot.0).unwrap();
    (inner.longest_call, inner.longest_turn) = (time, time);
    slot
}

#[tokio::test]
async fn a_call_that_does_not_end_delays_the_next_one_only_for_a_limited_time() {
    let table = Table::new();
    let mut slot = impatient(&table, Duration::from_millis(50));
    Arc::get_mut(&mut slot.0).unwrap().longest_call = Duration::from_secs(3600);
    let answer = Arc::new(Notify::new());
    table.faults().slow = Some(answer.clone());
    let record = record("one");
    let mut save = Box::pin(slot.save(&record, Precondition::Anything));
    while table.faults().slow.is_some() {
        assert!(poll_once(&mut save).await.is_none());
        tokio::task::yield_now().await;
    }
    drop(save);
    // The write continues, and the next call waits for it.
    for error in [slot.load().await.map(drop), slot.clear(Precondition::Anything).await] {
        let error = error.unwrap_err();
        assert!(error.to_string().contains("an earlier call"), "{error}");
    }
    answer.notify_one();
    while slot.load().await.map(|stored| stored.is_none()).unwrap_or(true) {}
    slot.clear(Precondition::Anything).await.unwrap();
}

/// Polls a future once.
async fn poll_once<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    std::future::poll_fn(|context| {
        std::task::Poll::Ready(match std::pin::Pin::new(&mut *future).poll(context) {
            std::task::Poll::Ready(done) => Some(done),
            std::task::Poll::Pending => None,
        })
    })
    .await
}

#[tokio::test]
async fn a_call_ends_although_its_answer_does_not_come() {
    let table = Table::new();
    let slot = impatient(&table, Duration::from_millis(50));
    table.faults().slow = Some(Arc::default());
    let error = slot.save(&record("one"), Precondition::Anything).await.unwrap_err();
    assert!(error.to_string().contains("its answers took too long"), "{error}");
    slot.save(&record("one"), Precondition::Anything).await.unwrap();
}

#[tokio::test]
async fn a_key_that_is_a_passphrase_alone_is_refused_before_anything_is_done() {
    let key = AgeKey::passphrase(|| unreachable!("nobody is asked"));
    let refused = SharedSlot::new(Table::new(), key, "fleet").unwrap_err();
    assert!(matches!(refused, StoreError::InvalidKey { .. }), "{refused}");
    assert!(refused.to_string().contains("use an identity file"), "{refused}");
}
