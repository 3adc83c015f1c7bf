//! A slot in this process: its store, its state in memory, and the tokens that are not saved yet.

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

/// How long a call waits for the call before it. That one may be a refresh on a runtime that is not running.
const LOCK_LIMIT: Duration = Duration::from_secs(45);

/// How long a reload may take while there is a good token in memory. A load from a remote store takes about
/// 1/10 of it.
const RELOAD_LIMIT: Duration = Duration::from_secs(2);

/// One slot, and its state in this process.
///
/// # Order of locks
///
/// The lock of the store is taken first, and only this lock is held across an await. Code that must run under
/// it is a method of [`SlotGuard`], or takes a `SlotGuard`. `Cache`, `PendingSave`, the history of refreshes
/// and `SingleFlight` each have a lock for their own data. Such a lock is held for a few statements, and no
/// other lock is taken meanwhile.
pub(super) struct Slot {
    /// Locked during every load, save and clear, so that the memory and the store change in the same order.
    store: Mutex<Arc<dyn TokenStore>>,
    /// The same store without the lock. It is used for its name and its lease, by callers outside the
    /// manager, and by a logout that did not get the lock.
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

    /// Returns the access token, if it can be returned without loading the store.
    pub(super) fn cached(&self) -> Option<AccessToken> {
        self.cache.cached(self.clock.now())
    }

    /// Returns the access token in memory, if it does not count as expired.
    pub(super) fn unexpired(&self) -> Option<AccessToken> {
        self.cache.unexpired(self.clock.now())
    }

    /// Returns the snapshot in memory, even if it is old.
    pub(super) fn latest(&self) -> Option<Arc<Snapshot>> {
        self.cache.latest()
    }

    pub(super) fn invalidate(&self, token: &AccessToken) {
        self.cache.invalidate(token);
    }

    /// Returns a recent snapshot of the slot. Loads the store if there is none in memory.
    pub(super) async fn snapshot(&self) -> Result<Arc<Snapshot>, StoreError> {
        let now = self.clock.now();
        if let Some(snapshot) = self.cache.recent(now) {
            return Ok(snapshot);
        }
        let Some(kept) = self.cache.usable(now) else { return self.reload_if_stale().await };
        // A good token in memory stays good. So its caller does not wait for a store that is slow or cannot
        // be reached.
        match self.timer.within(RELOAD_LIMIT, self.reload_if_stale()).await {
            Some(Err(error)) if !error.keeps_cached_tokens() => Err(error),
            Some(Ok(snapshot)) => Ok(snapshot),
            Some(Err(_)) | None => Ok(self.cache.trust_again(&kept, now)),
        }
    }

    /// Reloads, unless the call before this one has done so.
    async fn reload_if_stale(&self) -> Result<Arc<Snapshot>, StoreError> {
        let mut guard = self.lock().await?;
        if let Some(snapshot) = self.cache.recent(self.clock.now()) {
            return Ok(snapshot);
        }
        guard.save_and_reload().await
    }

    /// Waits until no other call of this manager uses the store.
    pub(super) async fn lock(&self) -> Result<SlotGuard<'_>, StoreError> {
        let store = match self.store.try_lock() {
            Ok(store) => Some(store),
            Err(_) => self.timer.within(LOCK_LIMIT, self.store.lock()).await,
        };
        if store.is_none() {
            return Err(StoreError::Timeout {
                place: self.to_string(),
                reason: format!("the call before this one did not end within {LOCK_LIMIT:?}"),
                advice: "see whether the runtime of that call is still running".into(),
            });
        }
        Ok(SlotGuard { slot: self, store })
    }

    /// The same for a logout, which continues without the lock if it has to. Then the lock is held by a call
    /// on a runtime that is not running, and that call writes nothing.
    pub(super) async fn lock_for_logout(&self) -> SlotGuard<'_> {
        self.lock().await.unwrap_or(SlotGuard { slot: self, store: None })
    }

    /// Takes the lease. The memory contains nothing about leases, so this needs no lock.
    pub(super) async fn try_lease(&self) -> Result<Option<Box<dyn Lease>>, StoreError> {
        self.unordered.try_lease().await
    }

    /// Keeps new tokens in memory, to be saved. It never waits.
    pub(super) fn put_pending(&self, new: NewTokens) {
        self.pending.put(new);
    }

    pub(super) fn has_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// Returns the tokens that are not saved yet and takes their lease, for a logout.
    pub(super) fn revoke_pending(&self) -> Option<(AuthTokens, Option<Box<dyn Lease>>)> {
        self.pending.revoke()
    }

    /// Returns why new tokens are not saved, or `otherwise` if no save has failed yet. Returns `None` if all
    /// tokens are saved.
    pub(super) fn pending_error_or(&self, otherwise: StoreError) -> Option<StoreError> {
        self.pending.error_or(otherwise)
    }

    /// Installs the tokens that are not saved yet, so that they are served. It needs no lock, because another
    /// call may hold it for long. Returns `None` if all tokens are saved.
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
        if let Some(at) = installed.sign_in_due {
            self.events.publish(Event::SignInDue { at });
        }
        installed.snapshot
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.unordered, f)
    }
}

/// The store of a slot, while one call has its lock.
pub(super) struct SlotGuard<'a> {
    slot: &'a Slot,
    /// `None` for a logout that did not get the lock.
    store: Option<MutexGuard<'a, Arc<dyn TokenStore>>>,
}

impl SlotGuard<'_> {
    /// Loads the record from the store. Nothing in memory changes.
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

    /// Loads the record from the store, and puts it into memory. Tokens that are not saved yet are used as if
    /// the store held them.
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
            // Tokens that are not saved yet are good, even if the store fails.
            Err(error) => match self.slot.pending.stored() {
                Some(new) => Some(new),
                None => {
                    if !error.keeps_cached_tokens() {
                        // The record is damaged or cannot be read, so the memory no longer describes the
                        // slot.
                        self.forget();
                    }
                    return Err(error);
                }
            },
        };
        Ok(self.install(stored, now))
    }

    /// Saves the tokens that are not saved yet, and reloads. The task that should have saved them may have
    /// ended with its runtime.
    pub(super) async fn save_and_reload(&mut self) -> Result<Arc<Snapshot>, StoreError> {
        self.save_pending().await;
        self.reload().await
    }

    /// Saves tokens, in place of any that are in the slot.
    pub(super) async fn replace(
        &mut self,
        tokens: AuthTokens,
        now: SystemTime,
    ) -> Result<(), StoreError> {
        // If the refresh token is still the same, a known doubt about it stays.
        let known_doubt = self.slot.latest().and_then(|known| {
            let intent = known.stored.as_ref()?.record.refresh.intent.clone()?;
            intent.is_for(tokens.refresh_token.as_ref()?).then_some(intent)
        });
        // If the future is dropped from here on, the state of the store is not known.
        self.forget();
        let mut record = Record::new(tokens);
        record.refresh.intent = known_doubt;
        let revision = self.save(&record, Precondition::Anything).await?;
        self.install(Some(Stored { record, revision }), now);
        Ok(())
    }

    /// Puts the empty slot into memory, publishes [`Event::Cleared`], and drops the tokens that are not
    /// saved.
    pub(super) async fn install_empty(&mut self) {
        self.install(None, self.slot.clock.now());
        self.slot.events.publish(Event::Cleared);
        self.end_pending().await;
    }

    /// Puts the state of the slot into memory.
    pub(super) fn install(&mut self, stored: Option<Stored>, now: SystemTime) -> Arc<Snapshot> {
        self.slot.install(stored, now)
    }

    /// Drops the snapshot in memory. It is called before the slot is changed.
    pub(super) fn forget(&mut self) {
        self.slot.cache.forget();
    }

    fn store(&self) -> &dyn TokenStore {
        self.store.as_deref().unwrap_or(&self.slot.unordered)
    }
}

/// Releases a lease.
pub(super) async fn release(lease: Box<dyn Lease>) {
    // If this fails, the lease ends with the process or at its deadline.
    let _ = lease.release().await;
}

#[cfg(test)]
mod tests {
    use std::future;

    use super::*;
    use crate::refresh::RefreshPolicy;
    use crate::stores::MemoryStore;

    /// A slot with a timer that ends every wait at once.
    fn slot() -> Slot {
        let store: Arc<dyn TokenStore> = Arc::new(MemoryStore::new());
        let events = Publisher::new(store.clone());
        let cache = Cache::new(RefreshPolicy::default(), Duration::from_secs(30), false);
        let timer = Arc::new(Timer::new(|_| future::ready(())));
        Slot::new(store, cache, events, Clock::default(), timer)
    }

    #[tokio::test]
    async fn a_call_waits_for_the_one_before_it_only_for_a_limited_time() {
        let slot = slot();
        let guard = slot.lock().await.unwrap();
        assert!(matches!(slot.lock().await.err(), Some(StoreError::Timeout { .. })));
        drop(guard);
        assert!(slot.lock().await.is_ok());
    }

    #[tokio::test]
    async fn a_logout_does_not_need_the_lock() {
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
