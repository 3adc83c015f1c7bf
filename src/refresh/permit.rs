//! The right to send a refresh token, and how long it lasts.

use std::time::{Duration, Instant, SystemTime};

use crate::error::RefreshFailure;
use crate::sys::clock::Clock;

/// The right to send the refresh token that a [`TokenRefresher`](crate::TokenRefresher) was given.
///
/// The lease of a file lasts until its process ends, and so does this right. The lease of a shared slot is a
/// deadline. If a process is stopped after it took such a lease, another one may send the token meanwhile.
/// [`check`](Self::check) fails in that case.
#[derive(Clone, Debug)]
pub struct RefreshPermit(Option<Term>);

/// How long the lease lasts, and how much of that the answer and the save need.
#[derive(Clone, Debug)]
struct Term {
    began: Instant,
    /// The time by the wall clock. The monotonic clock stops while the machine is suspended; the wall clock
    /// can be set by a person. So both are used.
    began_wall: SystemTime,
    clock: Clock,
    /// How long the lease lasts, counted from `began`.
    lease: Duration,
    /// How long the refresher may take, counted from `began`.
    deadline: Duration,
    /// How long saving the answer may take.
    margin: Duration,
}

impl RefreshPermit {
    /// Returns a permit that does not end. Use it for a lease that lasts as long as its process, or for a
    /// call without a lease.
    #[must_use]
    pub fn unlimited() -> Self {
        Self(None)
    }

    /// Returns a permit for a lease that lasts for `lease` from now.
    pub(crate) fn until(
        lease: Duration,
        deadline: Duration,
        margin: Duration,
        clock: &Clock,
    ) -> Self {
        let (began, began_wall) = (Instant::now(), clock.now());
        Self(Some(Term { began, began_wall, clock: clock.clone(), lease, deadline, margin }))
    }

    /// Checks whether the token may still be sent. Call it after connecting, right before the request is
    /// written.
    ///
    /// # Errors
    ///
    /// [`RefreshFailure::Transient`] if the rest of the lease is too short to get the answer and save it.
    /// Return this error, and send nothing.
    pub fn check(&self) -> Result<(), RefreshFailure> {
        match self.time_to_answer() {
            None => Ok(()),
            Some(left) if !left.is_zero() => Ok(()),
            Some(_) => Err(RefreshFailure::transient(
                "this process was stopped before it could send the refresh token, and its lease may be over",
            )),
        }
    }

    /// Returns how long the connection may carry the request. After that time, no part of the request may
    /// reach the server. Returns `None` if there is no limit, and zero if the permit has ended.
    #[must_use]
    pub fn time_to_answer(&self) -> Option<Duration> {
        let term = self.0.as_ref()?;
        let by_wall = term.clock.now().duration_since(term.began_wall);
        // If the clock was set back, the time that has passed is unknown.
        let passed = by_wall.map_or(Duration::MAX, |by_wall| by_wall.max(term.began.elapsed()));
        let answer = term.deadline.saturating_sub(term.began.elapsed());
        let fits = answer
            .checked_add(term.margin)
            .is_some_and(|needed| passed.checked_add(needed).is_some_and(|end| end <= term.lease));
        Some(if fits { answer } else { Duration::ZERO })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// A permit for 60 s: 30 s for the answer and 25 s for the save. The closure sets its wall clock.
    fn permit() -> (RefreshPermit, impl Fn(u64)) {
        let seconds = Arc::new(AtomicU64::new(1_000_000));
        let clock = {
            let seconds = seconds.clone();
            Clock::new(move || {
                SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.load(Ordering::SeqCst))
            })
        };
        let time = Duration::from_secs;
        let permit = RefreshPermit::until(time(60), time(30), time(25), &clock);
        (permit, move |now| seconds.store(now, Ordering::SeqCst))
    }

    #[test]
    fn it_ends_when_the_lease_is_too_short_for_the_answer_and_its_save() {
        let (permit, set) = permit();
        permit.check().unwrap();
        set(1_000_004);
        permit.check().unwrap();
        assert!(permit.time_to_answer().unwrap() <= Duration::from_secs(30));
        // The machine was suspended. Only the wall clock shows that.
        set(1_000_006);
        assert!(permit.check().unwrap_err().proves_unspent());
        assert_eq!(permit.time_to_answer(), Some(Duration::ZERO));
    }

    #[test]
    fn a_clock_that_was_set_back_ends_it() {
        let (permit, set) = permit();
        set(999_999);
        permit.check().unwrap_err();
    }

    #[test]
    fn the_time_spent_connecting_counts_towards_the_time_for_the_answer() {
        let (time, clock) = (Duration::from_secs, Clock::default());
        let mut permit = RefreshPermit::until(time(60), time(30), time(29), &clock);
        // As if connecting took 6 s, by both clocks.
        let term = permit.0.as_mut().unwrap();
        term.began -= time(6);
        term.began_wall -= time(6);
        permit.check().unwrap();
        assert!(permit.time_to_answer().unwrap() <= time(24));
    }

    #[test]
    fn a_file_lease_has_no_end() {
        RefreshPermit::unlimited().check().unwrap();
        assert_eq!(RefreshPermit::unlimited().time_to_answer(), None);
    }
}
