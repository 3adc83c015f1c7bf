//! Saving new tokens, again and again where the store cannot be written.

use std::sync::Arc;
use std::time::Duration;

use super::super::events::Event;
use super::super::pending_save::SlotState;
use super::super::snapshot::Snapshot;
use super::{Slot, SlotGuard, release};
use crate::error::StoreError;
use crate::store::{Precondition, Stored};
use crate::sys::clock::{Backoff, random};

/// How much longer than the answers of the server a holder may take: to save, on a slow disk or a server
/// of its own.
pub(in crate::manager) const SAVE_MARGIN: Duration = Duration::from_secs(30);

/// How soon, and how often at last, saving is tried again. Once a server is back that was away for longer
/// than the lease, another replica waits so much longer for it.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const SLOWEST_RETRY: Duration = Duration::from_secs(5);

/// How often a save begins anew because somebody touched the record without changing its tokens.
const ATTEMPTS: usize = 5;

/// What became of the tokens that were to be saved.
pub(in crate::manager) enum Settled {
    /// There is nothing to save: there was nothing, or somebody signed in or out meanwhile.
    Nothing,
    /// They are saved.
    Saved(Arc<Snapshot>),
    /// They are still not saved.
    NotYet(StoreError),
}

impl Slot {
    /// Tries until nothing is pending any more.
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

    /// Goes on trying until these are saved, or until somebody signs in or out.
    pub(in crate::manager) async fn keep_saving(&self) {
        let Some(ours) = self.pending.stored().map(|stored| stored.revision) else { return };
        let mut backoff = Backoff::new(FIRST_RETRY, SLOWEST_RETRY);
        loop {
            self.timer.sleep(backoff.next(random())).await;
            // Others are kept by the refresh that they came from.
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
    /// Tries to save the tokens that are pending.
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
                    // The next reload finds what is there instead.
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

    /// Lets go of what is pending: it is saved, or somebody signed in or out.
    pub(in crate::manager) async fn end_pending(&mut self) {
        if let Some(lease) = self.slot.pending.end() {
            release(lease).await;
        }
    }

    /// Keeps others from sending the token that was spent, until saving is tried again.
    async fn keep_lease(&mut self) {
        let Some(mut lease) = self.slot.pending.take_lease() else { return };
        // If it has passed on, or cannot be renewed, nothing else can be done about it.
        let _ = lease.renew(SLOWEST_RETRY.saturating_add(SAVE_MARGIN)).await;
        if let Some(lease) = self.slot.pending.give_back(lease) {
            release(lease).await;
        }
    }
}
