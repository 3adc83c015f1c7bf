//! How earlier refreshes of this process ended.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use chrono::{DateTime, TimeDelta, Utc};

use super::super::throttle::{self, HeldBack, Throttle};
use crate::error::{AuthError, RefreshFailure, SpentBy};
use crate::record::Record;
use crate::tokens::AuthTokens;

/// The throttle of one slot, and the last answer that was lost. It has its own lock.
#[derive(Default)]
pub(super) struct History(Mutex<State>);

#[derive(Default)]
struct State {
    throttle: Throttle,
    /// The time in the intent of this process whose answer was lost.
    lost_at: Option<DateTime<Utc>>,
}

impl History {
    /// Returns why a refresh of these tokens must not be started now, because of earlier refreshes of this
    /// process. A forced refresh is held back only by a rejection of the last seconds.
    pub(super) fn throttled(
        &self,
        tokens: &AuthTokens,
        lifetime: Option<TimeDelta>,
        is_forced: bool,
        now: SystemTime,
    ) -> Option<AuthError> {
        let state = self.lock();
        if is_forced {
            state.throttle.just_rejected(tokens, now)
        } else {
            state.throttle.held_back(tokens, lifetime, now)
        }
    }

    /// Returns why the record says that the server must not be asked now.
    pub(super) fn held_back_by(
        &self,
        record: &Record,
        client: &str,
        is_forced: bool,
        now: SystemTime,
    ) -> Option<HeldBack> {
        let lost_at = self.lock().lost_at;
        throttle::held_back_by(record, client, is_forced, now, |at| spent_by(at, lost_at))
    }

    /// Returns whether the server rejected these tokens.
    pub(super) fn is_rejected(&self, tokens: &AuthTokens) -> bool {
        self.lock().throttle.is_rejected(tokens)
    }

    pub(super) fn refreshed(&self, now: SystemTime) {
        self.lock().throttle.refreshed(now);
    }

    pub(super) fn rejected(&self, tokens: &AuthTokens, error: AuthError, now: SystemTime) {
        self.lock().throttle.rejected(tokens, error, now);
    }

    /// Records a failure of the refresher. Returns when a refresh may be tried again.
    pub(super) fn failed(
        &self,
        tokens: &AuthTokens,
        failure: &RefreshFailure,
        now: SystemTime,
    ) -> SystemTime {
        self.lock().throttle.failed(tokens, failure, now)
    }

    /// Records a failure of the store. Returns when a refresh may be tried again.
    pub(super) fn store_failed(
        &self,
        tokens: &AuthTokens,
        error: AuthError,
        now: SystemTime,
    ) -> SystemTime {
        self.lock().throttle.store_failed(tokens, error, now)
    }

    /// Records that the stored record holds a refresh back.
    pub(super) fn told(&self, tokens: &AuthTokens, held_back: &HeldBack, now: SystemTime) {
        self.lock().throttle.told(tokens, held_back, now);
    }

    /// Records that the answer to the request with this intent was lost.
    pub(super) fn note_lost(&self, at: DateTime<Utc>) {
        self.lock().lost_at = Some(at);
    }

    /// Returns which refresh was about to send a token at that time.
    pub(super) fn spent_by(&self, at: DateTime<Utc>) -> SpentBy {
        spent_by(at, self.lock().lost_at)
    }

    /// Forgets how earlier refreshes ended, but not which answer was lost.
    pub(super) fn begin_anew(&self) {
        self.lock().throttle = Throttle::default();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns which refresh was about to send a token at that time: one of this process, if its answer was lost,
/// or one of another process.
fn spent_by(at: DateTime<Utc>, lost_at: Option<DateTime<Utc>>) -> SpentBy {
    if lost_at == Some(at) { SpentBy::LostAnswer { at } } else { SpentBy::DeadProcess { at } }
}
