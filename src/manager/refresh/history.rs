//! What became of earlier refreshes, for all who ask in this process.

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
    /// When a request was sent, by our own intent, whose answer was lost.
    lost_at: Option<DateTime<Utc>>,
}

impl History {
    /// Returns why a refresh of these tokens is not to be started now, by what happened in this process. On
    /// demand, only a rejection of the last seconds counts.
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

    /// Returns why the server is not to be asked now, by what the record says.
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

    /// Notes a failure; returns when a refresh may be tried again.
    pub(super) fn failed(
        &self,
        tokens: &AuthTokens,
        failure: &RefreshFailure,
        now: SystemTime,
    ) -> SystemTime {
        self.lock().throttle.failed(tokens, failure, now)
    }

    /// The same for a store that could not be used.
    pub(super) fn store_failed(
        &self,
        tokens: &AuthTokens,
        error: AuthError,
        now: SystemTime,
    ) -> SystemTime {
        self.lock().throttle.store_failed(tokens, error, now)
    }

    /// Waits until then, because a record says so.
    pub(super) fn told(&self, tokens: &AuthTokens, held_back: &HeldBack, now: SystemTime) {
        self.lock().throttle.told(tokens, held_back, now);
    }

    /// Notes that the answer to the request of this intent was lost.
    pub(super) fn note_lost(&self, at: DateTime<Utc>) {
        self.lock().lost_at = Some(at);
    }

    /// Returns who was about to send a token at that time.
    pub(super) fn spent_by(&self, at: DateTime<Utc>) -> SpentBy {
        spent_by(at, self.lock().lost_at)
    }

    /// Forgets what is known of tokens, but not which answer was lost.
    pub(super) fn begin_anew(&self) {
        self.lock().throttle = Throttle::default();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says who was about to send a token at that time: this process, if its own request was lost then.
fn spent_by(at: DateTime<Utc>, lost_at: Option<DateTime<Utc>>) -> SpentBy {
    if lost_at == Some(at) { SpentBy::LostAnswer { at } } else { SpentBy::DeadProcess { at } }
}
