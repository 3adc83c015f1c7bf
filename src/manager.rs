//! The tokens of one slot, kept at hand.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use tokio::sync::Mutex;

use crate::clock::{self, Clock};
use crate::error::AuthError;
use crate::store::env::EnvStore;
use crate::store::memory::MemoryStore;
use crate::store::plaintext::PlaintextStore;
use crate::store::{Expect, Stored, TokenStore};
use crate::tokens::{AccessToken, AuthTokens, Freshness, RefreshToken, Schedule};

/// What axiomtrade-rs reads: `AXIOM_ACCESS_TOKEN` and `AXIOM_REFRESH_TOKEN`.
const ENV_PREFIX: &str = "AXIOM";

/// How long a cached record is trusted before the store is asked again: a login or a logout in
/// another process is noticed within this time.
const RECHECK: Duration = Duration::from_secs(30);

/// Hands out the tokens of one slot, from any number of tasks and threads.
///
/// Clones share everything. It may be built and used outside a runtime; nothing is spawned, and
/// nothing is read before it is first needed.
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
/// call finds out which.
#[derive(Clone)]
pub struct TokenManager(Arc<Inner>);

struct Inner {
    store: Arc<dyn TokenStore>,
    clock: Clock,
    recheck: Duration,
    /// `None` while the state of the store is not known.
    cached: ArcSwapOption<Snapshot>,
    /// Held around every access to the store, so that memory changes in the order in which the
    /// store does.
    turn: Mutex<()>,
}

/// The store at one moment.
struct Snapshot {
    stored: Option<Stored>,
    schedule: Option<Schedule>,
    checked: SystemTime,
    /// When the store is asked again.
    recheck: SystemTime,
    /// Until when the access token can be handed out without another look: the first of its
    /// refresh being due and the store being asked again.
    hand_out_until: SystemTime,
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
        TokenManagerBuilder { store: None, clock: Clock::default(), recheck: RECHECK }
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
    pub async fn set_tokens(&self, mut tokens: AuthTokens) -> Result<(), AuthError> {
        let _turn = self.0.turn.lock().await;
        let now = self.0.clock.now();
        tokens.obtained_at.get_or_insert_with(|| clock::date(now));
        // If this is cancelled from here on, what the store holds is not known.
        self.0.cached.store(None);
        let revision = self.0.store.save(&tokens, Expect::Anything).await?;
        self.0.remember(Some(Stored { tokens, revision }), now);
        Ok(())
    }

    /// Returns everything that is stored, whether expired or not: `None` if the slot is empty.
    ///
    /// # Errors
    ///
    /// [`AuthError::Store`] if the slot could not be read.
    pub async fn get_tokens(&self) -> Result<Option<AuthTokens>, AuthError> {
        let snapshot = self.0.snapshot().await?;
        Ok(snapshot.stored.as_ref().map(|stored| stored.tokens.clone()))
    }

    /// Returns an access token that is good for [`EXPIRY_BUFFER`](crate::EXPIRY_BUFFER) at least.
    ///
    /// # Errors
    ///
    /// [`AuthError::TokenNotFound`] if there is none, [`AuthError::TokenExpired`] if it is expired
    /// or about to be, [`AuthError::Store`] if the slot could not be read.
    pub async fn get_access_token(&self) -> Result<AccessToken, AuthError> {
        let now = self.0.clock.now();
        if let Some(token) = self.0.at_hand(now) {
            return Ok(token);
        }
        let snapshot = self.0.snapshot().await?;
        let Some(stored) = &snapshot.stored else { return Err(AuthError::TokenNotFound) };
        match snapshot.freshness(now) {
            Freshness::Fresh | Freshness::Due => Ok(stored.tokens.access_token.clone()),
            Freshness::Expiring | Freshness::Expired => Err(AuthError::TokenExpired),
        }
    }

    /// Returns the refresh token, always as the store has it now: one that another process has
    /// rotated in the meantime must not be sent again.
    ///
    /// # Errors
    ///
    /// [`AuthError::TokenNotFound`] if there is none, [`AuthError::Store`] if the slot could not be
    /// read.
    pub async fn get_refresh_token(&self) -> Result<RefreshToken, AuthError> {
        let _turn = self.0.turn.lock().await;
        let now = self.0.clock.now();
        let snapshot = self.0.remember(self.0.store.load().await?, now);
        let tokens = snapshot.stored.as_ref().map(|stored| &stored.tokens);
        tokens.and_then(|tokens| tokens.refresh_token.clone()).ok_or(AuthError::TokenNotFound)
    }

    /// Tells whether the access token counts as expired: 5 minutes ahead. No tokens at all count
    /// as expired.
    ///
    /// # Errors
    ///
    /// [`AuthError::Store`] if the slot could not be read.
    pub async fn is_expired(&self) -> Result<bool, AuthError> {
        Ok(self.freshness().await? >= Freshness::Expiring)
    }

    /// Tells whether the access token should be refreshed: 15 minutes ahead. No tokens at all
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
    pub async fn clear(&self) -> Result<(), AuthError> {
        let _turn = self.0.turn.lock().await;
        self.0.cached.store(None);
        self.0.store.clear(Expect::Anything).await?;
        self.0.remember(None, self.0.clock.now());
        Ok(())
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

    /// Returns the store, for [`migrate`](crate::migrate), [`backup`](crate::backup) and the like.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn TokenStore> {
        &self.0.store
    }

    async fn freshness(&self) -> Result<Freshness, AuthError> {
        let snapshot = self.0.snapshot().await?;
        Ok(match snapshot.stored {
            Some(_) => snapshot.freshness(self.0.clock.now()),
            None => Freshness::Expired,
        })
    }
}

impl fmt::Debug for TokenManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenManager({})", self.0.store)
    }
}

impl Inner {
    /// The quick way: no lock, no allocation, no await.
    fn at_hand(&self, now: SystemTime) -> Option<AccessToken> {
        let cached = self.cached.load();
        let snapshot = cached.as_ref()?;
        // A clock that was set back says nothing about how long ago the store was asked.
        let in_time = snapshot.checked <= now && now < snapshot.hand_out_until;
        snapshot
            .stored
            .as_ref()
            .filter(|_| in_time)
            .map(|stored| stored.tokens.access_token.clone())
    }

    async fn snapshot(&self) -> Result<Arc<Snapshot>, AuthError> {
        if let Some(snapshot) = self.recent() {
            return Ok(snapshot);
        }
        let _turn = self.turn.lock().await;
        // Whoever had the turn before may have asked.
        if let Some(snapshot) = self.recent() {
            return Ok(snapshot);
        }
        let now = self.clock.now();
        let stored = match self.store.load().await {
            Ok(stored) => stored,
            Err(error) => match self.cached.load_full() {
                // A good token in memory is as good as it was.
                Some(snapshot) if error.is_passing() && snapshot.is_good(now) => {
                    snapshot.stored.clone()
                }
                _ => return Err(error.into()),
            },
        };
        Ok(self.remember(stored, now))
    }

    fn recent(&self) -> Option<Arc<Snapshot>> {
        let now = self.clock.now();
        let recent = |snapshot: &Arc<Snapshot>| snapshot.checked <= now && now < snapshot.recheck;
        self.cached.load_full().filter(recent)
    }

    fn remember(&self, stored: Option<Stored>, now: SystemTime) -> Arc<Snapshot> {
        let schedule = stored.as_ref().and_then(|stored| Schedule::of(&stored.tokens));
        let recheck = now.checked_add(self.recheck).unwrap_or(now);
        let hand_out_until =
            schedule.map_or(recheck, |schedule| clock::system_time(schedule.due).min(recheck));
        let snapshot =
            Arc::new(Snapshot { stored, schedule, checked: now, recheck, hand_out_until });
        self.cached.store(Some(snapshot.clone()));
        snapshot
    }
}

impl Snapshot {
    fn is_good(&self, now: SystemTime) -> bool {
        self.stored.is_some() && self.freshness(now) < Freshness::Expiring
    }

    fn freshness(&self, now: SystemTime) -> Freshness {
        self.schedule.map_or(Freshness::Fresh, |schedule| schedule.freshness(clock::date(now)))
    }
}

/// Sets up a [`TokenManager`].
#[derive(Debug)]
#[must_use]
pub struct TokenManagerBuilder {
    store: Option<Arc<dyn TokenStore>>,
    clock: Clock,
    recheck: Duration,
}

impl TokenManagerBuilder {
    /// Keeps the tokens in this store; without one, in memory.
    pub fn store(mut self, store: impl TokenStore) -> Self {
        self.store = Some(Arc::new(store));
        self
    }

    /// Asks `now` for the time, instead of the system's wall clock.
    pub fn clock(mut self, now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        self.clock = Clock::new(now);
        self
    }

    /// Compares what is cached with the store again after this time; 30 seconds if not set.
    pub fn recheck_after(mut self, time: Duration) -> Self {
        self.recheck = time;
        self
    }

    /// Builds it. This reads and spawns nothing.
    #[must_use]
    pub fn build(self) -> TokenManager {
        TokenManager(Arc::new(Inner {
            store: self.store.unwrap_or_else(|| Arc::new(MemoryStore::new())),
            clock: self.clock,
            recheck: self.recheck,
            cached: ArcSwapOption::empty(),
            turn: Mutex::new(()),
        }))
    }
}
