//! Refreshing: the refresher that sends a refresh token, and the policy that says when.

mod inspect;
mod permit;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

pub use self::inspect::{check_replaceable, interrupted_refresh};
pub use self::permit::RefreshPermit;
use crate::error::RefreshFailure;
use crate::tokens::{AuthTokens, Buffers, EXPIRY_BUFFER, REFRESH_BUFFER};

/// Exchanges a refresh token for new tokens at the server that issued it.
///
/// A closure is enough for most programs:
///
/// ```
/// use tokenkeep::{AuthTokens, RefreshFailure, TokenManager};
///
/// let manager = TokenManager::builder()
///     .refresh_with(|current: AuthTokens| async move {
///         let Some(_token) = current.refresh_token else {
///             return Err(RefreshFailure::rejected("there is no refresh token"));
///         };
///         // Send it to the server that issued it. Then return the new tokens:
///         Ok(AuthTokens::new("new access").with_refresh_token("rotated"))
///     })
///     .build();
/// ```
///
/// # Contract
///
/// - For one slot, one task of one process calls it at a time. The token that it gets was read after the
///   lease was taken.
/// - The tokens that it returns replace the record. If they have no refresh token, the old one stays,
///   because a server that does not rotate sends none. If they have another refresh token and an empty access token,
///   the refresh token is saved beside the old access token, and the refresh fails for 30 s, because the refresh token
///   that was sent is spent. `extra` is replaced as a whole. If a record has no room
///   for all of it, its longest fields are left out, so that no token is lost.
/// - The kind of failure decides what happens next: transient, ambiguous, misconfigured or rejected. If it is
///   not certain whether the server got the token, the failure is [`RefreshFailure::Ambiguous`].
/// - It calls [`RefreshPermit::check`] after it has connected and right before it writes the request. If the
///   check fails, it sends nothing. Connecting takes time, and a process that was stopped meanwhile may have
///   lost the lease of a shared slot.
///
/// # Security
///
/// A refresher handles the secrets. It should send them only to the host that issued them. It should follow
/// no redirect: 307 and 308 send the refresh token to another URL. The text of a failure should contain
/// nothing that was sent or received.
///
/// # Cancel safety
///
/// Its future is dropped at the policy's deadline, and when the runtime ends. Both count as ambiguous.
#[async_trait]
pub trait TokenRefresher: Send + Sync + 'static {
    /// Exchanges the refresh token in `current` for new tokens.
    ///
    /// # Errors
    ///
    /// The kind of failure, as precisely as it is known.
    async fn refresh(
        &self,
        current: AuthTokens,
        permit: &RefreshPermit,
    ) -> Result<AuthTokens, RefreshFailure>;

    /// Returns a name of the server and the client, such as the token URL and the client's id. A throttle
    /// or a rejection in a record counts only for the client that got it.
    fn client(&self) -> String {
        String::new()
    }

    /// Returns whether it exchanges a refresh token. One that returns `false` needs no tokens: it is called
    /// for an empty slot too, with tokens that are empty, and obtains the first ones.
    fn needs_refresh_token(&self) -> bool {
        true
    }
}

#[async_trait]
impl<T: TokenRefresher + ?Sized> TokenRefresher for Arc<T> {
    async fn refresh(
        &self,
        current: AuthTokens,
        permit: &RefreshPermit,
    ) -> Result<AuthTokens, RefreshFailure> {
        (**self).refresh(current, permit).await
    }

    fn client(&self) -> String {
        (**self).client()
    }

    fn needs_refresh_token(&self) -> bool {
        (**self).needs_refresh_token()
    }
}

/// A closure as a refresher.
pub(crate) struct Closure<F>(pub(crate) F);

#[async_trait]
impl<F, R> TokenRefresher for Closure<F>
where
    F: Fn(AuthTokens) -> R + Send + Sync + 'static,
    R: Future<Output = Result<AuthTokens, RefreshFailure>> + Send + 'static,
{
    async fn refresh(
        &self,
        current: AuthTokens,
        _permit: &RefreshPermit,
    ) -> Result<AuthTokens, RefreshFailure> {
        (self.0)(current).await
    }
}

/// When to refresh, and how long to wait for an answer.
///
/// Most programs need to change none of the defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefreshPolicy {
    pub(crate) buffers: Buffers,
    pub(crate) deadline: Duration,
    pub(crate) in_background: bool,
    pub(crate) jitter: Duration,
}

/// Servers answer within 1 or 2 s. After 30 s, no answer is likely to come.
const DEADLINE: Duration = Duration::from_secs(30);

impl Default for RefreshPolicy {
    fn default() -> Self {
        Self {
            buffers: Buffers { expiry: EXPIRY_BUFFER, refresh: REFRESH_BUFFER },
            deadline: DEADLINE,
            in_background: false,
            jitter: Duration::ZERO,
        }
    }
}

impl RefreshPolicy {
    /// Refreshes this long before the true expiry, instead of 15 minutes. At most 1/3 of the token's lifetime
    /// is used.
    #[must_use]
    pub fn refresh_before_expiry(mut self, time: Duration) -> Self {
        self.buffers.refresh = Buffers::delta(time);
        self
    }

    /// Counts a token as expired this long before its true expiry, instead of 5 minutes. At most 1/9 of the
    /// token's lifetime is used.
    #[must_use]
    pub fn expired_before_expiry(mut self, time: Duration) -> Self {
        self.buffers.expiry = Buffers::delta(time);
        self
    }

    /// Gives the refresher this long for one answer, instead of 30 seconds. In a fleet, the lease of a
    /// replica that was lost lasts 30 seconds longer than this, and at least 60 seconds.
    #[must_use]
    pub fn deadline(mut self, time: Duration) -> Self {
        self.deadline = time;
        self
    }

    /// Returns a token that is due at once, and refreshes it in the background. Without this, the caller
    /// waits for the refresh.
    ///
    /// Call [`TokenManager::shutdown`](crate::TokenManager::shutdown) before such a program ends. Otherwise
    /// it may end after it sent the refresh token and before it saved the new one.
    #[must_use]
    pub fn refresh_in_background(mut self) -> Self {
        self.in_background = true;
        self
    }

    /// Refreshes earlier by a random time, up to this long. So the replicas of a fleet do not all refresh at
    /// the same moment.
    #[must_use]
    pub fn jitter(mut self, time: Duration) -> Self {
        self.jitter = time;
        self
    }
}
