//! Refreshed tokens on their way into the store: until they are there, the store holds the spent ones.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use super::events::Event;
use super::snapshot::Snapshot;
use super::{Inner, Turn};
use crate::error::StoreError;
use crate::record::{Intent, Record};
use crate::store::{Lease, Precondition, Revision, Stored};
use crate::sys::clock::{Backoff, random};
use crate::tokens::AuthTokens;

/// How much longer than the answers of the server a holder may take: to save, on a slow disk or a server
/// of its own.
pub(super) const MARGIN: Duration = Duration::from_secs(30);

/// How soon, and how often at last, saving is tried again. Once a server is back that was away for longer
/// than the lease, another replica waits so much longer for it.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const SLOWEST_RETRY: Duration = Duration::from_secs(5);

/// How often a save begins anew because somebody touched the record without changing its tokens.
const ATTEMPTS: usize = 5;

/// New tokens that this process alone is known to have, and the lease that keeps others from spending the
/// old refresh token a second time.
///
/// They are served until their true expiry, and nothing is refreshed from them: an earlier save may have
/// been done although its answer was lost, and then others know them too.
pub(super) struct Unsaved {
    /// With a revision that no store gave it.
    pub(super) stored: Stored,
    /// The state of the store that they are to replace.
    pub(super) base: Revision,
    /// What that state holds: the tokens that were spent for these.
    spent: AuthTokens,
    /// With which intent they were spent.
    intent: Option<Intent>,
    /// Nothing while it is being renewed.
    pub(super) lease: Option<Box<dyn Lease>>,
    /// Why they are not saved yet.
    pub(super) error: Option<StoreError>,
}

/// What became of what was unsaved.
pub(super) enum Settled {
    /// There is nothing unsaved: there was nothing, or somebody signed in or out meanwhile.
    Nothing,
    /// It is saved.
    Saved(Arc<Snapshot>),
    /// It is still unsaved.
    NotYet(StoreError),
}

/// What is in the slot now, seen from tokens that are to be saved there.
pub(super) enum There {
    /// These very tokens: an earlier save got through, and its answer was lost.
    Ours,
    /// Tokens that were spent for these, maybe sealed to another key or touched by another program.
    Spent,
    /// Something else, or nothing: somebody signed in or out.
    Others,
}

impl Unsaved {
    pub(super) fn new(
        record: Record,
        base: Revision,
        spent: AuthTokens,
        intent: Option<Intent>,
        lease: Box<dyn Lease>,
    ) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);

        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let revision = Revision::new(format!("unsaved {count}").into_bytes());
        let stored = Stored { record, revision };
        Self { stored, base, spent, intent, lease: Some(lease), error: None }
    }

    pub(super) fn tokens(&self) -> &AuthTokens {
        &self.stored.record.tokens
    }

    pub(super) fn see(&self, there: Option<&Stored>) -> There {
        let Some(there) = there.map(|there| &there.record.tokens) else { return There::Others };
        if is_one_answer(there, self.tokens()) {
            There::Ours
        } else if self.is_still_spent(there) {
            There::Spent
        } else {
            There::Others
        }
    }

    /// Returns whether what is there is what was spent, though maybe touched.
    fn is_still_spent(&self, there: &AuthTokens) -> bool {
        // Where the refresh token is never another one, another access token is a later answer of the server.
        let is_rotated = self.tokens().refresh_token != self.spent.refresh_token;
        is_of_one_refresh(there, &self.spent)
            && (is_rotated || there.access_token == self.spent.access_token)
    }
}

impl Unsaved {
    /// Takes note of a new state of the slot, which still holds what was spent.
    ///
    /// Carries a doubt on: another holder of the lease, which had passed to it, was about to send the token
    /// that was spent for these. A server that saw the token twice may have revoked these too.
    pub(super) fn rebase(&mut self, there: &Stored) {
        self.base = there.revision.clone();
        let theirs = there.record.intent().filter(|theirs| Some(*theirs) != self.intent.as_ref());
        if let (Some(theirs), Some(token)) = (theirs, &self.stored.record.tokens.refresh_token) {
            self.stored.record.refresh.intent = Some(Intent::new(token, theirs.at()));
        }
    }
}

impl Inner {
    /// Sees and changes what is unsaved. Whoever changes what is there already has the turn.
    pub(super) fn unsaved(&self) -> MutexGuard<'_, Option<Unsaved>> {
        self.unsaved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tries to save what is unsaved.
    pub(super) async fn save_unsaved(&self, _turn: &mut Turn) -> Settled {
        let mut failed = StoreError::Conflict { place: self.store.to_string() };
        for _ in 0..ATTEMPTS {
            let (record, base) = match &*self.unsaved() {
                None => return Settled::Nothing,
                Some(unsaved) => (unsaved.stored.record.clone(), unsaved.base.clone()),
            };
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
            let seen = self.unsaved().as_mut().map(|unsaved| {
                let seen = unsaved.see(there.as_ref());
                if let (There::Spent, Some(there)) = (&seen, &there) {
                    unsaved.rebase(there);
                }
                seen
            });
            match (seen, there) {
                (Some(There::Spent), _) => {}
                (Some(There::Ours), Some(there)) => return self.saved(there).await,
                _ => {
                    // What is there instead, the next look finds.
                    self.end_unsaved().await;
                    return Settled::Nothing;
                }
            }
        }
        let first = self
            .unsaved()
            .as_mut()
            .is_some_and(|unsaved| unsaved.error.replace(failed.clone()).is_none());
        if first {
            self.events.publish(Event::SaveFailed { error: failed.clone() });
        }
        Settled::NotYet(failed)
    }

    async fn saved(&self, stored: Stored) -> Settled {
        let snapshot = self.install(Some(stored), self.clock.now());
        self.events.publish(Event::Saved);
        let lease = self.unsaved().take().and_then(|unsaved| unsaved.lease);
        if let Some(mut lease) = lease {
            if let Some(error) = lease.take_warning() {
                self.events.publish(Event::SavedWithEarlierKey { error });
            }
            release(lease).await;
        }
        Settled::Saved(snapshot)
    }

    /// Lets go of what is unsaved: it is saved, or somebody signed in or out.
    pub(super) async fn end_unsaved(&self) {
        let unsaved = self.unsaved().take();
        if let Some(lease) = unsaved.and_then(|unsaved| unsaved.lease) {
            release(lease).await;
        }
    }

    /// Tries until nothing is unsaved any more.
    pub(super) async fn save_now(&self) {
        let mut backoff = Backoff::new(FIRST_RETRY, SLOWEST_RETRY);
        loop {
            if let Ok(mut turn) = self.turn().await
                && !matches!(self.save_unsaved(&mut turn).await, Settled::NotYet(_))
            {
                return;
            }
            self.timer.sleep(backoff.next(random())).await;
        }
    }

    /// Goes on trying until these are saved, or until somebody signs in or out.
    pub(super) async fn keep_saving(self: &Arc<Self>) {
        let ours = match &*self.unsaved() {
            Some(unsaved) => unsaved.stored.revision.clone(),
            None => return,
        };
        let mut backoff = Backoff::new(FIRST_RETRY, SLOWEST_RETRY);
        loop {
            self.timer.sleep(backoff.next(random())).await;
            // Others are kept by the refresh that they came from.
            let is_ours =
                self.unsaved().as_ref().is_some_and(|unsaved| unsaved.stored.revision == ours);
            if !is_ours {
                return;
            }
            let Ok(mut turn) = self.turn().await else { continue };
            if !matches!(self.save_unsaved(&mut turn).await, Settled::NotYet(_)) {
                return;
            }
            self.keep_lease(&mut turn).await;
        }
    }

    /// Keeps others from sending the token that was spent, until saving is tried again.
    async fn keep_lease(&self, _turn: &mut Turn) {
        let lease = self.unsaved().as_mut().and_then(|unsaved| unsaved.lease.take());
        let Some(mut lease) = lease else { return };
        // If it has passed on, or cannot be renewed, nothing else can be done about it.
        let _ = lease.renew(SLOWEST_RETRY.saturating_add(MARGIN)).await;
        let ended = match &mut *self.unsaved() {
            Some(unsaved) if unsaved.lease.is_none() => unsaved.lease.replace(lease),
            _ => Some(lease),
        };
        if let Some(lease) = ended {
            release(lease).await;
        }
    }
}

/// Returns whether two records are the same answer of the server.
fn is_one_answer(one: &AuthTokens, other: &AuthTokens) -> bool {
    one.access_token == other.access_token && is_of_one_refresh(one, other)
}

/// Returns whether two records hold the same refresh token; without any, the same access token.
pub(super) fn is_of_one_refresh(one: &AuthTokens, other: &AuthTokens) -> bool {
    one.is_backup() == other.is_backup()
        && match (&one.refresh_token, &other.refresh_token) {
            (Some(one), Some(other)) => one == other,
            (None, None) => one.access_token == other.access_token,
            _ => false,
        }
}

/// Gives a lease up.
pub(super) async fn release(lease: Box<dyn Lease>) {
    // If that fails, the end of the process gives it up.
    let _ = lease.release().await;
}
