//! Clocks and timers: those of the system, or those of a test.

use std::fmt;
use std::future::{self, Future};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};

use chrono::{DateTime, Utc};

/// A wall clock. It decides about expiry, because a token expires also while a laptop is suspended.
#[derive(Clone)]
pub(crate) struct Clock(Arc<dyn Fn() -> SystemTime + Send + Sync>);

impl Clock {
    pub(crate) fn new(now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    pub(crate) fn now(&self) -> SystemTime {
        (self.0)()
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new(SystemTime::now)
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

/// A timer. By default, all timers share one thread of their own, because the program may have no runtime,
/// or one without a timer.
pub(crate) struct Timer(Box<dyn Fn(Duration) -> Sleep + Send + Sync>);

type Sleep = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Timer {
    pub(crate) fn new<R: Future<Output = ()> + Send + 'static>(
        sleep: impl Fn(Duration) -> R + Send + Sync + 'static,
    ) -> Self {
        Self(Box::new(move |time| Box::pin(sleep(time))))
    }

    pub(crate) async fn sleep(&self, time: Duration) {
        (self.0)(time).await;
    }

    /// Waits for a future up to a limit, and drops it after that.
    pub(crate) async fn within<T>(
        &self,
        limit: Duration,
        future: impl Future<Output = T>,
    ) -> Option<T> {
        let mut end = (self.0)(limit);
        let mut future = pin!(future);
        future::poll_fn(|context| {
            if let Poll::Ready(done) = future.as_mut().poll(context) {
                return Poll::Ready(Some(done));
            }
            end.as_mut().poll(context).map(|()| None)
        })
        .await
    }
}

impl Default for Timer {
    fn default() -> Self {
        Self::new(futures_timer::Delay::new)
    }
}

impl fmt::Debug for Timer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Timer")
    }
}

/// The pauses for polling: short at first, and then longer. A random part keeps several pollers from
/// polling at the same moments.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    longest: Duration,
}

impl Backoff {
    pub(crate) fn new(first: Duration, longest: Duration) -> Self {
        Self { next: first, longest }
    }

    /// Returns the next pause. `random` is from 0 to 1.
    pub(crate) fn next(&mut self, random: f64) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.longest);
        // From 0.5× to 1×.
        pause.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
    }
}

/// The first and the longest pause of a caller that waits for a lease.
const FIRST_LOOK: Duration = Duration::from_millis(10);
const SLOWEST_LOOK: Duration = Duration::from_millis(250);

/// Polls up to a limit, for a lock or a lease that another holder has.
pub(crate) struct PollUntil {
    limit: Duration,
    backoff: Backoff,
    slept: Duration,
    began: Instant,
}

impl PollUntil {
    pub(crate) fn new(limit: Duration) -> Self {
        let backoff = Backoff::new(FIRST_LOOK, SLOWEST_LOOK);
        Self { limit, backoff, slept: Duration::ZERO, began: Instant::now() }
    }

    /// Waits until the next poll. Returns `false` if the limit is reached.
    pub(crate) async fn wait(&mut self, timer: &Timer) -> bool {
        if self.waited() >= self.limit {
            return false;
        }
        let pause = self.backoff.next(random());
        self.slept += pause;
        timer.sleep(pause).await;
        true
    }

    /// Returns how long this has waited, including the polls themselves. A poll of a distant server takes
    /// longer than a pause.
    pub(crate) fn waited(&self) -> Duration {
        // The time of the program's own timer may differ from real time.
        self.slept.max(self.began.elapsed())
    }
}

/// Returns a random number from 0 to 1. Returns 0 if the system gives no random bytes: then only the jitter
/// is missing.
pub(crate) fn random() -> f64 {
    let mut bytes = [0; 4];
    let _ = getrandom::fill(&mut bytes);
    f64::from(u32::from_le_bytes(bytes)) / (f64::from(u32::MAX) + 1.0)
}

/// Converts a time into a date. A time out of range becomes the nearest possible date.
pub(crate) fn date(time: SystemTime) -> DateTime<Utc> {
    let (seconds, nanos) = match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => (i64::try_from(after.as_secs()).unwrap_or(i64::MAX), after.subsec_nanos()),
        Err(error) => {
            let before = error.duration();
            // The seconds are rounded down, so that the nanoseconds are positive.
            let whole = before.as_secs() + u64::from(before.subsec_nanos() > 0);
            let nanos = (1_000_000_000 - before.subsec_nanos()) % 1_000_000_000;
            (i64::try_from(whole).map_or(i64::MIN, |whole| -whole), nanos)
        }
    };
    let end = if seconds < 0 { DateTime::<Utc>::MIN_UTC } else { DateTime::<Utc>::MAX_UTC };
    DateTime::from_timestamp(seconds, nanos).unwrap_or(end)
}

/// Converts a date into a system time. Returns `None` if it is too late for the system. A date that is too
/// early becomes the earliest possible time: on Windows, that is in 1601.
pub(crate) fn system_time(date: DateTime<Utc>) -> Option<SystemTime> {
    let (seconds, epoch) = (date.timestamp(), SystemTime::UNIX_EPOCH);
    let nanos = Duration::from_nanos(date.timestamp_subsec_nanos().min(999_999_999).into());
    let whole = Duration::from_secs(seconds.unsigned_abs());
    if seconds >= 0 {
        return epoch.checked_add(whole)?.checked_add(nanos);
    }
    let before = epoch.checked_sub(whole).and_then(|whole| whole.checked_add(nanos));
    Some(before.unwrap_or_else(earliest))
}

/// Returns the earliest time of this system. It goes back in smaller and smaller steps until no step is
/// possible.
fn earliest() -> SystemTime {
    let (mut time, mut step) = (SystemTime::UNIX_EPOCH, Duration::MAX);
    while !step.is_zero() {
        time = time.checked_sub(step).unwrap_or(time);
        step /= 2;
    }
    time
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Windows counts from the year 1601 to 30828, in steps of 100 ns.
    const BEGINNING: i64 = if cfg!(windows) { -11_000_000_000 } else { -8_000_000_000_000 };
    const END: i64 = if cfg!(windows) { 900_000_000_000 } else { 8_000_000_000_000 };
    const STEP: u32 = if cfg!(windows) { 100 } else { 1 };

    #[test]
    fn a_date_too_early_for_the_system_comes_before_the_year_1602() {
        let early = system_time(DateTime::<Utc>::MIN_UTC).unwrap();
        let named = SystemTime::UNIX_EPOCH.checked_sub(Duration::from_secs(11_600_000_000));
        assert!(early < named.expect("the year 1602 has a name"));
        assert!(earliest() <= early && earliest().checked_sub(Duration::from_secs(1)).is_none());
    }

    #[test]
    fn a_pause_doubles_and_its_random_part_is_at_most_half() {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(35));
        let pauses: Vec<u128> = [1.0, 0.0, 1.0, 0.5, 1.0]
            .into_iter()
            .map(|random| backoff.next(random).as_millis())
            .collect();
        assert_eq!(pauses, [10, 10, 35, 26, 35]);
        for _ in 0..100 {
            assert!((0.0..1.0).contains(&random()));
        }
    }

    proptest! {
        #[test]
        fn both_conversions_keep_a_date(seconds in BEGINNING..END, nanos in 0..1_000_000_000 / STEP) {
            let date_in = DateTime::from_timestamp(seconds, nanos * STEP).unwrap();
            prop_assert_eq!(system_time(date_in).map(date), Some(date_in));
        }

        #[test]
        fn no_moment_makes_it_panic(seconds: u64, nanos in 0..1_000_000_000 / STEP, before: bool) {
            let span = Duration::new(seconds, nanos * STEP);
            let epoch = SystemTime::UNIX_EPOCH;
            let time = if before { epoch.checked_sub(span) } else { epoch.checked_add(span) };
            if let Some(time) = time {
                let named = date(time);
                prop_assert_eq!(named < DateTime::UNIX_EPOCH, before && span > Duration::ZERO);
            }
        }

        #[test]
        fn a_pause_is_between_half_and_all_of_its_maximum(
            first in 1..100_000_u64,
            longest in 1..100_000_u64,
            randoms in proptest::collection::vec(any::<f64>(), 1..40),
        ) {
            let (first, longest) = (Duration::from_micros(first), Duration::from_micros(longest.max(first)));
            let mut backoff = Backoff::new(first, longest);
            let mut whole = first;
            for random in randoms.into_iter().filter(|random| !random.is_nan()) {
                let pause = backoff.next(random);
                prop_assert!(pause <= whole && pause >= whole / 2 - Duration::from_nanos(1));
                whole = (whole * 2).min(longest);
            }
        }
    }
}
