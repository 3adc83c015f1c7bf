use proptest::prelude::*;

use super::*;
use crate::record::{self, RefreshState, Rejection};

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
}

fn tokens(number: u8) -> AuthTokens {
    AuthTokens::new("access").with_refresh_token(number.to_string())
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
fn a_server_can_ask_to_wait_for_an_hour_at_most() {
    assert_eq!(pause(&retry_after(90), 0).as_secs(), 90);
    assert_eq!(pause(&retry_after(1), 5).as_secs(), 32);
    assert_eq!(pause(&retry_after(u64::MAX), 0).as_secs(), 3600);
    assert!(seconds(&RefreshFailure::misconfigured("x")).iter().all(|&pause| pause == 600));
}

#[test]
fn a_failure_holds_refreshes_back_until_its_pause_is_over_or_the_slot_changes() {
    let mut throttle = Throttle::default();
    assert!(throttle.held_back(&tokens(1), None, at(0)).is_none());
    throttle.failed(&tokens(1), &RefreshFailure::transient("x"), at(0));
    assert!(matches!(throttle.held_back(&tokens(1), None, at(0)), Some(AuthError::Refresh(_))));
    assert!(throttle.held_back(&tokens(1), None, at(1)).is_none());
    // The pause gets longer with each failure.
    throttle.failed(&tokens(1), &RefreshFailure::transient("x"), at(1));
    assert!(throttle.held_back(&tokens(1), None, at(2)).is_some());
    assert!(throttle.held_back(&tokens(2), None, at(2)).is_none());
    // If the clock was set back, nothing is held back.
    assert!(throttle.held_back(&tokens(1), None, at(0)).is_none());
    throttle.failed(&tokens(2), &RefreshFailure::transient("x"), at(2));
    assert!(throttle.held_back(&tokens(2), None, at(3)).is_none(), "they are counted anew");
}

#[test]
fn a_rejection_holds_until_the_slot_changes() {
    let mut throttle = Throttle::default();
    throttle.rejected(&tokens(1), AuthError::TokenNotFound, at(0));
    assert!(throttle.is_rejected(&tokens(1)) && !throttle.is_rejected(&tokens(2)));
    // A forced refresh asks the server again, but not at once.
    assert!(throttle.just_rejected(&tokens(1), at(29)).is_some());
    assert!(throttle.just_rejected(&tokens(1), at(30)).is_none());
    assert!(throttle.just_rejected(&tokens(2), at(0)).is_none());
    assert!(throttle.held_back(&tokens(1), None, at(1_000_000)).is_some());
    assert!(throttle.held_back(&tokens(2), None, at(0)).is_none());
}

#[test]
fn refreshes_that_no_caller_forced_are_thirty_seconds_apart() {
    let mut throttle = Throttle::default();
    throttle.refreshed(at(0));
    assert!(matches!(throttle.held_back(&tokens(1), None, at(29)), Some(AuthError::TokenExpired)));
    assert!(throttle.held_back(&tokens(1), None, at(30)).is_none());
    // For a token with a short lifetime, the interval is half of it.
    let lifetime = Some(TimeDelta::seconds(20));
    assert!(throttle.held_back(&tokens(1), lifetime, at(9)).is_some());
    assert!(throttle.held_back(&tokens(1), lifetime, at(10)).is_none());
}

/// Any moment, including the first and the last one of the system's clock.
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
        let (mut throttle, mut now) = (Throttle::default(), start);
        let lifetime = lifetime.map(TimeDelta::nanoseconds);
        for failure in &failures {
            let until = throttle.failed(&tokens(1), failure, now);
            let pause = until.duration_since(now).unwrap();
            prop_assert!(pause <= LONGEST_RETRY_AFTER);
            prop_assert_eq!(throttle.held_back(&tokens(1), lifetime, now).is_some(), until > now);
            prop_assert!(throttle.held_back(&tokens(1), lifetime, until).is_none());
            prop_assert!(throttle.held_back(&tokens(2), lifetime, now).is_none());
            now = until.checked_add(between).unwrap_or(until);
        }
        throttle.refreshed(now);
        if let Some(later) = now.checked_add(INTERVAL) {
            prop_assert!(throttle.held_back(&tokens(1), lifetime, later).is_none());
        }
    }
}

/// Returns a record of `tokens(1)` with this refresh state.
fn record(change: impl FnOnce(&mut RefreshState)) -> Record {
    let mut refresh = RefreshState::default();
    change(&mut refresh);
    Record::new(tokens(1)).with_refresh(refresh)
}

fn held(record: &Record, client: &str, forced: bool, second: u64) -> Option<String> {
    let by = |at| SpentBy::DeadProcess { at };
    let held_back = held_back_by(record, client, forced, at(second), by)?;
    Some(held_back.error.to_string())
}

#[test]
fn a_rejection_in_a_record_holds_only_for_its_client() {
    let token = tokens(1).refresh_token.unwrap();
    let rejection = Rejection::new(&token, "client", clock::date(at(100)), "refused");
    let plain = record(|refresh| refresh.rejection = Some(rejection.clone()));
    let said = held(&plain, "client", false, 1_000_000).unwrap();
    assert!(said.contains("refused") && said.contains("sign in again"), "{said}");
    // The rejection holds also if the clock was set back.
    assert!(held(&plain, "client", false, 0).is_some());
    assert_eq!(held(&plain, "other", false, 100), None);
    // A forced refresh asks the server again, at most every 30 s.
    assert!(held(&plain, "client", true, 129).is_some());
    assert_eq!(held(&plain, "client", true, 130), None);
    assert_eq!(held(&plain, "client", true, 99), None, "a clock that was set back");
    let other = Record::new(tokens(2)).with_refresh(plain.refresh);
    assert_eq!(held(&other, "client", false, 100), None);
    // If there was an intent before, the error reports the doubt.
    let doubt = record(|refresh| {
        refresh.rejection = Some(rejection);
        refresh.intent = Some(Intent::new(&token, clock::date(at(90))));
    });
    assert!(held(&doubt, "client", false, 100).unwrap().contains("may have been spent"));
}

#[test]
fn a_record_says_how_long_its_server_asked_to_wait() {
    let throttle = |until, reason| {
        let (from, until) = (clock::date(at(100)), clock::date(at(until)));
        record(|refresh| {
            refresh.throttle = Some(record::Throttle::new(from, until, "client", reason));
        })
    };
    let busy = throttle(220, Some("429"));
    for (forced, second, is_held) in [
        (false, 99, false),
        (false, 100, true),
        (false, 219, true),
        (false, 220, false),
        (true, 129, true),
        (true, 130, false),
    ] {
        assert_eq!(held(&busy, "client", forced, second).is_some(), is_held, "{second}");
    }
    assert_eq!(held(&busy, "other", false, 150), None);
    // 1 hour at most, even if the record says more.
    assert_eq!(held(&throttle(1_000_000, Some("429")), "client", false, 3700), None);
    // New tokens that are due at once are not refreshed again at once, except by a forced refresh.
    let born_due = throttle(130, None);
    assert!(held(&born_due, "client", false, 129).is_some());
    assert_eq!(held(&born_due, "client", true, 101), None);
}
