//! One refresh, from the lease to the saved successor.
//!
//! The refresh token is spent at most once while its holder lives: it is read under the lease, noted
//! durably before it is sent, and replaced by a compare-and-swap. Login and logout do not wait for
//! any of this, and win against it.

use std::future;
use std::panic::{self, AssertUnwindSafe};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::Inner;
use super::events::Event;
use super::snapshot::Snapshot;
use super::unsaved::Unsaved;
use crate::clock;
use crate::codec;
use crate::error::{AuthError, RefreshFailure, SpentBy, StoreError};
use crate::refresh::TokenRefresher;
use crate::refresh::pace::{Backoff, random};
use crate::store::{Expect, Intent, Lease, Revision, Stored};
use crate::tokens::{AuthTokens, RefreshToken};

/// How often one who waits for the lease looks whether it is free, or no longer needed.
const FIRST_LOOK: Duration = Duration::from_millis(10);
const SLOWEST_LOOK: Duration = Duration::from_millis(250);

/// How much longer than two answers of the server a holder may take: to save, with a slow disk.
const MARGIN: Duration = Duration::from_secs(15);

/// How often a save begins anew because somebody touched the record without changing its tokens.
const ATTEMPTS: usize = 5;

/// Why there is a refresh: what was found wanting.
#[derive(Clone)]
pub(super) struct Basis {
    pub(super) snapshot: Arc<Snapshot>,
    /// Whether it is to be replaced even if it is fresh.
    pub(super) forced: bool,
}

impl Basis {
    /// Tells whether this is what was asked for, so that nothing is left to do.
    pub(super) fn is_met_by(&self, current: &Snapshot, now: std::time::SystemTime) -> bool {
        let revision =
            |snapshot: &Snapshot| snapshot.stored.as_ref().map(|stored| stored.revision.clone());
        let changed = revision(current) != revision(&self.snapshot);
        !current.wants_refresh(now) && (changed || !self.forced)
    }
}

/// Tokens whose refresh token is about to be sent, and the right to send it.
struct Held {
    stored: Stored,
    /// None if the slot's unsaved tokens hold it: these then are the tokens.
    lease: Option<Box<dyn Lease>>,
    /// When an earlier holder was about to send this very token.
    earlier: Option<DateTime<Utc>>,
    /// When we noted that we are about to.
    noted: DateTime<Utc>,
}

/// What a save came to.
pub(super) enum Kept {
    Saved(Stored),
    /// Somebody signed in or out meanwhile.
    Overtaken,
    Failed(StoreError),
}

impl Inner {
    /// Does all of it.
    pub(super) async fn protocol(&self, basis: &Basis) -> Result<Arc<Snapshot>, AuthError> {
        let refresher = self.refresher.as_ref().ok_or(AuthError::NoRefresher)?;
        let mut held = match self.hold(basis).await? {
            Ok(held) => held,
            Err(met) => return Ok(met),
        };
        self.note(&mut held).await?;
        let (answer, lost) = self.ask(&**refresher, &held.stored.tokens).await;
        match answer {
            Ok(new) => self.keep(held, new).await,
            Err(failure) => self.fail(held, failure, lost).await,
        }
    }

    /// Takes the lease and reads the tokens under it, or finds that there is nothing left to do.
    async fn hold(&self, basis: &Basis) -> Result<Result<Held, Arc<Snapshot>>, AuthError> {
        let patience = self.policy.deadline.saturating_mul(2).saturating_add(MARGIN);
        let mut waited = Duration::ZERO;
        let mut backoff = Backoff::new(FIRST_LOOK, SLOWEST_LOOK);
        loop {
            let mut turn = self.turn.lock().await;
            // With unsaved tokens the lease is ours already, and they are what is to be refreshed.
            let lease = if self.save_unsaved(&mut turn).await {
                self.store.try_lease().await?
            } else {
                None
            };
            let current = self.look(&mut turn).await?;
            let is_unsaved = turn.unsaved.is_some();
            drop(turn);
            let Some(stored) = current.stored.clone() else { return Err(AuthError::TokenNotFound) };
            if stored.tokens.is_backup() {
                return Err(AuthError::IsBackup);
            }
            let now = self.clock.now();
            if basis.is_met_by(&current, now) {
                return Ok(Err(current));
            }
            let noted = clock::date(now);
            if lease.is_some() || is_unsaved {
                return Ok(Ok(Held { stored, lease, earlier: None, noted }));
            }
            // Another process is refreshing; it may be done soon.
            if waited >= patience {
                return Err(AuthError::Store(StoreError::Timeout {
                    place: self.store.to_string(),
                    reason: format!("another process has been refreshing it for {waited:?}"),
                    advice: "see whether that process is stopped or stuck".into(),
                }));
            }
            let pause = backoff.next(random());
            waited += pause;
            self.timer.sleep(pause).await;
        }
    }

    /// Notes durably that the token is about to be sent. That this works also proves that the slot
    /// can be written.
    async fn note(&self, held: &mut Held) -> Result<(), AuthError> {
        // The slot of unsaved tokens cannot be written, and has a note already.
        let Some(lease) = &mut held.lease else { return Ok(()) };
        // Without a refresh token nothing is spent.
        let Some(token) = &held.stored.tokens.refresh_token else { return Ok(()) };
        let found = match lease.intent().await {
            // Nobody can tell what it is about any more.
            Err(StoreError::Corrupt { .. }) => None,
            found => found?.filter(|intent| intent.is_for(token)),
        };
        held.earlier = found.as_ref().map(Intent::at);
        let intent = found.unwrap_or_else(|| Intent::new(token, held.noted));
        Ok(lease.write_intent(&intent).await?)
    }

    /// Asks the refresher, and once more if its answer was lost. Tells whether one was.
    async fn ask(
        &self,
        refresher: &dyn TokenRefresher,
        tokens: &AuthTokens,
    ) -> (Result<AuthTokens, RefreshFailure>, bool) {
        match self.ask_once(refresher, tokens).await {
            Err(RefreshFailure::Ambiguous { .. }) => (self.ask_once(refresher, tokens).await, true),
            answer => (answer, false),
        }
    }

    async fn ask_once(
        &self,
        refresher: &dyn TokenRefresher,
        tokens: &AuthTokens,
    ) -> Result<AuthTokens, RefreshFailure> {
        let deadline = self.policy.deadline;
        let mut answer = pin!(refresher.refresh(tokens.clone()));
        // A refresher that panics is a failure like others: those who wait must be told.
        let answer = future::poll_fn(|context| {
            let polled = panic::catch_unwind(AssertUnwindSafe(|| answer.as_mut().poll(context)));
            polled.unwrap_or_else(|_| {
                Poll::Ready(Err(RefreshFailure::ambiguous("the refresher panicked")))
            })
        });
        let answer = self.timer.within(deadline, answer).await.unwrap_or_else(|| {
            Err(RefreshFailure::ambiguous(format!("no answer within {deadline:?}")))
        });
        match answer {
            Ok(new) if codec::is_empty(&new.access_token) => {
                Err(RefreshFailure::misconfigured("the answer has an empty access token"))
            }
            answer => answer,
        }
    }

    /// Puts the new tokens in the place of the old ones.
    async fn keep(&self, held: Held, new: AuthTokens) -> Result<Arc<Snapshot>, AuthError> {
        let old = &held.stored.tokens;
        let mut tokens = new.with_backup(false);
        if tokens.refresh_token.is_none() {
            tokens.refresh_token.clone_from(&old.refresh_token);
        }
        tokens.obtained_at.get_or_insert_with(|| clock::date(self.clock.now()));

        let mut turn = self.turn.lock().await;
        let earlier = turn.unsaved.take();
        let (lease, base, spent) = match (held.lease, earlier) {
            (Some(lease), _) => (lease, held.stored.revision.clone(), old.clone()),
            (None, Some(unsaved)) if unsaved.stored.revision == held.stored.revision => {
                (unsaved.lease, unsaved.base, unsaved.spent)
            }
            // A login or a logout ended them meanwhile, and wins.
            (None, other) => {
                turn.unsaved = other;
                return self.present(self.look(&mut turn).await?);
            }
        };
        match self.save_over(base.clone(), &spent, &tokens).await {
            Kept::Saved(stored) => {
                let snapshot = self.remember(Some(stored), self.clock.now());
                self.publish(Event::Saved);
                give_up(lease).await;
                Ok(snapshot)
            }
            Kept::Overtaken => {
                give_up(lease).await;
                self.present(self.look(&mut turn).await?)
            }
            Kept::Failed(error) => {
                let unsaved = Unsaved::new(tokens, base, spent, lease, error.clone());
                let snapshot = self.remember(Some(unsaved.stored.clone()), self.clock.now());
                turn.unsaved = Some(unsaved);
                self.publish(Event::SaveFailed { error });
                Ok(snapshot)
            }
        }
    }

    /// Saves over the record whose refresh token was spent, and over no other.
    pub(super) async fn save_over(
        &self,
        mut base: Revision,
        spent: &AuthTokens,
        tokens: &AuthTokens,
    ) -> Kept {
        for _ in 0..ATTEMPTS {
            let error = match self.store.save(tokens, Expect::Unchanged(base)).await {
                Ok(revision) => {
                    return Kept::Saved(Stored { tokens: tokens.clone(), revision });
                }
                Err(error) => error,
            };
            let there = match error {
                StoreError::Conflict { .. } => self.store.load().await,
                error => Err(error),
            };
            match there {
                // It was saved, and the answer was lost.
                Ok(Some(there)) if is_of_one_refresh(&there.tokens, tokens) => {
                    return Kept::Saved(there);
                }
                // It was sealed to another key, or touched by another program.
                Ok(Some(there)) if is_of_one_refresh(&there.tokens, spent) => base = there.revision,
                Ok(_) => return Kept::Overtaken,
                Err(error) => return Kept::Failed(error),
            }
        }
        Kept::Failed(StoreError::Conflict { place: self.store.to_string() })
    }

    /// Says how it failed, and leaves the slot as it is.
    async fn fail(
        &self,
        held: Held,
        failure: RefreshFailure,
        lost: bool,
    ) -> Result<Arc<Snapshot>, AuthError> {
        let may_be_spent = held.earlier.is_some() || lost;
        let RefreshFailure::Rejected { reason } = failure else {
            let maybe_sent = matches!(failure, RefreshFailure::Ambiguous { .. });
            if let Some(lease) = held.lease {
                if may_be_spent || maybe_sent {
                    if held.earlier.is_none() {
                        self.flights().lost_at = Some(held.noted);
                    }
                    release(lease).await;
                } else {
                    give_up(lease).await;
                }
            }
            let until =
                self.flights().pace.failed(&held.stored.revision, &failure, self.clock.now());
            let error = AuthError::Refresh(failure);
            let retry_at = Some(until);
            self.publish(Event::RefreshFailed { error: error.clone(), retry_at });
            return Err(error);
        };
        // A program that knows nothing of our lease may have been faster.
        let current = self.look(&mut *self.turn.lock().await).await?;
        match &current.stored {
            Some(there) if is_of_one_refresh(&there.tokens, &held.stored.tokens) => {}
            _ => {
                if let Some(lease) = held.lease {
                    give_up(lease).await;
                }
                return self.present(current);
            }
        }
        let ours = self.flights().lost_at;
        let by = match held.earlier {
            Some(at) if ours == Some(at) => Some(SpentBy::LostAnswer { at }),
            Some(at) => Some(SpentBy::DeadProcess { at }),
            None => lost.then_some(SpentBy::LostAnswer { at: held.noted }),
        };
        let error = by
            .map_or(AuthError::LoginRequired { reason }, |by| AuthError::RefreshTokenSpent { by });
        if let Some(lease) = held.lease {
            if may_be_spent { release(lease).await } else { give_up(lease).await }
        }
        self.flights().pace.rejected(&held.stored.revision, error.clone());
        self.publish(Event::LoginRequired { error: error.clone() });
        Err(error)
    }

    /// What somebody else left in the slot, for those who wait.
    fn present(&self, snapshot: Arc<Snapshot>) -> Result<Arc<Snapshot>, AuthError> {
        if snapshot.stored.is_some() { Ok(snapshot) } else { Err(AuthError::TokenNotFound) }
    }
}

/// Tells whether two records came out of one answer of the server: it gives each token once. One
/// that does not rotate gives a refresh token again and again, and then it does not matter.
fn is_of_one_refresh(one: &AuthTokens, other: &AuthTokens) -> bool {
    let refresh = |tokens: &AuthTokens| -> Option<RefreshToken> { tokens.refresh_token.clone() };
    one.is_backup() == other.is_backup()
        && match (refresh(one), refresh(other)) {
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

async fn release(lease: Box<dyn Lease>) {
    // If that fails, the end of the process gives it up.
    let _ = lease.release().await;
}
