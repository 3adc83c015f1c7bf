//! The first tokens of a slot, from a refresher that needs no refresh token.

use std::sync::Arc;

use super::super::events::Event;
use super::super::slot::release;
use super::super::snapshot::Snapshot;
use super::{RefreshProtocol, RefreshRequest, present};
use crate::error::{AuthError, RefreshFailure, StoreError};
use crate::record::{Record, RefreshState};
use crate::store::{Lease, Precondition, Stored};
use crate::sys::clock;
use crate::tokens::AuthTokens;

/// What such a refresher gets for an empty slot.
pub(super) fn no_tokens() -> AuthTokens {
    AuthTokens::new("")
}

impl RefreshProtocol {
    /// Returns whether the refresher needs no refresh token, so that it obtains the first tokens too.
    pub(in super::super) fn obtains_first(&self) -> bool {
        !self.refresher.needs_refresh_token()
    }

    /// Obtains the first tokens and saves them, unless the slot has others by then. Nothing is spent for them,
    /// so there is no intent, and tokens that cannot be saved are no loss.
    pub(super) async fn obtain_first(
        &self,
        request: &RefreshRequest,
        mut lease: Box<dyn Lease>,
    ) -> Result<Arc<Snapshot>, AuthError> {
        let obtained = self.obtain_under(request, &mut *lease).await;
        release(lease).await;
        obtained
    }

    async fn obtain_under(
        &self,
        request: &RefreshRequest,
        lease: &mut dyn Lease,
    ) -> Result<Arc<Snapshot>, AuthError> {
        // An empty slot has no record that says what the server told another process.
        let throttle = lease.throttle().await;
        let refresh = RefreshState { throttle, ..RefreshState::default() };
        let none = Record::new(no_tokens()).with_refresh(refresh);
        if let Some(held_back) = self.held_back_by(&none, request.is_forced) {
            return Err(self.told(&none.tokens, held_back));
        }
        match self.call_once(&none.tokens, lease, self.policy.deadline).await {
            Ok(tokens) => self.save_first(tokens).await,
            Err(failure) => Err(self.not_obtained(failure, lease).await),
        }
    }

    async fn save_first(&self, mut tokens: AuthTokens) -> Result<Arc<Snapshot>, AuthError> {
        let now = self.clock.now();
        tokens.obtained_at.get_or_insert_with(|| clock::date(now));
        self.history.refreshed(now);
        let throttle = self.throttle_after_success(&tokens, now);
        let refresh = RefreshState { throttle, ..RefreshState::default() };
        let record = Record::new(tokens).with_refresh(refresh);
        let mut guard = self.slot.lock().await?;
        match guard.save(&record, Precondition::Absent).await {
            Ok(revision) => Ok(guard.install(Some(Stored { record, revision }), now)),
            // Somebody signed in meanwhile.
            Err(StoreError::Conflict { .. }) => present(guard.reload().await?),
            Err(error) => Err(error.into()),
        }
    }

    async fn not_obtained(&self, failure: RefreshFailure, lease: &mut dyn Lease) -> AuthError {
        let now = self.clock.now();
        let until = self.history.failed(&no_tokens(), &failure, now);
        if let Some(throttle) = self.throttle_after_failure(&failure, now, until) {
            // If it cannot be kept, the next process asks the server too.
            let _ = lease.keep_throttle(&throttle).await;
        }
        let error = match failure {
            RefreshFailure::Rejected { reason } => AuthError::LoginRequired { reason },
            failure => AuthError::Refresh(failure),
        };
        self.events.publish(Event::RefreshFailed { error: error.clone(), retry_at: Some(until) });
        error
    }
}
