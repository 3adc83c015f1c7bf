//! The tokens of one slot, kept in memory.

mod builder;
mod cache;
mod events;
mod logout;
mod pending_save;
mod publisher;
mod refresh;
mod serve_or_refresh;
mod shared_refresh;
mod single_flight;
mod slot;
mod snapshot;
mod throttle;
#[cfg(feature = "tracing")]
mod trace;

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

pub use self::builder::TokenManagerBuilder;
pub use self::events::{Event, Events};
pub use self::logout::Logout;
use self::publisher::Publisher;
use self::refresh::{RefreshRequest, WAIT_LIMIT_WHILE_ACCEPTED};
use self::serve_or_refresh::{Access, Refreshing};
use self::shared_refresh::SharedRefresh;
use self::slot::Slot;
use self::snapshot::Snapshot;
use crate::error::{AuthError, RefreshFailure, StoreError};
use crate::refresh::RefreshPolicy;
use crate::store::{Precondition, TokenStore};
use crate::stores::EnvStore;
use crate::stores::PlaintextStore;
use crate::sys::clock::{self, Clock, Timer};
use crate::tokens::{AccessToken, AuthTokens, Freshness, RefreshToken};

/// The prefix that axiomtrade-rs uses: `AXIOM_ACCESS_TOKEN` and `AXIOM_REFRESH_TOKEN`.
const ENV_PREFIX: &str = "AXIOM";

/// Returns the tokens of one slot, and keeps them fresh. Any number of tasks and threads can share it.
///
/// Clones share everything. Building a manager reads and spawns nothing. A manager can be built and used
/// outside a runtime. A refresh runs as its own task on the runtime of the caller that started it. If the
/// caller has no runtime, the refresh runs on its own thread.
///
/// ```
/// use tokenkeep::{AuthError, AuthTokens, TokenManager};
///
/// #[tokio::main(flavor = "current_thread")]
/// async fn main() -> Result<(), AuthError> {
///     let manager = TokenManager::builder().build(); // in memory; `store` sets another store
///     manager.set_tokens(AuthTokens::new("access").with_refresh_token("refresh")).await?;
///     let token = manager.get_access_token().await?;
///     assert_eq!(token.expose_secret(), "access");
///     Ok(())
/// }
/// ```
///
/// If a fresh token was read from the store in the last 30 s, it is returned without a lock or an allocation.
///
/// # Cancel safety
///
/// Every future may be dropped at any point. A dropped write has happened completely or not at all. The next
/// call reads the store and finds out. A refresh continues without its caller.
#[derive(Clone)]
pub struct TokenManager(Arc<Inner>);

struct Inner {
    slot: Arc<Slot>,
    /// `None` without a refresher.
    refresh: Option<SharedRefresh>,
    policy: RefreshPolicy,
    clock: Clock,
    timer: Arc<Timer>,
    events: Publisher,
}

impl TokenManager {
    /// Returns a manager that keeps tokens in memory, or as **plaintext** JSON in a file.
    ///
    /// This is the constructor of axiomtrade-rs. No other constructor writes plaintext. To use a safer store,
    /// call [`builder`](Self::builder).
    #[must_use]
    pub fn new(plaintext_path: Option<PathBuf>) -> Self {
        match plaintext_path {
            Some(path) => Self::builder().store(PlaintextStore::new(path)).build(),
            None => Self::builder().build(),
        }
    }

    /// Returns a read-only manager with the tokens in `AXIOM_ACCESS_TOKEN` and `AXIOM_REFRESH_TOKEN`. Returns
    /// `None` if `AXIOM_ACCESS_TOKEN` is not set.
    ///
    /// # Security
    ///
    /// Child processes inherit the variables. Other processes of the same user can read them.
    ///
    /// # Errors
    ///
    /// [`AuthError::Store`] if a variable is not valid Unicode, or if only the refresh token is set.
    pub fn from_env() -> Result<Option<Self>, AuthError> {
        Self::from_env_with_prefix(ENV_PREFIX)
    }

    /// Does the same as [`from_env`](Self::from_env), with `PREFIX_ACCESS_TOKEN` and `PREFIX_REFRESH_TOKEN`.
    ///
    /// # Errors
    ///
    /// Those of [`from_env`](Self::from_env).
    pub fn from_env_with_prefix(prefix: &str) -> Result<Option<Self>, AuthError> {
        let store = EnvStore::new(prefix);
        let is_there = store.read()?.is_some();
        Ok(is_there.then(|| Self::builder().store(store).build()))
    }

    /// Returns a builder, which sets the store, the refresher and the policy.
    pub fn builder() -> TokenManagerBuilder {
        TokenManagerBuilder::new()
    }

    /// Saves new tokens and replaces any that are in the slot. Call it after a login.
    ///
    /// If `obtained_at` is not set, it becomes the current time. The lifetime of the token is the time from
    /// `obtained_at` to its expiry, and the lifetime limits how early the token is due. So set `obtained_at`
    /// if you obtained the tokens some time ago.
    ///
    /// # Errors
    ///
    /// [`AuthError::Store`] if the tokens could not be saved, or if the slot holds something that cannot be
    /// read. In that last case the slot is unchanged.
    ///
    /// # Cancel safety
    ///
    /// After the future is dropped, the tokens may still be saved. They are saved completely or not at all.
    pub async fn set_tokens(&self, mut tokens: AuthTokens) -> Result<(), AuthError> {
        let mut guard = self.0.slot.lock().await?;
        let now = self.0.clock.now();
        tokens.obtained_at.get_or_insert_with(|| clock::date(now));
        guard.replace(tokens, now).await?;
        if let Some(refresh) = &self.0.refresh {
            refresh.begin_anew();
        }
        self.0.events.publish(Event::Saved);
        guard.end_pending().await;
        Ok(())
    }

    /// Returns all tokens in the slot, even if they are expired. Returns `None` if the slot is empty.
    ///
    /// # Errors
    ///
    /// [`AuthError::Store`] if the slot could not be read.
    pub async fn get_tokens(&self) -> Result<Option<AuthTokens>, AuthError> {
        let snapshot = self.0.slot.snapshot().await?;
        Ok(snapshot.tokens().cloned())
    }

    /// Returns an access token that the server accepts.
    ///
    /// Without a refresher, the token is valid for at least [`EXPIRY_BUFFER`](crate::tokens::EXPIRY_BUFFER).
    /// With a refresher, a token that is due is refreshed first. If the refresh fails or takes longer than
    /// 5 s, the old access token is returned until its true expiry. An [`Event`] says why a refresh failed.
    ///
    /// # Errors
    ///
    /// [`AuthError::TokenNotFound`] if there is no token, [`AuthError::TokenExpired`] if it counts as
    /// expired, [`AuthError::Store`] if the slot could not be read. With a refresher, also the errors of
    /// [`refresh`](Self::refresh).
    ///
    /// # Cancel safety
    ///
    /// A refresh continues without its caller, and its result is saved.
    pub async fn get_access_token(&self) -> Result<AccessToken, AuthError> {
        let inner = &self.0;
        if let Some(token) = inner.slot.cached() {
            return Ok(token);
        }
        let mut snapshot = inner.slot.snapshot().await?;
        let now = inner.clock.now();
        if let Some(refresh) = &inner.refresh
            && inner.access(&snapshot, now).is_refreshed()
        {
            snapshot = refresh.reload_if_doubtful(snapshot).await?;
        }
        match inner.access(&snapshot, now) {
            Access::Return => snapshot.access_token(),
            Access::NotFound => Err(AuthError::TokenNotFound),
            Access::Expired => Err(AuthError::TokenExpired),
            Access::RefreshInBackground => {
                inner.refresher()?.refresh_in_background(&RefreshRequest::if_due(snapshot.clone()));
                snapshot.access_token()
            }
            Access::RefreshWithLimit => inner.refresh_with_limit(snapshot).await,
            Access::RefreshFirst => inner.refresh_first(snapshot).await,
        }
    }

    /// Returns the access token in memory, if it does not count as expired. It reads and refreshes nothing.
    /// Use it where the code cannot wait, such as in an interceptor.
    #[must_use]
    pub fn cached_access_token(&self) -> Option<AccessToken> {
        self.0.slot.unexpired()
    }

    /// Marks an access token as refused. Call it after a server answered with 401. If the token is still the
    /// current one, the next call refreshes it. If many tasks mark the same token, it is refreshed once.
    ///
    /// There are at least 30 s between two such refreshes. So a server that refuses every token is not asked
    /// for a new one with each call.
    pub fn invalidate(&self, token: &AccessToken) {
        self.0.slot.invalidate(token);
    }

    /// Refreshes the tokens now, even if they are fresh, and returns the new ones.
    ///
    /// If a refresh is already running, in this process or in another one, its result is returned.
    ///
    /// # Errors
    ///
    /// - [`AuthError::NoRefresher`] if the manager has no refresher.
    /// - [`AuthError::TokenNotFound`] if there are no tokens, or if they were cleared meanwhile.
    /// - [`AuthError::IsBackup`] if the tokens are a backup.
    /// - [`AuthError::LoginRequired`], [`AuthError::RefreshTokenSpent`] and [`AuthError::Refresh`] for the
    ///   failures that the refresher reports. If the server rejected the refresh token less than 30 s ago,
    ///   the same error is returned, and the server is not asked again.
    /// - [`AuthError::Store`] if the slot cannot be read or replaced. This is checked before the refresh
    ///   token is sent.
    /// - [`AuthError::NotSaved`] if the tokens of an earlier refresh are still not saved. Such tokens are not
    ///   refreshed.
    ///
    /// If saving the new tokens fails, this call succeeds, because the tokens are valid. They are served from
    /// memory, and saving is tried again. [`Event::SaveFailed`] reports it, and [`shutdown`](Self::shutdown)
    /// waits for it.
    ///
    /// # Cancel safety
    ///
    /// The refresh continues without its caller, and its result is saved.
    pub async fn refresh(&self) -> Result<AuthTokens, AuthError> {
        let snapshot = self.0.slot.snapshot().await?;
        let refresh = self.0.refresh.as_ref().ok_or(AuthError::NoRefresher)?;
        let request = RefreshRequest::forced(refresh.reload_if_doubtful(snapshot).await?);
        let refreshed = refresh.refresh(&request).await?;
        refreshed.tokens().cloned().ok_or(AuthError::TokenNotFound)
    }

    /// Returns the refresh token. It is always loaded from the store, because another process may have
    /// rotated it, and a spent token must not be sent again.
    ///
    /// # Errors
    ///
    /// [`AuthError::TokenNotFound`] if there is no refresh token, [`AuthError::Store`] if the slot could not
    /// be read.
    pub async fn get_refresh_token(&self) -> Result<RefreshToken, AuthError> {
        let snapshot = self.0.slot.lock().await?.reload().await?;
        let token = snapshot.tokens().and_then(|tokens| tokens.refresh_token.clone());
        token.ok_or(AuthError::TokenNotFound)
    }

    /// Returns whether the access token counts as expired, which it does 5 minutes before its true expiry.
    /// Returns `true` if the slot is empty.
    ///
    /// # Errors
    ///
    /// [`AuthError::Store`] if the slot could not be read.
    pub async fn is_expired(&self) -> Result<bool, AuthError> {
        Ok(self.freshness().await? >= Freshness::Expiring)
    }

    /// Returns whether the access token is due, which it is 15 minutes before its true expiry. Returns `true`
    /// if the slot is empty.
    ///
    /// # Errors
    ///
    /// [`AuthError::Store`] if the slot could not be read.
    pub async fn needs_refresh(&self) -> Result<bool, AuthError> {
        Ok(self.freshness().await? >= Freshness::Due)
    }

    /// Empties the slot, even if its content cannot be read. A file is deleted. Call it for a logout.
    ///
    /// # Errors
    ///
    /// [`AuthError::Store`] if the slot could not be emptied.
    ///
    /// # Cancel safety
    ///
    /// After the future is dropped, the slot may still be emptied. Call `clear` again to be certain.
    pub async fn clear(&self) -> Result<(), AuthError> {
        let mut guard = self.0.slot.lock().await?;
        guard.forget();
        guard.clear(Precondition::Anything).await?;
        guard.install_empty().await;
        Ok(())
    }

    /// Revokes the tokens at the provider and empties the slot. The slot is emptied even if the revocation
    /// fails.
    ///
    /// If a refresh is running, in this process or in another one, this call waits for it, so that its new
    /// tokens are revoked too. It waits as long as one answer of the provider may take. New tokens that are
    /// not saved yet are revoked like those in the slot. `revoke` is called once for each set of tokens. It
    /// can be `OAuth2Client::revoke` (feature `oauth2`).
    ///
    /// # Errors
    ///
    /// [`AuthError::Store`] if the slot could not be emptied.
    ///
    /// # Cancel safety
    ///
    /// After the future is dropped, the tokens may be revoked and still be in the slot. Call it again.
    pub async fn revoke_and_clear<R, E>(
        &self,
        revoke: impl Fn(AuthTokens) -> R,
    ) -> Result<Logout<E>, AuthError>
    where
        R: Future<Output = Result<(), E>>,
    {
        let limit = self.0.policy.deadline;
        let is_idle = self.0.timer.within(limit, self.0.idle()).await.is_some();
        Ok(logout::revoke_and_clear(&self.0.slot, is_idle, limit, revoke).await?)
    }

    /// Does the same as [`get_access_token`](Self::get_access_token), without returning the token.
    ///
    /// # Errors
    ///
    /// Those of [`get_access_token`](Self::get_access_token).
    pub async fn ensure_valid_tokens(&self) -> Result<(), AuthError> {
        self.get_access_token().await.map(drop)
    }

    /// Does the same as [`get_access_token`](Self::get_access_token). This is its name in the lifecycle
    /// manager of axiomtrade-rs.
    ///
    /// # Errors
    ///
    /// Those of [`get_access_token`](Self::get_access_token).
    pub async fn get_valid_access_token(&self) -> Result<AccessToken, AuthError> {
        self.get_access_token().await
    }

    /// Returns the events that are published from now on. They report what happens to the tokens.
    #[must_use]
    pub fn subscribe(&self) -> Events {
        self.0.events.subscribe()
    }

    /// Waits until no refresh is running and all tokens are saved, for `limit` at most. A program that
    /// refreshes tokens should call this right before it ends.
    ///
    /// # Errors
    ///
    /// [`AuthError::NotSaved`] if refreshed tokens are only in the memory of this process,
    /// [`AuthError::Refresh`] if a refresh is still running.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future stops neither the refresh nor the saving. The end of the program stops them, and
    /// then nothing reports tokens that are not saved.
    pub async fn shutdown(&self, limit: Duration) -> Result<(), AuthError> {
        let inner = &self.0;
        let done = async {
            inner.idle().await;
            inner.slot.save_now().await;
        };
        let is_done = inner.timer.within(limit, done).await.is_some();
        let busy = StoreError::Timeout {
            place: inner.slot.to_string(),
            reason: format!("it could not be written within {limit:?}"),
            advice: "see what keeps it busy".into(),
        };
        if let Some(error) = inner.slot.pending_error_or(busy) {
            return Err(AuthError::NotSaved(error));
        }
        if !is_done {
            let failure = RefreshFailure::ambiguous("a refresh was still running");
            return Err(AuthError::Refresh(failure));
        }
        Ok(())
    }

    /// Returns the store, to use it with [`migrate`](crate::migrate) or [`backup`](crate::transfer::backup).
    #[must_use]
    pub fn store(&self) -> &Arc<dyn TokenStore> {
        self.0.slot.store()
    }

    async fn freshness(&self) -> Result<Freshness, AuthError> {
        let snapshot = self.0.slot.snapshot().await?;
        Ok(match snapshot.stored {
            Some(_) => snapshot.freshness(self.0.clock.now()),
            None => Freshness::Expired,
        })
    }
}

impl Inner {
    fn access(&self, snapshot: &Snapshot, now: SystemTime) -> Access {
        if snapshot.stored.is_none() && self.obtains_first() {
            return Access::RefreshFirst;
        }
        let refreshing = match &self.refresh {
            None => Refreshing::Never,
            Some(_) if self.policy.in_background => Refreshing::InBackground,
            Some(_) => Refreshing::First,
        };
        Access::decide(snapshot, now, refreshing)
    }

    /// Returns whether the refresher obtains the first tokens of an empty slot.
    fn obtains_first(&self) -> bool {
        self.refresh.as_ref().is_some_and(SharedRefresh::obtains_first)
    }

    fn refresher(&self) -> Result<&SharedRefresh, AuthError> {
        self.refresh.as_ref().ok_or(AuthError::NoRefresher)
    }

    /// Refreshes a token that is still accepted. Returns the old token if the refresh takes long or fails.
    async fn refresh_with_limit(&self, found: Arc<Snapshot>) -> Result<AccessToken, AuthError> {
        let request = RefreshRequest::if_due(found.clone());
        let refresh = self.refresher()?.refresh(&request);
        match self.timer.within(WAIT_LIMIT_WHILE_ACCEPTED, refresh).await {
            Some(Ok(refreshed)) => refreshed.access_token(),
            Some(Err(error)) => self.access_after(error).await,
            // The refresh continues without this caller.
            None if found.is_accepted(self.clock.now()) => found.access_token(),
            None => self.refresh_first(found).await,
        }
    }

    /// Refreshes a token that is no longer accepted.
    async fn refresh_first(&self, found: Arc<Snapshot>) -> Result<AccessToken, AuthError> {
        match self.refresher()?.refresh(&RefreshRequest::if_due(found)).await {
            Ok(refreshed) => refreshed.access_token(),
            Err(error) => self.access_after(error).await,
        }
    }

    /// Returns the access token after a failed refresh, if [`serve_or_refresh::serves_after`] accepts it. The tokens
    /// may have changed since: by a login, a logout, or a server that refused the token.
    async fn access_after(&self, error: AuthError) -> Result<AccessToken, AuthError> {
        let current = self.slot.snapshot().await?;
        if current.stored.is_none() && self.obtains_first() {
            return Err(error);
        }
        if serve_or_refresh::serves_after(&current, self.clock.now(), &error) {
            return current.access_token();
        }
        Err(error)
    }

    /// Waits until no refresh is running.
    async fn idle(&self) {
        if let Some(refresh) = &self.refresh {
            refresh.idle().await;
        }
    }
}

impl fmt::Debug for TokenManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenManager({})", self.0.slot)
    }
}
