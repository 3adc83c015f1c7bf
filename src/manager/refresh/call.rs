//! Calling the refresher: how often, and how long.

use std::future;
use std::panic::{self, AssertUnwindSafe};
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::super::slot::SAVE_MARGIN;
use super::{LeasedTokens, RefreshProtocol};
use crate::error::RefreshFailure;
use crate::refresh::RefreshPermit;
use crate::store::Lease;
use crate::tokens::AuthTokens;

/// How long a refresh waits for an answer after the deadline. If this process was stopped, the answer may
/// have come meanwhile.
pub(super) const LATE_ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// How long a refresher may take for both of its calls, if the answer to the first one is lost. A command waits
/// for them although its token is good, so with [`LATE_ANSWER_LIMIT`] this is less than 20 s. The second call
/// gets what the first one left.
const BOTH_ANSWERS_LIMIT: Duration = Duration::from_millis(17_500);

/// The shortest time for the second call. It is enough for a server that works, and the token was sent before.
const SECOND_ANSWER_LIMIT: Duration = Duration::from_secs(2);

impl RefreshProtocol {
    /// Calls the refresher, and once more if its answer was lost.
    pub(super) async fn call_refresher(
        &self,
        leased: &mut LeasedTokens,
    ) -> Result<AuthTokens, RefreshFailure> {
        let began = Instant::now();
        let deadline = self.policy.deadline;
        let answer = self.call_once(&leased.record.tokens, &*leased.lease, deadline).await;
        if !matches!(answer, Err(RefreshFailure::Ambiguous { .. })) {
            return answer;
        }
        leased.is_answer_lost = true;
        if !matches!(self.renew_lease(leased).await, Ok(true)) {
            return answer;
        }
        let left = BOTH_ANSWERS_LIMIT.saturating_sub(began.elapsed()).max(SECOND_ANSWER_LIMIT);
        self.call_once(&leased.record.tokens, &*leased.lease, left.min(deadline)).await
    }

    pub(super) async fn call_once(
        &self,
        tokens: &AuthTokens,
        lease: &dyn Lease,
        deadline: Duration,
    ) -> Result<AuthTokens, RefreshFailure> {
        let permit = match lease.time_left() {
            None => RefreshPermit::unlimited(),
            Some(left) => RefreshPermit::until(left, deadline, SAVE_MARGIN, &self.clock),
        };
        let mut answer = pin!(self.refresher.refresh(tokens.clone(), &permit));
        // If the refresher panics, the refresh fails, so that the callers do not wait for ever.
        let answer = future::poll_fn(|context| {
            let polled = panic::catch_unwind(AssertUnwindSafe(|| answer.as_mut().poll(context)));
            polled.unwrap_or_else(|_| {
                Poll::Ready(Err(RefreshFailure::ambiguous("the refresher panicked")))
            })
        });
        let mut answer = pin!(answer);
        let mut answered = self.timer.within(deadline, answer.as_mut()).await;
        if answered.is_none() {
            // If this process was stopped, the answer may have come meanwhile.
            answered = self.timer.within(LATE_ANSWER_LIMIT, answer).await;
        }
        let answered = answered.unwrap_or_else(|| {
            Err(RefreshFailure::ambiguous(format!("no answer within {deadline:.0?}")))
        });
        match answered {
            Ok(new) if !new.has_access_token() && !is_rotated(&new, tokens) => {
                Err(RefreshFailure::ambiguous("the answer has an empty access token"))
            }
            answer => answer,
        }
    }
}

/// Returns whether new tokens have another refresh token. Then the old one is spent.
fn is_rotated(new: &AuthTokens, old: &AuthTokens) -> bool {
    let (Some(new), Some(old)) = (&new.refresh_token, &old.refresh_token) else { return false };
    new != old
}
