//! A refresh that failed: what its failure means, and what is saved about it.

use std::sync::Arc;

use chrono::SecondsFormat;

use super::super::events::Event;
use super::super::pending_save::is_of_one_refresh;
use super::super::slot::release;
use super::super::snapshot::Snapshot;
use super::{ATTEMPTS, LeasedTokens, RefreshProtocol, present};
use crate::error::{AuthError, RefreshFailure, SpentBy, StoreError};
use crate::record::{RefreshState, Rejection};
use crate::store::Precondition;
use crate::sys::clock;
use crate::tokens::AuthTokens;

impl RefreshProtocol {
    /// Decides what a failure means. The tokens stay unchanged.
    pub(super) async fn classify_failure(
        &self,
        leased: LeasedTokens,
        failure: RefreshFailure,
    ) -> Result<Arc<Snapshot>, AuthError> {
        // The token is in doubt if any send may have spent it: a send of this holder, or of an earlier one.
        let is_own_doubt = leased.is_answer_lost || !failure.proves_unspent();
        let is_in_doubt = leased.earlier.is_some() || is_own_doubt;
        if is_own_doubt && leased.earlier.is_none() {
            self.history.note_lost(leased.at);
        }
        match failure {
            RefreshFailure::Rejected { reason } => self.reject(leased, reason, is_in_doubt).await,
            failure => Err(self.postpone(leased, failure, is_in_doubt).await),
        }
    }

    /// Ends a failed refresh that may be tried again later.
    async fn postpone(
        &self,
        mut leased: LeasedTokens,
        failure: RefreshFailure,
        is_in_doubt: bool,
    ) -> AuthError {
        let now = self.clock.now();
        let until = self.history.failed(&leased.record.tokens, &failure, now);
        let throttle = self.throttle_after_failure(&failure, now, until);
        self.update_record(&mut leased, |refresh| {
            refresh.intent.take_if(|_| !is_in_doubt);
            if throttle.is_some() {
                refresh.throttle = throttle;
            }
        })
        .await;
        release(leased.lease).await;
        let error = AuthError::Refresh(failure);
        self.events.publish(Event::RefreshFailed { error: error.clone(), retry_at: Some(until) });
        error
    }

    /// Ends a refresh whose token the server rejected. If the slot holds other tokens by now, returns those.
    async fn reject(
        &self,
        mut leased: LeasedTokens,
        mut reason: String,
        is_in_doubt: bool,
    ) -> Result<Arc<Snapshot>, AuthError> {
        let now = self.clock.now();
        let expired = leased.record.tokens.refresh_expires_at.filter(|at| *at <= clock::date(now));
        if let Some(at) = expired {
            let at = at.to_rfc3339_opts(SecondsFormat::Secs, true);
            reason = format!("the refresh token expired at {at}; {reason}");
        }
        // A program that does not use the lease may have refreshed the tokens. If the slot cannot be loaded,
        // that is not known, and a session that may still work must not be given up.
        match self.find_others(&leased.record.tokens).await {
            Ok(None) => {}
            Ok(Some(current)) => {
                release(leased.lease).await;
                return present(current);
            }
            Err(error) => {
                release(leased.lease).await;
                return Err(error.into());
            }
        }
        let by = match leased.earlier {
            Some(at) => Some(self.history.spent_by(at)),
            None => leased.is_answer_lost.then_some(SpentBy::LostAnswer { at: leased.at }),
        };
        let client = self.refresher.client();
        let token = leased.record.tokens.refresh_token.as_ref();
        let rejection =
            token.map(|token| Rejection::new(token, &client, clock::date(now), &reason));
        let error = by
            .map_or(AuthError::LoginRequired { reason }, |by| AuthError::RefreshTokenSpent { by });
        self.history.rejected(&leased.record.tokens, error.clone(), now);
        self.update_record(&mut leased, |refresh| {
            refresh.intent.take_if(|_| !is_in_doubt);
            refresh.rejection = rejection;
        })
        .await;
        release(leased.lease).await;
        self.events.publish(Event::LoginRequired { error: error.clone() });
        Err(error)
    }

    /// Reloads the slot. Returns its state if it no longer holds these tokens.
    async fn find_others(&self, tokens: &AuthTokens) -> Result<Option<Arc<Snapshot>>, StoreError> {
        let mut guard = self.slot.lock().await?;
        let current = guard.reload().await?;
        let is_same = current.tokens().is_some_and(|there| is_of_one_refresh(there, tokens));
        Ok((!is_same).then_some(current))
    }

    /// Saves the refresh state of the old tokens after a failed refresh. If the save fails, the record keeps
    /// its intent. Then a later error may report a doubt that is not needed.
    pub(super) async fn update_record(
        &self,
        leased: &mut LeasedTokens,
        change: impl FnOnce(&mut RefreshState),
    ) {
        let before = leased.record.refresh.clone();
        change(&mut leased.record.refresh);
        if leased.record.refresh == before {
            return;
        }
        let ours = before.intent;
        for _ in 0..ATTEMPTS {
            let precondition = Precondition::Unchanged(leased.revision.clone());
            let Ok(mut guard) = self.slot.lock().await else { return };
            match guard.save(&leased.record, precondition).await {
                Err(StoreError::Conflict { .. }) => {}
                _ => return,
            }
            match guard.load().await {
                // The record was sealed to another key meanwhile, or the answer to a save was lost.
                Ok(Some(there))
                    if is_of_one_refresh(&there.record.tokens, &leased.record.tokens)
                        && there.record.refresh != leased.record.refresh =>
                {
                    // The intent of another holder stays, because that holder may have sent the token.
                    if there.record.intent().is_some_and(|theirs| Some(theirs) != ours.as_ref()) {
                        leased.record.refresh.intent = there.record.refresh.intent;
                    }
                    leased.record.tokens = there.record.tokens;
                    leased.revision = there.revision;
                }
                _ => return,
            }
        }
    }
}
