//! Cases that are hard to cause with a real server.

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

/// Two slots. The second one took the lease over from the first.
async fn taken_over(table: &Table) -> [(SharedSlot<Table>, Box<dyn Lease>); 2] {
    let (first, second) = (slot(table), slot(&table.elsewhere()));
    first.save(&record("one"), Precondition::Absent).await.unwrap();
    let earlier = lease(&first).await;
    table.end_lease();
    let later = lease(&second).await;
    [(first, earlier), (second, later)]
}

#[tokio::test]
async fn a_lease_that_passed_to_another_holder_changes_nothing_more() {
    let table = Table::new();
    let [(first, mut earlier), (second, _later)] = taken_over(&table).await;
    save_intent(&second).await.unwrap();
    let before = table.row();
    assert!(!earlier.renew(Duration::from_secs(3600)).await.unwrap());
    let refused = save_intent(&first).await.unwrap_err();
    assert!(matches!(refused, StoreError::Conflict { .. }), "{refused}");
    earlier.release().await.unwrap();
    assert_eq!(table.row(), before, "the lease and the intent of the other holder are kept");
}

#[tokio::test]
async fn a_dropped_lease_can_be_taken_again_only_through_the_same_connection() {
    let table = Table::new();
    let (one, same, other) = (slot(&table), slot(&table), slot(&table.elsewhere()));
    let held = lease(&one).await;
    for taken in [&one, &same, &other] {
        assert!(taken.try_lease().await.unwrap().is_none());
    }
    drop(held);
    assert!(
        other.try_lease().await.unwrap().is_none(),
        "it waits, because the lease may be in use"
    );
    lease(&same).await.release().await.unwrap();
    lease(&other).await.release().await.unwrap();
}

#[tokio::test]
async fn a_process_that_lost_its_lease_neither_saves_nor_clears_while_the_next_holder_has_it() {
    let table = Table::new();
    let [(first, _earlier), (second, later)] = taken_over(&table).await;
    let Stored { revision, .. } = first.load().await.unwrap().unwrap();
    let precondition = Precondition::Unchanged(revision.clone());
    let refused = first.save(&record("late"), precondition.clone()).await.unwrap_err();
    assert!(matches!(refused, StoreError::Conflict { .. }), "{refused}");
    // A migration that was stopped does not remove the record either.
    let refused = first.clear(precondition.clone()).await.unwrap_err();
    assert!(matches!(refused, StoreError::Conflict { .. }), "{refused}");
    assert_eq!(second.load().await.unwrap().unwrap().record.tokens, tokens("one"));
    later.release().await.unwrap();
    first.save(&record("late"), precondition).await.unwrap();
    assert_eq!(second.load().await.unwrap().unwrap().record.tokens, tokens("late"));
}

#[tokio::test]
async fn a_lease_is_renewed_only_if_it_would_end_too_early() {
    let table = Table::new();
    let slot = slot(&table);
    let mut lease = lease(&slot).await;
    let writes = || table.faults().writes;
    let before = writes();
    assert!(lease.renew(Duration::from_secs(10)).await.unwrap());
    assert_eq!(writes(), before, "there is time enough");
    assert!(lease.renew(Duration::from_secs(90)).await.unwrap());
    assert_eq!(writes(), before + 1);
    assert_eq!(table.row().hold.unwrap().lasts, Some(Duration::from_secs(95)));
    assert!(lease.renew(Duration::from_secs(60)).await.unwrap());
    assert_eq!(writes(), before + 1);
}

#[tokio::test]
async fn a_clock_that_is_set_back_or_forward_does_not_lengthen_a_lease() {
    let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 30);
    let now = Arc::new(Mutex::new(start));
    let table = Table::new();
    let mut slot = slot(&table);
    let clock = now.clone();
    Arc::get_mut(&mut slot.0).unwrap().clock = Clock::new(move || *clock.lock().unwrap());
    let mut lease = lease(&slot).await;
    for seconds in [-3600_i64, 0, 3600, 3625] {
        let before = table.faults().writes;
        assert!(lease.renew(Duration::from_secs(20)).await.unwrap());
        assert_eq!(table.faults().writes, before, "there is time enough");
        let distance = Duration::from_secs(seconds.unsigned_abs());
        *now.lock().unwrap() = if seconds < 0 { start - distance } else { start + distance };
        assert!(lease.renew(Duration::from_secs(20)).await.unwrap());
        assert_eq!(table.faults().writes, before + 1, "{seconds}");
    }
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
async fn an_earlier_state_is_an_error_for_a_process_that_saw_a_later_one() {
    let table = Table::new();
    let (reader, writer) = (slot(&table), slot(&table.elsewhere()));
    writer.save(&record("one"), Precondition::Anything).await.unwrap();
    let first = table.row();
    writer.save(&record("two"), Precondition::Anything).await.unwrap();
    let second = table.row();
    assert_eq!(reader.load().await.unwrap().unwrap().record.tokens, tokens("two"));

    for earlier in [first, Row { record: Vec::new(), ..second.clone() }] {
        table.put(earlier);
        for rolled_back in [
            reader.load().await.unwrap_err(),
            reader.save(&record("three"), Precondition::Anything).await.unwrap_err(),
        ] {
            assert!(matches!(rolled_back, StoreError::RolledBack { .. }), "{rolled_back}");
        }
        assert!(
            slot(&table.elsewhere()).load().await.is_ok(),
            "a new process has seen nothing later"
        );
    }
    table.put(second);
    assert_eq!(
        reader.load().await.unwrap().unwrap().record.tokens,
        tokens("two"),
        "the latest state is back"
    );
}

#[tokio::test]
async fn a_state_made_from_an_earlier_one_is_an_error_for_a_process_that_saw_a_later_one() {
    // The clocks stand still, so the second state has the generation after the first one.
    let still = || Clock::new(|| SystemTime::UNIX_EPOCH);
    let table = Table::new();
    let [reader, other] = [slot(&table), slot(&table.elsewhere())].map(|mut slot| {
        Arc::get_mut(&mut slot.0).unwrap().clock = still();
        slot
    });
    other.save(&record("one"), Precondition::Anything).await.unwrap();
    let first = table.row();
    other.save(&record("two"), Precondition::Anything).await.unwrap();
    assert!(reader.load().await.unwrap().is_some());
    table.put(first);
    let mut new = slot(&table.elsewhere());
    Arc::get_mut(&mut new.0).unwrap().clock = still();
    new.save(&record("other"), Precondition::Anything).await.unwrap();
    let rolled_back = reader.load().await.unwrap_err();
    assert!(matches!(rolled_back, StoreError::RolledBack { .. }), "{rolled_back}");
    // A login is later than all states that any process remembers.
    slot(&table.elsewhere()).save(&record("login"), Precondition::Anything).await.unwrap();
    assert_eq!(reader.load().await.unwrap().unwrap().record.tokens, tokens("login"));
}

/// How often the slot was changed, as its record says.
fn generation(table: &Table) -> u64 {
    Envelope::parse(&table.row().record, "table").unwrap().generation
}

#[tokio::test]
async fn the_generation_rises_even_if_the_clock_stands_still_or_is_set_back() {
    let table = Table::new();
    let now = Arc::new(Mutex::new(SystemTime::UNIX_EPOCH));
    let slot_now = || {
        let (mut slot, now) = (slot(&table.elsewhere()), now.clone());
        Arc::get_mut(&mut slot.0).unwrap().clock = Clock::new(move || *now.lock().unwrap());
        slot
    };
    let first = slot_now();
    for expected in 1..4 {
        first.save(&record("one"), Precondition::Anything).await.unwrap();
        assert_eq!(generation(&table), expected);
    }
    // Another process, which has seen no later state, saves over it. A logout counts too.
    let second = slot_now();
    second.clear(Precondition::Anything).await.unwrap();
    assert_eq!(generation(&table), 4);
    *now.lock().unwrap() += Duration::from_secs(1);
    second.save(&record("two"), Precondition::Absent).await.unwrap();
    assert_eq!(generation(&table), 1000);
    *now.lock().unwrap() = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
    first.save(&record("three"), Precondition::Anything).await.unwrap();
    assert_eq!(generation(&table), 1001);
}

#[tokio::test]
async fn a_process_has_seen_the_state_that_it_wrote_last() {
    let table = Table::new();
    let slot = slot(&table);
    slot.save(&record("one"), Precondition::Anything).await.unwrap();
    let first = table.row();
    slot.save(&record("two"), Precondition::Anything).await.unwrap();
    let second = table.row();
    table.put(first);
    let rolled_back = slot.load().await.unwrap_err();
    assert!(matches!(rolled_back, StoreError::RolledBack { .. }), "{rolled_back}");
    table.put(second.clone());
    slot.clear(Precondition::Anything).await.unwrap();
    table.put(second);
    let rolled_back = slot.load().await.unwrap_err();
    assert!(matches!(rolled_back, StoreError::RolledBack { .. }), "{rolled_back}");
}

#[tokio::test]
async fn each_holder_of_the_lease_has_its_own_number() {
    let table = Table::new();
    for expected in 1..4 {
        lease(&slot(&table)).await.release().await.unwrap();
        assert_eq!(table.row().fence, expected);
    }
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

#[tokio::test]
async fn a_slow_answer_is_not_mistaken_for_an_earlier_state() {
    let table = Table::new();
    let (reader, writer) = (Arc::new(slot(&table)), slot(&table.elsewhere()));
    writer.save(&record("one"), Precondition::Anything).await.unwrap();
    let answers = Arc::new(Notify::new());
    table.faults().slow = Some(answers.clone());
    let slow = tokio::spawn({
        let reader = reader.clone();
        async move { reader.load().await }
    });
    while table.faults().slow.is_some() {
        tokio::task::yield_now().await;
    }
    writer.save(&record("two"), Precondition::Anything).await.unwrap();
    assert_eq!(reader.load().await.unwrap().unwrap().record.tokens, tokens("two"));
    answers.notify_one();
    assert_eq!(slow.await.unwrap().unwrap().unwrap().record.tokens, tokens("one"));
    // The slot still knows the later state.
    let known = reader.0.seen().clone().unwrap().revision;
    assert_eq!(reader.load().await.unwrap().unwrap().revision, known);
}

#[tokio::test]
async fn an_earlier_state_does_not_replace_the_latest_one_that_was_seen() {
    let table = Table::new();
    let slot = slot(&table);
    let later = Seen { generation: u64::MAX, revision: Revision::new(*b"later") };
    slot.0.see(later.clone());
    slot.0.see(Seen { generation: 1, revision: Revision::new(*b"earlier") });
    assert_eq!(slot.0.seen().clone().unwrap().revision, later.revision);
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
async fn a_holder_that_may_have_new_tokens_is_waited_for_while_the_server_can_be_reached() {
    let table = Table::new();
    let (first, second) = (slot(&table), slot(&table.elsewhere()));
    first.save(&record("one"), Precondition::Absent).await.unwrap();
    let earlier = lease(&first).await;
    table.end_lease();
    lease(&second).await.release().await.unwrap();
    drop(earlier);
    let mut now = Instant::now();
    let lease = lease(&first).await;
    save_intent(&first).await.unwrap();
    table.end_lease();
    // The second process sees that the lease is over. Then it cannot reach the server for 1 hour.
    assert!(second.try_lease().await.unwrap().is_none());
    let row = table.row();
    for pause in [3600, 2, 2, 2, 2, 2, 2] {
        now += Duration::from_secs(pause);
        assert!(second.0.may_come_back(&row, now), "{pause}");
    }
    // A write of the holder starts the wait again.
    let alive = Row { revision: "alive".into(), ..row.clone() };
    assert!(second.0.may_come_back(&alive, now));
    assert!(second.0.may_come_back(&row, now));
    for _ in 0..7 {
        now += Duration::from_secs(2);
        assert!(second.0.may_come_back(&row, now));
    }
    now += Duration::from_secs(2);
    assert!(!second.0.may_come_back(&row, now));
    // The holder does not wait for itself.
    drop(lease);
    self::lease(&first).await.release().await.unwrap();
}

#[tokio::test]
async fn a_refresh_whose_lease_has_ended_counts_as_interrupted() {
    let table = Table::new();
    let (first, other) = (slot(&table), Store(slot(&table.elsewhere())));
    first.save(&record("one"), Precondition::Absent).await.unwrap();
    let _lease = lease(&first).await;
    save_intent(&first).await.unwrap();
    assert_eq!(interrupted_refresh(&other).await.unwrap(), None, "it is under way");
    // A server that has no clock for leases returns when the row was written.
    let elsewhere = table.elsewhere();
    let looker = Store(slot(&elsewhere));
    for (minutes, is_told) in [(6, false), (7, true)] {
        let at = SystemTime::now() - Duration::from_secs(minutes * 60);
        elsewhere.faults().written = Some(at);
        assert_eq!(interrupted_refresh(&looker).await.unwrap().is_some(), is_told, "{minutes}");
    }
    // The holder may still save, and others wait for that. But the lease is over.
    table.end_lease();
    assert!(other.try_lease().await.unwrap().is_none());
    assert!(interrupted_refresh(&other).await.unwrap().is_some());
}

#[tokio::test]
async fn saving_the_intent_renews_the_lease_in_the_same_write() {
    let table = Table::new();
    let slot = slot(&table);
    slot.save(&record("one"), Precondition::Absent).await.unwrap();
    let mut lease = lease(&slot).await;
    let at_first = lease.time_left().unwrap();
    assert!(at_first <= Duration::from_secs(30), "{at_first:?}");
    let before = table.faults().writes;
    save_intent(&slot).await.unwrap();
    let left = lease.time_left().unwrap();
    assert!(left > Duration::from_secs(60), "{left:?}");
    assert_eq!(table.row().hold.unwrap().lasts, Some(Duration::from_secs(65)));
    // That is enough for a refresh of 30 seconds and the margin to save.
    assert!(lease.renew(Duration::from_secs(60)).await.unwrap());
    assert_eq!(table.faults().writes - before, 1);
    // A longer refresh needs one more write.
    assert!(lease.renew(Duration::from_secs(90)).await.unwrap());
    assert!(lease.time_left().unwrap() > Duration::from_secs(90));
    assert_eq!(table.faults().writes - before, 2);
}

#[tokio::test]
async fn new_tokens_are_saved_even_if_the_recipient_list_became_invalid() {
    let table = Table::new();
    let recipients = tempfile::NamedTempFile::new().unwrap();
    let list = recipients.path().to_owned();
    let recipient = age::x25519::Identity::generate().to_public();
    std::fs::write(
        &list,
        format!(
            "{recipient}
"
        ),
    )
    .unwrap();
    let key = key().with_recovery_recipients_file(&list);
    let slot = SharedSlot::new(table.clone(), key, "fleet").unwrap();
    slot.save(&record("one"), Precondition::Absent).await.unwrap();
    let mut lease = lease(&slot).await;
    lease.reserve().await.unwrap();
    let noted = save_intent(&slot).await.unwrap();
    // The list becomes invalid during the request to the server.
    std::fs::write(&list, "no recipient\n").unwrap();
    slot.save(&record("rotated"), Precondition::Unchanged(noted)).await.unwrap();
    let warning = lease.take_warning().expect("there is a warning").to_string();
    assert!(warning.contains("recipient"), "{warning}");
    assert_eq!(slot.load().await.unwrap().unwrap().record, record("rotated"));
    // A refresh that begins now fails before anything is sent.
    lease.reserve().await.unwrap_err();
}

#[tokio::test]
async fn an_identity_that_is_gone_when_the_answer_is_there_still_authenticates_the_new_tokens() {
    let table = Table::new();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key.txt");
    let own = AgeKey::create_identity_file(&path).await.unwrap();
    let copy = SecretString::from(std::fs::read_to_string(&path).unwrap());
    let elsewhere = AgeKey::custom("a copy", move || Ok(copy.clone()));
    let slot = SharedSlot::new(table.clone(), own, "fleet").unwrap();
    slot.save(&record("one"), Precondition::Absent).await.unwrap();
    let mut lease = lease(&slot).await;
    lease.reserve().await.unwrap();
    let noted = save_intent(&slot).await.unwrap();
    std::fs::write(&path, "garbled\n").unwrap();
    slot.save(&record("rotated"), Precondition::Unchanged(noted)).await.unwrap();
    assert!(lease.take_warning().is_some(), "it is said");
    let other = SharedSlot::new(table.elsewhere(), elsewhere, "fleet").unwrap();
    assert_eq!(other.load().await.unwrap().unwrap().record, record("rotated"));
}

#[tokio::test]
async fn a_key_that_is_a_passphrase_alone_is_refused_before_anything_is_done() {
    let key = AgeKey::passphrase(|| unreachable!("nobody is asked"));
    let refused = SharedSlot::new(Table::new(), key, "fleet").unwrap_err();
    assert!(matches!(refused, StoreError::InvalidKey { .. }), "{refused}");
    assert!(refused.to_string().contains("use an identity file"), "{refused}");
}

#[tokio::test]
async fn a_row_that_did_not_change_is_not_opened_again() {
    let table = Table::new();
    let (reader, writer) = (slot(&table.elsewhere()), slot(&table));
    let is_opened = |times| format!("{reader:?}").contains(&format!("opened {times} times"));
    for (round, name) in ["one", "two"].into_iter().enumerate() {
        writer.save(&record(name), Precondition::Anything).await.unwrap();
        for _ in 0..3 {
            assert_eq!(reader.load().await.unwrap().unwrap().record, record(name));
        }
        assert!(is_opened(round + 1));
    }
    // A change of the lease alone changes no content.
    lease(&writer).await.release().await.unwrap();
    reader.load().await.unwrap();
    assert!(is_opened(2));
    // What a process saved itself is opened once, to know that it can be.
    reader.save(&record("three"), Precondition::Anything).await.unwrap();
    assert_eq!(reader.load().await.unwrap().unwrap().record, record("three"));
    assert!(is_opened(3));
}

/// A manager whose refresher returns these tokens.
fn manager_of(table: &Table, tokens: AuthTokens) -> TokenManager {
    let refresh = move |_| std::future::ready(Ok::<_, RefreshFailure>(tokens.clone()));
    TokenManager::builder().store(Store(slot(table))).refresh_with(refresh).build()
}

fn manager(table: &Table) -> TokenManager {
    manager_of(table, AuthTokens::new("new").with_refresh_token("rotated"))
}

#[tokio::test]
async fn without_rotation_a_stopped_process_takes_the_tokens_of_the_next_holder() {
    let table = Table::new();
    slot(&table).save(&record("old"), Precondition::Anything).await.unwrap();
    let (asked, answered) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let stopped = {
        let (asked, answered) = (asked.clone(), answered.clone());
        let refresh = move |_| {
            let (asked, answered) = (asked.clone(), answered.clone());
            async move {
                asked.notify_one();
                answered.notified().await;
                Ok::<_, RefreshFailure>(AuthTokens::new("its own"))
            }
        };
        TokenManager::builder().store(Store(slot(&table))).refresh_with(refresh).build()
    };
    let refreshing = tokio::spawn(async move { stopped.refresh().await });
    asked.notified().await;
    // Its lease ends, and another process saves first.
    table.put(Row { hold: None, ..table.row() });
    let successor = manager_of(&table.elsewhere(), AuthTokens::new("its successor's"));
    successor.refresh().await.unwrap();
    answered.notify_one();
    let found = refreshing.await.unwrap().unwrap();
    assert_eq!(found.access_token, AuthTokens::new("its successor's").access_token);
    let stored = slot(&table.elsewhere()).load().await.unwrap().unwrap().record.tokens;
    assert_eq!(stored.access_token, found.access_token);
}

#[tokio::test]
async fn a_refresh_writes_four_times() {
    // Google accepts one write of an object per second.
    let table = Table::new();
    slot(&table).save(&record("old"), Precondition::Anything).await.unwrap();
    let before = table.faults().writes;
    manager(&table).refresh().await.unwrap();
    assert_eq!(
        table.faults().writes - before,
        4,
        "the lease, the intent, the record, and the lease"
    );
    assert_eq!(table.row().hold, None);
}

#[tokio::test]
async fn a_caller_that_finds_nothing_to_refresh_releases_the_lease() {
    let table = Table::new();
    let expired = tokens("old").with_expires_at(chrono::DateTime::UNIX_EPOCH);
    slot(&table).save(&expired.into(), Precondition::Anything).await.unwrap();
    let waiting: Vec<_> = (0..4)
        .map(|_| {
            let manager = manager(&table.elsewhere());
            tokio::spawn(async move { manager.get_access_token().await.map(drop) })
        })
        .collect();
    for one in waiting {
        one.await.unwrap().unwrap();
    }
    assert_eq!(table.row().hold, None);
    // A refresh that finds nothing to do leaves no lease behind either.
    let store = slot(&table);
    store.clear(Precondition::Anything).await.unwrap();
    assert!(manager(&table).refresh().await.is_err());
    store.save(&tokens("backup").with_backup(true).into(), Precondition::Anything).await.unwrap();
    assert!(manager(&table).refresh().await.is_err());
    assert_eq!(table.row().hold, None);
}
