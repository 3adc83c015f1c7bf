//! Saving new tokens, again and again where the store cannot be written.

use std::sync::Arc;
use std::time::Duration;

use super::events::Event;
use super::pending_save::{SlotState, release};
use super::snapshot::Snapshot;
use super::{Inner, Turn};
use crate::error::StoreError;
use crate::store::{Precondition, Stored};
use crate::sys::clock::{Backoff, random};

/// How much longer than the answers of the server a holder may take: to save, on a slow disk or a server
/// of its own.
pub(super) const SAVE_MARGIN: Duration = Duration::from_secs(30);

/// How soon, and how often at last, saving is tried again. Once a server is back that was away for longer
/// than the lease, another replica waits so much longer for it.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const SLOWEST_RETRY: Duration = Duration::from_secs(5);

/// How often a save begins anew because somebody touched the record without changing its tokens.
const ATTEMPTS: usize = 5;

/// What became of the tokens that were to be saved.
pub(super) enum Settled {
    /// There is nothing to save: there was nothing, or somebody signed in or out meanwhile.
    Nothing,
    /// They are saved.
    Saved(Arc<Snapshot>),
    /// They are still not saved.
    NotYet(StoreError),
}

impl Inner {
    /// Tries to save the tokens that are pending.
    pub(super) async fn save_pending(&self, _turn: &mut Turn) -> Settled {
        let mut failed = StoreError::Conflict { place: self.store.to_string() };
        for _ in 0..ATTEMPTS {
            let Some((record, base)) = self.pending.next_save() else { return Settled::Nothing };
            let error = match self.store.save(&record, Precondition::Unchanged(base)).await {
                Ok(revision) => return self.saved(Stored { record, revision }).await,
                Err(error) => error,
            };
            let there = match error {
                StoreError::Conflict { .. } => self.store.load().await,
                error => Err(error),
            };
            let there = match there {
                Ok(there) => there,
                Err(error) => {
                    failed = error;
                    break;
                }
            };
            match (self.pending.compare(there.as_ref()), there) {
                (Some(SlotState::Spent), _) => {}
                (Some(SlotState::Ours), Some(there)) => return self.saved(there).await,
                _ => {
                    // What is there instead, the next look finds.
                    self.end_pending().await;
                    return Settled::Nothing;
                }
            }
        }
        if self.pending.fail(&failed) {
            self.events.publish(Event::SaveFailed { error: failed.clone() });
        }
        Settled::NotYet(failed)
    }

    async fn saved(&self, stored: Stored) -> Settled {
        let snapshot = self.install(Some(stored), self.clock.now());
        self.events.publish(Event::Saved);
        if let Some(mut lease) = self.pending.end() {
            if let Some(error) = lease.take_warning() {
                self.events.publish(Event::SavedWithEarlierKey { error });
            }
            release(lease).await;
        }
        Settled::Saved(snapshot)
    }

    /// Lets go of what is pending: it is saved, or somebody signed in or out.
    pub(super) async fn end_pending(&self) {
        if let Some(lease) = self.pending.end() {
            release(lease).await;
        }
    }

    /// Tries until nothing is pending any more.
    pub(super) async fn save_now(&self) {
        let mut backoff = Backoff::new(FIRST_RETRY, SLOWEST_RETRY);
        loop {
            if let Ok(mut turn) = self.turn().await
                && !matches!(self.save_pending(&mut turn).await, Settled::NotYet(_))
            {
                return;
            }
            self.timer.sleep(backoff.next(random())).await;
        }
    }

    /// Goes on trying until these are saved, or until somebody signs in or out.
    pub(super) async fn keep_saving(self: &Arc<Self>) {
        let Some(ours) = self.pending.stored().map(|stored| stored.revision) else { return };
        let mut backoff = Backoff::new(FIRST_RETRY, SLOWEST_RETRY);
        loop {
            self.timer.sleep(backoff.next(random())).await;
            // Others are kept by the refresh that they came from.
            if !self.pending.is_about(&ours) {
                return;
            }
            let Ok(mut turn) = self.turn().await else { continue };
            if !matches!(self.save_pending(&mut turn).await, Settled::NotYet(_)) {
                return;
            }
            self.keep_lease(&mut turn).await;
        }
    }

    /// Keeps others from sending the token that was spent, until saving is tried again.
    async fn keep_lease(&self, _turn: &mut Turn) {
        let Some(mut lease) = self.pending.take_lease() else { return };
        // If it has passed on, or cannot be renewed, nothing else can be done about it.
        let _ = lease.renew(SLOWEST_RETRY.saturating_add(SAVE_MARGIN)).await;
        if let Some(lease) = self.pending.give_back(lease) {
            release(lease).await;
        }
    }
}
