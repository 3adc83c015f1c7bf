//! What time it is: the system's clock, or one that a test turns.

use std::fmt;
use std::time::{Duration, SystemTime};

use chrono::{DateTime, Utc};

/// The wall clock decides about expiry: a laptop that was asleep wakes up with its token expired.
pub(crate) struct Clock(Box<dyn Fn() -> SystemTime + Send + Sync>);

impl Clock {
    pub(crate) fn new(now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        Self(Box::new(now))
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

/// The same moment as a date; what no date can name becomes the nearest one that can be named.
pub(crate) fn date(time: SystemTime) -> DateTime<Utc> {
    let (seconds, nanos) = match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => (i64::try_from(after.as_secs()).unwrap_or(i64::MAX), after.subsec_nanos()),
        Err(error) => {
            let before = error.duration();
            // Rounded down, so that the nanoseconds count forwards.
            let whole = before.as_secs() + u64::from(before.subsec_nanos() > 0);
            let nanos = (1_000_000_000 - before.subsec_nanos()) % 1_000_000_000;
            (i64::try_from(whole).map_or(i64::MIN, |whole| -whole), nanos)
        }
    };
    let end = if seconds < 0 { DateTime::<Utc>::MIN_UTC } else { DateTime::<Utc>::MAX_UTC };
    DateTime::from_timestamp(seconds, nanos).unwrap_or(end)
}

/// The same moment as a system time; before 1970, and beyond what the system can name, the epoch:
/// a deadline that has passed.
pub(crate) fn system_time(date: DateTime<Utc>) -> SystemTime {
    u64::try_from(date.timestamp())
        .ok()
        .map(|seconds| Duration::new(seconds, date.timestamp_subsec_nanos().min(999_999_999)))
        .and_then(|since| SystemTime::UNIX_EPOCH.checked_add(since))
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn both_ways_name_one_moment(seconds in 0..8_000_000_000_000_i64, nanos in 0..1_000_000_000_u32) {
            let date_in = DateTime::from_timestamp(seconds, nanos).unwrap();
            prop_assert_eq!(date(system_time(date_in)), date_in);
        }

        #[test]
        fn no_moment_makes_it_panic(seconds: u64, nanos in 0..1_000_000_000_u32, before: bool) {
            let span = Duration::new(seconds, nanos);
            let epoch = SystemTime::UNIX_EPOCH;
            let time = if before { epoch.checked_sub(span) } else { epoch.checked_add(span) };
            if let Some(time) = time {
                let named = date(time);
                prop_assert_eq!(named < DateTime::UNIX_EPOCH, before && span > Duration::ZERO);
            }
        }
    }
}
