//! One slot that many machines share: what the backends on a server have in common.
//!
//! A server keeps one row for a slot: age ciphertext, and who has the lease. Every change replaces the whole
//! row by one compare-and-swap, so a holder whose lease has passed to somebody else cannot save over its
//! successor, however long it was stopped in between.
//!
//! Inside the ciphertext, before the record, stand the slot's name and a generation that counts its
//! changes. So whoever runs the server can delete a record or put an earlier one back, and can neither
//! read one nor pass one slot's for another's; and a process that has seen a generation takes no earlier
//! one for the present.

mod envelope;
#[cfg(test)]
mod tests;
mod timed_lease;

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tokio::sync::OwnedMutexGuard;
use tokio::time::timeout;

use self::envelope::Content;
use self::timed_lease::{Leased, Overdue, TimedLease};
use crate::error::StoreError;
use crate::key::{AgeKey, Sealer};
use crate::net::io_runtime;
use crate::record::Record;
use crate::store::{Lease, Precondition, Revision, Stored};
use crate::sys::blocking;
use crate::sys::clock::Clock;

/// Implements [`TokenStore`](crate::TokenStore) for a store that is a [`SharedSlot`].
macro_rules! keep_in_shared_slot {
    ($store:ty) => {
        const _: () = {
            use crate::record::Record;
            use crate::store::{Lease, Precondition, Revision, Stored, TokenStore};

            #[async_trait]
            impl TokenStore for $store {
                async fn load(&self) -> Result<Option<Stored>, StoreError> {
                    self.0.load().await
                }

                async fn save(
                    &self,
                    record: &Record,
                    precondition: Precondition,
                ) -> Result<Revision, StoreError> {
                    self.0.save(record, precondition).await
                }

                async fn clear(&self, precondition: Precondition) -> Result<(), StoreError> {
                    self.0.clear(precondition).await
                }

                async fn try_lease(&self) -> Result<Option<Box<dyn Lease>>, StoreError> {
                    self.0.try_lease().await
                }

                async fn is_leased(&self) -> Result<bool, StoreError> {
                    self.0.is_leased().await
                }

                fn slot(&self) -> String {
                    self.0.engine().slot()
                }
            }
        };
    };
}
pub(crate) use keep_in_shared_slot;

/// How often a change begins again because somebody else was faster.
const ATTEMPTS: usize = 20;

/// How long one call may take: a few answers of the server, of which each has ten seconds.
const LONGEST_CALL: Duration = Duration::from_secs(40);

/// How long a call waits for the one before it.
const LONGEST_TURN: Duration = Duration::from_secs(45);

/// How far this clock and a server's may differ for somebody who only looks. Who takes a lease counts on no
/// clock but the server's own, or watches the row for that long.
const LONGEST_SKEW: Duration = Duration::from_secs(5 * 60);

/// What a server keeps for a slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Row {
    /// A name for this state of the row that no other state has.
    pub(crate) revision: String,
    /// Ciphertext; nothing before the first save.
    pub(crate) record: Vec<u8>,
    /// Counts the holders of the lease, so that a late request of an earlier one is told apart.
    pub(crate) fence: u64,
    pub(crate) hold: Option<Hold>,
}

/// Who has the lease of a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hold {
    /// A process and its way to the slot, by a name that nothing else has.
    pub(crate) holder: String,
    /// In a row that is written: how long it lasts from then on; `None` leaves its end as it is. A server
    /// without a clock of its own gives back what was written last.
    pub(crate) lasts: Option<Duration>,
    /// In a row that was read: whether that time is over, by a clock that does not depend on who looks.
    pub(crate) is_over: bool,
}

/// A row, and by what the server tells it from any other state.
#[derive(Clone, Debug)]
pub(crate) struct Found<V> {
    pub(crate) row: Row,
    pub(crate) version: V,
    /// When the row was written, by the server's clock, where the server has none for the lease.
    pub(crate) written: Option<SystemTime>,
}

/// A server that keeps a row for a slot. `Display` names both.
#[async_trait]
pub(crate) trait Engine: fmt::Debug + fmt::Display + Send + Sync + 'static {
    /// By what the server tells one state of a row from any other, in its own terms.
    type Version: Clone + fmt::Debug + Send + Sync;

    /// Reads the row: `None` if nothing was ever written.
    async fn read(&self) -> Result<Option<Found<Self::Version>>, StoreError>;

    /// Puts a row in the place of that version, or where there is none, in one atomic and durable step:
    /// `false` if something else is there.
    async fn replace(&self, over: Option<&Self::Version>, row: &Row) -> Result<bool, StoreError>;

    /// Names the row such that two spellings of one give the same name.
    fn slot(&self) -> String;
}

/// A slot on a server.
#[derive(Debug)]
pub(crate) struct SharedSlot<E>(Arc<Inner<E>>);

#[derive(Debug)]
struct Inner<E> {
    engine: E,
    key: AgeKey,
    /// What the record says that it is of.
    name: String,
    /// Held by a write until it is over, even if its caller gave up.
    order: Arc<tokio::sync::Mutex<()>>,
    seen: Mutex<Option<Seen>>,
    /// The lease that was given out and not given up, whether it still lasts or not.
    leased: Mutex<Option<Leased>>,
    /// What its holder reserved for the record that its refresh ends with.
    reserved: Mutex<Option<Sealer>>,
    /// What went wrong in a save that used it.
    warning: Mutex<Option<StoreError>>,
    /// The state whose holder may come back.
    overdue: Mutex<Option<Overdue>>,
    clock: Clock,
    longest_call: Duration,
    longest_turn: Duration,
}

/// The latest state that this process knows of.
#[derive(Clone, Debug)]
struct Seen {
    generation: u64,
    revision: Revision,
}

impl<E: Engine> SharedSlot<E> {
    pub(crate) fn new(engine: E, key: AgeKey, name: &str) -> Self {
        Self(Arc::new(Inner {
            engine,
            key,
            name: name.to_owned(),
            order: Arc::default(),
            seen: Mutex::default(),
            leased: Mutex::default(),
            reserved: Mutex::default(),
            warning: Mutex::default(),
            overdue: Mutex::default(),
            clock: Clock::default(),
            longest_call: LONGEST_CALL,
            longest_turn: LONGEST_TURN,
        }))
    }

    pub(crate) fn engine(&self) -> &E {
        &self.0.engine
    }

    /// # Panics
    ///
    /// If the slot was used before.
    pub(crate) fn configure(&mut self) -> &mut E {
        let inner = Arc::get_mut(&mut self.0).expect("a store is set up before it is used");
        &mut inner.engine
    }

    pub(crate) async fn load(&self) -> Result<Option<Stored>, StoreError> {
        let inner = self.0.clone();
        let loaded = io_runtime::run(async move {
            drop(inner.turn().await?);
            let Some(opened) = inner.look().await?.opened? else { return Ok(None) };
            let revision = opened.revision;
            Ok(opened.content.record.map(|record| Stored { record, revision }))
        });
        loaded.await.unwrap_or_else(|error| Err(error.unavailable(&self.0.engine.to_string())))
    }

    pub(crate) async fn save(
        &self,
        record: &Record,
        precondition: Precondition,
    ) -> Result<Revision, StoreError> {
        let (inner, record) = (self.0.clone(), record.clone());
        self.0.in_turn(async move { inner.write(Some(record), &precondition).await }).await
    }

    pub(crate) async fn clear(&self, precondition: Precondition) -> Result<(), StoreError> {
        let inner = self.0.clone();
        self.0.in_turn(async move { inner.write(None, &precondition).await.map(drop) }).await
    }

    /// Returns whether the lease is somebody's and not over. One that is over may still be waited for.
    pub(crate) async fn is_leased(&self) -> Result<bool, StoreError> {
        let inner = self.0.clone();
        let Some(found) = self.0.in_turn(async move { inner.engine.read().await }).await? else {
            return Ok(false);
        };
        let Some(hold) = found.row.hold else { return Ok(false) };
        // A process that has just started cannot have watched the lease of a server without a clock.
        let longest = hold.lasts.unwrap_or_default().saturating_add(LONGEST_SKEW);
        let since = found.written.and_then(|at| self.0.clock.now().duration_since(at).ok());
        Ok(!hold.is_over && since.is_none_or(|since| since <= longest))
    }

    pub(crate) async fn try_lease(&self) -> Result<Option<Box<dyn Lease>>, StoreError> {
        let inner = self.0.clone();
        let lease = self.0.in_turn(async move { TimedLease::take(inner).await }).await?;
        Ok(lease.map(|lease| Box::new(lease) as Box<dyn Lease>))
    }
}

/// A look at a row, and at what is sealed in it: nothing if nothing was ever saved.
struct Look<V> {
    found: Option<Found<V>>,
    opened: Result<Option<Opened>, StoreError>,
}

/// What a row holds, and the state of the slot that it is.
struct Opened {
    content: Content,
    revision: Revision,
}

impl<E: Engine> Inner<E> {
    fn timeout(&self, reason: &str, advice: &str) -> StoreError {
        StoreError::Timeout {
            place: self.engine.to_string(),
            reason: reason.to_owned(),
            advice: advice.to_owned(),
        }
    }

    /// Waits until the change before this one is over.
    async fn turn(&self) -> Result<OwnedMutexGuard<()>, StoreError> {
        timeout(self.longest_turn, self.order.clone().lock_owned()).await.map_err(|_| {
            self.timeout(
                "the call before this one did not come to an end",
                "see whether its runtime is still driven",
            )
        })
    }

    /// Lets a change go on to its end if its caller gives up: the next one waits for it. It runs on this
    /// crate's own runtime, which is always driven.
    async fn in_turn<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        let place = self.engine.to_string();
        let runtime = io_runtime::handle().map_err(|error| error.unavailable(&place))?;
        let inner = self.clone();
        let joined = runtime.spawn(async move {
            let _turn = inner.turn().await?;
            timeout(inner.longest_call, work).await.unwrap_or_else(|_| {
                Err(inner.timeout("its answers took too long", "see whether it has too much to do"))
            })
        });
        joined.await.unwrap_or_else(|error| match error.try_into_panic() {
            Ok(panicked) => std::panic::resume_unwind(panicked),
            Err(_) => Err(StoreError::Unavailable {
                place,
                reason: "the thread for network work has ended".into(),
                advice: "finish with the store before the process ends".into(),
            }),
        })
    }

    /// Reads the row, and opens what is in it.
    async fn look(self: &Arc<Self>) -> Result<Look<E::Version>, StoreError> {
        // What others see while this is on its way says nothing about it.
        let known = self.seen().clone();
        let found = self.engine.read().await?;
        let record = found.as_ref().map(|found| found.row.record.clone());
        let Some(record) = record.filter(|record| !record.is_empty()) else {
            // An emptied slot says so; one that is gone was taken away.
            let opened = if known.is_some() { Err(self.rolled_back()) } else { Ok(None) };
            return Ok(Look { found, opened });
        };
        let inner = self.clone();
        let opened = blocking::run(&self.engine.to_string(), move || {
            let place = inner.engine.to_string();
            let content = envelope::open(&inner.key, &record, &inner.name, &place)?;
            let state = Seen { generation: content.generation, revision: Revision::of(&record) };
            if known.is_some_and(|known| state.is_before(&known)) {
                return Err(inner.rolled_back());
            }
            inner.see(state.clone());
            Ok(Some(Opened { content, revision: state.revision }))
        })
        .await;
        Ok(Look { found, opened })
    }

    /// Takes note of a state, unless a later one is known.
    fn see(&self, state: Seen) {
        let mut seen = self.seen();
        if seen.as_ref().is_none_or(|seen| seen.generation <= state.generation) {
            *seen = Some(state);
        }
    }

    fn seen(&self) -> MutexGuard<'_, Option<Seen>> {
        lock(&self.seen)
    }

    fn leased(&self) -> MutexGuard<'_, Option<Leased>> {
        lock(&self.leased)
    }

    fn rolled_back(&self) -> StoreError {
        StoreError::RolledBack { place: self.engine.to_string() }
    }

    /// The generation after this one, and after all that this process has seen. It is the time in
    /// milliseconds if that is later: so a login after the server lost everything is later than what
    /// other processes remember, too.
    fn next_generation(&self, found: u64) -> u64 {
        let known = self.seen().as_ref().map_or(0, |seen| seen.generation).max(found);
        let now = self.clock.now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(now.as_millis()).unwrap_or(u64::MAX).max(known.saturating_add(1))
    }

    /// Fills or empties the slot if it is as `precondition` says.
    ///
    /// The holder of the lease renews it in the same step when it saves an intent: some servers take one
    /// write of an object a second.
    async fn write(
        self: &Arc<Self>,
        record: Option<Record>,
        precondition: &Precondition,
    ) -> Result<Revision, StoreError> {
        let has_intent = record.as_ref().is_some_and(|record| record.refresh.intent.is_some());
        let is_unchanged = matches!(precondition, Precondition::Unchanged(_));
        let ends_a_refresh = record.is_some() && !has_intent && is_unchanged;
        let mut sealed = None;
        for _ in 0..ATTEMPTS {
            let Look { found, opened } = self.look().await?;
            let mut row = found.as_ref().map(|found| found.row.clone()).unwrap_or_default();
            let opened = match opened {
                // Only a logout takes away what cannot be read.
                Err(_) if record.is_none() && *precondition == Precondition::Anything => None,
                opened => opened?,
            };
            let generation = opened.as_ref().map_or(0, |opened| opened.content.generation);
            // Nothing that its key opens: there may be none yet, or none any more.
            let is_first = opened.is_none();
            let there = opened.filter(|opened| opened.content.record.is_some());
            let as_expected = match precondition {
                Precondition::Absent => there.is_none(),
                Precondition::Anything => true,
                Precondition::Unchanged(expected) => {
                    there.as_ref().is_some_and(|there| there.revision == *expected)
                        && !self.is_overtaken(&row)
                }
            };
            if !as_expected {
                break;
            }
            let content =
                Content { generation: self.next_generation(generation), record: record.clone() };
            let (generation, inner) = (content.generation, self.clone());
            let (bytes, warning) = blocking::run(&self.engine.to_string(), move || {
                inner.seal(&content, is_first, ends_a_refresh)
            })
            .await?;
            sealed = warning.or(sealed);
            row.record = bytes;
            let renewed = has_intent.then(|| self.renew_in(&mut row)).flatten();
            let revision = Revision::of(&row.record);
            // Also if it is empty already: a login that was given up may still be on its way to the server,
            // and must not come after a logout.
            if self.put(found.as_ref(), row).await? {
                self.see(Seen { generation, revision: revision.clone() });
                if let (Some(renewed), Some(leased)) = (renewed, &mut *self.leased()) {
                    leased.renew(renewed);
                }
                if sealed.is_some() {
                    *lock(&self.warning) = sealed;
                }
                return Ok(revision);
            }
        }
        Err(StoreError::Conflict { place: self.engine.to_string() })
    }

    /// Seals with the key as it is now. What ends a refresh exists nowhere else: if the key cannot be read any
    /// more, it is sealed to the recipients that were reserved.
    fn seal(
        &self,
        content: &Content,
        is_first: bool,
        ends_a_refresh: bool,
    ) -> Result<(Vec<u8>, Option<StoreError>), StoreError> {
        let place = self.engine.to_string();
        let seal = |sealer: &Sealer| envelope::seal(&self.key, sealer, content, &self.name, &place);
        let prepared = self.key.prepare();
        let sealed = prepared.and_then(|()| seal(&self.key.sealer(&place, is_first)?));
        match (sealed, &*lock(&self.reserved)) {
            (Err(error), Some(reserved)) if ends_a_refresh => Ok((seal(reserved)?, Some(error))),
            (sealed, _) => Ok((sealed?, None)),
        }
    }

    /// Tells whether this process had the lease, let it pass, and somebody else has it now. Its successor
    /// may be spending the same token, and what comes of that is the later one.
    fn is_overtaken(&self, row: &Row) -> bool {
        let leased = self.leased().as_ref().map(|leased| leased.fence);
        leased.is_some_and(|fence| {
            row.hold.as_ref().is_some_and(|hold| !hold.is_over) && !self.has_lease(row, fence)
        })
    }

    /// Puts a row in the place of the one that was found. `false` if there is something else by now.
    async fn put(
        &self,
        found: Option<&Found<E::Version>>,
        mut row: Row,
    ) -> Result<bool, StoreError> {
        row.revision = timed_lease::new_name();
        let over = found.map(|found| &found.version);
        let replaced = match self.engine.replace(over, &row).await {
            Ok(true) => return Ok(true),
            replaced => replaced,
        };
        // It may have been done, and only its answer lost. Ciphertext is made once, so even if somebody took
        // the lease meanwhile, it tells.
        let is_new = found.is_none_or(|found| found.row.record != row.record);
        let is_ours = |there: &Row| {
            there.revision == row.revision
                || (is_new && !row.record.is_empty() && there.record == row.record)
        };
        match (self.engine.read().await, replaced) {
            (Ok(Some(there)), _) if is_ours(&there.row) => Ok(true),
            (Ok(_), replaced) => replaced,
            // Nobody knows.
            (Err(_), Err(error)) | (Err(error), Ok(_)) => Err(error),
        }
    }

    /// Changes the row, again if others are faster. Tells whether `edit` did not refuse to.
    async fn change(&self, edit: impl Fn(&mut Row) -> Edit) -> Result<bool, StoreError> {
        for _ in 0..ATTEMPTS {
            let found = self.engine.read().await?;
            let mut row = found.as_ref().map(|found| found.row.clone()).unwrap_or_default();
            match edit(&mut row) {
                Edit::Refused => return Ok(false),
                Edit::Write if self.put(found.as_ref(), row).await? => return Ok(true),
                Edit::Write => {}
            }
        }
        Err(StoreError::Conflict { place: self.engine.to_string() })
    }
}

/// What is to be done with a row.
enum Edit {
    Refused,
    Write,
}

impl Seen {
    /// Tells whether this is not what came after that: it is earlier, or something else of the same
    /// number, because after a step back somebody went on from there.
    fn is_before(&self, known: &Self) -> bool {
        self.generation < known.generation
            || (self.generation == known.generation && self.revision != known.revision)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
