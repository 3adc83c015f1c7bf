//! Trading a refresh token for new tokens: who does it, and when.

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

/// Trades the refresh token of a record for new tokens, at whatever server issued it.
///
/// A closure will do:
///
/// ```
/// use tokenkeep::{AuthTokens, RefreshFailure, TokenManager};
///
/// let manager = TokenManager::builder()
///     .refresh_with(|current: AuthTokens| async move {
///         let Some(_token) = current.refresh_token else {
///             return Err(RefreshFailure::rejected("there is no refresh token"));
///         };
///         // Send it to the server that issued it, and:
///         Ok(AuthTokens::new("new access").with_refresh_token("rotated"))
///     })
///     .build();
/// ```
///
/// # Contract
///
/// - It is called by one task at a time, in one process at a time, for one slot, and never with a
///   token that was read before the lease was taken.
/// - What it returns replaces the record. Without a refresh token in it the old one stays, because
///   a server that does not rotate sends none. `extra` is replaced as a whole.
/// - How it fails decides what happens next. Return the right kind of [`RefreshFailure`]: transient,
///   ambiguous, misconfigured or rejected. When in doubt whether the server saw the token, it is
///   ambiguous.
/// - Once its connection stands, and right before it writes the request, it calls
///   [`RefreshPermit::check`], and sends nothing if that fails: connecting takes time, and a process that
///   was stopped meanwhile may have lost the lease of a shared slot.
///
/// # Security
///
/// It holds the secrets. It should send them to no host but the one that issued them, follow no
/// redirect (307 and 308 send the refresh token again, to wherever they point), and put nothing of
/// what it sent or received into the text of a failure.
///
/// # Cancellation
///
/// Its future is dropped at the policy's deadline, and when the runtime ends. Both count as
/// ambiguous.
#[async_trait]
pub trait TokenRefresher: Send + Sync + 'static {
    /// Trades the refresh token in `current` for new tokens.
    ///
    /// # Errors
    ///
    /// How it failed, as far as can be told.
    async fn refresh(
        &self,
        current: AuthTokens,
        permit: &RefreshPermit,
    ) -> Result<AuthTokens, RefreshFailure>;

    /// Names the server and the client: the token URL and the client's id. What a record remembers of a
    /// refused refresh holds for this server and this client alone.
    fn client(&self) -> String {
        String::new()
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
}

/// A refresher that is a closure.
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

/// When to refresh, and for how long to wait for what.
///
/// The defaults are those of the crate; a program that refreshes by itself needs to set none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefreshPolicy {
    pub(crate) buffers: Buffers,
    pub(crate) deadline: Duration,
    pub(crate) in_background: bool,
    pub(crate) jitter: Duration,
}

/// Servers answer within a second or two. Whoever waits longer than this waits in vain.
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
    /// Refreshes this long before the true expiry, instead of 15 minutes; at most a third of the
    /// token's lifetime.
    #[must_use]
    pub fn refresh_before_expiry(mut self, time: Duration) -> Self {
        self.buffers.refresh = Buffers::delta(time);
        self
    }

    /// Counts a token as expired this long before it is, instead of 5 minutes; at most a ninth of
    /// its lifetime.
    #[must_use]
    pub fn expired_before_expiry(mut self, time: Duration) -> Self {
        self.buffers.expiry = Buffers::delta(time);
        self
    }

    /// Gives the refresher this long for one answer, instead of 30 seconds. In a fleet, the lease of a
    /// replica that is lost lasts half a minute longer than this, and a minute at least.
    #[must_use]
    pub fn deadline(mut self, time: Duration) -> Self {
        self.deadline = time;
        self
    }

    /// Hands out a token that is due at once and refreshes behind the caller's back, instead of
    /// letting the caller wait.
    ///
    /// End such a program with [`TokenManager::shutdown`](crate::TokenManager::shutdown): one that
    /// just ends may have sent the refresh token and not yet saved its successor.
    #[must_use]
    pub fn refresh_in_background(mut self) -> Self {
        self.in_background = true;
        self
    }

    /// Refreshes up to this much earlier, each time another random part of it, instead of at the
    /// very moment: so that the replicas of a fleet do not all try at once.
    #[must_use]
    pub fn jitter(mut self, time: Duration) -> Self {
        self.jitter = time;
        self
    }
}
