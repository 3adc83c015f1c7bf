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

/// How long a cached record is trusted before the store is asked again: a login or a logout in
/// another process is noticed within this time.
const RECHECK: Duration = Duration::from_secs(30);

/// Sets up a [`TokenManager`].
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

    /// Keeps the tokens in this store; without one, in memory.
    pub fn store(mut self, store: impl TokenStore) -> Self {
        self.store = Some(Arc::new(store));
        self
    }

    /// Refreshes tokens with this.
    pub fn refresher(mut self, refresher: impl TokenRefresher) -> Self {
        self.refresher = Some(Arc::new(refresher));
        self
    }

    /// Refreshes tokens with a closure that does what [`TokenRefresher::refresh`] says.
    pub fn refresh_with<R>(self, refresh: impl Fn(AuthTokens) -> R + Send + Sync + 'static) -> Self
    where
        R: Future<Output = Result<AuthTokens, RefreshFailure>> + Send + 'static,
    {
        self.refresher(Closure(refresh))
    }

    /// Says when to refresh, and for how long to wait for what.
    pub fn policy(mut self, policy: RefreshPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Asks `now` for the time, instead of the system's wall clock.
    pub fn clock(mut self, now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        self.clock = Clock::new(now);
        self
    }

    /// Waits with `sleep`, such as `tokio::time::sleep`, instead of a thread that all timers share.
    pub fn timer<R: Future<Output = ()> + Send + 'static>(
        mut self,
        sleep: impl Fn(Duration) -> R + Send + Sync + 'static,
    ) -> Self {
        self.timer = Timer::new(sleep);
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
