//! One refresh, from the lease to the saved successor.
//!
//! The refresh token is spent at most once while its holder lives: it is read under the lease, the record
//! says that it is about to be sent before it is, and its successor is saved by a compare-and-swap. Login
//! and logout wait for one call to the store at most, and win against all of this.

mod failure;
mod history;

use std::future;
use std::panic::{self, AssertUnwindSafe};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use chrono::{DateTime, Utc};

use self::history::History;
use super::events::Event;
use super::pending_save::NewTokens;
use super::publisher::Publisher;
use super::slot::{SAVE_MARGIN, Settled, Slot, release};
use super::snapshot::Snapshot;
use super::throttle::{self, HeldBack};
#[cfg(feature = "tracing")]
use super::trace;
use crate::error::{AuthError, RefreshFailure, StoreError};
use crate::record::{self, Intent, Record, RefreshState};
use crate::refresh::{RefreshPermit, RefreshPolicy, TokenRefresher};
use crate::store::{Lease, Precondition, Revision, Stored};
use crate::sys::clock::{self, Clock, PollUntil, Timer};
use crate::tokens::{AuthTokens, Schedule};

/// How often a refresh begins again because its lease passed to somebody else before it was used, or because
/// somebody changed the record between its load and the save of the intent.
const ATTEMPTS: usize = 5;

/// How long one waits for a refresh while the token that is there is still accepted.
pub(super) const WAIT_LIMIT_WHILE_ACCEPTED: Duration = Duration::from_secs(5);

/// How long an answer is waited for after the deadline: it is there already if this process was stopped.
const LATE_ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// For all that a refresh does with the store beside waiting for its lease: five calls, of which the slowest
/// store gives up each in 85 seconds.
const STORE_CALLS_LIMIT: Duration = Duration::from_secs(5 * 85);

/// Asks for new tokens in the place of those that were found.
#[derive(Clone)]
pub(super) struct RefreshRequest {
    found: Arc<Snapshot>,
    /// Whether they are to be replaced even if they are fresh.
    is_forced: bool,
}

impl RefreshRequest {
    /// Asks for other tokens if these are due.
    pub(super) fn if_due(found: Arc<Snapshot>) -> Self {
        Self { found, is_forced: false }
    }

    /// Asks for other tokens, even if these are fresh.
    pub(super) fn forced(found: Arc<Snapshot>) -> Self {
        Self { found, is_forced: true }
    }

    /// Returns whether this is what was asked for, so that nothing is left to do. Tokens are compared, and
    /// not revisions: an intent and a rekey change the revision and bring no new tokens.
    fn is_met_by(&self, current: &Snapshot, now: SystemTime) -> bool {
        let changed = current.tokens() != self.found.tokens();
        !current.wants_refresh(now) && (changed || !self.is_forced)
    }
}

/// Tokens that are about to be refreshed, and the lease on them.
struct LeasedTokens {
    record: Record,
    revision: Revision,
    lease: Box<dyn Lease>,
    /// When an earlier holder was about to send this very token.
    earlier: Option<DateTime<Utc>>,
    /// When this one is.
    at: DateTime<Utc>,
    /// Whether this one sent it, and the answer was lost.
    is_answer_lost: bool,
}

/// How a refresh begins.
enum Acquired {
    /// With the lease, and the tokens as they were read under it.
    Leased(Box<LeasedTokens>),
    /// Not at all: what was asked for is there.
    Met(Arc<Snapshot>),
}

/// Refreshes the tokens of one slot. It must run once at a time in a process.
pub(super) struct RefreshProtocol {
    slot: Arc<Slot>,
    refresher: Arc<dyn TokenRefresher>,
    policy: RefreshPolicy,
    clock: Clock,
    timer: Arc<Timer>,
    events: Publisher,
    history: History,
}

impl RefreshProtocol {
    pub(super) fn new(
        slot: Arc<Slot>,
        refresher: Arc<dyn TokenRefresher>,
        policy: RefreshPolicy,
        clock: Clock,
        timer: Arc<Timer>,
        events: Publisher,
    ) -> Self {
        Self { slot, refresher, policy, clock, timer, events, history: History::default() }
    }

    /// Refreshes the tokens, and publishes how it ended.
    pub(super) async fn run(&self, request: &RefreshRequest) -> Result<Arc<Snapshot>, AuthError> {
        let refresh = async {
            let refreshed = self.refresh(request).await;
            self.publish(request, &refreshed);
            refreshed
        };
        #[cfg(feature = "tracing")]
        let refresh = trace::refresh(&*self.slot, refresh);
        refresh.await
    }

    /// Does all of it.
    async fn refresh(&self, request: &RefreshRequest) -> Result<Arc<Snapshot>, AuthError> {
        for _ in 0..ATTEMPTS {
            let mut leased = match self.acquire(request).await? {
                Acquired::Leased(leased) => *leased,
                Acquired::Met(snapshot) => return Ok(snapshot),
            };
            let is_ours = match self.record_intent(&mut leased).await {
                Ok(true) => self.renew_lease(&mut leased).await,
                not_recorded => not_recorded,
            };
            match is_ours {
                Ok(true) => {}
                Ok(false) => {
                    release(leased.lease).await;
                    continue;
                }
                Err(error) => {
                    // Nothing was sent; but an earlier holder may have sent it.
                    if leased.earlier.is_none() {
                        self.update_record(&mut leased, |refresh| refresh.intent = None).await;
                    }
                    release(leased.lease).await;
                    return Err(error.into());
                }
            }
            return match self.call_refresher(&mut leased).await {
                Ok(new) => self.commit(leased, new).await,
                Err(failure) => self.classify_failure(leased, failure).await,
            };
        }
        Err(AuthError::Store(StoreError::Timeout {
            place: self.place(),
            reason:
                "others changed it, or took its lease, each time before the refresh could begin"
                    .into(),
            advice: "see what else uses it, and whether this process is stopped often".into(),
        }))
    }

    /// Takes the lease and reads the tokens under it, or finds that there is nothing left to do.
    async fn acquire(&self, request: &RefreshRequest) -> Result<Acquired, AuthError> {
        let mut poll = PollUntil::new(self.longest_wait_for_lease(request));
        let mut was_taken = false;
        loop {
            if let Some(acquired) = self.try_acquire(request, was_taken).await? {
                return Ok(acquired);
            }
            // Another process is refreshing; it may be done soon.
            was_taken = true;
            if !poll.wait(&self.timer).await {
                return Err(self.lease_timeout(poll.waited()));
            }
        }
    }

    /// Tries once to take the lease, and reads the tokens under it. `None` if somebody else has it.
    async fn try_acquire(
        &self,
        request: &RefreshRequest,
        was_taken: bool,
    ) -> Result<Option<Acquired>, AuthError> {
        let mut guard = self.slot.lock().await?;
        let mut before = None;
        if was_taken {
            // Most likely the other one is done, and then nobody needs the lease.
            let current = guard.reload().await?;
            if request.is_met_by(&current, self.clock.now()) {
                return Ok(Some(Acquired::Met(current)));
            }
            before = Some(current);
        }
        // A refresh never starts from tokens that are not saved: an earlier save may have got through
        // without an answer, and then others know them too.
        if let Settled::NotYet(error) = guard.save_pending().await {
            return Err(AuthError::NotSaved(error));
        }
        let lease = self.slot.try_lease().await;
        let current = match before {
            Some(before) if matches!(lease, Ok(None)) => Ok(before),
            // What was read before the lease was had says nothing.
            _ => guard.reload().await,
        };
        drop(guard);
        let needed = match &current {
            Ok(current) => self.needed(request, current),
            Err(error) => Err(error.clone().into()),
        };
        let Ok(Some(stored)) = needed else {
            // On a server it would stay taken for a while if it were only dropped.
            if let Ok(Some(lease)) = lease {
                release(lease).await;
            }
            needed?;
            return Ok(Some(Acquired::Met(current?)));
        };
        let Some(lease) = lease? else { return Ok(None) };
        let Stored { record, revision } = stored;
        let earlier = record.intent().map(Intent::at);
        let (at, is_answer_lost) = (clock::date(self.clock.now()), false);
        let leased = LeasedTokens { record, revision, lease, earlier, at, is_answer_lost };
        Ok(Some(Acquired::Leased(Box::new(leased))))
    }

    /// Returns the tokens that are to be refreshed: `None` if those in the slot are what was asked for.
    fn needed(
        &self,
        request: &RefreshRequest,
        current: &Snapshot,
    ) -> Result<Option<Stored>, AuthError> {
        let Some(stored) = &current.stored else { return Err(AuthError::TokenNotFound) };
        if stored.record.tokens.is_backup() {
            return Err(AuthError::IsBackup);
        }
        if request.is_met_by(current, self.clock.now()) {
            return Ok(None);
        }
        // Another process may have been told meanwhile.
        match self.held_back_by(&stored.record, request.is_forced) {
            Some(held_back) => Err(held_back.error),
            None => Ok(Some(stored.clone())),
        }
    }

    /// Saves the record with the intent to send its refresh token, by the very steps that will save its
    /// successor. `false` if it is to begin again: somebody signed in or out in between.
    async fn record_intent(&self, leased: &mut LeasedTokens) -> Result<bool, StoreError> {
        // Without a refresh token nothing is spent.
        let Some(token) = &leased.record.tokens.refresh_token else { return Ok(true) };
        leased.lease.reserve().await?;
        // This holder's own, also where an earlier one left one: a process that has a successor of this
        // token sees by it that another one may have sent the token too.
        let intent = Intent::new(token, leased.earlier.unwrap_or(leased.at));
        leased.record.refresh.intent = Some(intent);
        let precondition = Precondition::Unchanged(leased.revision.clone());
        let saved = self.slot.lock().await?.save(&leased.record, precondition).await;
        match saved {
            Ok(revision) => leased.revision = revision,
            Err(StoreError::Conflict { .. }) => return Ok(false),
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    /// Makes sure that nobody else sends the refresh token until the answer has come and is saved. `false` if
    /// somebody else has the lease by now.
    async fn renew_lease(&self, leased: &mut LeasedTokens) -> Result<bool, StoreError> {
        leased.lease.renew(self.policy.deadline.saturating_add(SAVE_MARGIN)).await
    }

    /// Calls the refresher, and once more if its answer was lost.
    async fn call_refresher(
        &self,
        leased: &mut LeasedTokens,
    ) -> Result<AuthTokens, RefreshFailure> {
        let answer = self.call_once(leased).await;
        if !matches!(answer, Err(RefreshFailure::Ambiguous { .. })) {
            return answer;
        }
        leased.is_answer_lost = true;
        if !matches!(self.renew_lease(leased).await, Ok(true)) {
            return answer;
        }
        self.call_once(leased).await
    }

    async fn call_once(&self, leased: &LeasedTokens) -> Result<AuthTokens, RefreshFailure> {
        let deadline = self.policy.deadline;
        let permit = match leased.lease.time_left() {
            None => RefreshPermit::unlimited(),
            Some(left) => RefreshPermit::until(left, deadline, SAVE_MARGIN, &self.clock),
        };
        let mut answer = pin!(self.refresher.refresh(leased.record.tokens.clone(), &permit));
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
            answered = self.timer.within(LATE_ANSWER_LIMIT, answer).await;
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
    async fn commit(
        &self,
        leased: LeasedTokens,
        new: AuthTokens,
    ) -> Result<Arc<Snapshot>, AuthError> {
        let intent = leased.record.refresh.intent;
        let old = leased.record.tokens;
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
        self.history.refreshed(now);
        let throttle = self.throttle_after_success(&tokens, now);
        let refresh = RefreshState { throttle, ..RefreshState::default() };
        let record = Record::new(tokens).with_refresh(refresh);
        self.slot.put_pending(NewTokens::new(record, leased.revision, old, intent, leased.lease));
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
    fn throttle_after_success(
        &self,
        tokens: &AuthTokens,
        now: SystemTime,
    ) -> Option<record::Throttle> {
        let schedule = Schedule::with(tokens, self.policy.buffers)?;
        let (now, interval) = (clock::date(now), throttle::interval(schedule.lifetime));
        let until = now.checked_add_signed(chrono::TimeDelta::from_std(interval).ok()?)?;
        let client = self.refresher.client();
        (schedule.due < until).then(|| record::Throttle::new(now, until, &client, None))
    }

    /// Publishes how a refresh ended, if that was not done where it happened.
    fn publish(&self, request: &RefreshRequest, refreshed: &Result<Arc<Snapshot>, AuthError>) {
        let (error, mut retry_at) = match refreshed {
            Ok(_) => return self.events.publish(Event::Refreshed),
            Err(
                AuthError::LoginRequired { .. }
                | AuthError::Refresh(_)
                | AuthError::RefreshTokenSpent { .. },
            ) => return,
            Err(error) => (error.clone(), None),
        };
        if let (AuthError::Store(_) | AuthError::NotSaved(_), Some(tokens)) =
            (&error, request.found.tokens())
        {
            let now = self.clock.now();
            retry_at = Some(self.history.store_failed(tokens, error.clone(), now));
        }
        self.events.publish(Event::RefreshFailed { error, retry_at });
    }

    /// Returns what is in memory, if that is what was asked for.
    pub(super) fn met(&self, request: &RefreshRequest) -> Option<Arc<Snapshot>> {
        let now = self.clock.now();
        self.slot.latest().filter(|current| request.is_met_by(current, now))
    }

    /// Checks whether a refresh may be started now.
    ///
    /// # Errors
    ///
    /// How the last one failed, if that was too short a time ago, here or in another process.
    pub(super) fn check_throttle(&self, request: &RefreshRequest) -> Result<(), AuthError> {
        let Some(stored) = &request.found.stored else { return Ok(()) };
        let (tokens, now) = (&stored.record.tokens, self.clock.now());
        let lifetime = request.found.lifetime();
        if let Some(error) = self.history.throttled(tokens, lifetime, request.is_forced, now) {
            return Err(error);
        }
        let Some(held_back) = self.held_back_by(&stored.record, request.is_forced) else {
            return Ok(());
        };
        // Another process was told. This one says so once, and remembers it.
        self.history.told(tokens, &held_back, now);
        let error = held_back.error.clone();
        self.events.publish(match held_back.until {
            None => Event::LoginRequired { error },
            Some(until) => Event::RefreshFailed { error, retry_at: clock::system_time(until) },
        });
        Err(held_back.error)
    }

    /// Returns why the server is not to be asked now, by what the record says.
    fn held_back_by(&self, record: &Record, is_forced: bool) -> Option<HeldBack> {
        let client = self.refresher.client();
        self.history.held_back_by(record, &client, is_forced, self.clock.now())
    }

    /// Reloads where a refresh is not simply the next step: once the server rejected a refresh
    /// token, the store is asked each time whether it holds others, and the server is not; and
    /// tokens that wait to be saved may do so because the runtime that was to save them has ended.
    pub(super) async fn reload_if_doubtful(
        &self,
        snapshot: Arc<Snapshot>,
    ) -> Result<Arc<Snapshot>, StoreError> {
        let is_rejected =
            snapshot.stored.as_ref().is_some_and(|stored| self.is_rejected(&stored.record));
        if !is_rejected && !self.slot.has_pending() {
            return Ok(snapshot);
        }
        self.slot.lock().await?.save_and_reload().await
    }

    /// Returns whether the server rejected the refresh token of this record, here or in another process.
    fn is_rejected(&self, record: &Record) -> bool {
        record.refresh.rejection.is_some() || self.history.is_rejected(&record.tokens)
    }

    /// Goes on trying to save what the last refresh brought.
    pub(super) async fn keep_saving(&self) {
        self.slot.keep_saving().await;
    }

    /// Forgets how earlier refreshes ended: there are tokens of a new login.
    pub(super) fn begin_anew(&self) {
        self.history.begin_anew();
    }

    /// How long a refresh may take whose runtime is driven: it waits for the lease, and asks twice.
    pub(super) fn longest(&self) -> Duration {
        let answers = self.policy.deadline.saturating_add(LATE_ANSWER_LIMIT).saturating_mul(2);
        self.longest_other_refresh().saturating_add(answers).saturating_add(STORE_CALLS_LIMIT)
    }

    /// How long the refresh of another process may take: two answers of the server, and their saves.
    fn longest_other_refresh(&self) -> Duration {
        self.policy.deadline.saturating_add(SAVE_MARGIN).saturating_mul(2)
    }

    /// How long one waits for the lease.
    fn longest_wait_for_lease(&self, request: &RefreshRequest) -> Duration {
        let longest = self.longest_other_refresh();
        if !request.is_forced && request.found.is_accepted(self.clock.now()) {
            return longest.min(WAIT_LIMIT_WHILE_ACCEPTED);
        }
        longest
    }

    fn lease_timeout(&self, waited: Duration) -> AuthError {
        AuthError::Store(StoreError::Timeout {
            place: self.place(),
            reason: format!(
                "another process has been refreshing it for {} seconds",
                waited.as_secs()
            ),
            advice: "see whether that process is stopped or stuck".into(),
        })
    }

    /// Returns the name of the slot, for errors.
    pub(super) fn place(&self) -> String {
        self.slot.to_string()
    }
}

/// Returns what is in the slot, for those who wait, unless it is empty.
fn present(snapshot: Arc<Snapshot>) -> Result<Arc<Snapshot>, AuthError> {
    if snapshot.stored.is_some() { Ok(snapshot) } else { Err(AuthError::TokenNotFound) }
}
