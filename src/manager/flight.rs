//! One refresh at a time, for any number of tasks that ask for one.

use std::future::Future;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::runtime::{Builder, Handle};
use tokio::sync::watch::{self, Receiver};

use super::Inner;
use super::events::Event;
use super::protocol::Basis;
use super::snapshot::Snapshot;
use crate::error::{AuthError, RefreshFailure, StoreError};
use crate::refresh::pace::Pace;

/// How often a refresh is started again because the runtime that did it had ended.
const ATTEMPTS: usize = 3;

/// For waiting for the lease, and for a slow disk.
const LONGEST_SAVE: Duration = Duration::from_secs(60);

/// The refresh that is under way, and what became of earlier ones.
#[derive(Default)]
pub(super) struct Flights {
    current: Option<Receiver<Landing>>,
    pub(super) pace: Pace,
    /// When a request was sent, by our own note, whose answer was lost.
    pub(super) lost_at: Option<DateTime<Utc>>,
}

/// How a refresh ended; nothing while it is under way.
type Landing = Option<Result<Arc<Snapshot>, AuthError>>;

enum Boarding {
    Flying(Receiver<Landing>),
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
            let mut flying = match self.board(basis)? {
                Boarding::Flying(flying) => flying,
                Boarding::Met(snapshot) => return Ok(snapshot),
            };
            // It ends long before, unless its runtime is there and nobody drives it.
            let limit = self.policy.deadline.saturating_mul(4).saturating_add(LONGEST_SAVE);
            match self.timer.within(limit, flying.wait_for(Option::is_some)).await {
                Some(Ok(landing)) => return landing.clone().expect("it has landed"),
                Some(Err(_)) => {}
                None => {
                    let reason = "the runtime that it was started on does not run";
                    return Err(AuthError::Refresh(RefreshFailure::ambiguous(reason)));
                }
            }
        }
        Err(AuthError::Store(StoreError::Unavailable {
            place: self.store.to_string(),
            reason: "the runtime is shutting down".into(),
            advice: "finish with the tokens before the runtime ends".into(),
        }))
    }

    /// Starts a refresh, if there is none, and lets it go on by itself.
    pub(super) fn refresh_behind(self: &Arc<Self>, basis: &Basis) {
        // Why it is not started, or how it ends, is told by events.
        let _ = self.board(basis);
    }

    /// Waits until no refresh is under way.
    pub(super) async fn landed(&self) {
        let flying = self.flights().current.clone();
        if let Some(mut flying) = flying {
            // An error means that it is not under way any more either.
            let _ = flying.wait_for(Option::is_some).await;
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
        if let Some(flying) = &flights.current {
            let is_up = flying.has_changed().is_ok() && flying.borrow().is_none();
            if is_up {
                return Ok(Boarding::Flying(flying.clone()));
            }
        }
        let now = self.clock.now();
        // One may have landed since the caller looked.
        if let Some(current) = self.cached.load_full()
            && basis.is_met_by(&current, now)
        {
            return Ok(Boarding::Met(current));
        }
        if let Some(stored) = &basis.snapshot.stored {
            let held = if basis.forced {
                // Not even on demand is a server asked again that said no.
                flights.pace.rejection(&stored.revision)
            } else {
                flights.pace.hold(&stored.revision, basis.snapshot.lifetime(), now)
            };
            if let Some(error) = held {
                return Err(error);
            }
        }
        let (landing, flying) = watch::channel(None);
        flights.current = Some(flying.clone());
        drop(flights);
        let (inner, basis) = (self.clone(), basis.clone());
        spawn(async move {
            let flight = inner.fly(&basis);
            #[cfg(feature = "tracing")]
            let flight = crate::trace::refresh(&inner.store, flight);
            let result = flight.await;
            // What it brought must not outlive a logout here.
            inner.flights().current = None;
            // If nobody waits any more, it is done all the same.
            let _ = landing.send(Some(result));
            inner.keep_saving().await;
        });
        Ok(Boarding::Flying(flying))
    }

    async fn fly(&self, basis: &Basis) -> Result<Arc<Snapshot>, AuthError> {
        let result = self.protocol(basis).await;
        match &result {
            Ok(_) => self.publish(Event::Refreshed),
            // These were told where they happened.
            Err(
                AuthError::LoginRequired { .. }
                | AuthError::Refresh(_)
                | AuthError::RefreshTokenSpent { .. },
            ) => {}
            Err(error) => {
                let mut retry_at = None;
                if let (AuthError::Store(_), Some(stored)) = (error, &basis.snapshot.stored) {
                    let now = self.clock.now();
                    let until =
                        self.flights().pace.store_failed(&stored.revision, error.clone(), now);
                    retry_at = Some(until);
                }
                self.publish(Event::RefreshFailed { error: error.clone(), retry_at });
            }
        }
        result
    }
}

/// Lets a task go on by itself: on this runtime, or on a thread of its own where there is none.
fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    if let Ok(runtime) = Handle::try_current() {
        runtime.spawn(task);
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
