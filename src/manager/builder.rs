use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::cache::Cache;
use super::publisher::Publisher;
use super::refresh::RefreshProtocol;
use super::shared_refresh::SharedRefresh;
use super::slot::Slot;
use super::{Inner, TokenManager};
use crate::error::RefreshFailure;
use crate::refresh::{Closure, RefreshPolicy, TokenRefresher};
use crate::store::TokenStore;
use crate::stores::MemoryStore;
use crate::sys::clock::{Clock, Timer};
use crate::tokens::AuthTokens;

/// How long a cached record is trusted before the store is loaded again. A login or a logout in another
/// process is noticed within this time.
const RECHECK: Duration = Duration::from_secs(30);

/// Builds a [`TokenManager`].
#[must_use]
pub struct TokenManagerBuilder {
    store: Option<Arc<dyn TokenStore>>,
    refresher: Option<Arc<dyn TokenRefresher>>,
    policy: RefreshPolicy,
    clock: Clock,
    timer: Timer,
    recheck: Duration,
}

impl TokenManagerBuilder {
    pub(super) fn new() -> Self {
        Self {
            store: None,
            refresher: None,
            policy: RefreshPolicy::default(),
            clock: Clock::default(),
            timer: Timer::default(),
            recheck: RECHECK,
        }
    }

    /// Sets the store. The default is a [`MemoryStore`].
    pub fn store(mut self, store: impl TokenStore) -> Self {
        self.store = Some(Arc::new(store));
        self
    }

    /// Sets the refresher. Without one, tokens are not refreshed.
    pub fn refresher(mut self, refresher: impl TokenRefresher) -> Self {
        self.refresher = Some(Arc::new(refresher));
        self
    }

    /// Sets a closure as the refresher. It must do what [`TokenRefresher::refresh`] says.
    pub fn refresh_with<R>(self, refresh: impl Fn(AuthTokens) -> R + Send + Sync + 'static) -> Self
    where
        R: Future<Output = Result<AuthTokens, RefreshFailure>> + Send + 'static,
    {
        self.refresher(Closure(refresh))
    }

    /// Sets when to refresh, and how long to wait for an answer.
    pub fn policy(mut self, policy: RefreshPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Sets the clock. The default is the wall clock of the system.
    pub fn clock(mut self, now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        self.clock = Clock::new(now);
        self
    }

    /// Sets the function that waits, such as `tokio::time::sleep`. The default is a thread that all timers
    /// share.
    pub fn timer<R: Future<Output = ()> + Send + 'static>(
        mut self,
        sleep: impl Fn(Duration) -> R + Send + Sync + 'static,
    ) -> Self {
        self.timer = Timer::new(sleep);
        self
    }

    /// Sets how long cached tokens are used before they are compared with the store again. The default is 30
    /// s.
    pub fn recheck_after(mut self, time: Duration) -> Self {
        self.recheck = time;
        self
    }

    /// Builds the manager. This reads and spawns nothing.
    #[must_use]
    pub fn build(self) -> TokenManager {
        let store = self.store.unwrap_or_else(|| Arc::new(MemoryStore::new()));
        let events = Publisher::new(store.clone());
        let cache = Cache::new(self.policy, self.recheck, self.refresher.is_some());
        let timer = Arc::new(self.timer);
        let (clock, policy) = (self.clock, self.policy);
        let slot = Slot::new(store, cache, events.clone(), clock.clone(), timer.clone());
        let slot = Arc::new(slot);
        let refresh = self.refresher.map(|refresher| {
            let protocol = RefreshProtocol::new(
                slot.clone(),
                refresher,
                policy,
                clock.clone(),
                timer.clone(),
                events.clone(),
            );
            SharedRefresh::new(protocol, timer.clone())
        });
        TokenManager(Arc::new(Inner { slot, refresh, policy, clock, timer, events }))
    }
}

impl fmt::Debug for TokenManagerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenManagerBuilder").field("store", &self.store).finish_non_exhaustive()
    }
}
