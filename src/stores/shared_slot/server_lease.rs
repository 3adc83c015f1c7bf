//! A lease that ends by itself, because a lost machine cannot give it up.

use std::collections::BTreeSet;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::process;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;

use super::{Edit, Engine, Hold, Inner, Row, lock};
use crate::error::StoreError;
use crate::store::Lease;
use crate::sys::blocking;

/// How long a lease lasts at first: enough to read the record and to save the intent. Work that takes longer
/// renews it. Other machines wait this long for a lost one.
const LEASE: Duration = Duration::from_secs(30);

/// How long a lease lasts after its holder has saved an intent: enough for a refresh of 30 s and for saving
/// the new tokens. So no further write is needed to renew it. Some servers accept only one write of an
/// object per second.
const WITH_INTENT: Duration = Duration::from_secs(65);

/// How much longer a lease is requested than it must last, so that the next step needs no renewal.
const SPARE: Duration = Duration::from_secs(5);

/// How long others wait for a holder that saved an intent and whose lease is over, while the server can be
/// reached. If that holder still runs, it has the new tokens, and tries to save them every 5 s.
const GRACE: Duration = Duration::from_secs(15);

/// The most time that is counted between two reads. In a longer gap, the server may have been unreachable.
const GAP: Duration = Duration::from_secs(2);

/// The slots whose lease is taken in this process. Dropping a lease does not wait for the server, so a row
/// may still name this process. Then the next task of this process takes the lease over.
static CLAIMED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

#[derive(Debug)]
struct Claim(String);

impl Claim {
    fn new(slot: String) -> Option<Self> {
        let is_free = claimed().insert(slot.clone());
        // A claim is made only in this case, because dropping it gives the slot up.
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

/// A state whose lease is over and which has an intent: its holder may have new tokens.
#[derive(Debug)]
pub(super) struct Overdue {
    revision: String,
    /// How long it was seen in this state, and when last.
    seen_for: Duration,
    seen_at: Instant,
}

/// The lease of a slot on a server.
pub(super) struct ServerLease<E: Engine> {
    slot: Arc<Inner<E>>,
    fence: u64,
    _claim: Claim,
}

/// A lease that was taken: its number, and until when it lasts.
#[derive(Debug)]
pub(super) struct Leased {
    pub(super) fence: u64,
    term: Term,
}

impl Leased {
    pub(super) fn renew(&mut self, term: Term) {
        self.term = term;
    }
}

/// How long a lease certainly belongs to this process, counted from before the request to the server.
#[derive(Debug)]
pub(super) struct Term {
    since: Instant,
    /// The wall clock is used too, because the monotonic clock stops while the machine is suspended. The wall
    /// clock can be set back.
    since_wall: SystemTime,
    lasts: Duration,
}

impl Term {
    fn begin(now: SystemTime, lasts: Duration) -> Self {
        Self { since: Instant::now(), since_wall: now, lasts }
    }

    fn left(&self, now: SystemTime) -> Duration {
        // If the clock was set back, the time that has passed is unknown.
        let Ok(by_wall) = now.duration_since(self.since_wall) else { return Duration::ZERO };
        self.lasts.saturating_sub(by_wall.max(self.since.elapsed()))
    }
}

impl<E: Engine> ServerLease<E> {
    /// Takes the lease, unless another holder has it.
    pub(super) async fn take(slot: Arc<Inner<E>>) -> Result<Option<Self>, StoreError> {
        let Some(claim) = Claim::new(slot.engine.slot()) else { return Ok(None) };
        // If the new tokens could not be sealed, the refresh must not begin.
        let key = slot.key.clone();
        blocking::run(&slot.engine.to_string(), move || key.prepare()).await?;
        let found = slot.engine.read().await?;
        let mut row = found.as_ref().map(|found| found.row.clone()).unwrap_or_default();
        let holder = slot.holder();
        if let Some(hold) = row.hold.as_ref().filter(|hold| hold.holder != holder)
            && (!hold.is_over
                || (slot.has_intent(&row).await && slot.may_come_back(&row, Instant::now())))
        {
            return Ok(None);
        }
        row.fence = row.fence.saturating_add(1);
        row.hold = Some(Hold { holder, lasts: Some(LEASE), is_over: false });
        let fence = row.fence;
        let term = Term::begin(slot.clock.now(), LEASE);
        if !slot.put(found.as_ref(), row).await? {
            return Ok(None);
        }
        *slot.leased() = Some(Leased { fence, term });
        Ok(Some(Self { slot, fence, _claim: claim }))
    }

    /// Changes the row if it still has this lease.
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
}

impl<E: Engine> fmt::Debug for ServerLease<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerLease({}, {})", self.slot.engine, self.fence)
    }
}

#[async_trait]
impl<E: Engine> Lease for ServerLease<E> {
    async fn reserve(&mut self) -> Result<(), StoreError> {
        let slot = self.slot.clone();
        blocking::run(&self.slot.engine.to_string(), move || {
            slot.key.prepare()?;
            let writer = slot.key.writer(&slot.engine.to_string(), false)?;
            *lock(&slot.reserved) = Some(writer);
            Ok(())
        })
        .await
    }

    fn take_warning(&mut self) -> Option<StoreError> {
        lock(&self.slot.warning).take()
    }

    fn time_left(&self) -> Option<Duration> {
        let leased = self.slot.leased();
        let left = leased.as_ref().map(|leased| leased.term.left(self.slot.clock.now()));
        Some(left.unwrap_or_default())
    }

    async fn renew(&mut self, time: Duration) -> Result<bool, StoreError> {
        if self.time_left().is_some_and(|left| left >= time) {
            return Ok(true);
        }
        let lasts = time.saturating_add(SPARE).max(LEASE);
        let term = Term::begin(self.slot.clock.now(), lasts);
        let renew = move |row: &mut Row| {
            if let Some(hold) = &mut row.hold {
                hold.lasts = Some(lasts);
            }
            Edit::Write
        };
        let is_ours = self.change(renew).await?;
        if let (true, Some(leased)) = (is_ours, &mut *self.slot.leased()) {
            leased.renew(term);
        }
        Ok(is_ours)
    }

    async fn release(self: Box<Self>) -> Result<(), StoreError> {
        let release = |row: &mut Row| {
            row.hold = None;
            Edit::Write
        };
        self.change(release).await.map(drop)
    }
}

impl<E: Engine> Drop for ServerLease<E> {
    fn drop(&mut self) {
        *self.slot.leased() = None;
        *lock(&self.slot.reserved) = None;
        *lock(&self.slot.warning) = None;
    }
}

impl<E: Engine> Inner<E> {
    /// Returns whether the record in a row has an intent. Returns `false` for a record that cannot be opened.
    async fn has_intent(self: &Arc<Self>, row: &Row) -> bool {
        let (inner, record) = (self.clone(), row.record.clone());
        let place = self.engine.to_string();
        let has_intent = blocking::run(&place, move || {
            let record = inner.open(&record)?.content.record;
            Ok(record.is_some_and(|record| record.intent().is_some()))
        });
        has_intent.await.unwrap_or(false)
    }

    /// Renews the lease in a row that is about to be written, if this process has it. Returns its new term.
    pub(super) fn renew_in(&self, row: &mut Row) -> Option<Term> {
        let fence = self.leased().as_ref()?.fence;
        if !self.has_lease(row, fence) {
            return None;
        }
        row.hold.as_mut()?.lasts = Some(WITH_INTENT);
        Some(Term::begin(self.clock.now(), WITH_INTENT))
    }

    /// Returns whether to wait longer for a holder that saved an intent and whose lease is over.
    pub(super) fn may_come_back(&self, row: &Row, now: Instant) -> bool {
        let mut overdue = lock(&self.overdue);
        let mut seen_for = Duration::ZERO;
        if let Some(before) = overdue.as_ref().filter(|before| before.revision == row.revision) {
            let gap = now.saturating_duration_since(before.seen_at);
            seen_for = before.seen_for.saturating_add(gap.min(GAP));
        }
        *overdue = Some(Overdue { revision: row.revision.clone(), seen_for, seen_at: now });
        seen_for < GRACE
    }

    /// Returns whether the lease in a row is that of this process with this number.
    pub(super) fn has_lease(&self, row: &Row, fence: u64) -> bool {
        row.fence == fence && row.hold.as_ref().is_some_and(|hold| hold.holder == self.holder())
    }

    /// Returns a unique name of this process and of the URL by which it reaches the slot. If the same slot is
    /// reached by another name of its server, the holder has another name. So tokens are never moved from a
    /// slot onto itself.
    fn holder(&self) -> String {
        static NAME: LazyLock<String> = LazyLock::new(new_name);

        let mut way = DefaultHasher::new();
        self.engine.slot().hash(&mut way);
        // The process id is included, because a forked process has the same memory.
        format!("{}-{}-{:x}", process::id(), *NAME, way.finish())
    }
}

/// Makes a unique name.
///
/// # Panics
///
/// Panics if the operating system gives no random bytes.
pub(super) fn new_name() -> String {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
