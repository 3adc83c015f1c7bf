//! One refresh at a time, for any number of tasks that ask for one.

use std::sync::Arc;

use super::refresh::{RefreshProtocol, RefreshRequest};
use super::single_flight::{Outcome, Running, SingleFlight};
use super::snapshot::Snapshot;
use crate::error::{AuthError, RefreshFailure, StoreError};
use crate::sys::clock::Timer;

/// How often a refresh is started again because the runtime that did it had ended.
const ATTEMPTS: usize = 3;

/// What a refresh brings.
type Refreshed = Result<Arc<Snapshot>, AuthError>;

/// The refresh of one slot, shared by all who ask for it.
pub(super) struct SharedRefresh {
    protocol: Arc<RefreshProtocol>,
    flight: SingleFlight<Refreshed>,
    timer: Arc<Timer>,
}

enum Joined {
    /// This refresh is running.
    Running(Running<Refreshed>),
    /// What was asked for is there already.
    Met(Arc<Snapshot>),
}

impl SharedRefresh {
    pub(super) fn new(protocol: RefreshProtocol, timer: Arc<Timer>) -> Self {
        Self { protocol: Arc::new(protocol), flight: SingleFlight::default(), timer }
    }

    /// Joins the refresh that is running, or starts one, and waits for its end.
    ///
    /// A caller that gives up cancels nothing. If the runtime ended that the refresh was on, it is
    /// started again.
    pub(super) async fn refresh(&self, request: &RefreshRequest) -> Refreshed {
        for _ in 0..ATTEMPTS {
            let running = match self.join_or_start(request)? {
                Joined::Running(running) => running,
                Joined::Met(snapshot) => return Ok(snapshot),
            };
            match running.outcome(&self.timer, self.protocol.longest()).await {
                Outcome::Done(refreshed) => return refreshed,
                Outcome::Lost => {}
                Outcome::NotDriven => {
                    let reason = "the runtime that it was started on is not driven: do not wait for tokens in \
                                  a way that blocks the runtime's own thread";
                    return Err(AuthError::Refresh(RefreshFailure::transient(reason)));
                }
            }
        }
        Err(AuthError::Store(StoreError::Unavailable {
            place: self.protocol.place(),
            reason: "the runtime is shutting down".into(),
            advice: "finish with the tokens before the runtime ends".into(),
        }))
    }

    /// Starts a refresh, if none is running, and lets it go on by itself.
    pub(super) fn refresh_in_background(&self, request: &RefreshRequest) {
        // Events tell why it is not started, or how it ends.
        let _ = self.join_or_start(request);
    }

    /// Waits until no refresh is running.
    pub(super) async fn idle(&self) {
        self.flight.idle().await;
    }

    /// Reloads where a refresh is not simply the next step: see [`RefreshProtocol::reload_if_doubtful`].
    pub(super) async fn reload_if_doubtful(&self, snapshot: Arc<Snapshot>) -> Refreshed {
        Ok(self.protocol.reload_if_doubtful(snapshot).await?)
    }

    /// Forgets how earlier refreshes ended: there are tokens of a new login.
    pub(super) fn begin_anew(&self) {
        self.protocol.begin_anew();
    }

    fn join_or_start(&self, request: &RefreshRequest) -> Result<Joined, AuthError> {
        if let Some(running) = self.flight.running() {
            return Ok(Joined::Running(running));
        }
        // One may have ended since the caller looked. What it brought is in memory before it ends.
        if let Some(current) = self.protocol.met(request) {
            return Ok(Joined::Met(current));
        }
        self.protocol.check_throttle(request)?;
        let (protocol, request) = (self.protocol.clone(), request.clone());
        let refresh = async move { protocol.run(&request).await };
        let protocol = self.protocol.clone();
        let keep_saving = async move { protocol.keep_saving().await };
        // Somebody else may have been faster.
        Ok(Joined::Running(self.flight.join_or_start(refresh, keep_saving)))
    }
}
