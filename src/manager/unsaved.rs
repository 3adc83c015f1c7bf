//! Refreshed tokens that could not be saved: the store still holds the spent ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::events::Event;
use super::protocol::{Kept, give_up};
use super::{Inner, Turn};
use crate::error::StoreError;
use crate::refresh::pace::{Backoff, random};
use crate::store::{Lease, Revision, Stored};
use crate::tokens::AuthTokens;

/// How soon, and how often at last, saving is tried again.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const SLOWEST_RETRY: Duration = Duration::from_secs(60);

/// New tokens that exist in this process only, and the lease that keeps others from spending the
/// old refresh token a second time.
pub(super) struct Unsaved {
    /// With a revision that no store gave it.
    pub(super) stored: Stored,
    /// The state of the store that they are to replace.
    pub(super) base: Revision,
    /// What that state holds.
    pub(super) spent: AuthTokens,
    pub(super) lease: Box<dyn Lease>,
    /// Why they are not saved yet.
    pub(super) error: StoreError,
}

impl Unsaved {
    pub(super) fn new(
        tokens: AuthTokens,
        base: Revision,
        spent: AuthTokens,
        lease: Box<dyn Lease>,
        error: StoreError,
    ) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);

        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let revision = Revision::new(format!("unsaved {count}").into_bytes());
        Self { stored: Stored { tokens, revision }, base, spent, lease, error }
    }

    /// Lets go of them: somebody signed in or out.
    pub(super) async fn end(self) {
        give_up(self.lease).await;
    }
}

impl Inner {
    /// Tries to save them. Tells whether there are none any more.
    pub(super) async fn save_unsaved(&self, turn: &mut Turn) -> bool {
        let Some(unsaved) = &turn.unsaved else { return true };
        let tokens = &unsaved.stored.tokens;
        match self.save_over(unsaved.base.clone(), &unsaved.spent, tokens).await {
            Kept::Saved(stored) => {
                self.remember(Some(stored), self.clock.now());
                self.publish(Event::Saved);
            }
            // What is there instead is found by the next look.
            Kept::Overtaken => self.cached.store(None),
            Kept::Failed(error) => {
                turn.unsaved.as_mut().expect("they are there").error = error;
                return false;
            }
        }
        if let Some(unsaved) = turn.unsaved.take() {
            unsaved.end().await;
        }
        true
    }

    /// Tries until there are none any more.
    pub(super) async fn save_now(&self) {
        let mut backoff = Backoff::new(FIRST_RETRY, SLOWEST_RETRY);
        while !self.save_unsaved(&mut *self.turn.lock().await).await {
            self.timer.sleep(backoff.next(random())).await;
        }
    }

    /// Goes on trying until they are saved, or until somebody signs in or out.
    pub(super) async fn keep_saving(self: &Arc<Self>) {
        let ours = match &self.turn.lock().await.unsaved {
            Some(unsaved) => unsaved.stored.revision.clone(),
            None => return,
        };
        let mut backoff = Backoff::new(FIRST_RETRY, SLOWEST_RETRY);
        loop {
            self.timer.sleep(backoff.next(random())).await;
            let mut turn = self.turn.lock().await;
            match &turn.unsaved {
                Some(unsaved) if unsaved.stored.revision == ours => {}
                // Others are kept by the refresh that they came from.
                _ => return,
            }
            if self.save_unsaved(&mut turn).await {
                return;
            }
        }
    }
}
