//! One refresh at a time, for any number of tasks that ask for one.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::runtime::{Builder, Handle, RuntimeFlavor};
use tokio::sync::watch::{self, Receiver};

use super::Inner;
use super::events::Event;
use super::refresh::{Basis, LAST_LOOK};
use super::snapshot::Snapshot;
use super::throttle::Pace;
use crate::error::{AuthError, RefreshFailure, StoreError};
use crate::record::Record;
use crate::sys::clock::{self, Timer};

/// How often a refresh is started again because the runtime that did it had ended.
const ATTEMPTS: usize = 3;

/// For all that a refresh does with the store beside waiting for its lease: five calls, of which the slowest
/// store gives up each in 85 seconds.
const LONGEST_STORE: Duration = Duration::from_secs(5 * 85);

/// How long a runtime that is driven may take until it begins what was started on it.
const LONGEST_START: Duration = Duration::from_millis(500);

/// The refresh that is under way, and what became of earlier ones.
#[derive(Default)]
pub(super) struct Flights {
    current: Option<Flight>,
    pub(super) pace: Pace,
    /// When a request was sent, by our own intent, whose answer was lost.
    pub(super) lost_at: Option<DateTime<Utc>>,
}

#[derive(Clone)]
struct Flight {
    landing: Receiver<Landing>,
    /// Whether its runtime has begun it.
    has_begun: Arc<AtomicBool>,
    /// The thread that started it.
    starter: ThreadId,
}

/// How a refresh ended; nothing while it is under way.
type Landing = Option<Result<Arc<Snapshot>, AuthError>>;

enum Boarding {
    Flying(Flight),
    Met(Arc<Snapshot>),
}

impl Inner {
    /// Joins the refresh that is under way, or starts one, and waits for its end.
    ///
    /// A caller that gives up cancels nothing. If the runtime ended that the refresh was on, it is
    /// started again.
    pub(super) async fn refresh(
        self: &Arc<Self>,
        basis: &Basis,
    ) -> Result<Arc<Snapshot>, AuthError> {
        for _ in 0..ATTEMPTS {
            let mut flight = match self.board(basis)? {
                Boarding::Flying(flight) => flight,
                Boarding::Met(snapshot) => return Ok(snapshot),
            };
            let not_driven = || {
                let reason = "the runtime that it was started on is not driven: do not wait for tokens in a \
                              way that blocks the runtime's own thread";
                Err(AuthError::Refresh(RefreshFailure::transient(reason)))
            };
            if self.is_stuck(&mut flight).await {
                return not_driven();
            }
            // It ends long before, unless its runtime is there and nobody drives it any more.
            let landed = flight.landing.wait_for(Option::is_some);
            match self.timer.within(self.longest_refresh(), landed).await {
                Some(Ok(landing)) => return landing.clone().expect("it has landed"),
                Some(Err(_)) => {}
                None => return not_driven(),
            }
        }
        Err(AuthError::Store(StoreError::Unavailable {
            place: self.slot.to_string(),
            reason: "the runtime is shutting down".into(),
            advice: "finish with the tokens before the runtime ends".into(),
        }))
    }

    /// How long a refresh may take whose runtime is driven: it waits for the lease, and asks twice.
    fn longest_refresh(&self) -> Duration {
        let answers = self.policy.deadline.saturating_add(LAST_LOOK).saturating_mul(2);
        let lease = self.longest_wait_for_lease();
        lease.saturating_add(answers).saturating_add(LONGEST_STORE)
    }

    /// Returns whether the runtime of this refresh does not run although this future does. So it is where
    /// somebody blocks the thread of a current-thread runtime to wait for this very future. A runtime that
    /// is driven begins what was started on it before it comes back to this future.
    async fn is_stuck(&self, flight: &mut Flight) -> bool {
        let is_alone = Handle::try_current().is_ok_and(|runtime| {
            runtime.runtime_flavor() == RuntimeFlavor::CurrentThread
                || runtime.metrics().num_workers() == 1
        });
        // A caller on another thread does not keep that runtime from running.
        if !is_alone || flight.starter != thread::current().id() {
            return false;
        }
        // Once more, because this process may have been stopped in between. It is real time that counts, by a
        // thread that no runtime drives.
        for _ in 0..2 {
            let landed = flight.landing.wait_for(Option::is_some);
            let waited = Timer::default().within(LONGEST_START, landed).await;
            if waited.is_some() || flight.has_begun.load(Ordering::SeqCst) {
                return false;
            }
        }
        true
    }

    /// Starts a refresh, if there is none, and lets it go on by itself.
    pub(super) fn refresh_behind(self: &Arc<Self>, basis: &Basis) {
        // Why it is not started, or how it ends, is told by events.
        let _ = self.board(basis);
    }

    /// Reloads where a refresh is not simply the next step: once the server rejected a refresh
    /// token, the store is asked each time whether it holds others, and the server is not; and
    /// tokens that wait to be saved may do so because the runtime that was to save them has ended.
    pub(super) async fn reload_if_doubtful(
        &self,
        snapshot: Arc<Snapshot>,
    ) -> Result<Arc<Snapshot>, AuthError> {
        let is_rejected =
            snapshot.stored.as_ref().is_some_and(|stored| self.is_rejected(&stored.record));
        if !is_rejected && !self.slot.has_pending() {
            return Ok(snapshot);
        }
        Ok(self.slot.lock().await?.save_and_reload().await?)
    }

    /// Returns whether the server rejected the refresh token of this record, here or in another process.
    fn is_rejected(&self, record: &Record) -> bool {
        record.refresh.rejection.is_some() || self.flights().pace.is_rejected(&record.tokens)
    }

    /// Waits until no refresh is under way.
    pub(super) async fn landed(&self) {
        let flight = self.flights().current.clone();
        if let Some(mut flight) = flight {
            // An error means that it is not under way any more either.
            let _ = flight.landing.wait_for(Option::is_some).await;
        }
    }

    pub(super) fn flights(&self) -> MutexGuard<'_, Flights> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn board(self: &Arc<Self>, basis: &Basis) -> Result<Boarding, AuthError> {
        if self.refresher.is_none() {
            return Err(AuthError::NoRefresher);
        }
        let mut flights = self.flights();
        if let Some(flight) = &flights.current {
            let is_up = flight.landing.has_changed().is_ok() && flight.landing.borrow().is_none();
            if is_up {
                return Ok(Boarding::Flying(flight.clone()));
            }
        }
        let now = self.clock.now();
        // One may have landed since the caller looked.
        if let Some(current) = self.slot.latest()
            && basis.is_met_by(&current, now)
        {
            return Ok(Boarding::Met(current));
        }
        if let Some(stored) = &basis.snapshot.stored {
            let tokens = &stored.record.tokens;
            let held = if basis.forced {
                flights.pace.just_rejected(tokens, now)
            } else {
                flights.pace.hold(tokens, basis.snapshot.lifetime(), now)
            };
            if let Some(error) = held {
                return Err(error);
            }
            drop(flights);
            if let Some(hold) = self.held_back_by(&stored.record, basis.forced) {
                // Another process was told. This one says so once, and remembers it.
                self.flights().pace.told(tokens, &hold, now);
                self.events.publish(match (&hold.error, hold.until) {
                    (error, None) => Event::LoginRequired { error: error.clone() },
                    (error, Some(until)) => Event::RefreshFailed {
                        error: error.clone(),
                        retry_at: clock::system_time(until),
                    },
                });
                return Err(hold.error);
            }
            flights = self.flights();
        }
        if let Some(flight) = flights.current.as_ref().filter(|it| it.landing.borrow().is_none())
            && flight.landing.has_changed().is_ok()
        {
            // Somebody else was faster.
            return Ok(Boarding::Flying(flight.clone()));
        }
        let (landing, receiver) = watch::channel(None);
        let starter = thread::current().id();
        let flying = Flight { landing: receiver, has_begun: Arc::default(), starter };
        flights.current = Some(flying.clone());
        drop(flights);
        let (inner, basis) = (self.clone(), basis.clone());
        let has_begun = flying.has_begun.clone();
        spawn(async move {
            has_begun.store(true, Ordering::SeqCst);
            let flight = inner.fly(&basis);
            #[cfg(feature = "tracing")]
            let flight = super::trace::refresh(inner.slot.store(), flight);
            let result = flight.await;
            // What it brought must not outlive a logout here.
            inner.flights().current = None;
            // If nobody waits any more, it is done all the same.
            let _ = landing.send(Some(result));
            inner.slot.keep_saving().await;
        });
        Ok(Boarding::Flying(flying))
    }

    async fn fly(&self, basis: &Basis) -> Result<Arc<Snapshot>, AuthError> {
        let result = self.protocol(basis).await;
        match &result {
            Ok(_) => self.events.publish(Event::Refreshed),
            // These were told where they happened.
            Err(
                AuthError::LoginRequired { .. }
                | AuthError::Refresh(_)
                | AuthError::RefreshTokenSpent { .. },
            ) => {}
            Err(error) => {
                let mut retry_at = None;
                if let (AuthError::Store(_) | AuthError::NotSaved(_), Some(stored)) =
                    (error, &basis.snapshot.stored)
                {
                    let (tokens, now) = (&stored.record.tokens, self.clock.now());
                    retry_at = Some(self.flights().pace.store_failed(tokens, error.clone(), now));
                }
                self.events.publish(Event::RefreshFailed { error: error.clone(), retry_at });
            }
        }
        result
    }
}

/// Lets a task go on by itself: on this runtime, or on a thread of its own where there is none.
fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    if let Ok(runtime) = Handle::try_current() {
        if runtime.runtime_flavor() == RuntimeFlavor::CurrentThread {
            runtime.spawn(task);
        } else {
            // What a worker starts is next on that worker, and no other one takes it from there; and this one
            // may be about to block.
            let workers = runtime.clone();
            runtime.spawn_blocking(move || drop(workers.spawn(task)));
        }
        return;
    }
    let run = move || {
        // What the refresher needs of a runtime is there if the program was built with it.
        if let Ok(runtime) = Builder::new_current_thread().enable_all().build() {
            runtime.block_on(task);
        }
    };
    // If there is no thread to be had, those who wait see that nothing is under way.
    let _ = thread::Builder::new().name("tokenkeep-refresh".into()).spawn(run);
}
