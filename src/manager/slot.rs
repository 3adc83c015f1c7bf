//! The slot as this process knows it: the store, what is in memory of it, and what is still to be saved there.

mod saving;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{Mutex, MutexGuard};

pub(super) use self::saving::{SAVE_MARGIN, Settled};
use super::cache::Cache;
use super::events::Event;
use super::pending_save::{NewTokens, PendingSave, Resolved};
use super::publisher::Publisher;
use super::snapshot::Snapshot;
use crate::error::StoreError;
use crate::record::Record;
use crate::store::{Lease, Precondition, Revision, Stored, TokenStore};
use crate::sys::clock::{Clock, Timer};
use crate::tokens::{AccessToken, AuthTokens};

/// How long a call waits for the one before it, which may be a refresh on a runtime that nobody drives.
const LOCK_LIMIT: Duration = Duration::from_secs(45);

/// How long a reload may take while there is a good token in memory. A store far away takes a tenth of it.
const RELOAD_LIMIT: Duration = Duration::from_secs(2);

/// One slot, and what this process knows of it.
///
/// # Order of locks
///
/// The lock of the store is the outermost one, and the only one that is held across an await. What must run
/// under it is a method of [`SlotGuard`], or takes one. `Cache`, `PendingSave`, the history of refreshes and
/// `SingleFlight` each have a lock of their own for what they hold. It is held for a few statements, and
/// no other lock is taken meanwhile.
pub(super) struct Slot {
    /// Locked around every load, save and clear, so that memory changes in the order in which the
    /// store does.
    store: Mutex<Arc<dyn TokenStore>>,
    /// The same store, for what has no place in that order: its name, its lease, callers outside the
    /// manager, and a logout that cannot wait.
    unordered: Arc<dyn TokenStore>,
    cache: Cache,
    pending: PendingSave,
    events: Publisher,
    clock: Clock,
    timer: Arc<Timer>,
}

impl Slot {
    pub(super) fn new(
        store: Arc<dyn TokenStore>,
        cache: Cache,
        events: Publisher,
        clock: Clock,
        timer: Arc<Timer>,
    ) -> Self {
        Self {
            store: Mutex::new(store.clone()),
            unordered: store,
            cache,
            pending: PendingSave::default(),
            events,
            clock,
            timer,
        }
    }

    /// Returns the access token, if it can be handed out without asking the store.
    pub(super) fn cached(&self) -> Option<AccessToken> {
        self.cache.cached(self.clock.now())
    }

    /// Returns the access token in memory, if it does not count as expired.
    pub(super) fn unexpired(&self) -> Option<AccessToken> {
        self.cache.unexpired(self.clock.now())
    }

    /// Returns what is in memory, however old.
    pub(super) fn latest(&self) -> Option<Arc<Snapshot>> {
        self.cache.latest()
    }

    pub(super) fn invalidate(&self, token: &AccessToken) {
        self.cache.invalidate(token);
    }

    /// Returns what is known of the slot, as of the last seconds.
    pub(super) async fn snapshot(&self) -> Result<Arc<Snapshot>, StoreError> {
        let now = self.clock.now();
        if let Some(snapshot) = self.cache.recent(now) {
            return Ok(snapshot);
        }
        let Some(kept) = self.cache.usable(now) else { return self.reload_if_stale().await };
        // A good token in memory is as good as it was, and does not wait for a store that is slow or
        // cannot be reached.
        match self.timer.within(RELOAD_LIMIT, self.reload_if_stale()).await {
            Some(Err(error)) if !error.keeps_cached_tokens() => Err(error),
            Some(Ok(snapshot)) => Ok(snapshot),
            Some(Err(_)) | None => Ok(self.cache.trust_again(&kept, now)),
        }
    }

    /// Reloads, unless the call before this one did.
    async fn reload_if_stale(&self) -> Result<Arc<Snapshot>, StoreError> {
        let mut guard = self.lock().await?;
        if let Some(snapshot) = self.cache.recent(self.clock.now()) {
            return Ok(snapshot);
        }
        guard.save_and_reload().await
    }

    /// Waits until this call alone uses the store, as far as this manager is concerned.
    pub(super) async fn lock(&self) -> Result<SlotGuard<'_>, StoreError> {
        let store = match self.store.try_lock() {
            Ok(store) => Some(store),
            Err(_) => self.timer.within(LOCK_LIMIT, self.store.lock()).await,
        };
        if store.is_none() {
            return Err(StoreError::Timeout {
                place: self.to_string(),
                reason: format!("the call before this one did not end within {LOCK_LIMIT:?}"),
                advice: "see whether the runtime that it was made on still runs".into(),
            });
        }
        Ok(SlotGuard { slot: self, store })
    }

    /// The same for a logout, which goes ahead in any case: if the lock cannot be had, a runtime that
    /// nobody drives has it, and writes nothing.
    pub(super) async fn lock_for_logout(&self) -> SlotGuard<'_> {
        self.lock().await.unwrap_or(SlotGuard { slot: self, store: None })
    }

    /// Claims the sole right to spend the refresh token. Memory says nothing about leases, so this needs
    /// no lock.
    pub(super) async fn try_lease(&self) -> Result<Option<Box<dyn Lease>>, StoreError> {
        self.unordered.try_lease().await
    }

    /// Keeps new tokens in memory, to be saved. This waits for nothing.
    pub(super) fn put_pending(&self, new: NewTokens) {
        self.pending.put(new);
    }

    pub(super) fn has_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// Returns the tokens that are to be saved and takes their lease, for a logout.
    pub(super) fn revoke_pending(&self) -> Option<(AuthTokens, Option<Box<dyn Lease>>)> {
        self.pending.revoke()
    }

    /// Returns why new tokens are not saved, or `otherwise` if saving them has not failed yet. `None` if
    /// all is saved.
    pub(super) fn pending_error_or(&self, otherwise: StoreError) -> Option<StoreError> {
        self.pending.error_or(otherwise)
    }

    /// Serves the tokens that are to be saved, without the lock, because somebody keeps it: `None` if there
    /// are none.
    pub(super) fn serve_pending(&self) -> Option<Arc<Snapshot>> {
        let stored = self.pending.stored()?;
        Some(self.install(Some(stored), self.clock.now()))
    }

    pub(super) fn timer(&self) -> &Timer {
        &self.timer
    }

    /// Returns the store, for callers outside the manager.
    pub(super) fn store(&self) -> &Arc<dyn TokenStore> {
        &self.unordered
    }

    fn install(&self, stored: Option<Stored>, now: SystemTime) -> Arc<Snapshot> {
        let installed = self.cache.install(stored, now);
        if installed.is_cleared {
            self.events.publish(Event::Cleared);
        }
        installed.snapshot
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.unordered, f)
    }
}

/// The store of a slot, used by one call alone.
pub(super) struct SlotGuard<'a> {
    slot: &'a Slot,
    /// Nothing for a logout that could not wait.
    store: Option<MutexGuard<'a, Arc<dyn TokenStore>>>,
}

impl SlotGuard<'_> {
    /// Asks the store what it holds. Nothing in memory changes.
    pub(super) async fn load(&mut self) -> Result<Option<Stored>, StoreError> {
        self.store().load().await
    }

    /// Saves a record. Nothing in memory changes.
    pub(super) async fn save(
        &mut self,
        record: &Record,
        precondition: Precondition,
    ) -> Result<Revision, StoreError> {
        self.store().save(record, precondition).await
    }

    /// Empties the slot. Nothing in memory changes.
    pub(super) async fn clear(&mut self, precondition: Precondition) -> Result<(), StoreError> {
        self.store().clear(precondition).await
    }

    /// Asks the store what it holds, and puts it into memory. Tokens that could not be saved yet count as
    /// in the store.
    pub(super) async fn reload(&mut self) -> Result<Arc<Snapshot>, StoreError> {
        let loaded = self.load().await;
        let now = self.slot.clock.now();
        let stored = match loaded {
            Ok(there) => match self.slot.pending.resolve(there.as_ref()) {
                Resolved::Pending(new) => Some(*new),
                Resolved::Over(lease) => {
                    if let Some(lease) = lease {
                        release(lease).await;
                    }
                    there
                }
            },
            // They are good whatever became of the store.
            Err(error) => match self.slot.pending.stored() {
                Some(new) => Some(new),
                None => {
                    if !error.keeps_cached_tokens() {
                        // What is in memory says nothing about a slot that is broken.
                        self.forget();
                    }
                    return Err(error);
                }
            },
        };
        Ok(self.install(stored, now))
    }

    /// Saves what is still to be saved, and reloads: the task that was to save it may have ended with its
    /// runtime.
    pub(super) async fn save_and_reload(&mut self) -> Result<Arc<Snapshot>, StoreError> {
        self.save_pending().await;
        self.reload().await
    }

    /// Puts tokens in the place of any that are there.
    pub(super) async fn replace(
        &mut self,
        tokens: AuthTokens,
        now: SystemTime,
    ) -> Result<(), StoreError> {
        // The same refresh token is in doubt as before, as far as that is known.
        let known_doubt = self.slot.latest().and_then(|known| {
            let intent = known.stored.as_ref()?.record.refresh.intent.clone()?;
            intent.is_for(tokens.refresh_token.as_ref()?).then_some(intent)
        });
        // If this is cancelled from here on, what the store holds is not known.
        self.forget();
        let mut record = Record::new(tokens);
        record.refresh.intent = known_doubt;
        let revision = self.save(&record, Precondition::Anything).await?;
        self.install(Some(Stored { record, revision }), now);
        Ok(())
    }

    /// Puts into memory that the slot is empty, says so, and lets go of what was to be saved.
    pub(super) async fn install_empty(&mut self) {
        self.install(None, self.slot.clock.now());
        self.slot.events.publish(Event::Cleared);
        self.end_pending().await;
    }

    /// Puts into memory what the slot holds.
    fn install(&mut self, stored: Option<Stored>, now: SystemTime) -> Arc<Snapshot> {
        self.slot.install(stored, now)
    }

    /// Drops what is in memory, before the slot is changed.
    pub(super) fn forget(&mut self) {
        self.slot.cache.forget();
    }

    fn store(&self) -> &dyn TokenStore {
        self.store.as_deref().unwrap_or(&self.slot.unordered)
    }
}

/// Gives a lease up.
pub(super) async fn release(lease: Box<dyn Lease>) {
    // If that fails, the end of the process gives it up.
    let _ = lease.release().await;
}

#[cfg(test)]
mod tests {
    use std::future;

    use super::*;
    use crate::refresh::RefreshPolicy;
    use crate::stores::MemoryStore;

    /// A slot whose every wait is over at once.
    fn slot() -> Slot {
        let store: Arc<dyn TokenStore> = Arc::new(MemoryStore::new());
        let events = Publisher::new(store.clone());
        let cache = Cache::new(RefreshPolicy::default(), Duration::from_secs(30), false);
        let timer = Arc::new(Timer::new(|_| future::ready(())));
        Slot::new(store, cache, events, Clock::default(), timer)
    }

    #[tokio::test]
    async fn a_call_does_not_wait_for_ever_for_the_one_before_it() {
        let slot = slot();
        let guard = slot.lock().await.unwrap();
        assert!(matches!(slot.lock().await.err(), Some(StoreError::Timeout { .. })));
        drop(guard);
        assert!(slot.lock().await.is_ok());
    }

    #[tokio::test]
    async fn a_logout_goes_ahead_without_the_lock() {
        let slot = slot();
        let mut guard = slot.lock().await.unwrap();
        guard.replace(AuthTokens::new("access"), SystemTime::now()).await.unwrap();
        let mut logout = slot.lock_for_logout().await;
        logout.clear(Precondition::Anything).await.unwrap();
        logout.install_empty().await;
        assert!(slot.latest().unwrap().stored.is_none());
        assert_eq!(guard.load().await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_lease_can_be_taken_while_a_call_uses_the_store() {
        let slot = slot();
        let _guard = slot.lock().await.unwrap();
        assert!(slot.try_lease().await.unwrap().is_some());
    }
}
