//! One refresh at a time, shared by all tasks that ask for one.

use std::sync::Arc;

use super::refresh::{RefreshProtocol, RefreshRequest};
use super::single_flight::{Outcome, Running, SingleFlight};
use super::snapshot::Snapshot;
use crate::error::{AuthError, RefreshFailure, StoreError};
use crate::sys::clock::Timer;

/// How often a refresh is started. It is started again if the runtime that it ran on has ended.
const ATTEMPTS: usize = 3;

/// The result of a refresh.
type Refreshed = Result<Arc<Snapshot>, AuthError>;

/// The refresh of one slot, shared by all callers.
pub(super) struct SharedRefresh {
    protocol: Arc<RefreshProtocol>,
    flight: SingleFlight<Refreshed>,
    timer: Arc<Timer>,
}

enum Joined {
    /// This refresh is running.
    Running(Running<Refreshed>),
    /// The tokens that the caller needs are in memory already.
    Met(Arc<Snapshot>),
}

impl SharedRefresh {
    pub(super) fn new(protocol: RefreshProtocol, timer: Arc<Timer>) -> Self {
        Self { protocol: Arc::new(protocol), flight: SingleFlight::default(), timer }
    }

    /// Joins the refresh that is running, or starts one, and waits until it ends.
    ///
    /// If the future of a caller is dropped, the refresh continues. If the runtime of the refresh ends, the
    /// refresh is started again.
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
                    let reason = "the runtime that it was started on is not running; wait for tokens with \
                                  `.await`, without blocking the thread of that runtime";
                    return Err(AuthError::Refresh(RefreshFailure::transient(reason)));
                }
            }
        }
        Err(AuthError::Store(StoreError::Unavailable {
            place: self.protocol.place(),
            reason: "the runtime is shutting down".into(),
            advice: "get tokens before the runtime shuts down".into(),
        }))
    }

    /// Starts a refresh, if none is running, and does not wait for it.
    pub(super) fn refresh_in_background(&self, request: &RefreshRequest) {
        // An event says why it was not started, or how it ended.
        let _ = self.join_or_start(request);
    }

    /// Waits until no refresh is running.
    pub(super) async fn idle(&self) {
        self.flight.idle().await;
    }

    /// Reloads if the snapshot is doubtful: see [`RefreshProtocol::reload_if_doubtful`].
    pub(super) async fn reload_if_doubtful(&self, snapshot: Arc<Snapshot>) -> Refreshed {
        Ok(self.protocol.reload_if_doubtful(snapshot).await?)
    }

    /// Returns whether the first tokens of an empty slot are obtained like all others.
    pub(super) fn obtains_first(&self) -> bool {
        self.protocol.obtains_first()
    }

    /// Forgets how earlier refreshes ended. It is called after a login.
    pub(super) fn begin_anew(&self) {
        self.protocol.begin_anew();
    }

    fn join_or_start(&self, request: &RefreshRequest) -> Result<Joined, AuthError> {
        if let Some(running) = self.flight.running() {
            return Ok(Joined::Running(running));
        }
        // A refresh may have ended since the caller looked. It put its tokens into memory before it ended.
        if let Some(current) = self.protocol.met(request) {
            return Ok(Joined::Met(current));
        }
        self.protocol.check_throttle(request)?;
        let (protocol, request) = (self.protocol.clone(), request.clone());
        let refresh = async move { protocol.run(&request).await };
        let protocol = self.protocol.clone();
        let keep_saving = async move { protocol.keep_saving().await };
        // If another caller was faster, this joins its refresh.
        Ok(Joined::Running(self.flight.join_or_start(refresh, keep_saving)))
    }
}
