//! How soon a refresh may follow another refresh.

#[cfg(test)]
mod tests;

use std::time::{Duration, SystemTime};

use chrono::{DateTime, TimeDelta, Utc};

use crate::error::{AuthError, RefreshFailure, SpentBy};
use crate::record::{Intent, Record};
use crate::sys::clock;
use crate::tokens::AuthTokens;

/// The least time between two refreshes that no caller forced. It holds whatever the clocks and the server
/// say: a new token that is already expired must not cause a request each time it is used.
pub(crate) const INTERVAL: Duration = Duration::from_secs(30);

/// The pause after the first failure. Each further failure doubles it.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(5 * 60);

/// Only a person can fix a misconfigured refresh, so asking again soon would not help.
const PAUSE_IF_MISCONFIGURED: Duration = Duration::from_secs(10 * 60);

/// The longest time that a server can ask to wait. A longer time in its answer is shortened to this.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(60 * 60);

/// How the last refreshes of one slot ended.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    /// The tokens that the other fields are about. For other tokens, all counts start again.
    tokens: Option<AuthTokens>,
    failures: u32,
    pause: Option<Pause>,
    rejected: Option<Rejected>,
    /// When the last refresh succeeded. It holds for all tokens.
    refreshed: Option<SystemTime>,
}

#[derive(Debug)]
struct Pause {
    from: SystemTime,
    until: SystemTime,
    error: AuthError,
}

#[derive(Debug)]
struct Rejected {
    at: SystemTime,
    error: AuthError,
}

/// Why the server must not be asked now.
#[derive(Debug)]
pub(crate) struct HeldBack {
    pub(crate) error: AuthError,
    /// Until when, if that is known.
    pub(crate) until: Option<DateTime<Utc>>,
}

/// Returns why the record says that the server must not be asked for new tokens now.
///
/// A server that rejected the refresh token is asked again only by a forced refresh. A server that asked to
/// wait is not asked before that time. A forced refresh asks both again after [`INTERVAL`].
pub(crate) fn held_back_by(
    record: &Record,
    client: &str,
    forced: bool,
    now: SystemTime,
    spent_by: impl FnOnce(DateTime<Utc>) -> SpentBy,
) -> Option<HeldBack> {
    let now = clock::date(now);
    let is_just_said = |at: DateTime<Utc>| {
        // If the clock was set back, the refresh is not held back.
        let since = now.signed_duration_since(at).to_std();
        since.is_ok_and(|since| since < INTERVAL)
    };
    let token = record.tokens.refresh_token.as_ref();
    let rejection = record.refresh.rejection.as_ref();
    let rejection = rejection.filter(|it| token.is_some_and(|token| it.is_for(token, client)));
    if let Some(rejection) = rejection.filter(|it| !forced || is_just_said(it.at())) {
        let error = match record.intent().map(Intent::at) {
            Some(at) => AuthError::RefreshTokenSpent { by: spent_by(at) },
            None => AuthError::LoginRequired { reason: rejection.reason().to_owned() },
        };
        return Some(HeldBack { error, until: None });
    }
    let throttle = record.refresh.throttle.as_ref()?;
    let until = throttle.holds(client, now)?;
    let error = match throttle.reason() {
        Some(reason) if !forced || is_just_said(throttle.from()) => {
            let (reason, unspent) = (reason.to_owned(), false);
            let retry_after = (until - now).to_std().ok();
            AuthError::Refresh(RefreshFailure::Transient { reason, retry_after, unspent })
        }
        None if !forced => AuthError::TokenExpired,
        _ => return None,
    };
    Some(HeldBack { error, until: Some(until) })
}

impl Throttle {
    /// Returns why a refresh of these tokens must not be started now. Returns `None` if it may be started.
    ///
    /// `lifetime` is the lifetime of the access token, from when it was obtained to its expiry.
    pub(crate) fn held_back(
        &self,
        tokens: &AuthTokens,
        lifetime: Option<TimeDelta>,
        now: SystemTime,
    ) -> Option<AuthError> {
        if self.tokens.as_ref() == Some(tokens) {
            if let Some(rejected) = &self.rejected {
                return Some(rejected.error.clone());
            }
            // If the clock was set back, it is unknown how long ago the failure was. Then nothing is held
            // back.
            if let Some(pause) = &self.pause
                && (pause.from..pause.until).contains(&now)
            {
                return Some(pause.error.clone());
            }
        }
        let since = self.refreshed.and_then(|refreshed| now.duration_since(refreshed).ok());
        since.is_some_and(|since| since < interval(lifetime)).then_some(AuthError::TokenExpired)
    }

    /// Returns whether the server rejected these tokens.
    pub(crate) fn is_rejected(&self, tokens: &AuthTokens) -> bool {
        self.rejected.is_some() && self.tokens.as_ref() == Some(tokens)
    }

    /// Returns how the server rejected these tokens, if it did so within the last [`INTERVAL`]. In that time,
    /// not even a forced refresh asks it again.
    pub(crate) fn just_rejected(&self, tokens: &AuthTokens, now: SystemTime) -> Option<AuthError> {
        let rejected = self.rejected.as_ref().filter(|_| self.tokens.as_ref() == Some(tokens))?;
        let since = now.duration_since(rejected.at).ok()?;
        (since < INTERVAL).then(|| rejected.error.clone())
    }

    pub(crate) fn refreshed(&mut self, now: SystemTime) {
        *self = Self { refreshed: Some(now), ..Self::default() };
    }

    pub(crate) fn rejected(&mut self, tokens: &AuthTokens, error: AuthError, now: SystemTime) {
        *self = Self {
            tokens: Some(tokens.clone()),
            rejected: Some(Rejected { at: now, error }),
            refreshed: self.refreshed,
            ..Self::default()
        };
    }

    /// Records a failure of the refresher. Returns when a refresh may be tried again.
    pub(crate) fn failed(
        &mut self,
        tokens: &AuthTokens,
        failure: &RefreshFailure,
        now: SystemTime,
    ) -> SystemTime {
        self.pause(tokens, AuthError::Refresh(failure.clone()), now, |earlier| {
            pause(failure, earlier)
        })
    }

    /// Records a failure of the store. Returns when a refresh may be tried again.
    pub(crate) fn store_failed(
        &mut self,
        tokens: &AuthTokens,
        error: AuthError,
        now: SystemTime,
    ) -> SystemTime {
        self.pause(tokens, error, now, doubled)
    }

    /// Records that the stored record holds a refresh back.
    pub(crate) fn told(&mut self, tokens: &AuthTokens, held_back: &HeldBack, now: SystemTime) {
        match held_back.until.and_then(clock::system_time) {
            None => self.rejected(tokens, held_back.error.clone(), now),
            Some(until) => {
                self.pause(tokens, held_back.error.clone(), now, |_| {
                    until.duration_since(now).unwrap_or_default()
                });
            }
        }
    }

    fn pause(
        &mut self,
        tokens: &AuthTokens,
        error: AuthError,
        now: SystemTime,
        pause: impl FnOnce(u32) -> Duration,
    ) -> SystemTime {
        if self.tokens.as_ref() != Some(tokens) {
            *self =
                Self { tokens: Some(tokens.clone()), refreshed: self.refreshed, ..Self::default() };
        }
        let until = now.checked_add(pause(self.failures)).unwrap_or(now);
        self.failures = self.failures.saturating_add(1);
        self.pause = Some(Pause { from: now, until, error });
        until
    }
}

fn doubled(earlier: u32) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(1_u32.checked_shl(earlier).unwrap_or(u32::MAX));
    doubled.min(LONGEST_PAUSE)
}

/// Returns how long to wait after a failure that followed `earlier` other failures.
fn pause(failure: &RefreshFailure, earlier: u32) -> Duration {
    let doubled = doubled(earlier);
    match failure {
        RefreshFailure::Misconfigured { .. } => PAUSE_IF_MISCONFIGURED,
        RefreshFailure::Transient { retry_after: Some(time), .. } => {
            doubled.max((*time).min(LONGEST_RETRY_AFTER))
        }
        _ => doubled,
    }
}

/// Returns [`INTERVAL`], or half of the lifetime for tokens that live less than twice as long.
pub(crate) fn interval(lifetime: Option<TimeDelta>) -> Duration {
    lifetime
        .and_then(|lifetime| lifetime.to_std().ok())
        .map_or(INTERVAL, |lifetime| INTERVAL.min(lifetime / 2))
}
