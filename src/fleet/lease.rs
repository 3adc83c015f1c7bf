//! A lease that ends by itself, because a machine that is lost cannot give it up.

use std::collections::BTreeSet;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::process;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;

use super::{Engine, Hold, Inner, Row};
use crate::error::StoreError;
use crate::store::{Intent, Lease};

/// How long a lease lasts at first: enough to read the record and to note what is about to be done. What
/// takes longer renews it. So long do others wait for a machine that was lost.
const LEASE: Duration = Duration::from_secs(30);

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
        let found = slot.engine.read().await?;
        let mut row = found.as_ref().map(|found| found.row.clone()).unwrap_or_default();
        let holder = slot.holder();
        let is_taken = |hold: &Hold| !hold.is_over && hold.holder != holder;
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

    /// Changes the row if the lease is still this one, and renews it then if `lasts` says for how long.
    async fn change(
        &self,
        lasts: Option<Duration>,
        edit: impl Fn(&mut Row) + Send + Sync + 'static,
    ) -> Result<bool, StoreError> {
        let (slot, fence) = (self.slot.clone(), self.fence);
        let work = async move {
            slot.change(|row| {
                let is_ours = slot.has_lease(row, fence);
                if let Some(hold) = row.hold.as_mut().filter(|_| is_ours) {
                    hold.lasts = lasts.or(hold.lasts);
                    edit(row);
                }
                is_ours
            })
            .await
        };
        self.slot.in_turn(work).await
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
        let term = Term::begin(self.slot.clock.now(), LEASE);
        if !self.change(Some(LEASE), move |row| row.intent = Some(text.clone())).await? {
            return Err(StoreError::Timeout {
                place: self.slot.engine.to_string(),
                reason: "its lease passed to somebody else while this process was stopped".into(),
                advice: "try again".into(),
            });
        }
        self.term = term;
        Ok(())
    }

    async fn remove_intent(&mut self) -> Result<(), StoreError> {
        self.intent = None;
        // Once the lease has passed, the note is somebody else's.
        self.change(None, |row| row.intent = None).await.map(drop)
    }

    async fn renew(&mut self, time: Duration) -> Result<bool, StoreError> {
        let now = self.slot.clock.now();
        if self.term.covers(time, now) {
            return Ok(true);
        }
        let term = Term::begin(now, time.max(LEASE));
        let is_ours = self.change(Some(term.lasts), |_| {}).await?;
        if is_ours {
            self.term = term;
        }
        Ok(is_ours)
    }

    async fn release(self: Box<Self>) -> Result<(), StoreError> {
        self.change(None, |row| row.hold = None).await.map(drop)
    }
}

impl<E: Engine> Drop for FleetLease<E> {
    fn drop(&mut self) {
        *self.slot.leased() = None;
    }
}

impl<E: Engine> Inner<E> {
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
