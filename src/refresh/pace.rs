//! How soon a refresh may follow another one.

use std::time::{Duration, SystemTime};

use chrono::TimeDelta;

use crate::error::{AuthError, RefreshFailure};
use crate::store::Revision;

/// Two refreshes that nobody demanded are at least this far apart, whatever the clocks and the
/// server say: a token that is born expired must not become a request each time it is used.
const INTERVAL: Duration = Duration::from_secs(30);

/// The first pause after a failure; each further one doubles it.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(5 * 60);

/// What is set up wrong is mended by people, not by asking again.
const PAUSE_IF_MISCONFIGURED: Duration = Duration::from_secs(10 * 60);

/// No server is left alone for longer than this, whatever it says.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(60 * 60);

/// What became of the last refreshes of one slot.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// The state of the slot that the rest is about. Anything else in the slot starts anew.
    revision: Option<Revision>,
    failures: u32,
    pause: Option<Pause>,
    rejected: Option<AuthError>,
    /// Of the last success, whatever it made of the slot.
    refreshed: Option<SystemTime>,
}

#[derive(Debug)]
struct Pause {
    from: SystemTime,
    until: SystemTime,
    error: AuthError,
}

impl Pace {
    /// Returns why a refresh of this state is not to be tried now; nothing if it is.
    ///
    /// `lifetime` is how long the token was good for when it was obtained.
    pub(crate) fn hold(
        &self,
        revision: &Revision,
        lifetime: Option<TimeDelta>,
        now: SystemTime,
    ) -> Option<AuthError> {
        if self.revision.as_ref() == Some(revision) {
            if let Some(error) = &self.rejected {
                return Some(error.clone());
            }
            // A clock that was set back says nothing about how long ago that was.
            if let Some(pause) = &self.pause
                && (pause.from..pause.until).contains(&now)
            {
                return Some(pause.error.clone());
            }
        }
        let since = self.refreshed.and_then(|refreshed| now.duration_since(refreshed).ok());
        since.is_some_and(|since| since < interval(lifetime)).then_some(AuthError::TokenExpired)
    }

    /// How the server rejected what is in this state of the slot, if it did.
    pub(crate) fn rejection(&self, revision: &Revision) -> Option<AuthError> {
        self.rejected.clone().filter(|_| self.revision.as_ref() == Some(revision))
    }

    pub(crate) fn refreshed(&mut self, now: SystemTime) {
        *self = Self { refreshed: Some(now), ..Self::default() };
    }

    pub(crate) fn rejected(&mut self, revision: &Revision, error: AuthError) {
        *self = Self {
            revision: Some(revision.clone()),
            rejected: Some(error),
            refreshed: self.refreshed,
            ..Self::default()
        };
    }

    /// Notes a failure; returns when a refresh may be tried again.
    pub(crate) fn failed(
        &mut self,
        revision: &Revision,
        failure: &RefreshFailure,
        now: SystemTime,
    ) -> SystemTime {
        self.pause(revision, AuthError::Refresh(failure.clone()), now, |earlier| {
            pause(failure, earlier)
        })
    }

    /// The same for a store that could not be used.
    pub(crate) fn store_failed(
        &mut self,
        revision: &Revision,
        error: AuthError,
        now: SystemTime,
    ) -> SystemTime {
        self.pause(revision, error, now, doubled)
    }

    fn pause(
        &mut self,
        revision: &Revision,
        error: AuthError,
        now: SystemTime,
        pause: impl FnOnce(u32) -> Duration,
    ) -> SystemTime {
        if self.revision.as_ref() != Some(revision) {
            *self = Self {
                revision: Some(revision.clone()),
                refreshed: self.refreshed,
                ..Self::default()
            };
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

/// How long to wait after a failure that followed so many others.
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

/// Less for tokens that do not live that long.
fn interval(lifetime: Option<TimeDelta>) -> Duration {
    lifetime
        .and_then(|lifetime| lifetime.to_std().ok())
        .map_or(INTERVAL, |lifetime| INTERVAL.min(lifetime / 2))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
    }

    fn revision(number: u8) -> Revision {
        Revision::new([number])
    }

    fn seconds(failure: &RefreshFailure) -> Vec<u64> {
        (0..12).map(|earlier| pause(failure, earlier).as_secs()).collect()
    }

    fn retry_after(seconds: u64) -> RefreshFailure {
        let retry_after = Some(Duration::from_secs(seconds));
        RefreshFailure::Transient { reason: "busy".into(), retry_after, unspent: true }
    }

    #[test]
    fn pauses_double_up_to_five_minutes() {
        let expected = [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300];
        assert_eq!(seconds(&RefreshFailure::transient("x")), expected);
        assert_eq!(seconds(&RefreshFailure::ambiguous("x")), expected);
        assert_eq!(pause(&RefreshFailure::transient("x"), u32::MAX).as_secs(), 300);
    }

    #[test]
    fn a_server_that_wants_to_be_left_alone_is_for_an_hour_at_most() {
        assert_eq!(pause(&retry_after(90), 0).as_secs(), 90);
        assert_eq!(pause(&retry_after(1), 5).as_secs(), 32);
        assert_eq!(pause(&retry_after(u64::MAX), 0).as_secs(), 3600);
        assert!(seconds(&RefreshFailure::misconfigured("x")).iter().all(|&pause| pause == 600));
    }

    #[test]
    fn a_failure_holds_until_its_pause_is_over_or_the_slot_changes() {
        let mut pace = Pace::default();
        assert!(pace.hold(&revision(1), None, at(0)).is_none());
        pace.failed(&revision(1), &RefreshFailure::transient("x"), at(0));
        assert!(matches!(pace.hold(&revision(1), None, at(0)), Some(AuthError::Refresh(_))));
        assert!(pace.hold(&revision(1), None, at(1)).is_none());
        // One after the other they get longer.
        pace.failed(&revision(1), &RefreshFailure::transient("x"), at(1));
        assert!(pace.hold(&revision(1), None, at(2)).is_some());
        assert!(pace.hold(&revision(2), None, at(2)).is_none());
        // A clock that was set back does not hold anything up.
        assert!(pace.hold(&revision(1), None, at(0)).is_none());
        pace.failed(&revision(2), &RefreshFailure::transient("x"), at(2));
        assert!(pace.hold(&revision(2), None, at(3)).is_none(), "they are counted anew");
    }

    #[test]
    fn a_rejection_holds_for_good_until_the_slot_changes() {
        let mut pace = Pace::default();
        pace.rejected(&revision(1), AuthError::TokenNotFound);
        assert!(pace.rejection(&revision(1)).is_some() && pace.rejection(&revision(2)).is_none());
        assert!(pace.hold(&revision(1), None, at(1_000_000)).is_some());
        assert!(pace.hold(&revision(2), None, at(0)).is_none());
    }

    #[test]
    fn refreshes_that_nobody_demanded_are_thirty_seconds_apart() {
        let mut pace = Pace::default();
        pace.refreshed(at(0));
        assert!(matches!(pace.hold(&revision(1), None, at(29)), Some(AuthError::TokenExpired)));
        assert!(pace.hold(&revision(1), None, at(30)).is_none());
        // Half of the lifetime, for a token that does not live that long.
        let lifetime = Some(TimeDelta::seconds(20));
        assert!(pace.hold(&revision(1), lifetime, at(9)).is_some());
        assert!(pace.hold(&revision(1), lifetime, at(10)).is_none());
    }

    /// The ends of what the system can name among them.
    fn any_moment() -> impl Strategy<Value = SystemTime> {
        let end = i64::MAX.unsigned_abs();
        let spans = prop_oneof![Just(0), Just(end), 0..end, any::<u32>().prop_map(u64::from)];
        (spans, 0..1_000_000_000_u32, any::<bool>()).prop_map(|(seconds, nanos, before)| {
            let (span, epoch) = (Duration::new(seconds, nanos / 100 * 100), SystemTime::UNIX_EPOCH);
            let moment = if before { epoch.checked_sub(span) } else { epoch.checked_add(span) };
            moment.unwrap_or(epoch)
        })
    }

    fn any_failure() -> impl Strategy<Value = RefreshFailure> {
        prop_oneof![
            Just(RefreshFailure::ambiguous("x")),
            Just(RefreshFailure::misconfigured("x")),
            proptest::option::of(any::<Duration>()).prop_map(|retry_after| {
                RefreshFailure::Transient { reason: "x".into(), retry_after, unspent: true }
            }),
        ]
    }

    proptest! {
        #[test]
        fn no_failure_holds_for_longer_than_an_hour_or_is_forgotten_before_its_pause_is_over(
            failures in proptest::collection::vec(any_failure(), 1..8),
            start in any_moment(),
            lifetime in proptest::option::of(any::<i64>()),
            between: Duration,
        ) {
            let (mut pace, mut now) = (Pace::default(), start);
            let lifetime = lifetime.map(TimeDelta::nanoseconds);
            for failure in &failures {
                let until = pace.failed(&revision(1), failure, now);
                let pause = until.duration_since(now).unwrap();
                prop_assert!(pause <= LONGEST_RETRY_AFTER);
                prop_assert_eq!(pace.hold(&revision(1), lifetime, now).is_some(), until > now);
                prop_assert!(pace.hold(&revision(1), lifetime, until).is_none());
                prop_assert!(pace.hold(&revision(2), lifetime, now).is_none());
                now = until.checked_add(between).unwrap_or(until);
            }
            pace.refreshed(now);
            if let Some(later) = now.checked_add(INTERVAL) {
                prop_assert!(pace.hold(&revision(1), lifetime, later).is_none());
            }
        }
    }
}
