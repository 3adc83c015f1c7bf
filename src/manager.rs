//! The tokens of one slot, kept in memory.

mod access;
mod builder;
mod cache;
mod events;
mod logout;
mod pending_save;
mod publisher;
mod refresh;
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

use self::access::{Access, Refreshing};
pub use self::builder::TokenManagerBuilder;
pub use self::events::{Event, Events};
pub use self::logout::Logout;
use self::publisher::Publisher;
use self::refresh::{RefreshRequest, WAIT_LIMIT_WHILE_ACCEPTED};
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

/// What axiomtrade-rs reads: `AXIOM_ACCESS_TOKEN` and `AXIOM_REFRESH_TOKEN`.
const ENV_PREFIX: &str = "AXIOM";

/// Hands out the tokens of one slot, from any number of tasks and threads.
///
/// Clones share everything. It may be built and used outside a runtime. Building it reads and spawns
/// nothing; a refresh is a task of its own, on the runtime of who asked for it, or on a thread where
/// there is none.
///
/// ```
/// use tokenkeep::{AuthError, AuthTokens, TokenManager};
///
/// #[tokio::main(flavor = "current_thread")]
/// async fn main() -> Result<(), AuthError> {
///     let manager = TokenManager::builder().build(); // in memory; `store` for anything better
///     manager.set_tokens(AuthTokens::new("access").with_refresh_token("refresh")).await?;
///     let token = manager.get_access_token().await?;
///     assert_eq!(token.expose_secret(), "access");
///     Ok(())
/// }
/// ```
///
/// A fresh token that was read from the store in the last 30 seconds is handed out without a lock
/// or an allocation.
///
/// # Cancellation
///
/// Every future may be dropped at any point. A dropped write has happened or has not, and the next
/// call finds out which. A refresh goes on without its caller.
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
    /// Keeps tokens in memory, or as **plaintext** JSON in a file.
    ///
    /// This is the constructor of axiomtrade-rs, and the only one that leads to plaintext. For
    /// anything better, use the [`builder`](Self::builder).
    #[must_use]
    pub fn new(plaintext_path: Option<PathBuf>) -> Self {
        match plaintext_path {
            Some(path) => Self::builder().store(PlaintextStore::new(path)).build(),
            None => Self::builder().build(),
        }
    }

    /// Reads tokens from `AXIOM_ACCESS_TOKEN` and `AXIOM_REFRESH_TOKEN`: `None` if the first one is
    /// not set. What comes of it is read-only.
    ///
    /// # Security
    ///
    /// Children of this process inherit the variables, and other processes of this user can read them.
    ///
    /// # Errors
    ///
    /// [`AuthError::Store`] if a variable is not text, or if only the refresh token is there.
    pub fn from_env() -> Result<Option<Self>, AuthError> {
        Self::from_env_with_prefix(ENV_PREFIX)
    }

    /// Reads tokens from `PREFIX_ACCESS_TOKEN` and `PREFIX_REFRESH_TOKEN`.
    ///
    /// # Errors
    ///
    /// Those of [`from_env`](Self::from_env).
    pub fn from_env_with_prefix(prefix: &str) -> Result<Option<Self>, AuthError> {
        let store = EnvStore::new(prefix);
        let is_there = store.read()?.is_some();
        Ok(is_there.then(|| Self::builder().store(store).build()))
    }

    /// Starts from a store of your choice.
    pub fn builder() -> TokenManagerBuilder {
        TokenManagerBuilder::new()
    }

    /// Stores new tokens, in place of any that are there: a login.
    ///
    /// `obtained_at` is filled in with the present time if it is not set: together with the expiry
    /// it gives the token's lifetime, which caps the buffers. Set it for tokens that you obtained
    /// some time ago.
    ///
    /// # Errors
    ///
    /// [`AuthError::Store`] if they could not be stored, or if the slot holds something that cannot
    /// be read; it is then unchanged.
    ///
    /// # Cancellation
    ///
    /// They may be stored all the same, and whole.
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

    /// Returns everything that is stored, whether expired or not: `None` if the slot is empty.
    ///
    /// # Errors
    ///
    /// [`AuthError::Store`] if the slot could not be read.
    pub async fn get_tokens(&self) -> Result<Option<AuthTokens>, AuthError> {
        let snapshot = self.0.slot.snapshot().await?;
        Ok(snapshot.tokens().cloned())
    }

    /// Returns an access token that works.
    ///
    /// Without a refresher that is one which is good for [`EXPIRY_BUFFER`](crate::tokens::EXPIRY_BUFFER) at
    /// least. With one, tokens that are due are refreshed first. If that fails, or takes longer than
    /// 5 seconds, an access token that the server still accepts is returned all the same, until its true
    /// expiry; an [`Event`] says why it was not refreshed.
    ///
    /// # Errors
    ///
    /// [`AuthError::TokenNotFound`] if there is none, [`AuthError::TokenExpired`] if it is expired
    /// or about to be, [`AuthError::Store`] if the slot could not be read; and with a refresher,
    /// the errors of [`refresh`](Self::refresh).
    ///
    /// # Cancellation
    ///
    /// A refresh goes on without its caller, and its result is saved.
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

    /// Returns the access token that is in memory, if it does not count as expired. For places that
    /// cannot wait, such as interceptors; nothing is read or refreshed.
    #[must_use]
    pub fn cached_access_token(&self) -> Option<AccessToken> {
        self.0.slot.unexpired()
    }

    /// Says that a server refused this access token: a 401 came back. If it is still the current
    /// one, the next call refreshes it; if many say so of one token, it is refreshed once.
    ///
    /// Refreshes that follow from this are at least 30 seconds apart, so that a server which refuses
    /// everything is not asked each time.
    pub fn invalidate(&self, token: &AccessToken) {
        self.0.slot.invalidate(token);
    }

    /// Refreshes the tokens now, fresh or not, and returns the new ones.
    ///
    /// If a refresh is under way, here or in another process, its result is returned instead.
    ///
    /// # Errors
    ///
    /// [`AuthError::NoRefresher`] if the manager was given none, [`AuthError::TokenNotFound`] if
    /// there are no tokens or somebody signed out meanwhile, [`AuthError::IsBackup`],
    /// [`AuthError::LoginRequired`], [`AuthError::RefreshTokenSpent`] and [`AuthError::Refresh`] as
    /// the refresher's answer has it, [`AuthError::Store`] if the slot cannot be read or replaced: that
    /// is found before the refresh token is sent. [`AuthError::NotSaved`] if an earlier refresh brought
    /// tokens that are still not saved: nothing is refreshed from those.
    ///
    /// A server that rejected the refresh token less than 30 seconds ago is not asked again.
    ///
    /// New tokens that could not be saved are no error here: they are good. They are served from
    /// memory, saving is tried again, an [`Event`] tells, and [`shutdown`](Self::shutdown) waits.
    ///
    /// # Cancellation
    ///
    /// The refresh goes on without its caller, and its result is saved.
    pub async fn refresh(&self) -> Result<AuthTokens, AuthError> {
        let snapshot = self.0.slot.snapshot().await?;
        let refresh = self.0.refresh.as_ref().ok_or(AuthError::NoRefresher)?;
        let request = RefreshRequest::forced(refresh.reload_if_doubtful(snapshot).await?);
        let refreshed = refresh.refresh(&request).await?;
        refreshed.tokens().cloned().ok_or(AuthError::TokenNotFound)
    }

    /// Returns the refresh token, always as the store has it now: one that another process has
    /// rotated in the meantime must not be sent again.
    ///
    /// # Errors
    ///
    /// [`AuthError::TokenNotFound`] if there is none, [`AuthError::Store`] if the slot could not be
    /// read.
    pub async fn get_refresh_token(&self) -> Result<RefreshToken, AuthError> {
        let snapshot = self.0.slot.lock().await?.reload().await?;
        let token = snapshot.tokens().and_then(|tokens| tokens.refresh_token.clone());
        token.ok_or(AuthError::TokenNotFound)
    }

    /// Returns whether the access token counts as expired: 5 minutes ahead. No tokens at all count
    /// as expired.
    ///
    /// # Errors
    ///
    /// [`AuthError::Store`] if the slot could not be read.
    pub async fn is_expired(&self) -> Result<bool, AuthError> {
        Ok(self.freshness().await? >= Freshness::Expiring)
    }

    /// Returns whether the access token should be refreshed: 15 minutes ahead. No tokens at all
    /// count as due.
    ///
    /// # Errors
    ///
    /// [`AuthError::Store`] if the slot could not be read.
    pub async fn needs_refresh(&self) -> Result<bool, AuthError> {
        Ok(self.freshness().await? >= Freshness::Due)
    }

    /// Empties the slot, whatever is in it: a logout. A file is deleted.
    ///
    /// # Errors
    ///
    /// [`AuthError::Store`] if it could not be emptied.
    ///
    /// # Cancellation
    ///
    /// It may be emptied all the same; clear it again to know.
    pub async fn clear(&self) -> Result<(), AuthError> {
        let mut guard = self.0.slot.lock().await?;
        guard.forget();
        guard.clear(Precondition::Anything).await?;
        guard.install_empty().await;
        Ok(())
    }

    /// Revokes the tokens at the provider and empties the slot, whatever becomes of the revocation.
    ///
    /// It waits for a refresh that is under way, here or in another process, for as long as one answer of
    /// the provider may take, so that the tokens which that brings are revoked too. New tokens that could
    /// not be saved yet are revoked like those in the slot. `revoke` is called once for each set of tokens,
    /// and may be `OAuth2Client::revoke` (feature `oauth2`).
    ///
    /// # Errors
    ///
    /// [`AuthError::Store`] if the slot could not be emptied.
    ///
    /// # Cancellation
    ///
    /// The tokens may be revoked and still in the slot; call it again.
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

    /// Makes sure that [`get_access_token`](Self::get_access_token) has something to return.
    ///
    /// # Errors
    ///
    /// Those of [`get_access_token`](Self::get_access_token).
    pub async fn ensure_valid_tokens(&self) -> Result<(), AuthError> {
        self.get_access_token().await.map(drop)
    }

    /// The same as [`get_access_token`](Self::get_access_token), under the name that the lifecycle
    /// manager of axiomtrade-rs gave it.
    ///
    /// # Errors
    ///
    /// Those of [`get_access_token`](Self::get_access_token).
    pub async fn get_valid_access_token(&self) -> Result<AccessToken, AuthError> {
        self.get_access_token().await
    }

    /// Returns the events from now on: what happens to the tokens.
    #[must_use]
    pub fn subscribe(&self) -> Events {
        self.0.events.subscribe()
    }

    /// Waits until no refresh is under way and everything is saved, for `limit` at most. The last
    /// thing to do before a program ends that refreshes.
    ///
    /// # Errors
    ///
    /// [`AuthError::NotSaved`] if refreshed tokens exist in this process only,
    /// [`AuthError::Refresh`] if a refresh was still under way.
    ///
    /// # Cancellation
    ///
    /// Nothing is cut off by that, but by the end of the program; and what is not saved then is not told.
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
            advice: "see who keeps it busy".into(),
        };
        if let Some(error) = inner.slot.pending_error_or(busy) {
            return Err(AuthError::NotSaved(error));
        }
        if !is_done {
            let failure = RefreshFailure::ambiguous("a refresh was still under way");
            return Err(AuthError::Refresh(failure));
        }
        Ok(())
    }

    /// Returns the store, for [`migrate`](crate::migrate), [`backup`](crate::transfer::backup) and the like.
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
        let refreshing = match &self.refresh {
            None => Refreshing::Never,
            Some(_) if self.policy.in_background => Refreshing::InBackground,
            Some(_) => Refreshing::First,
        };
        Access::decide(snapshot, now, refreshing)
    }

    fn refresher(&self) -> Result<&SharedRefresh, AuthError> {
        self.refresh.as_ref().ok_or(AuthError::NoRefresher)
    }

    /// Refreshes a token that is still accepted, and returns it if that takes long or fails.
    async fn refresh_with_limit(&self, found: Arc<Snapshot>) -> Result<AccessToken, AuthError> {
        let request = RefreshRequest::if_due(found.clone());
        let refresh = self.refresher()?.refresh(&request);
        match self.timer.within(WAIT_LIMIT_WHILE_ACCEPTED, refresh).await {
            Some(Ok(refreshed)) => refreshed.access_token(),
            Some(Err(error)) => self.access_after(error).await,
            // It goes on without this caller.
            None if found.is_accepted(self.clock.now()) => found.access_token(),
            None => self.refresh_first(found).await,
        }
    }

    /// Refreshes a token that is not accepted any more.
    async fn refresh_first(&self, found: Arc<Snapshot>) -> Result<AccessToken, AuthError> {
        match self.refresher()?.refresh(&RefreshRequest::if_due(found)).await {
            Ok(refreshed) => refreshed.access_token(),
            Err(error) => self.access_after(error).await,
        }
    }

    /// Returns the access token after a refresh that failed, if there is one that serves: somebody may have
    /// signed in or out meanwhile, or have said that the token was refused.
    async fn access_after(&self, error: AuthError) -> Result<AccessToken, AuthError> {
        let current = self.slot.snapshot().await?;
        if access::serves_after(&current, self.clock.now(), &error) {
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
