//! The slot as this process knows it: what the store holds, and what is still to be saved there.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::events::Event;
use super::pending_save::{Resolved, release};
use super::snapshot::Snapshot;
use super::{Inner, Turn};
use crate::error::{AuthError, StoreError};
use crate::record::Record;
use crate::store::Stored;

/// How long a look may take while there is a good token at hand. A store far away takes a tenth of it.
const SOON: Duration = Duration::from_secs(2);

impl Inner {
    /// What is known of the slot, as of the last seconds.
    pub(super) async fn snapshot(&self) -> Result<Arc<Snapshot>, AuthError> {
        if let Some(snapshot) = self.cache.recent(self.clock.now()) {
            return Ok(snapshot);
        }
        let now = self.clock.now();
        let Some(kept) = self.cache.usable(now) else { return Ok(self.look_in_turn().await?) };
        // A good token in memory is as good as it was, and does not wait for a store that is slow or away.
        match self.timer.within(SOON, self.look_in_turn()).await {
            Some(Err(error)) if !error.keeps_cached_tokens() => return Err(error.into()),
            Some(Ok(snapshot)) => return Ok(snapshot),
            Some(Err(_)) | None => {}
        }
        Ok(self.cache.trust_again(&kept, now))
    }

    /// Asks the store, unless whoever had the turn before did.
    async fn look_in_turn(&self) -> Result<Arc<Snapshot>, StoreError> {
        let mut turn = self.turn().await?;
        if let Some(snapshot) = self.cache.recent(self.clock.now()) {
            return Ok(snapshot);
        }
        // Whoever was to save them may have ended with its runtime.
        self.save_pending(&mut turn).await;
        self.look(&mut turn).await
    }

    /// Asks the store what it holds now. Tokens that could not be saved yet count as in it.
    pub(super) async fn look(&self, _turn: &mut Turn) -> Result<Arc<Snapshot>, StoreError> {
        let loaded = self.store.load().await;
        let now = self.clock.now();
        let stored = match loaded {
            Ok(there) => match self.pending.resolve(there.as_ref()) {
                Resolved::Pending(new) => Some(*new),
                Resolved::Over(lease) => {
                    if let Some(lease) = lease {
                        release(lease).await;
                    }
                    there
                }
            },
            // They are good whatever became of the store.
            Err(error) => match self.pending.stored() {
                Some(new) => Some(new),
                None => {
                    if !error.keeps_cached_tokens() {
                        // What is in memory says nothing about a slot that is broken.
                        self.cache.forget();
                    }
                    return Err(error);
                }
            },
        };
        Ok(self.install(stored, now))
    }

    /// Looks again where a refresh is not simply the next step: once the server rejected a refresh
    /// token, the store is asked each time whether it holds others, and the server is not; and
    /// tokens that wait to be saved may do so because the runtime that was to save them has ended.
    pub(super) async fn look_again(
        &self,
        snapshot: Arc<Snapshot>,
    ) -> Result<Arc<Snapshot>, AuthError> {
        let is_rejected =
            snapshot.stored.as_ref().is_some_and(|stored| self.is_rejected(&stored.record));
        let is_unsaved = self.pending.is_some();
        if !is_rejected && !is_unsaved {
            return Ok(snapshot);
        }
        let mut turn = self.turn().await?;
        self.save_pending(&mut turn).await;
        Ok(self.look(&mut turn).await?)
    }

    /// Returns whether the server rejected the refresh token of this record, here or in another process.
    fn is_rejected(&self, record: &Record) -> bool {
        record.refresh.rejection.is_some() || self.flights().pace.is_rejected(&record.tokens)
    }

    /// Puts what the slot holds into memory.
    pub(super) fn install(&self, stored: Option<Stored>, now: SystemTime) -> Arc<Snapshot> {
        let installed = self.cache.install(stored, now);
        if installed.is_cleared {
            self.events.publish(Event::Cleared);
        }
        installed.snapshot
    }
}
