//! The known state of a slot, and which access token may be returned from it.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use crate::error::AuthError;
use crate::refresh::RefreshPolicy;
use crate::store::Stored;
use crate::sys::clock;
use crate::tokens::{AccessToken, AuthTokens, Freshness, Schedule};

/// Is used instead of any longer time: about 30 years.
const LONGEST_RECHECK: Duration = Duration::from_secs(1_000_000_000);

thread_local! {
    /// The number of this thread. Threads are numbered in the order in which they first ask for a token.
    static THREAD: usize = {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        NEXT.fetch_add(1, Ordering::Relaxed)
    };
}

/// How many handles an access token has. It is a power of 2.
static HANDLES: LazyLock<usize> = LazyLock::new(|| {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    threads.next_power_of_two().min(MOST_HANDLES)
});

/// The largest number of handles of an access token. More handles would take memory in a program with many
/// managers, and make other programs hardly faster.
const MOST_HANDLES: usize = 16;

/// The state of a slot at one moment.
#[derive(Clone)]
pub(super) struct Snapshot {
    pub(super) stored: Option<Stored>,
    /// Handles of the access token, one for each thread that may run at the same time. If all threads cloned
    /// one handle, its reference count would move from processor to processor.
    access: Box<[AccessToken]>,
    schedule: Option<Schedule>,
    /// When a refresh is started: when the token is due, minus the jitter. `None` if the token never expires.
    refresh_at: Option<SystemTime>,
    /// Whether a server refused the access token.
    invalid: bool,
    checked: SystemTime,
    /// When the store is loaded again.
    recheck: SystemTime,
    /// Until when the access token can be returned without loading the store: until its refresh is started or
    /// the store is loaded again, whichever comes first.
    hand_out_until: SystemTime,
}

impl Snapshot {
    /// `previous` is the snapshot before this one. `invalid` says that a server refused this access token.
    /// `random` is a number from 0 to 1.
    pub(super) fn new(
        stored: Option<Stored>,
        previous: Option<&Self>,
        invalid: bool,
        now: SystemTime,
        recheck: Duration,
        policy: &RefreshPolicy,
        random: f64,
    ) -> Self {
        // A missing access token is treated like a refused one.
        let is_missing =
            stored.as_ref().is_some_and(|stored| !stored.record.tokens.has_access_token());
        let invalid = invalid || is_missing;
        let same = previous.filter(|previous| previous.has_token_of(stored.as_ref()));
        let schedule = stored
            .as_ref()
            .and_then(|stored| Schedule::with(&stored.record.tokens, policy.buffers));
        let recheck = after(now, recheck);
        let refresh_at = same.map_or_else(
            || {
                let schedule = schedule?;
                // A limit of 1/3 of the lifetime, so that no token is due as soon as it was obtained.
                let third = schedule.lifetime.and_then(|lifetime| (lifetime / 3).to_std().ok());
                let jitter = third.map_or(policy.jitter, |third| policy.jitter.min(third));
                // `None`, that is never, if the time is too late for the clock of the system.
                let (early, due) = (jitter.mul_f64(random), clock::system_time(schedule.due)?);
                Some(due.checked_sub(early).unwrap_or(due))
            },
            // The jitter is chosen once for each token, not at each reload.
            |same| same.refresh_at,
        );
        let hand_out_until = hand_out_until(refresh_at, invalid, now, recheck);
        let access = stored.as_ref().map_or_else(Box::default, |stored| {
            (0..*HANDLES).map(|_| stored.record.tokens.access_token.clone_unshared()).collect()
        });
        Self {
            stored,
            access,
            schedule,
            refresh_at,
            invalid,
            checked: now,
            recheck,
            hand_out_until,
        }
    }

    /// Returns the same snapshot, trusted for another `recheck`.
    pub(super) fn for_longer(&self, now: SystemTime, recheck: Duration) -> Self {
        let recheck = after(now, recheck);
        let hand_out_until = hand_out_until(self.refresh_at, self.invalid, now, recheck);
        Self { checked: now, recheck, hand_out_until, ..self.clone() }
    }

    fn has_token_of(&self, other: Option<&Stored>) -> bool {
        match (&self.stored, other) {
            (Some(ours), Some(other)) => ours.record.tokens == other.record.tokens,
            _ => false,
        }
    }

    /// Returns the tokens in it.
    pub(super) fn tokens(&self) -> Option<&AuthTokens> {
        self.stored.as_ref().map(|stored| &stored.record.tokens)
    }

    /// Returns the access token, or [`AuthError::TokenNotFound`].
    pub(super) fn access_token(&self) -> Result<AccessToken, AuthError> {
        let tokens = self.tokens().ok_or(AuthError::TokenNotFound)?;
        Ok(tokens.access_token.clone())
    }

    /// Returns whether this is the access token in it.
    pub(super) fn holds(&self, token: &AccessToken) -> bool {
        self.tokens().is_some_and(|tokens| tokens.access_token == *token)
    }

    /// Returns the same snapshot with its token marked as refused. Returns `None` if it holds another token.
    pub(super) fn refused(&self, token: &AccessToken) -> Option<Self> {
        self.holds(token).then(|| Self {
            invalid: true,
            hand_out_until: self.checked,
            ..self.clone()
        })
    }

    /// Returns the access token, if it can be returned without loading the store.
    pub(super) fn cached(&self, now: SystemTime) -> Option<&AccessToken> {
        // If the clock was set back, it is unknown how long ago the store was loaded.
        let in_time = self.checked <= now && now < self.hand_out_until;
        if in_time { self.access() } else { None }
    }

    /// Returns this thread's handle of the access token.
    pub(super) fn access(&self) -> Option<&AccessToken> {
        // The number of handles is a power of 2, or 0.
        self.access.get(THREAD.with(|number| *number) & self.access.len().wrapping_sub(1))
    }

    pub(super) fn is_recent(&self, now: SystemTime) -> bool {
        self.checked <= now && now < self.recheck
    }

    pub(super) fn freshness(&self, now: SystemTime) -> Freshness {
        self.schedule.map_or(Freshness::Fresh, |schedule| schedule.freshness(clock::date(now)))
    }

    /// Returns whether the access token can be sent for a while: no server is known to have refused it, and
    /// it does not count as expired.
    pub(super) fn is_good(&self, now: SystemTime) -> bool {
        self.stored.is_some() && !self.invalid && self.freshness(now) < Freshness::Expiring
    }

    /// Returns whether the server still accepts the access token: no server is known to have refused it, and
    /// its true expiry has not passed.
    pub(super) fn is_accepted(&self, now: SystemTime) -> bool {
        self.stored.is_some() && !self.invalid && self.freshness(now) < Freshness::Expired
    }

    pub(super) fn wants_refresh(&self, now: SystemTime) -> bool {
        self.invalid || self.refresh_at.is_some_and(|refresh_at| refresh_at <= now)
    }

    pub(super) fn lifetime(&self) -> Option<chrono::TimeDelta> {
        self.schedule.and_then(|schedule| schedule.lifetime)
    }
}

/// Returns the moment at which this time has passed.
fn after(now: SystemTime, recheck: Duration) -> SystemTime {
    let recheck = now.checked_add(recheck).or_else(|| now.checked_add(LONGEST_RECHECK));
    // A program may set its clock to the latest possible time, to test how it handles expired tokens.
    recheck.unwrap_or(now)
}

fn hand_out_until(
    refresh_at: Option<SystemTime>,
    invalid: bool,
    now: SystemTime,
    recheck: SystemTime,
) -> SystemTime {
    match refresh_at {
        _ if invalid => now,
        Some(refresh_at) => refresh_at.min(recheck),
        None => recheck,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::Revision;

    /// Any moment, including the first and the last one of the system's clock.
    fn any_moment() -> impl Strategy<Value = SystemTime> {
        let end = i64::MAX.unsigned_abs();
        let spans = prop_oneof![Just(0), Just(end), 0..end, any::<u32>().prop_map(u64::from)];
        (spans, 0..1_000_000_000_u32, any::<bool>()).prop_map(|(seconds, nanos, before)| {
            let (mut span, epoch) =
                (Duration::new(seconds, nanos / 100 * 100), SystemTime::UNIX_EPOCH);
            loop {
                let moment = if before { epoch.checked_sub(span) } else { epoch.checked_add(span) };
                match moment {
                    Some(moment) => return moment,
                    None => span /= 2,
                }
            }
        })
    }

    proptest! {
        #[test]
        fn no_time_and_no_policy_makes_it_panic_or_serve_an_expired_token(
            expires in proptest::option::of(any_moment()),
            obtained in proptest::option::of(any_moment()),
            refresh: Duration,
            expired: Duration,
            jitter: Duration,
            recheck: Duration,
            random in 0.0..1.0,
            now in any_moment(),
            later in any_moment(),
        ) {
            let policy = RefreshPolicy::default()
                .refresh_before_expiry(refresh)
                .expired_before_expiry(expired)
                .jitter(jitter);
            let mut tokens = AuthTokens::new("opaque");
            tokens.expires_at = expires.map(clock::date);
            tokens.obtained_at = obtained.map(clock::date);
            let expiry = tokens.expiry();
            let stored = Stored { record: tokens.into(), revision: Revision::new([1]) };
            let snapshot = Snapshot::new(Some(stored), None, false, now, recheck, &policy, random);
            let (first, second) = (now.min(later), now.max(later));
            prop_assert!(snapshot.freshness(first) <= snapshot.freshness(second));
            prop_assert!(snapshot.wants_refresh(first) <= snapshot.wants_refresh(second));
            let is_over = expiry.is_some_and(|expiry| clock::date(later) >= expiry);
            prop_assert_eq!(snapshot.is_accepted(later), !is_over);
            // All moments after the last date have the same date.
            let has_date = clock::system_time(clock::date(later)) == Some(later);
            prop_assert!(!has_date || !is_over || snapshot.cached(later).is_none());
        }
    }
}
