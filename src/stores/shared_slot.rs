//! One slot that many machines share: the common part of the stores on a server.
//!
//! A server keeps one row for a slot: age ciphertext, and the holder of the lease. Every change replaces the
//! whole row by one compare-and-swap. So a holder that lost its lease cannot save over the tokens of the next
//! holder, even if it was stopped for a long time.
//!
//! Beside the ciphertext are a generation, which counts the changes, and MACs of the slot's name, the
//! generation and the ciphertext. So the operator of the server can delete a record or put an earlier one back.
//! They cannot read a record, write one, or use the record of one slot for another. A process that has seen a
//! generation refuses an earlier one.

mod envelope;
mod server_lease;
mod state;
#[cfg(test)]
mod tests;

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tokio::sync::OwnedMutexGuard;
use tokio::time::timeout;

use self::envelope::Content;
use self::server_lease::{Leased, Overdue, ServerLease};
use self::state::{Look, Seen};
use crate::error::StoreError;
use crate::key::mac::Writer;
use crate::key::{AgeKey, LastOpened};
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

/// How often a change is tried again after a conflict.
const ATTEMPTS: usize = 20;

/// How long one call may take: the time for a few answers of the server, with 10 s for each.
const LONGEST_CALL: Duration = Duration::from_secs(40);

/// How long a call waits for the call before it.
const LONGEST_TURN: Duration = Duration::from_secs(45);

/// How far this machine's clock and the server's may differ, for [`SharedSlot::is_leased`]. Taking a lease
/// does not depend on this: it uses only the server's clock, or watches the row for that long.
const LONGEST_SKEW: Duration = Duration::from_secs(5 * 60);

/// The row that a server keeps for a slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Row {
    /// A unique name for this state of the row.
    pub(crate) revision: String,
    /// Authenticated ciphertext. It is empty before the first save.
    pub(crate) record: Vec<u8>,
    /// Counts the holders of the lease, to recognize a late request of an earlier holder.
    pub(crate) fence: u64,
    pub(crate) hold: Option<Hold>,
}

/// The holder of the lease of a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hold {
    /// A unique name of a process and of the URL by which it reaches the slot.
    pub(crate) holder: String,
    /// In a row that is written: how long the lease lasts from then on. `None` does not change its end. A
    /// server without a clock for leases returns the value that was written last.
    pub(crate) lasts: Option<Duration>,
    /// In a row that was read: whether that time is over. Which process reads it makes no difference.
    pub(crate) is_over: bool,
}

/// A row, and the server's version of it.
#[derive(Clone, Debug)]
pub(crate) struct Found<V> {
    pub(crate) row: Row,
    pub(crate) version: V,
    /// When the row was written, by the server's clock. It is set if the server has no clock for leases.
    pub(crate) written: Option<SystemTime>,
}

/// A server that keeps the row of a slot. `Display` names the server and the slot.
#[async_trait]
pub(crate) trait Engine: fmt::Debug + fmt::Display + Send + Sync + 'static {
    /// The server's own name for one state of a row.
    type Version: Clone + fmt::Debug + Send + Sync;

    /// Reads the row. Returns `None` if nothing was ever written.
    async fn read(&self) -> Result<Option<Found<Self::Version>>, StoreError>;

    /// Replaces that version of the row, or creates the row if `over` is `None`. The step is atomic and
    /// durable. Returns `false` if the server has another version.
    async fn replace(&self, over: Option<&Self::Version>, row: &Row) -> Result<bool, StoreError>;

    /// Returns a name of the row that does not depend on how its URL is written.
    fn slot(&self) -> String;
}

/// A slot on a server.
#[derive(Debug)]
pub(crate) struct SharedSlot<E>(Arc<Inner<E>>);

#[derive(Debug)]
struct Inner<E> {
    engine: E,
    key: AgeKey,
    /// The name of the slot, as it is authenticated.
    name: String,
    last: LastOpened<Option<Record>>,
    /// Held by a write until it is finished, even if its future was dropped.
    order: Arc<tokio::sync::Mutex<()>>,
    seen: Mutex<Option<Seen>>,
    /// The lease that was taken and not given up. It may be over.
    leased: Mutex<Option<Leased>>,
    /// The reservation of the holder of the lease, for saving the new tokens.
    reserved: Mutex<Option<Writer>>,
    /// What went wrong in a save that succeeded because of the reservation.
    warning: Mutex<Option<StoreError>>,
    /// The state whose lease is over, and whose holder may still save new tokens.
    overdue: Mutex<Option<Overdue>>,
    clock: Clock,
    longest_call: Duration,
    longest_turn: Duration,
}

impl<E: Engine> SharedSlot<E> {
    /// Makes a slot. Fails if the key cannot authenticate what it writes.
    pub(crate) fn new(engine: E, key: AgeKey, name: &str) -> Result<Self, StoreError> {
        key.check_can_authenticate()?;
        Ok(Self(Arc::new(Inner {
            engine,
            key,
            name: name.to_owned(),
            last: LastOpened::default(),
            order: Arc::default(),
            seen: Mutex::default(),
            leased: Mutex::default(),
            reserved: Mutex::default(),
            warning: Mutex::default(),
            overdue: Mutex::default(),
            clock: Clock::default(),
            longest_call: LONGEST_CALL,
            longest_turn: LONGEST_TURN,
        })))
    }

    pub(crate) fn engine(&self) -> &E {
        &self.0.engine
    }

    /// Returns the engine, to configure it.
    ///
    /// # Panics
    ///
    /// Panics if the slot was used before.
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

    /// Returns whether the lease has a holder and is not over. [`try_lease`](Self::try_lease) may still
    /// wait for the holder of a lease that is over.
    pub(crate) async fn is_leased(&self) -> Result<bool, StoreError> {
        let inner = self.0.clone();
        let Some(found) = self.0.in_turn(async move { inner.engine.read().await }).await? else {
            return Ok(false);
        };
        let Some(hold) = found.row.hold else { return Ok(false) };
        // If the server has no clock for leases, a process that has just started has not watched the row yet.
        let longest = hold.lasts.unwrap_or_default().saturating_add(LONGEST_SKEW);
        let since = found.written.and_then(|at| self.0.clock.now().duration_since(at).ok());
        Ok(!hold.is_over && since.is_none_or(|since| since <= longest))
    }

    pub(crate) async fn try_lease(&self) -> Result<Option<Box<dyn Lease>>, StoreError> {
        let inner = self.0.clone();
        let lease = self.0.in_turn(async move { ServerLease::take(inner).await }).await?;
        Ok(lease.map(|lease| Box::new(lease) as Box<dyn Lease>))
    }
}

impl<E: Engine> Inner<E> {
    fn timeout(&self, reason: &str, advice: &str) -> StoreError {
        StoreError::Timeout {
            place: self.engine.to_string(),
            reason: reason.to_owned(),
            advice: advice.to_owned(),
        }
    }

    /// Waits until the change before this one is finished.
    async fn turn(&self) -> Result<OwnedMutexGuard<()>, StoreError> {
        timeout(self.longest_turn, self.order.clone().lock_owned()).await.map_err(|_| {
            self.timeout(
                "an earlier call on this store has not finished",
                "check whether its runtime is still running",
            )
        })
    }

    /// Runs a change to its end, even if the caller's future is dropped. The next change waits for it. It
    /// runs on this crate's own runtime, which is always running.
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
                Err(inner.timeout("its answers took too long", "check the load of the server"))
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

    fn leased(&self) -> MutexGuard<'_, Option<Leased>> {
        lock(&self.leased)
    }

    /// Fills or empties the slot if it meets `precondition`.
    ///
    /// When the holder of the lease saves an intent, the same write renews the lease: some servers accept
    /// only one write of an object per second.
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
                // Only a logout removes a record that cannot be read.
                Err(_) if record.is_none() && *precondition == Precondition::Anything => None,
                opened => opened?,
            };
            let generation = opened.as_ref().map_or(0, |opened| opened.content.generation);
            // There is no content, so the key may not exist yet, or no longer.
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
            // This is done even if the slot is empty already: a dropped login may still be on its way to the
            // server, and must not take effect after a logout.
            if self.put(found.as_ref(), row).await? {
                self.see(Seen { generation, revision: revision.clone() });
                // It was replaced. What is there now is opened when it is read.
                self.last.forget();
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

    /// Seals with the present key. The new tokens of a refresh exist nowhere else: if the key can no longer
    /// be read, they are sealed and authenticated with the reservation.
    fn seal(
        &self,
        content: &Content,
        is_first: bool,
        ends_a_refresh: bool,
    ) -> Result<(Vec<u8>, Option<StoreError>), StoreError> {
        let place = self.engine.to_string();
        let seal = |writer: &Writer| envelope::seal(writer, content, &self.name, &place);
        let prepared = self.key.prepare();
        let sealed = prepared.and_then(|()| seal(&self.key.writer(&place, is_first)?));
        match (sealed, &*lock(&self.reserved)) {
            (Err(error), Some(reserved)) if ends_a_refresh => Ok((seal(reserved)?, Some(error))),
            (sealed, _) => Ok((sealed?, None)),
        }
    }

    /// Returns whether this process had the lease, lost it, and another holder has it now. That holder may be
    /// sending the same refresh token, and its new tokens are the later ones.
    fn is_overtaken(&self, row: &Row) -> bool {
        let leased = self.leased().as_ref().map(|leased| leased.fence);
        leased.is_some_and(|fence| {
            row.hold.as_ref().is_some_and(|hold| !hold.is_over) && !self.has_lease(row, fence)
        })
    }

    /// Replaces the row that was found. Returns `false` if the server has another row now.
    async fn put(
        &self,
        found: Option<&Found<E::Version>>,
        mut row: Row,
    ) -> Result<bool, StoreError> {
        row.revision = server_lease::new_name();
        let over = found.map(|found| &found.version);
        let replaced = match self.engine.replace(over, &row).await {
            Ok(true) => return Ok(true),
            replaced => replaced,
        };
        // The write may have been done, and only its answer lost. Each ciphertext is unique, so it shows this
        // even if the lease was taken meanwhile.
        let is_new = found.is_none_or(|found| found.row.record != row.record);
        let is_ours = |there: &Row| {
            there.revision == row.revision
                || (is_new && !row.record.is_empty() && there.record == row.record)
        };
        match (self.engine.read().await, replaced) {
            (Ok(Some(there)), _) if is_ours(&there.row) => Ok(true),
            (Ok(_), replaced) => replaced,
            // It is not known whether the write was done.
            (Err(_), Err(error)) | (Err(error), Ok(_)) => Err(error),
        }
    }

    /// Changes the row, and tries again after a conflict. Returns `false` if `edit` refused.
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

/// What to do with a row.
enum Edit {
    Refused,
    Write,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
