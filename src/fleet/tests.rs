//! What is hard to make happen with a real server.

use std::sync::MutexGuard;
use std::sync::atomic::{AtomicU32, Ordering};

use age::secrecy::SecretString;

use super::*;

/// A table with one row, and a way to it that can be bad.
#[derive(Clone, Debug)]
struct Table {
    row: Arc<Mutex<Option<Row>>>,
    /// Each has a name of its own, as if it were in a process of its own.
    name: u32,
    faults: Arc<Mutex<Faults>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Faults {
    /// What is asked for is done, and nobody is told.
    loses_answers: bool,
    /// Somebody else is always faster.
    refuses: bool,
    writes: usize,
}

impl Table {
    fn new() -> Self {
        Self { row: Arc::default(), name: number(), faults: Arc::default() }
    }

    /// The same row, from elsewhere.
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
        let row = self.row.lock().unwrap().clone();
        Ok(row.map(|row| Found { version: row.revision.clone(), row }))
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
            let (place, reason) = (self.to_string(), "the answer was lost".to_owned());
            return Err(StoreError::Unavailable { place, reason, advice: String::new() });
        }
        Ok(true)
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

fn slot(table: &Table) -> FleetSlot<Table> {
    FleetSlot::new(table.clone(), key(), "fleet")
}

fn tokens(name: &str) -> AuthTokens {
    AuthTokens::new(name).with_refresh_token("refresh")
}

async fn lease(slot: &FleetSlot<Table>) -> Box<dyn Lease> {
    slot.try_lease().await.unwrap().expect("nobody has it")
}

/// Two slots, the second of which took the lease over from the first.
async fn taken_over(table: &Table) -> [(FleetSlot<Table>, Box<dyn Lease>); 2] {
    let (first, second) = (slot(table), slot(&table.elsewhere()));
    first.save(&tokens("one"), Expect::Absent).await.unwrap();
    let earlier = lease(&first).await;
    table.end_lease();
    let later = lease(&second).await;
    [(first, earlier), (second, later)]
}

#[tokio::test]
async fn a_lease_that_passed_to_another_can_do_nothing_more() {
    let table = Table::new();
    let [(_first, mut earlier), (_second, mut later)] = taken_over(&table).await;
    let intent = crate::Intent::new(&"refresh".into(), chrono::Utc::now());
    later.write_intent(&intent).await.unwrap();
    let before = table.row();
    assert!(!earlier.renew(Duration::from_secs(3600)).await.unwrap());
    let refused = earlier.write_intent(&intent).await.unwrap_err();
    assert!(refused.to_string().contains("its lease passed to somebody else"), "{refused}");
    earlier.remove_intent().await.unwrap();
    earlier.release().await.unwrap();
    assert_eq!(table.row(), before, "the other one's lease and note are there");
}

#[tokio::test]
async fn a_lease_that_was_dropped_is_had_again_by_the_same_way_alone() {
    let table = Table::new();
    let (one, same, other) = (slot(&table), slot(&table), slot(&table.elsewhere()));
    let held = lease(&one).await;
    for taken in [&one, &same, &other] {
        assert!(taken.try_lease().await.unwrap().is_none());
    }
    drop(held);
    assert!(other.try_lease().await.unwrap().is_none(), "it cannot know, and waits");
    lease(&same).await.release().await.unwrap();
    lease(&other).await.release().await.unwrap();
}

#[tokio::test]
async fn what_was_overtaken_is_neither_saved_nor_cleared_until_the_successor_is_done() {
    let table = Table::new();
    let [(first, _earlier), (second, later)] = taken_over(&table).await;
    let Stored { revision, .. } = first.load().await.unwrap().unwrap();
    let expect = Expect::Unchanged(revision.clone());
    let refused = first.save(&tokens("late"), expect.clone()).await.unwrap_err();
    assert!(matches!(refused, StoreError::Conflict { .. }), "{refused}");
    // Nor is it taken away, by a migration that was stopped.
    let refused = first.clear(expect.clone()).await.unwrap_err();
    assert!(matches!(refused, StoreError::Conflict { .. }), "{refused}");
    assert_eq!(second.load().await.unwrap().unwrap().tokens, tokens("one"));
    later.release().await.unwrap();
    first.save(&tokens("late"), expect).await.unwrap();
    assert_eq!(second.load().await.unwrap().unwrap().tokens, tokens("late"));
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
    assert_eq!(table.row().hold.unwrap().lasts, Some(Duration::from_secs(90)));
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
async fn a_change_whose_answer_was_lost_is_found_to_be_done() {
    let table = Table::new();
    let slot = slot(&table);
    table.faults().loses_answers = true;
    let revision = slot.save(&tokens("one"), Expect::Absent).await.unwrap();
    let mut lease = lease(&slot).await;
    assert!(lease.renew(Duration::from_secs(90)).await.unwrap());
    lease.release().await.unwrap();
    slot.clear(Expect::Unchanged(revision)).await.unwrap();
    assert!(slot.load().await.unwrap().is_none());
}

#[tokio::test]
async fn whoever_is_never_fast_enough_gives_up() {
    let table = Table::new();
    let slot = slot(&table);
    slot.save(&tokens("one"), Expect::Anything).await.unwrap();
    let (mut lease, before) = (lease(&slot).await, table.faults().writes);
    table.faults().refuses = true;
    let refused = slot.save(&tokens("two"), Expect::Anything).await.unwrap_err();
    assert!(matches!(refused, StoreError::Conflict { .. }), "{refused}");
    assert_eq!(table.faults().writes - before, ATTEMPTS);
    let refused = lease.renew(Duration::from_secs(90)).await.unwrap_err();
    assert!(matches!(refused, StoreError::Conflict { .. }), "{refused}");
}

#[tokio::test]
async fn an_earlier_state_is_told_from_the_latest() {
    let table = Table::new();
    let (reader, writer) = (slot(&table), slot(&table.elsewhere()));
    writer.save(&tokens("one"), Expect::Anything).await.unwrap();
    let first = table.row();
    writer.save(&tokens("two"), Expect::Anything).await.unwrap();
    let second = table.row();
    assert_eq!(reader.load().await.unwrap().unwrap().tokens, tokens("two"));

    for earlier in [first, Row { record: Vec::new(), ..second.clone() }] {
        table.put(earlier);
        for rolled_back in [
            reader.load().await.unwrap_err(),
            reader.save(&tokens("three"), Expect::Anything).await.unwrap_err(),
        ] {
            assert!(matches!(rolled_back, StoreError::RolledBack { .. }), "{rolled_back}");
        }
        assert!(slot(&table.elsewhere()).load().await.is_ok(), "who has just begun cannot know");
    }
    table.put(second);
    assert_eq!(reader.load().await.unwrap().unwrap().tokens, tokens("two"), "and it is back");
}

#[tokio::test]
async fn a_state_that_somebody_made_out_of_an_earlier_one_is_told_from_the_latest() {
    // By clocks that stand still, the second state has the number of the first one's successor.
    let still = || Clock::new(|| SystemTime::UNIX_EPOCH);
    let table = Table::new();
    let [reader, other] = [slot(&table), slot(&table.elsewhere())].map(|mut slot| {
        Arc::get_mut(&mut slot.0).unwrap().clock = still();
        slot
    });
    other.save(&tokens("one"), Expect::Anything).await.unwrap();
    let first = table.row();
    other.save(&tokens("two"), Expect::Anything).await.unwrap();
    assert!(reader.load().await.unwrap().is_some());
    table.put(first);
    let mut new = slot(&table.elsewhere());
    Arc::get_mut(&mut new.0).unwrap().clock = still();
    new.save(&tokens("other"), Expect::Anything).await.unwrap();
    let rolled_back = reader.load().await.unwrap_err();
    assert!(matches!(rolled_back, StoreError::RolledBack { .. }), "{rolled_back}");
    // A login is later than all that anybody remembers.
    slot(&table.elsewhere()).save(&tokens("login"), Expect::Anything).await.unwrap();
    assert_eq!(reader.load().await.unwrap().unwrap().tokens, tokens("login"));
}

#[tokio::test]
async fn the_name_of_a_slot_is_sealed_with_its_record() {
    let table = Table::new();
    let name = FleetSlot::new(table.clone(), key(), "another");
    name.save(&tokens("one"), Expect::Anything).await.unwrap();
    let swapped = slot(&table).load().await.unwrap_err();
    assert!(swapped.to_string().contains("another slot's record"), "{swapped}");
}

#[test]
fn outside_a_runtime_it_says_so() {
    let slot = slot(&Table::new());
    let mut load = std::pin::pin!(slot.load());
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let std::task::Poll::Ready(Err(error)) = load.as_mut().poll(&mut context) else {
        panic!("it fails at once");
    };
    assert!(error.to_string().contains("outside a tokio runtime"), "{error}");
}
