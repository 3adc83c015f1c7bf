//! Refreshed tokens on their way into the store: until they are there, the store holds the spent ones.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use super::events::Event;
use super::protocol::MARGIN;
use super::{Inner, Turn};
use crate::clock::{Backoff, random};
use crate::error::StoreError;
use crate::store::{Expect, Lease, Revision, Stored};
use crate::tokens::AuthTokens;

/// How soon, and how often at last, saving is tried again. Once a server is back that was away for longer
/// than the lease, another replica waits so much longer for it.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const SLOWEST_RETRY: Duration = Duration::from_secs(5);

/// How often a save begins anew because somebody touched the record without changing its tokens.
const ATTEMPTS: usize = 5;

/// New tokens that exist in this process only, and the lease that keeps others from spending the
/// old refresh token a second time.
pub(super) struct Unsaved {
    /// With a revision that no store gave it.
    pub(super) stored: Stored,
    /// The state of the store that they are to replace.
    pub(super) base: Revision,
    /// What that state may hold: the tokens that were spent for these, the last ones last.
    pub(super) spent: Vec<AuthTokens>,
    /// Nothing while it is being renewed.
    pub(super) lease: Option<Box<dyn Lease>>,
    /// Why they are not saved yet.
    pub(super) error: Option<StoreError>,
    /// Alive while a refresh that starts from these is under way: they are about to be spent, so
    /// their lease must not be given up.
    pub(super) in_use: Weak<()>,
}

/// What a save came to.
enum Kept {
    Saved(Stored),
    /// Somebody signed in or out meanwhile.
    Overtaken,
    Failed(StoreError),
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
        tokens: AuthTokens,
        base: Revision,
        spent: Vec<AuthTokens>,
        lease: Option<Box<dyn Lease>>,
    ) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);

        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let revision = Revision::new(format!("unsaved {count}").into_bytes());
        let stored = Stored { tokens, revision };
        Self { stored, base, spent, lease, error: None, in_use: Weak::new() }
    }

    pub(super) fn see(&self, there: Option<&Stored>) -> There {
        let Some(there) = there.map(|there| &there.tokens) else { return There::Others };
        if is_one_answer(there, &self.stored.tokens) {
            There::Ours
        } else if self.spent.iter().any(|spent| self.is_still(there, spent)) {
            There::Spent
        } else {
            There::Others
        }
    }
}

impl Unsaved {
    /// Tells whether what is there is what was spent, though maybe touched.
    fn is_still(&self, there: &AuthTokens, spent: &AuthTokens) -> bool {
        // Where the refresh token is never another one, another access token is a later answer of the server.
        let is_rotated = self.stored.tokens.refresh_token != spent.refresh_token;
        is_of_one_refresh(there, spent) && (is_rotated || there.access_token == spent.access_token)
    }
}

impl Inner {
    /// Sees and changes what is unsaved. Whoever changes what is there already has the turn.
    pub(super) fn unsaved(&self) -> MutexGuard<'_, Option<Unsaved>> {
        self.unsaved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tries to save what is unsaved. Tells whether there is nothing any more.
    pub(super) async fn save_unsaved(&self, _turn: &mut Turn) -> bool {
        let (tokens, mut base) = match &*self.unsaved() {
            None => return true,
            Some(unsaved) if unsaved.in_use.strong_count() > 0 => return false,
            Some(unsaved) => (unsaved.stored.tokens.clone(), unsaved.base.clone()),
        };
        let mut kept = Kept::Failed(StoreError::Conflict { place: self.store.to_string() });
        for _ in 0..ATTEMPTS {
            let error = match self.store.save(&tokens, Expect::Unchanged(base.clone())).await {
                Ok(revision) => {
                    kept = Kept::Saved(Stored { tokens: tokens.clone(), revision });
                    break;
                }
                Err(error) => error,
            };
            let there = match error {
                StoreError::Conflict { .. } => self.store.load().await,
                error => Err(error),
            };
            let seen = there.map(|there| {
                let unsaved = self.unsaved();
                let seen = unsaved.as_ref().map(|unsaved| unsaved.see(there.as_ref()));
                (seen.unwrap_or(There::Others), there)
            });
            kept = match seen {
                Ok((There::Spent, Some(there))) => {
                    base = there.revision;
                    continue;
                }
                Ok((There::Ours, Some(there))) => Kept::Saved(there),
                Ok(_) => Kept::Overtaken,
                Err(error) => Kept::Failed(error),
            };
            break;
        }
        match kept {
            Kept::Saved(stored) => {
                self.remember(Some(stored), self.clock.now());
                self.publish(Event::Saved);
            }
            Kept::Overtaken => {
                // What is there instead, the next look finds.
            }
            Kept::Failed(error) => {
                let first = self.unsaved().as_mut().is_some_and(|unsaved| {
                    unsaved.base = base;
                    unsaved.error.replace(error.clone()).is_none()
                });
                if first {
                    self.publish(Event::SaveFailed { error });
                }
                return false;
            }
        }
        self.end_unsaved().await;
        true
    }

    /// Lets go of what is unsaved: it is saved, or somebody signed in or out.
    pub(super) async fn end_unsaved(&self) {
        let unsaved = self.unsaved().take();
        if let Some(lease) = unsaved.and_then(|unsaved| unsaved.lease) {
            give_up(lease).await;
        }
    }

    /// Tries until nothing is unsaved any more.
    pub(super) async fn save_now(&self) {
        let mut backoff = Backoff::new(FIRST_RETRY, SLOWEST_RETRY);
        while !self.save_unsaved(&mut *self.turn.lock().await).await {
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
            let mut turn = self.turn.lock().await;
            if !is_ours || self.save_unsaved(&mut turn).await {
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
            give_up(lease).await;
        }
    }
}

/// Tells whether two records are the same answer of the server.
fn is_one_answer(one: &AuthTokens, other: &AuthTokens) -> bool {
    one.access_token == other.access_token && is_of_one_refresh(one, other)
}

/// Tells whether two records hold the same refresh token; without any, the same access token.
pub(super) fn is_of_one_refresh(one: &AuthTokens, other: &AuthTokens) -> bool {
    one.is_backup() == other.is_backup()
        && match (&one.refresh_token, &other.refresh_token) {
            (Some(one), Some(other)) => one == other,
            (None, None) => one.access_token == other.access_token,
            _ => false,
        }
}

/// Ends a refresh that left no token in doubt.
pub(super) async fn give_up(mut lease: Box<dyn Lease>) {
    // A note that stays is about a token that is no longer in the slot, or not in doubt.
    let _ = lease.remove_intent().await;
    release(lease).await;
}

/// Ends a refresh whose note is to stay.
pub(super) async fn release(lease: Box<dyn Lease>) {
    // If that fails, the end of the process gives it up.
    let _ = lease.release().await;
}
