//! One refresh, from the lease to the saved successor.
//!
//! The refresh token is spent at most once while its holder lives: it is read under the lease, the record
//! says that it is about to be sent before it is, and its successor is saved by a compare-and-swap. Login
//! and logout do not wait for any of this, and win against it.

use std::future;
use std::panic::{self, AssertUnwindSafe};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use chrono::{DateTime, Utc};

use super::Inner;
use super::events::Event;
use super::pending_save::{NewTokens, is_of_one_refresh};
use super::slot::{SAVE_MARGIN, Settled, release};
use super::snapshot::Snapshot;
use super::throttle::{self, Hold};
use crate::error::{AuthError, RefreshFailure, SpentBy, StoreError};
use crate::record::{Intent, Record, RefreshState, Rejection, Throttle};
use crate::refresh::{RefreshPermit, TokenRefresher};
use crate::store::{Lease, Precondition, Revision, Stored};
use crate::sys::clock::{self, PollUntil};
use crate::tokens::{AuthTokens, Schedule};

/// How often a refresh begins again because its lease passed to somebody else before it was used, or because
/// somebody changed the record between the look at it and the intent.
const ATTEMPTS: usize = 5;

/// How long one waits for a refresh while the token that is there is still accepted.
pub(super) const BRIEFLY: Duration = Duration::from_secs(5);

/// For an answer that is there already, once its time is over.
pub(super) const LAST_LOOK: Duration = Duration::from_secs(1);

/// Why there is a refresh: what was found wanting.
#[derive(Clone)]
pub(super) struct Basis {
    pub(super) snapshot: Arc<Snapshot>,
    /// Whether it is to be replaced even if it is fresh.
    pub(super) forced: bool,
}

impl Basis {
    /// Returns whether this is what was asked for, so that nothing is left to do. Tokens are compared, and
    /// not revisions: an intent and a rekey change the revision and bring no new tokens.
    pub(super) fn is_met_by(&self, current: &Snapshot, now: SystemTime) -> bool {
        let changed = current.tokens() != self.snapshot.tokens();
        !current.wants_refresh(now) && (changed || !self.forced)
    }
}

/// How a refresh ends before it began: what was asked for is there, or cannot be had.
type Ended = Result<Arc<Snapshot>, AuthError>;

fn failed(error: StoreError) -> Ended {
    Err(error.into())
}

/// Tokens that are about to be refreshed, and the lease on them.
struct Held {
    record: Record,
    revision: Revision,
    lease: Box<dyn Lease>,
    /// When an earlier holder was about to send this very token.
    earlier: Option<DateTime<Utc>>,
    /// When this one is.
    at: DateTime<Utc>,
}

impl Inner {
    /// Does all of it.
    pub(super) async fn protocol(&self, basis: &Basis) -> Result<Arc<Snapshot>, AuthError> {
        let refresher = self.refresher.as_ref().ok_or(AuthError::NoRefresher)?;
        for _ in 0..ATTEMPTS {
            let mut held = match self.acquire(basis).await {
                Ok(held) => held,
                Err(ended) => return ended,
            };
            match self.record_intent(&mut held).await {
                Ok(true) => {}
                Ok(false) => {
                    release(held.lease).await;
                    continue;
                }
                Err(error) => {
                    // Nothing was sent; but an earlier holder may have sent it.
                    if held.earlier.is_none() {
                        self.conclude(&mut held, |refresh| refresh.intent = None).await;
                    }
                    release(held.lease).await;
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
            place: self.slot.to_string(),
            reason:
                "others changed it, or took its lease, each time before the refresh could begin"
                    .into(),
            advice: "see what else uses it, and whether this process is stopped often".into(),
        }))
    }

    /// Takes the lease and reads the tokens under it, or finds that there is nothing left to do.
    async fn acquire(&self, basis: &Basis) -> Result<Held, Ended> {
        let mut patience = self.longest_wait_for_lease();
        if !basis.forced && basis.snapshot.is_accepted(self.clock.now()) {
            patience = patience.min(BRIEFLY);
        }
        let (mut patience, mut is_waiting) = (PollUntil::new(patience), false);
        loop {
            let mut guard = self.slot.lock().await.map_err(failed)?;
            let mut looked = None;
            if is_waiting {
                // Most likely the other one is done, and then nobody needs the lease.
                let current = guard.reload().await.map_err(failed)?;
                if basis.is_met_by(&current, self.clock.now()) {
                    return Err(Ok(current));
                }
                looked = Some(Ok(current));
            }
            // A refresh never starts from tokens that are not saved: an earlier save may have got through
            // without an answer, and then others know them too.
            if let Settled::NotYet(error) = guard.save_pending().await {
                return Err(Err(AuthError::NotSaved(error)));
            }
            let leased = self.slot.try_lease().await;
            let looked = match looked {
                // What was seen before the lease was had says nothing.
                Some(looked) if matches!(leased, Ok(None)) => looked,
                _ => guard.reload().await,
            };
            drop(guard);
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
            if let Some(lease) = leased.map_err(failed)? {
                let Stored { record, revision } = stored;
                let earlier = record.intent().map(Intent::at);
                let at = clock::date(self.clock.now());
                return Ok(Held { record, revision, lease, earlier, at });
            }
            // Another process is refreshing; it may be done soon.
            if !patience.wait(&self.timer).await {
                let waited = patience.waited().as_secs();
                return Err(failed(StoreError::Timeout {
                    place: self.slot.to_string(),
                    reason: format!("another process has been refreshing it for {waited} seconds"),
                    advice: "see whether that process is stopped or stuck".into(),
                }));
            }
            is_waiting = true;
        }
    }

    /// How long one waits for the refresh of another process: two answers of the server, and their saves.
    pub(super) fn longest_wait_for_lease(&self) -> Duration {
        self.policy.deadline.saturating_add(SAVE_MARGIN).saturating_mul(2)
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
        if stored.record.tokens.is_backup() {
            return Err(Err(AuthError::IsBackup));
        }
        if basis.is_met_by(&current, self.clock.now()) {
            return Err(Ok(current));
        }
        // Another process may have been told meanwhile.
        match self.held_back_by(&stored.record, basis.forced) {
            Some(hold) => Err(Err(hold.error)),
            None => Ok(stored),
        }
    }

    /// Returns why the server is not to be asked now, by what the record says.
    pub(super) fn held_back_by(&self, record: &Record, forced: bool) -> Option<Hold> {
        let client = self.refresher.as_ref()?.client();
        let lost_at = self.flights().lost_at;
        throttle::held_back_by(record, &client, forced, self.clock.now(), |at| {
            spent_by(at, lost_at)
        })
    }

    /// Saves the record with the intent to send its refresh token, by the very steps that will save its
    /// successor, and makes sure that nobody else sends it until that is saved. `false` if it is to begin
    /// again: somebody signed in or out in between, or has the lease by now.
    async fn record_intent(&self, held: &mut Held) -> Result<bool, StoreError> {
        let lasts = self.policy.deadline.saturating_add(SAVE_MARGIN);
        // Without a refresh token nothing is spent.
        if let Some(token) = &held.record.tokens.refresh_token {
            held.lease.reserve().await?;
            // This holder's own, also where an earlier one left one: a process that has a successor of this
            // token sees by it that another one may have sent the token too.
            let intent = Intent::new(token, held.earlier.unwrap_or(held.at));
            held.record.refresh.intent = Some(intent);
            let precondition = Precondition::Unchanged(held.revision.clone());
            let mut guard = self.slot.lock().await?;
            match guard.save(&held.record, precondition).await {
                Ok(revision) => held.revision = revision,
                Err(StoreError::Conflict { .. }) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        held.lease.renew(lasts).await
    }

    /// Asks the refresher, and once more if its answer was lost. Returns whether one was.
    async fn ask(
        &self,
        refresher: &dyn TokenRefresher,
        held: &mut Held,
    ) -> (Result<AuthTokens, RefreshFailure>, bool) {
        let answer = self.ask_once(refresher, held).await;
        if !matches!(answer, Err(RefreshFailure::Ambiguous { .. })) {
            return (answer, false);
        }
        let lasts = self.policy.deadline.saturating_add(SAVE_MARGIN);
        if !matches!(held.lease.renew(lasts).await, Ok(true)) {
            return (answer, true);
        }
        (self.ask_once(refresher, held).await, true)
    }

    async fn ask_once(
        &self,
        refresher: &dyn TokenRefresher,
        held: &Held,
    ) -> Result<AuthTokens, RefreshFailure> {
        let deadline = self.policy.deadline;
        let permit = match held.lease.time_left() {
            None => RefreshPermit::unlimited(),
            Some(left) => RefreshPermit::until(left, deadline, SAVE_MARGIN, &self.clock),
        };
        let mut answer = pin!(refresher.refresh(held.record.tokens.clone(), &permit));
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
            Ok(new) if !new.has_access_token() => {
                Err(RefreshFailure::ambiguous("the answer has an empty access token"))
            }
            answer => answer,
        }
    }

    /// Puts the new tokens in the place of the old ones.
    ///
    /// They are kept in memory before anything is waited for: if the runtime ends here, the next
    /// caller of the manager saves them.
    async fn keep(&self, held: Held, new: AuthTokens) -> Result<Arc<Snapshot>, AuthError> {
        let intent = held.record.refresh.intent;
        let old = held.record.tokens;
        let mut tokens = new.with_backup(false);
        if tokens.refresh_token.is_none() {
            tokens.refresh_token.clone_from(&old.refresh_token);
            tokens.refresh_expires_at = tokens.refresh_expires_at.or(old.refresh_expires_at);
        }
        if let (None, Some(secret)) = (tokens.client_secret(), old.client_secret()) {
            tokens = tokens.with_client_secret(secret.clone());
        }
        let now = self.clock.now();
        tokens.obtained_at.get_or_insert_with(|| clock::date(now));
        self.flights().pace.refreshed(now);
        let throttle = self.throttle_after_success(&tokens, now);
        let refresh = RefreshState { throttle, ..RefreshState::default() };
        let record = Record::new(tokens).with_refresh(refresh);
        self.slot.put_pending(NewTokens::new(record, held.revision, old, intent, held.lease));
        if let Ok(mut guard) = self.slot.lock().await {
            match guard.save_pending().await {
                Settled::Saved(snapshot) => return present(snapshot),
                Settled::Nothing => return present(guard.reload().await?),
                Settled::NotYet(_) => {
                    if let Some(snapshot) = self.slot.serve_pending() {
                        return Ok(snapshot);
                    }
                }
            }
        }
        match self.slot.serve_pending() {
            Some(snapshot) => Ok(snapshot),
            // Somebody signed in or out meanwhile.
            None => present(self.slot.snapshot().await?),
        }
    }

    /// Keeps every process from asking again at once, if the new token is due right away.
    fn throttle_after_success(&self, tokens: &AuthTokens, now: SystemTime) -> Option<Throttle> {
        let schedule = Schedule::with(tokens, self.policy.buffers)?;
        let (now, interval) = (clock::date(now), throttle::interval(schedule.lifetime));
        let until = now.checked_add_signed(chrono::TimeDelta::from_std(interval).ok()?)?;
        let client = self.refresher.as_ref()?.client();
        (schedule.due < until).then(|| Throttle::new(now, until, &client, None))
    }

    /// Says how it failed, and leaves the tokens as they are.
    async fn fail(
        &self,
        mut held: Held,
        failure: RefreshFailure,
        lost: bool,
    ) -> Result<Arc<Snapshot>, AuthError> {
        // Every send since the intent was written must have left the token unspent, also those of others.
        let is_in_doubt = held.earlier.is_some() || lost || !failure.proves_unspent();
        let lost_at = {
            let mut flights = self.flights();
            let lost_at = flights.lost_at;
            if is_in_doubt && held.earlier.is_none() {
                flights.lost_at = Some(held.at);
            }
            lost_at
        };
        let now = self.clock.now();
        let client = self.refresher.as_ref().map(|it| it.client()).unwrap_or_default();
        let RefreshFailure::Rejected { reason } = failure else {
            let until = self.flights().pace.failed(&held.record.tokens, &failure, now);
            let throttle = match &failure {
                RefreshFailure::Transient { reason, retry_after: Some(_), .. } => {
                    let (from, until) = (clock::date(now), clock::date(until));
                    Some(Throttle::new(from, until, &client, Some(reason)))
                }
                _ => None,
            };
            self.conclude(&mut held, |refresh| {
                refresh.intent.take_if(|_| !is_in_doubt);
                if throttle.is_some() {
                    refresh.throttle = throttle;
                }
            })
            .await;
            release(held.lease).await;
            let (error, retry_at) = (AuthError::Refresh(failure), Some(until));
            self.events.publish(Event::RefreshFailed { error: error.clone(), retry_at });
            return Err(error);
        };
        // A program that knows nothing of our lease may have been faster. If that cannot be found out, a
        // session that still works must not be given up.
        match self.look_for_others(&held.record.tokens).await {
            Ok(None) => {}
            Ok(Some(current)) => {
                release(held.lease).await;
                return present(current);
            }
            Err(error) => {
                release(held.lease).await;
                return Err(error.into());
            }
        }
        let by = match held.earlier {
            Some(at) => Some(spent_by(at, lost_at)),
            None => lost.then_some(SpentBy::LostAnswer { at: held.at }),
        };
        let rejection = held.record.tokens.refresh_token.as_ref();
        let rejection =
            rejection.map(|token| Rejection::new(token, &client, clock::date(now), &reason));
        let error = by
            .map_or(AuthError::LoginRequired { reason }, |by| AuthError::RefreshTokenSpent { by });
        self.flights().pace.rejected(&held.record.tokens, error.clone(), now);
        self.conclude(&mut held, |refresh| {
            refresh.intent.take_if(|_| !is_in_doubt);
            refresh.rejection = rejection;
        })
        .await;
        release(held.lease).await;
        self.events.publish(Event::LoginRequired { error: error.clone() });
        Err(error)
    }

    /// Returns what is in the slot if these are no longer the tokens in it.
    async fn look_for_others(
        &self,
        tokens: &AuthTokens,
    ) -> Result<Option<Arc<Snapshot>>, StoreError> {
        let mut guard = self.slot.lock().await?;
        let current = guard.reload().await?;
        let is_same = current.tokens().is_some_and(|there| is_of_one_refresh(there, tokens));
        Ok((!is_same).then_some(current))
    }

    /// Ends a refresh that brought no new tokens: saves what is known about them now. If that fails, the
    /// record keeps its intent, which only makes a later message more careful than it need be.
    async fn conclude(&self, held: &mut Held, change: impl FnOnce(&mut RefreshState)) {
        let before = held.record.refresh.clone();
        change(&mut held.record.refresh);
        if held.record.refresh == before {
            return;
        }
        let ours = before.intent;
        for _ in 0..ATTEMPTS {
            let precondition = Precondition::Unchanged(held.revision.clone());
            // What is not saved now is not saved later: see above.
            let Ok(mut guard) = self.slot.lock().await else { return };
            match guard.save(&held.record, precondition).await {
                Err(StoreError::Conflict { .. }) => {}
                _ => return,
            }
            match guard.load().await {
                // It was sealed to another key meanwhile, or the answer to a save was lost.
                Ok(Some(there))
                    if is_of_one_refresh(&there.record.tokens, &held.record.tokens)
                        && there.record.refresh != held.record.refresh =>
                {
                    // That another holder may have sent the token is not for this one to take back.
                    if there.record.intent().is_some_and(|theirs| Some(theirs) != ours.as_ref()) {
                        held.record.refresh.intent = there.record.refresh.intent;
                    }
                    held.record.tokens = there.record.tokens;
                    held.revision = there.revision;
                }
                _ => return,
            }
        }
    }
}

/// Returns what is in the slot, for those who wait, unless it is empty.
fn present(snapshot: Arc<Snapshot>) -> Result<Arc<Snapshot>, AuthError> {
    if snapshot.stored.is_some() { Ok(snapshot) } else { Err(AuthError::TokenNotFound) }
}

/// Says who was about to send a token at that time: this process, if its own request was lost then.
fn spent_by(at: DateTime<Utc>, lost_at: Option<DateTime<Utc>>) -> SpentBy {
    if lost_at == Some(at) { SpentBy::LostAnswer { at } } else { SpentBy::DeadProcess { at } }
}
