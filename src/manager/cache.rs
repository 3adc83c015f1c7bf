//! What is at hand, and when the store is asked again.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};

use super::events::Event;
use super::pending_save::{There, release};
use super::snapshot::Snapshot;
use super::{Inner, Turn};
use crate::error::{AuthError, StoreError};
use crate::record::Record;
use crate::store::Stored;
use crate::sys::clock::random;
use crate::tokens::AccessToken;

/// How long a look may take while there is a good token at hand. A store far away takes a tenth of it.
const SOON: Duration = Duration::from_secs(2);

impl Inner {
    /// The quick way: no lock, no allocation, no await.
    pub(super) fn at_hand(&self, now: SystemTime) -> Option<AccessToken> {
        self.cached.load().as_ref()?.at_hand(now).cloned()
    }

    /// What is known of the slot, as of the last seconds.
    pub(super) async fn snapshot(&self) -> Result<Arc<Snapshot>, AuthError> {
        if let Some(snapshot) = self.recent() {
            return Ok(snapshot);
        }
        let now = self.clock.now();
        let kept = self.cached.load_full().filter(|kept| self.is_good_enough(kept, now));
        let Some(kept) = kept else { return Ok(self.look_in_turn().await?) };
        // A good token in memory is as good as it was, and does not wait for a store that is slow or away.
        match self.timer.within(SOON, self.look_in_turn()).await {
            Some(Err(error)) if !error.keeps_cached_tokens() => return Err(error.into()),
            Some(Ok(snapshot)) => return Ok(snapshot),
            Some(Err(_)) | None => {}
        }
        let longer = Arc::new(kept.for_longer(now, self.recheck));
        self.cached.rcu(|cached| match cached {
            Some(cached) if Arc::ptr_eq(cached, &kept) => Some(longer.clone()),
            // Somebody signed in or out meanwhile.
            changed => changed.clone(),
        });
        Ok(self.cached.load_full().unwrap_or(longer))
    }

    /// Asks the store, unless whoever had the turn before did.
    async fn look_in_turn(&self) -> Result<Arc<Snapshot>, StoreError> {
        let mut turn = self.turn().await?;
        if let Some(snapshot) = self.recent() {
            return Ok(snapshot);
        }
        // Whoever was to save them may have ended with its runtime.
        self.save_unsaved(&mut turn).await;
        self.look(&mut turn).await
    }

    pub(super) fn is_good_enough(&self, snapshot: &Snapshot, now: SystemTime) -> bool {
        match self.refresher {
            Some(_) => snapshot.is_accepted(now),
            None => snapshot.is_good(now),
        }
    }

    /// Asks the store what it holds now. Tokens that could not be saved yet count as in it.
    pub(super) async fn look(&self, _turn: &mut Turn) -> Result<Arc<Snapshot>, StoreError> {
        let loaded = self.store.load().await;
        let now = self.clock.now();
        let (kept, ended) = {
            // Seen and taken in one go: a refresh on another thread may put new ones here at any
            // moment, and what was loaded before says nothing about those.
            let mut unsaved = self.unsaved();
            match (&mut *unsaved, &loaded) {
                (None, _) => (None, None),
                // They are good whatever became of the store.
                (Some(unsaved), Err(_)) => (Some(unsaved.stored.clone()), None),
                (Some(waiting), Ok(there)) => match (waiting.see(there.as_ref()), there) {
                    (There::Spent, Some(there)) => {
                        waiting.rebase(there);
                        (Some(waiting.stored.clone()), None)
                    }
                    // They are saved after all, or somebody signed in or out elsewhere.
                    _ => (None, unsaved.take()),
                },
            }
        };
        if let Some(kept) = kept {
            return Ok(self.remember(Some(kept), now));
        }
        let stored = match loaded {
            Ok(stored) => stored,
            Err(error) => {
                if !error.keeps_cached_tokens() {
                    // What is in memory says nothing about a slot that is broken.
                    self.cached.store(None);
                }
                return Err(error);
            }
        };
        if let Some(lease) = ended.and_then(|ended| ended.lease) {
            release(lease).await;
        }
        Ok(self.remember(stored, now))
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
        let is_unsaved = self.unsaved().is_some();
        if !is_rejected && !is_unsaved {
            return Ok(snapshot);
        }
        let mut turn = self.turn().await?;
        self.save_unsaved(&mut turn).await;
        Ok(self.look(&mut turn).await?)
    }

    /// Returns whether the server rejected the refresh token of this record, here or in another process.
    fn is_rejected(&self, record: &Record) -> bool {
        record.refresh.rejection.is_some() || self.flights().pace.is_rejected(&record.tokens)
    }

    pub(super) fn recent(&self) -> Option<Arc<Snapshot>> {
        let now = self.clock.now();
        self.cached.load_full().filter(|snapshot| snapshot.is_recent(now))
    }

    pub(super) fn remember(&self, stored: Option<Stored>, now: SystemTime) -> Arc<Snapshot> {
        let random = if self.policy.jitter.is_zero() { 0.0 } else { random() };
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let previous = self.cached.load_full();
        let is_logout = stored.is_none() && previous.as_ref().is_some_and(|it| it.stored.is_some());
        if is_logout {
            self.publish(Event::Cleared);
        }
        let access = stored.as_ref().map(|stored| &stored.record.tokens.access_token);
        let is_refused = refused.as_ref().is_some_and(|refused| access == Some(refused));
        if !is_refused {
            *refused = None;
        }
        let snapshot = Snapshot::new(
            stored,
            previous.as_deref(),
            is_refused,
            now,
            self.recheck,
            &self.policy,
            random,
        );
        let snapshot = Arc::new(snapshot);
        self.cached.store(Some(snapshot.clone()));
        snapshot
    }
}
