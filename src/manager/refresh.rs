//! One refresh, from taking the lease to saving the new tokens.
//!
//! The holder of the lease spends the refresh token at most once, as long as its process lives. It loads the
//! token after it took the lease. It saves an intent before it sends the token. It saves the new tokens by a
//! compare-and-swap. A login or a logout waits for one call to the store at most, and its tokens replace
//! those of a refresh.

mod call;
mod failure;
mod first;
mod history;
mod throttled;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use chrono::{DateTime, Utc};

use self::call::LATE_ANSWER_LIMIT;
use self::history::History;
use super::events::Event;
use super::pending_save::NewTokens;
use super::publisher::Publisher;
use super::slot::{SAVE_MARGIN, Settled, Slot, release};
use super::snapshot::Snapshot;
#[cfg(feature = "tracing")]
use super::trace;
use crate::error::{AuthError, StoreError};
use crate::record::{self, Intent, Record, RefreshState};
use crate::refresh::{RefreshPolicy, TokenRefresher};
use crate::store::{Lease, Precondition, Revision, Stored};
use crate::sys::clock::{self, Clock, PollUntil, Timer};
use crate::tokens::AuthTokens;

/// How often a refresh is started. It is started again if another holder took its lease before it was used,
/// or if the record was changed between its load and the save of the intent.
const ATTEMPTS: usize = 5;

/// How long a caller waits for a refresh while the old token is still accepted.
pub(super) const WAIT_LIMIT_WHILE_ACCEPTED: Duration = Duration::from_secs(5);

/// How long the calls to the store may take in one refresh, without the wait for its lease. There are 5
/// calls, and the slowest store gives up each of them after 85 s.
const STORE_CALLS_LIMIT: Duration = Duration::from_secs(5 * 85);

/// A request for new tokens in place of those that were found.
#[derive(Clone)]
pub(super) struct RefreshRequest {
    found: Arc<Snapshot>,
    /// Whether they are refreshed even if they are fresh.
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

    /// Returns whether the current tokens meet this request, so that no refresh is needed. Tokens are
    /// compared, not revisions: an intent or a rekey changes the revision without new tokens.
    fn is_met_by(&self, current: &Snapshot, now: SystemTime) -> bool {
        let changed = current.tokens() != self.found.tokens();
        current.stored.is_some() && !current.wants_refresh(now) && (changed || !self.is_forced)
    }
}

/// Tokens that are about to be refreshed, and their lease.
struct LeasedTokens {
    record: Record,
    revision: Revision,
    lease: Box<dyn Lease>,
    /// When an earlier holder was about to send the same token, if its intent was left over.
    earlier: Option<DateTime<Utc>>,
    /// When this holder is about to send the token.
    at: DateTime<Utc>,
    /// Whether this holder sent the token and the answer was lost.
    is_answer_lost: bool,
}

/// The result of taking the lease.
enum Acquired {
    /// This refresh has the lease, and the tokens that it loaded afterwards.
    Leased(Box<LeasedTokens>),
    /// The tokens in the slot meet the request, so no refresh is needed.
    Met(Arc<Snapshot>),
    /// The slot is empty, and the refresher needs no tokens to obtain the first ones.
    Vacant(Box<dyn Lease>),
}

/// Refreshes the tokens of one slot. Only one refresh may run at a time in a process.
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

    /// Does all steps of a refresh.
    async fn refresh(&self, request: &RefreshRequest) -> Result<Arc<Snapshot>, AuthError> {
        for _ in 0..ATTEMPTS {
            let mut leased = match self.acquire(request).await? {
                Acquired::Leased(leased) => *leased,
                Acquired::Met(snapshot) => return Ok(snapshot),
                Acquired::Vacant(lease) => return self.obtain_first(request, lease).await,
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
                    // This holder did not send the token. Its intent is removed, if it is not also the intent
                    // of an earlier holder, who may have sent it.
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
                "another process changed it or took its lease each time before the refresh could begin"
                    .into(),
            advice: "see which other processes use it, and whether this process is often suspended".into(),
        }))
    }

    /// Takes the lease and then loads the tokens. If they meet the request already, gives up the lease.
    async fn acquire(&self, request: &RefreshRequest) -> Result<Acquired, AuthError> {
        let mut poll = PollUntil::new(self.longest_wait_for_lease(request));
        let mut was_taken = false;
        loop {
            if let Some(acquired) = self.try_acquire(request, was_taken).await? {
                return Ok(acquired);
            }
            // Another process is refreshing. It may be done soon.
            was_taken = true;
            if !poll.wait(&self.timer).await {
                return Err(self.lease_timeout(poll.waited()));
            }
        }
    }

    /// Tries once to take the lease, and then loads the tokens. Returns `None` if another holder has the
    /// lease.
    async fn try_acquire(
        &self,
        request: &RefreshRequest,
        was_taken: bool,
    ) -> Result<Option<Acquired>, AuthError> {
        let mut guard = self.slot.lock().await?;
        let mut before = None;
        if was_taken {
            // Most likely the other process is done. Then this one needs no lease.
            let current = guard.reload().await?;
            if request.is_met_by(&current, self.clock.now()) {
                return Ok(Some(Acquired::Met(current)));
            }
            before = Some(current);
        }
        // A refresh never starts from tokens that are not saved. An earlier save may have succeeded although
        // its answer was lost, and then other processes have these tokens too.
        if let Settled::NotYet(error) = guard.save_pending().await {
            return Err(AuthError::NotSaved(error));
        }
        let lease = self.slot.try_lease().await;
        let current = match before {
            Some(before) if matches!(lease, Ok(None)) => Ok(before),
            // Tokens that were loaded before the lease was taken may be outdated.
            _ => guard.reload().await,
        };
        drop(guard);
        if let Ok(Snapshot { stored: None, .. }) = current.as_deref()
            && self.obtains_first()
        {
            return Ok(lease?.map(Acquired::Vacant));
        }
        let needed = match &current {
            Ok(current) => self.needed(request, current),
            Err(error) => Err(error.clone().into()),
        };
        let Ok(Some(stored)) = needed else {
            // If a lease on a server were only dropped, it would stay taken until its deadline.
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

    /// Returns the tokens to refresh. Returns `None` if those in the slot meet the request.
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
        // Another process may have saved a throttle or a rejection meanwhile.
        match self.held_back_by(&stored.record, request.is_forced) {
            Some(held_back) => Err(held_back.error),
            None => Ok(Some(stored.clone())),
        }
    }

    /// Saves the record with an intent, by the same steps that will save the new tokens. Returns `false` if
    /// the refresh must be started again, because the record was changed in the meantime.
    async fn record_intent(&self, leased: &mut LeasedTokens) -> Result<bool, StoreError> {
        // Without a refresh token, nothing can be spent.
        let Some(token) = &leased.record.tokens.refresh_token else { return Ok(true) };
        leased.lease.reserve().await?;
        // Each holder saves its own intent, also in place of one that was left over. Another process may have
        // spent the same token and not saved the new tokens yet. This intent shows it that the token may be
        // sent twice.
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

    /// Renews the lease, so that no other holder sends the refresh token until the answer is saved. Returns
    /// `false` if another holder has the lease by now.
    async fn renew_lease(&self, leased: &mut LeasedTokens) -> Result<bool, StoreError> {
        leased.lease.renew(self.policy.deadline.saturating_add(SAVE_MARGIN)).await
    }

    /// Saves the new tokens in place of the old ones.
    ///
    /// They are put into memory before the first await. If the runtime ends there, the next caller of the
    /// manager saves them.
    ///
    /// If there is only a new refresh token, it is saved beside the old access token, and the refresh fails. The next
    /// one sends the new refresh token.
    async fn commit(
        &self,
        leased: LeasedTokens,
        new: AuthTokens,
    ) -> Result<Arc<Snapshot>, AuthError> {
        let intent = leased.record.refresh.intent;
        let old = leased.record.tokens;
        let is_partial = !new.has_access_token();
        let mut tokens = new.with_backup(false);
        tokens.keep_refresh_token(&old);
        if let (None, Some(secret)) = (tokens.client_secret(), old.client_secret()) {
            tokens = tokens.with_client_secret(secret.clone());
        }
        let now = self.clock.now();
        tokens.obtained_at.get_or_insert_with(|| clock::date(now));
        self.history.refreshed(now);
        let throttle = if is_partial {
            tokens.keep_access_token(&old);
            self.throttle_after_a_part(now)
        } else {
            self.throttle_after_success(&tokens, now)
        };
        let refresh = RefreshState { throttle, ..RefreshState::default() };
        let record = Record::new(record::fitted(tokens)).with_refresh(refresh);
        let access_token = is_partial.then(|| old.access_token.clone());
        let new = NewTokens::new(record, leased.revision, old, intent, leased.lease);
        let current = self.install(new).await?;
        match access_token {
            // Another program may have saved other tokens meanwhile.
            Some(old) if current.holds(&old) => Err(self.partly_refreshed(&current, now)),
            _ => Ok(current),
        }
    }

    /// Saves the new tokens, or serves them from memory.
    async fn install(&self, new: NewTokens) -> Result<Arc<Snapshot>, AuthError> {
        self.slot.put_pending(new);
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
            // There was a login or a logout meanwhile.
            None => present(self.slot.snapshot().await?),
        }
    }

    /// Publishes how a refresh ended, unless its failure was published before.
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

    /// Returns the snapshot in memory, if it meets the request.
    pub(super) fn met(&self, request: &RefreshRequest) -> Option<Arc<Snapshot>> {
        let now = self.clock.now();
        self.slot.latest().filter(|current| request.is_met_by(current, now))
    }

    /// Reloads the slot before a refresh in two cases, and returns the new snapshot.
    ///
    /// - The server rejected the refresh token. The store may hold other tokens by now. If it does not, the
    ///   server is not asked again.
    /// - New tokens are not saved yet. The runtime that should have saved them may have ended, so they are
    ///   saved here.
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

    /// Returns whether the server rejected the refresh token of this record, asked by this process or by
    /// another one.
    fn is_rejected(&self, record: &Record) -> bool {
        record.refresh.rejection.is_some() || self.history.is_rejected(&record.tokens)
    }

    /// Tries to save the tokens of the last refresh until they are saved.
    pub(super) async fn keep_saving(&self) {
        self.slot.keep_saving().await;
    }

    /// Forgets how earlier refreshes ended. It is called after a login.
    pub(super) fn begin_anew(&self) {
        self.history.begin_anew();
    }

    /// Returns how long a refresh may take on a runtime that is driven: the wait for the lease, and two
    /// answers.
    pub(super) fn longest(&self) -> Duration {
        let answers = self.policy.deadline.saturating_add(LATE_ANSWER_LIMIT).saturating_mul(2);
        self.longest_other_refresh().saturating_add(answers).saturating_add(STORE_CALLS_LIMIT)
    }

    /// Returns how long a refresh of another process may take: two answers of the server, and their saves.
    fn longest_other_refresh(&self) -> Duration {
        self.policy.deadline.saturating_add(SAVE_MARGIN).saturating_mul(2)
    }

    /// Returns how long this request waits for the lease.
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

/// Returns the snapshot, or an error if the slot is empty.
fn present(snapshot: Arc<Snapshot>) -> Result<Arc<Snapshot>, AuthError> {
    if snapshot.stored.is_some() { Ok(snapshot) } else { Err(AuthError::TokenNotFound) }
}
