//! When a refresh may be started, and what other processes are told about that.

use std::time::SystemTime;

use super::super::events::Event;
use super::super::snapshot::Snapshot;
use super::super::throttle::{self, HeldBack};
use super::{RefreshProtocol, RefreshRequest, first};
use crate::error::{AuthError, RefreshFailure};
use crate::record::{self, Record};
use crate::sys::clock;
use crate::tokens::{AuthTokens, Schedule};

/// Why a refresh failed that brought a refresh token alone.
const NO_ACCESS_TOKEN: &str =
    "the answer had a new refresh token, which is saved, and no access token that can be used";

impl RefreshProtocol {
    /// Checks whether a refresh may be started now.
    ///
    /// # Errors
    ///
    /// The failure of the last refresh, if it was too short a time ago, in this process or in another one.
    pub(in super::super) fn check_throttle(
        &self,
        request: &RefreshRequest,
    ) -> Result<(), AuthError> {
        let now = self.clock.now();
        let Some(stored) = &request.found.stored else {
            // An empty slot is filled at once, also right after a refresh. Only a failure holds it back.
            let (none, no_lifetime) = (first::no_tokens(), Some(chrono::TimeDelta::zero()));
            let error = self.history.throttled(&none, no_lifetime, request.is_forced, now);
            return error.map_or(Ok(()), Err);
        };
        let tokens = &stored.record.tokens;
        let lifetime = request.found.lifetime();
        if let Some(error) = self.history.throttled(tokens, lifetime, request.is_forced, now) {
            return Err(error);
        }
        match self.held_back_by(&stored.record, request.is_forced) {
            None => Ok(()),
            Some(held_back) => Err(self.told(tokens, held_back)),
        }
    }

    /// Keeps what the server told another process about these tokens, and publishes it once.
    pub(super) fn told(&self, tokens: &AuthTokens, held_back: HeldBack) -> AuthError {
        self.history.told(tokens, &held_back, self.clock.now());
        let error = held_back.error.clone();
        self.events.publish(match held_back.until {
            None => Event::LoginRequired { error },
            Some(until) => Event::RefreshFailed { error, retry_at: clock::system_time(until) },
        });
        held_back.error
    }

    /// Returns why the record says that the server must not be asked now.
    pub(super) fn held_back_by(&self, record: &Record, is_forced: bool) -> Option<HeldBack> {
        let client = self.refresher.client();
        self.history.held_back_by(record, &client, is_forced, self.clock.now())
    }

    /// Returns a throttle for the record, if the new token is due at once. It keeps all processes from asking
    /// the server again at once.
    pub(super) fn throttle_after_success(
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

    /// Returns a throttle for the record, after an answer with a refresh token alone.
    pub(super) fn throttle_after_a_part(&self, now: SystemTime) -> Option<record::Throttle> {
        let until = clock::date(now.checked_add(throttle::INTERVAL)?);
        let client = self.refresher.client();
        Some(record::Throttle::new(clock::date(now), until, &client, Some(NO_ACCESS_TOKEN)))
    }

    /// Returns the failure of a refresh whose answer had a refresh token alone, and publishes it.
    pub(super) fn partly_refreshed(&self, current: &Snapshot, now: SystemTime) -> AuthError {
        let (reason, retry_after) = (NO_ACCESS_TOKEN.to_owned(), Some(throttle::INTERVAL));
        let failure = RefreshFailure::Transient { reason, retry_after, unspent: false };
        let tokens = current.tokens();
        let until = tokens.map(|tokens| self.history.failed(tokens, &failure, now));
        let error = AuthError::Refresh(failure);
        self.events.publish(Event::RefreshFailed { error: error.clone(), retry_at: until });
        error
    }

    /// Returns the throttle for other processes, if the server asked to wait.
    pub(super) fn throttle_after_failure(
        &self,
        failure: &RefreshFailure,
        now: SystemTime,
        until: SystemTime,
    ) -> Option<record::Throttle> {
        let RefreshFailure::Transient { reason, retry_after: Some(_), .. } = failure else {
            return None;
        };
        let client = self.refresher.client();
        Some(record::Throttle::new(clock::date(now), clock::date(until), &client, Some(reason)))
    }
}
