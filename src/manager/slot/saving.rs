//! Saves new tokens, and tries again while the store cannot be written.

use std::sync::Arc;
use std::time::Duration;

use super::super::events::Event;
use super::super::pending_save::SlotState;
use super::super::snapshot::Snapshot;
use super::{Slot, SlotGuard, release};
use crate::error::StoreError;
use crate::store::{Precondition, Stored};
use crate::sys::clock::{Backoff, random};

/// How long saving the answer may take, on a slow disk or on another server. The holder of a lease has this
/// time in addition to the deadline of the answer.
pub(in crate::manager) const SAVE_MARGIN: Duration = Duration::from_secs(30);

/// The first and the longest pause before saving is tried again. If a server could not be reached for longer
/// than the lease, other replicas wait up to the longest pause after it is back.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const SLOWEST_RETRY: Duration = Duration::from_secs(5);

/// How often a save is tried at once, if another program changes the record but not its tokens.
const ATTEMPTS: usize = 5;

/// The result of an attempt to save the pending tokens.
pub(in crate::manager) enum Settled {
    /// There is nothing to save: nothing was pending, or there was a login or a logout meanwhile.
    Nothing,
    /// They are saved.
    Saved(Arc<Snapshot>),
    /// They are still not saved.
    NotYet(StoreError),
}

impl Slot {
    /// Tries until nothing is pending.
    pub(in crate::manager) async fn save_now(&self) {
        let mut backoff = Backoff::new(FIRST_RETRY, SLOWEST_RETRY);
        loop {
            if let Ok(mut guard) = self.lock().await
                && !matches!(guard.save_pending().await, Settled::NotYet(_))
            {
                return;
            }
            self.timer.sleep(backoff.next(random())).await;
        }
    }

    /// Tries until the tokens that are pending now are saved, or until there is a login or a logout.
    pub(in crate::manager) async fn keep_saving(&self) {
        let Some(ours) = self.pending.stored().map(|stored| stored.revision) else { return };
        let mut backoff = Backoff::new(FIRST_RETRY, SLOWEST_RETRY);
        loop {
            self.timer.sleep(backoff.next(random())).await;
            // If other tokens are pending now, the refresh that got them saves them.
            if !self.pending.is_about(&ours) {
                return;
            }
            let Ok(mut guard) = self.lock().await else { continue };
            if !matches!(guard.save_pending().await, Settled::NotYet(_)) {
                return;
            }
            guard.keep_lease().await;
        }
    }
}

impl SlotGuard<'_> {
    /// Tries to save the pending tokens.
    pub(in crate::manager) async fn save_pending(&mut self) -> Settled {
        let mut failed = StoreError::Conflict { place: self.slot.to_string() };
        for _ in 0..ATTEMPTS {
            let Some((record, base)) = self.slot.pending.next_save() else {
                return Settled::Nothing;
            };
            let error = match self.save(&record, Precondition::Unchanged(base)).await {
                Ok(revision) => return self.saved(Stored { record, revision }).await,
                Err(error) => error,
            };
            let there = match error {
                StoreError::Conflict { .. } => self.load().await,
                error => Err(error),
            };
            let there = match there {
                Ok(there) => there,
                Err(error) => {
                    failed = error;
                    break;
                }
            };
            match (self.slot.pending.compare(there.as_ref()), there) {
                (Some(SlotState::Spent), _) => {}
                (Some(SlotState::Ours), Some(there)) => return self.saved(there).await,
                _ => {
                    // The slot holds other tokens or nothing. The next reload finds that out.
                    self.end_pending().await;
                    return Settled::Nothing;
                }
            }
        }
        if self.slot.pending.fail(&failed) {
            self.slot.events.publish(Event::SaveFailed { error: failed.clone() });
        }
        Settled::NotYet(failed)
    }

    async fn saved(&mut self, stored: Stored) -> Settled {
        let snapshot = self.install(Some(stored), self.slot.clock.now());
        self.slot.events.publish(Event::Saved);
        if let Some(mut lease) = self.slot.pending.end() {
            if let Some(error) = lease.take_warning() {
                self.slot.events.publish(Event::SavedWithEarlierKey { error });
            }
            release(lease).await;
        }
        Settled::Saved(snapshot)
    }

    /// Drops the pending tokens, because they are saved, or because there was a login or a logout.
    pub(in crate::manager) async fn end_pending(&mut self) {
        if let Some(lease) = self.slot.pending.end() {
            release(lease).await;
        }
    }

    /// Renews the lease until saving is tried again, so that no other holder sends the spent token.
    async fn keep_lease(&mut self) {
        let Some(mut lease) = self.slot.pending.take_lease() else { return };
        // If another holder has the lease by now, or if it cannot be renewed, nothing else can be done.
        let _ = lease.renew(SLOWEST_RETRY.saturating_add(SAVE_MARGIN)).await;
        if let Some(lease) = self.slot.pending.give_back(lease) {
            release(lease).await;
        }
    }
}
