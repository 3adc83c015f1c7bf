//! A lease that ends by itself, because a machine that is lost cannot give it up.

use std::collections::BTreeSet;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::process;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;

use super::{Edit, Engine, Hold, Inner, Row};
use crate::blocking;
use crate::error::StoreError;
use crate::store::{Intent, Lease};

/// How long a lease lasts at first: enough to read the record and to note what is about to be done. What
/// takes longer renews it. So long do others wait for a machine that was lost.
const LEASE: Duration = Duration::from_secs(30);

/// How long it lasts once its holder has noted that it is about to send a refresh token: enough for a
/// refresh of 30 seconds and for saving what came of it, so that it need not be written once more. Some
/// servers take one write of an object a second.
const NOTED: Duration = Duration::from_secs(65);

/// How much longer a lease is asked for than it has to last, so that it does for what comes right after.
const SPARE: Duration = Duration::from_secs(5);

/// How long one whose lease is over, and who noted that a token may be spent, is waited for while the server
/// can be reached. If it lives, it has the successor, and tries to save it every five seconds.
const GRACE: Duration = Duration::from_secs(15);

/// What counts of the time between two looks at the server: in a longer gap it may have been away.
const GAP: Duration = Duration::from_secs(2);

/// The slots whose lease somebody in this process has. Dropping a lease does not wait for a server, so
/// a row may still name this process: then whoever asks next in it takes the lease over.
static CLAIMED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

#[derive(Debug)]
struct Claim(String);

impl Claim {
    fn new(slot: String) -> Option<Self> {
        let is_free = claimed().insert(slot.clone());
        // Only then: a claim that is dropped gives the slot up.
        is_free.then(|| Self(slot))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        claimed().remove(&self.0);
    }
}

fn claimed() -> MutexGuard<'static, BTreeSet<String>> {
    CLAIMED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A state whose lease is over, and whose note says that its holder may have what came of a refresh.
#[derive(Debug)]
pub(super) struct Overdue {
    revision: String,
    /// For how long it was seen like that, and when last.
    seen_for: Duration,
    seen_at: Instant,
}

/// The lease of a slot on a server.
pub(super) struct FleetLease<E: Engine> {
    slot: Arc<Inner<E>>,
    fence: u64,
    term: Term,
    intent: Option<String>,
    _claim: Claim,
}

/// Until when a lease is ours for sure: counted from before the server was asked.
struct Term {
    since: Instant,
    /// A machine that sleeps stops one of the two clocks, and somebody may set the other one back.
    since_wall: SystemTime,
    lasts: Duration,
}

impl Term {
    fn begin(now: SystemTime, lasts: Duration) -> Self {
        Self { since: Instant::now(), since_wall: now, lasts }
    }

    fn covers(&self, time: Duration, now: SystemTime) -> bool {
        let Ok(by_wall) = now.duration_since(self.since_wall) else { return false };
        let passed = by_wall.max(self.since.elapsed());
        passed.checked_add(time).is_some_and(|end| end <= self.lasts)
    }
}

impl<E: Engine> FleetLease<E> {
    /// Takes the lease, unless somebody has it.
    pub(super) async fn take(slot: Arc<Inner<E>>) -> Result<Option<Self>, StoreError> {
        let Some(claim) = Claim::new(slot.engine.slot()) else { return Ok(None) };
        // What could not be sealed afterwards is better not begun.
        let key = slot.key.clone();
        blocking::run(&slot.engine.to_string(), move || key.prepare()).await?;
        let found = slot.engine.read().await?;
        let mut row = found.as_ref().map(|found| found.row.clone()).unwrap_or_default();
        let holder = slot.holder();
        let is_taken = |hold: &Hold| {
            hold.holder != holder && (!hold.is_over || slot.may_come_back(&row, Instant::now()))
        };
        if row.hold.as_ref().is_some_and(is_taken) {
            return Ok(None);
        }
        row.fence = row.fence.saturating_add(1);
        row.hold = Some(Hold { holder, lasts: Some(LEASE), is_over: false });
        let (fence, intent) = (row.fence, row.intent.clone());
        let term = Term::begin(slot.clock.now(), LEASE);
        if !slot.put(found.as_ref(), row).await? {
            return Ok(None);
        }
        *slot.leased() = Some(fence);
        Ok(Some(Self { slot, fence, term, intent, _claim: claim }))
    }

    /// Changes the row if the lease is still this one.
    async fn change(
        &self,
        edit: impl Fn(&mut Row) -> Edit + Send + Sync + 'static,
    ) -> Result<bool, StoreError> {
        let (slot, fence) = (self.slot.clone(), self.fence);
        let work = async move {
            slot.change(|row| if slot.has_lease(row, fence) { edit(row) } else { Edit::Refused })
                .await
        };
        self.slot.in_turn(work).await
    }

    /// Makes it last for that long from now, and changes the row in the same step.
    async fn renew_with(
        &mut self,
        lasts: Duration,
        edit: impl Fn(&mut Row) + Send + Sync + 'static,
    ) -> Result<bool, StoreError> {
        let term = Term::begin(self.slot.clock.now(), lasts);
        let renew = move |row: &mut Row| {
            if let Some(hold) = &mut row.hold {
                hold.lasts = Some(lasts);
            }
            edit(row);
            Edit::Write
        };
        let is_ours = self.change(renew).await?;
        if is_ours {
            self.term = term;
        }
        Ok(is_ours)
    }
}

impl<E: Engine> fmt::Debug for FleetLease<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FleetLease({}, {})", self.slot.engine, self.fence)
    }
}

#[async_trait]
impl<E: Engine> Lease for FleetLease<E> {
    async fn intent(&self) -> Result<Option<Intent>, StoreError> {
        let parsed = self.intent.as_ref().map(|text| text.parse());
        parsed.transpose().map_err(|_| StoreError::Corrupt {
            place: self.slot.engine.to_string(),
            reason: "its note of a refresh is not of a version that this program knows".into(),
        })
    }

    async fn write_intent(&mut self, intent: &Intent) -> Result<(), StoreError> {
        let text = intent.to_string();
        self.intent = Some(text.clone());
        if self.renew_with(NOTED, move |row| row.intent = Some(text.clone())).await? {
            return Ok(());
        }
        Err(self.slot.timeout(
            "its lease passed to somebody else while this process was stopped",
            "try again",
        ))
    }

    async fn remove_intent(&mut self) -> Result<(), StoreError> {
        self.intent = None;
        // Once the lease has passed, the note is somebody else's.
        let remove = |row: &mut Row| match row.intent.take() {
            // It went with what it was about.
            None => Edit::Nothing,
            Some(_) => Edit::Write,
        };
        self.change(remove).await.map(drop)
    }

    async fn renew(&mut self, time: Duration) -> Result<bool, StoreError> {
        if self.term.covers(time, self.slot.clock.now()) {
            return Ok(true);
        }
        self.renew_with(time.saturating_add(SPARE).max(LEASE), |_| {}).await
    }

    async fn release(self: Box<Self>) -> Result<(), StoreError> {
        let release = |row: &mut Row| {
            row.hold = None;
            Edit::Write
        };
        self.change(release).await.map(drop)
    }
}

impl<E: Engine> Drop for FleetLease<E> {
    fn drop(&mut self) {
        *self.slot.leased() = None;
    }
}

impl<E: Engine> Inner<E> {
    /// Tells whether the holder of a lease that is over is still waited for.
    pub(super) fn may_come_back(&self, row: &Row, now: Instant) -> bool {
        let mut overdue = self.overdue.lock().unwrap_or_else(PoisonError::into_inner);
        if row.intent.is_none() {
            return false;
        }
        let mut seen_for = Duration::ZERO;
        if let Some(before) = overdue.as_ref().filter(|before| before.revision == row.revision) {
            let gap = now.saturating_duration_since(before.seen_at);
            seen_for = before.seen_for.saturating_add(gap.min(GAP));
        }
        *overdue = Some(Overdue { revision: row.revision.clone(), seen_for, seen_at: now });
        seen_for < GRACE
    }

    /// Tells whether the lease in a row is the one of this process with that number.
    pub(super) fn has_lease(&self, row: &Row, fence: u64) -> bool {
        row.fence == fence && row.hold.as_ref().is_some_and(|hold| hold.holder == self.holder())
    }

    /// Names this process and its way to the slot, as nothing else is named. Another way to the same
    /// slot, by another name of its server, is somebody else's: so nothing is moved from a slot onto
    /// itself.
    fn holder(&self) -> String {
        static NAME: LazyLock<String> = LazyLock::new(new_name);

        let mut way = DefaultHasher::new();
        self.engine.slot().hash(&mut way);
        // A process that was forked has the same memory.
        format!("{}-{}-{:x}", process::id(), *NAME, way.finish())
    }
}

/// Makes a name that nothing else has.
///
/// # Panics
///
/// If the operating system has no randomness to give.
pub(super) fn new_name() -> String {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
