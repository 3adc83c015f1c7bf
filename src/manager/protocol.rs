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
use super::unsaved::{Unsaved, give_up, is_of_one_refresh, release};
use crate::clock::{self, Patience};
use crate::codec;
use crate::error::{AuthError, RefreshFailure, SpentBy, StoreError};
use crate::refresh::{RefreshPermit, TokenRefresher};
use crate::store::{Intent, Lease, Stored};
use crate::tokens::AuthTokens;

/// How much longer than the answers of the server a holder may take: to save, on a slow disk or a server
/// of its own.
pub(super) const MARGIN: Duration = Duration::from_secs(30);

/// How often a lease may pass to somebody else before it was used: this process was stopped each time.
const LAPSES: usize = 3;

/// How long one waits for a refresh while the token that is there is still accepted.
pub(super) const BRIEFLY: Duration = Duration::from_secs(5);

/// For an answer that is there already, once its time is over.
const LAST_LOOK: Duration = Duration::from_secs(1);

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

/// How a refresh ends before it began: what was asked for is there, or cannot be had.
type Ended = Result<Arc<Snapshot>, AuthError>;

fn failed(error: StoreError) -> Ended {
    Err(error.into())
}

/// Tokens whose refresh token is about to be sent, and the right to send it.
struct Held {
    stored: Stored,
    right: Right,
    /// When an earlier holder was about to send this very token.
    earlier: Option<DateTime<Utc>>,
    /// When we noted that we are about to.
    noted: DateTime<Utc>,
}

enum Right {
    Lease(Box<dyn Lease>),
    /// The tokens are unsaved ones, and the lease is kept with them; this keeps them in use.
    Unsaved(#[expect(dead_code, reason = "it is there as long as this is")] Arc<()>),
}

impl Inner {
    /// Does all of it.
    pub(super) async fn protocol(&self, basis: &Basis) -> Result<Arc<Snapshot>, AuthError> {
        let refresher = self.refresher.as_ref().ok_or(AuthError::NoRefresher)?;
        for _ in 0..LAPSES {
            let mut held = match self.hold(basis).await {
                Ok(held) => held,
                Err(ended) => return ended,
            };
            let may_send = match self.note(&mut held).await {
                Ok(()) => self.may_send(&mut held).await,
                failed => failed.map(|()| false),
            };
            match may_send {
                Ok(true) => {}
                Ok(false) => continue,
                Err(error) => {
                    // It was not sent; but whoever noted it before may have sent it.
                    end(held.right, held.earlier.is_some()).await;
                    return Err(error.into());
                }
            }
            let (answer, lost) = self.ask(&**refresher, &mut held).await;
            return match answer {
                Ok(new) => self.keep(held, new).await,
                Err(failure) => self.fail(held, failure, lost).await,
            };
        }
        Err(AuthError::Store(StoreError::Timeout {
            place: self.store.to_string(),
            reason: "its lease passed to others before it could be used".into(),
            advice: "see why this process is stopped so often".into(),
        }))
    }

    /// Takes the lease and reads the tokens under it, or finds that there is nothing left to do.
    async fn hold(&self, basis: &Basis) -> Result<Held, Ended> {
        let mut patience = self.policy.deadline.saturating_add(MARGIN).saturating_mul(2);
        if !basis.forced && basis.snapshot.is_accepted(self.clock.now()) {
            patience = patience.min(BRIEFLY);
        }
        let (mut patience, mut is_waiting) = (Patience::new(patience), false);
        loop {
            let mut turn = self.turn.lock().await;
            let mut looked = None;
            if is_waiting {
                // Most likely the other one is done, and then nobody needs the lease.
                let current = self.look(&mut turn).await.map_err(failed)?;
                if basis.is_met_by(&current, self.clock.now()) {
                    return Err(Ok(current));
                }
                looked = Some(Ok(current));
            }
            // With unsaved tokens the lease is ours already, and they are what is to be refreshed.
            let leased = if self.save_unsaved(&mut turn).await {
                self.store.try_lease().await
            } else {
                Ok(None)
            };
            let looked = match looked {
                // What was seen before the lease was had says nothing.
                Some(looked) if matches!(leased, Ok(None)) => looked,
                _ => self.look(&mut turn).await,
            };
            let unsaved = self.unsaved().as_mut().map(|unsaved| {
                let in_use = Arc::new(());
                unsaved.in_use = Arc::downgrade(&in_use);
                in_use
            });
            drop(turn);
            let stored = match self.wanting(basis, looked) {
                Ok(stored) => stored,
                Err(ended) => {
                    // On a server it would stay taken for a while if it were only dropped.
                    if let Ok(Some(lease)) = leased {
                        release(lease).await;
                    }
                    return Err(ended);
                }
            };
            let right = match (leased.map_err(failed)?, unsaved) {
                (_, Some(in_use)) => Some(Right::Unsaved(in_use)),
                (lease, None) => lease.map(Right::Lease),
            };
            if let Some(right) = right {
                let noted = clock::date(self.clock.now());
                return Ok(Held { stored, right, earlier: None, noted });
            }
            // Another process is refreshing; it may be done soon.
            if !patience.wait(&self.timer).await {
                let waited = patience.waited().as_secs();
                return Err(failed(StoreError::Timeout {
                    place: self.store.to_string(),
                    reason: format!("another process has been refreshing it for {waited} seconds"),
                    advice: "see whether that process is stopped or stuck".into(),
                }));
            }
            is_waiting = true;
        }
    }

    /// Finds the tokens that are to be refreshed, in what a look at the store found.
    fn wanting(
        &self,
        basis: &Basis,
        looked: Result<Arc<Snapshot>, StoreError>,
    ) -> Result<Stored, Ended> {
        let current = looked.map_err(failed)?;
        let Some(stored) = current.stored.clone() else {
            return Err(Err(AuthError::TokenNotFound));
        };
        if stored.tokens.is_backup() {
            return Err(Err(AuthError::IsBackup));
        }
        if basis.is_met_by(&current, self.clock.now()) { Err(Ok(current)) } else { Ok(stored) }
    }

    /// Notes durably that the token is about to be sent. That this works also proves that the slot
    /// can be written.
    async fn note(&self, held: &mut Held) -> Result<(), StoreError> {
        // The slot of unsaved tokens cannot be written, and has a note already.
        let Right::Lease(lease) = &mut held.right else { return Ok(()) };
        // Without a refresh token nothing is spent.
        let Some(token) = &held.stored.tokens.refresh_token else { return Ok(()) };
        let found = match lease.intent().await {
            // Nobody can tell what it is about any more.
            Err(StoreError::Corrupt { .. }) => None,
            found => found?.filter(|intent| intent.is_for(token)),
        };
        held.earlier = found.as_ref().map(Intent::at);
        let intent = found.unwrap_or_else(|| Intent::new(token, held.noted));
        lease.write_intent(&intent).await
    }

    /// Makes sure that nobody else sends the token until its answer has come and is saved.
    async fn may_send(&self, held: &mut Held) -> Result<bool, StoreError> {
        match &mut held.right {
            Right::Lease(lease) => lease.renew(self.policy.deadline.saturating_add(MARGIN)).await,
            // Nobody else knows these.
            Right::Unsaved(_) => Ok(true),
        }
    }

    /// Asks the refresher, and once more if its answer was lost. Tells whether one was.
    async fn ask(
        &self,
        refresher: &dyn TokenRefresher,
        held: &mut Held,
    ) -> (Result<AuthTokens, RefreshFailure>, bool) {
        let answer = self.ask_once(refresher, &held.stored.tokens).await;
        if !matches!(answer, Err(RefreshFailure::Ambiguous { .. })) {
            return (answer, false);
        }
        if !matches!(self.may_send(held).await, Ok(true)) {
            return (answer, true);
        }
        (self.ask_once(refresher, &held.stored.tokens).await, true)
    }

    async fn ask_once(
        &self,
        refresher: &dyn TokenRefresher,
        tokens: &AuthTokens,
    ) -> Result<AuthTokens, RefreshFailure> {
        let deadline = self.policy.deadline;
        let permit = RefreshPermit::unlimited();
        let mut answer = pin!(refresher.refresh(tokens.clone(), &permit));
        // A refresher that panics is a failure like others: those who wait must be told.
        let answer = future::poll_fn(|context| {
            let polled = panic::catch_unwind(AssertUnwindSafe(|| answer.as_mut().poll(context)));
            polled.unwrap_or_else(|_| {
                Poll::Ready(Err(RefreshFailure::ambiguous("the refresher panicked")))
            })
        });
        let mut answer = pin!(answer);
        let mut answered = self.timer.within(deadline, answer.as_mut()).await;
        if answered.is_none() {
            // It may be there, if this process was stopped meanwhile.
            answered = self.timer.within(LAST_LOOK, answer).await;
        }
        let answered = answered.unwrap_or_else(|| {
            Err(RefreshFailure::ambiguous(format!("no answer within {deadline:?}")))
        });
        match answered {
            Ok(new) if codec::is_empty(&new.access_token) => {
                Err(RefreshFailure::misconfigured("the answer has an empty access token"))
            }
            answer => answer,
        }
    }

    /// Puts the new tokens in the place of the old ones.
    ///
    /// They are parked before anything is waited for: if the runtime ends here, whoever uses the
    /// manager next saves them.
    async fn keep(&self, held: Held, new: AuthTokens) -> Result<Arc<Snapshot>, AuthError> {
        let old = held.stored;
        let mut tokens = new.with_backup(false);
        if tokens.refresh_token.is_none() {
            tokens.refresh_token.clone_from(&old.tokens.refresh_token);
        }
        tokens.obtained_at.get_or_insert_with(|| clock::date(self.clock.now()));
        self.flights().pace.refreshed(self.clock.now());
        let parked = {
            let mut unsaved = self.unsaved();
            match held.right {
                Right::Lease(lease) => {
                    *unsaved =
                        Some(Unsaved::new(tokens, old.revision, vec![old.tokens], Some(lease)));
                    true
                }
                // A login or a logout may have ended them meanwhile, and wins.
                Right::Unsaved(_) => match unsaved.take() {
                    Some(earlier) if earlier.stored.revision == old.revision => {
                        let mut spent = earlier.spent;
                        spent.push(old.tokens);
                        *unsaved = Some(Unsaved::new(tokens, earlier.base, spent, earlier.lease));
                        true
                    }
                    other => {
                        *unsaved = other;
                        false
                    }
                },
            }
        };
        let mut turn = self.turn.lock().await;
        if parked && !self.save_unsaved(&mut turn).await {
            let stored = self.unsaved().as_ref().map(|unsaved| unsaved.stored.clone());
            return self.present(self.remember(stored, self.clock.now()));
        }
        self.present(self.look(&mut turn).await?)
    }

    /// Says how it failed, and leaves the slot as it is.
    async fn fail(
        &self,
        held: Held,
        failure: RefreshFailure,
        lost: bool,
    ) -> Result<Arc<Snapshot>, AuthError> {
        let may_be_spent =
            held.earlier.is_some() || lost || matches!(failure, RefreshFailure::Ambiguous { .. });
        let revision = &held.stored.revision;
        let ours = {
            let mut flights = self.flights();
            let ours = flights.lost_at;
            if may_be_spent && held.earlier.is_none() {
                flights.lost_at = Some(held.noted);
            }
            ours
        };
        let RefreshFailure::Rejected { reason } = failure else {
            let until = self.flights().pace.failed(revision, &failure, self.clock.now());
            end(held.right, may_be_spent).await;
            let (error, retry_at) = (AuthError::Refresh(failure), Some(until));
            self.publish(Event::RefreshFailed { error: error.clone(), retry_at });
            return Err(error);
        };
        // A program that knows nothing of our lease may have been faster.
        if let Ok(current) = self.look(&mut *self.turn.lock().await).await {
            let is_same = |there: &Stored| is_of_one_refresh(&there.tokens, &held.stored.tokens);
            if !current.stored.as_ref().is_some_and(is_same) {
                end(held.right, false).await;
                return self.present(current);
            }
        }
        let by = match held.earlier {
            Some(at) if ours == Some(at) => Some(SpentBy::LostAnswer { at }),
            Some(at) => Some(SpentBy::DeadProcess { at }),
            None => lost.then_some(SpentBy::LostAnswer { at: held.noted }),
        };
        let error = by
            .map_or(AuthError::LoginRequired { reason }, |by| AuthError::RefreshTokenSpent { by });
        self.flights().pace.rejected(revision, error.clone());
        end(held.right, may_be_spent).await;
        self.publish(Event::LoginRequired { error: error.clone() });
        Err(error)
    }

    /// What somebody else left in the slot, for those who wait.
    fn present(&self, snapshot: Arc<Snapshot>) -> Result<Arc<Snapshot>, AuthError> {
        if snapshot.stored.is_some() { Ok(snapshot) } else { Err(AuthError::TokenNotFound) }
    }
}

/// Gives the right to spend up; the note stays if the token may have been spent.
async fn end(right: Right, may_be_spent: bool) {
    match right {
        Right::Lease(lease) if may_be_spent => release(lease).await,
        Right::Lease(lease) => give_up(lease).await,
        Right::Unsaved(_) => {}
    }
}
