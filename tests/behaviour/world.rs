//! A manager with a provider, a store and a clock that a test controls.

use std::time::Duration;

use tokenkeep::chrono::{DateTime, Utc};
use tokenkeep::manager::Events;
use tokenkeep::refresh::{RefreshPermit, RefreshPolicy};
use tokenkeep::store::{Intent, Precondition};
use tokenkeep::{
    AuthError, AuthTokens, RefreshFailure, TokenManager, TokenRefresher, TokenStore, async_trait,
};
use tokio::task::JoinHandle;

use crate::clock::Clock;
use crate::faulty_store::Faulty;
use crate::provider::{Provider, Step, minutes};

/// A manager, its provider and its clock. The access token is valid for 1 hour.
pub(crate) struct World {
    pub(crate) clock: Clock,
    pub(crate) provider: Provider,
    pub(crate) store: Faulty,
    pub(crate) manager: TokenManager,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with_policy(RefreshPolicy::default()).await
    }

    pub(crate) async fn with_policy(policy: RefreshPolicy) -> Self {
        let (clock, provider, store) = (Clock::new(), Provider::default(), Faulty::default());
        let manager =
            clock.builder().store(store.clone()).refresher(provider.clone()).policy(policy).build();
        manager.set_tokens(provider.sign_in(clock.in_minutes(60))).await.unwrap();
        provider.issue_until(minutes(clock.date(), 600));
        Self { clock, provider, store, manager }
    }

    /// Returns the manager of another process on the same slot.
    pub(crate) fn other(&self) -> TokenManager {
        self.clock.builder().store(self.store.clone()).refresher(self.provider.clone()).build()
    }

    pub(crate) async fn stored(&self) -> Option<AuthTokens> {
        self.store.inner.load().await.unwrap().map(|stored| stored.record.tokens)
    }

    /// Returns when the refresh token in the slot was about to be sent, according to its intent.
    pub(crate) async fn intent(&self) -> Option<DateTime<Utc>> {
        let stored = self.store.inner.load().await.unwrap();
        stored.and_then(|stored| stored.record.intent().map(Intent::at))
    }

    /// Leaves an intent in the slot, like a process that ends in the middle of a refresh.
    pub(crate) async fn interrupt(&self, at: DateTime<Utc>) {
        let stored = self.store.inner.load().await.unwrap().unwrap();
        let mut record = stored.record;
        record.refresh.intent = record.tokens.refresh_token.as_ref().map(|it| Intent::new(it, at));
        self.store.inner.save(&record, Precondition::Unchanged(stored.revision)).await.unwrap();
    }

    pub(crate) async fn access(&self) -> Result<String, AuthError> {
        access(&self.manager).await
    }

    /// Returns the manager of another process with this name of its client.
    pub(crate) fn other_client(&self, client: &'static str) -> TokenManager {
        let refresher = Named(self.provider.clone(), client);
        self.clock.builder().store(self.store.clone()).refresher(refresher).build()
    }

    /// Refreshes in a new task.
    pub(crate) fn refresh(&self) -> JoinHandle<Result<String, AuthError>> {
        let manager = self.manager.clone();
        tokio::spawn(async move { refresh(&manager).await })
    }

    /// Begins a refresh whose answer waits for [`Provider::let_through`].
    pub(crate) async fn begin(&self) -> JoinHandle<Result<String, AuthError>> {
        let before = self.provider.calls();
        self.provider.hold();
        let refreshing = self.refresh();
        settle().await;
        assert_eq!(self.provider.calls(), before + 1);
        refreshing
    }

    /// Returns for how long the lease was renewed, each time.
    pub(crate) fn renewals(&self) -> Vec<Duration> {
        self.store.renewals()
    }

    /// Asks for a token in a new task.
    pub(crate) fn ask(&self) -> JoinHandle<Result<String, AuthError>> {
        let manager = self.manager.clone();
        tokio::spawn(async move { access(&manager).await })
    }
}

pub(crate) async fn access(manager: &TokenManager) -> Result<String, AuthError> {
    manager.get_access_token().await.map(|token| token.expose_secret().to_owned())
}

pub(crate) async fn refresh(manager: &TokenManager) -> Result<String, AuthError> {
    manager.refresh().await.map(|tokens| tokens.access_token.expose_secret().to_owned())
}

/// The provider, used by a client of that name.
struct Named(Provider, &'static str);

#[async_trait]
impl TokenRefresher for Named {
    async fn refresh(
        &self,
        current: AuthTokens,
        permit: &RefreshPermit,
    ) -> Result<AuthTokens, RefreshFailure> {
        self.0.refresh(current, permit).await
    }

    fn client(&self) -> String {
        self.1.to_owned()
    }
}

/// Lets all tasks run until each of them waits.
pub(crate) async fn settle() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

/// Returns the names of all events that have happened.
pub(crate) async fn drain(events: &mut Events) -> Vec<String> {
    let mut names = Vec::new();
    loop {
        tokio::select! {
            biased;
            event = events.next() => {
                let name = format!("{:?}", event.expect("the manager lives"));
                names.push(name.split([' ', '{']).next().unwrap().to_owned());
            }
            () = std::future::ready(()) => return names,
        }
    }
}

pub(crate) fn transient() -> Step {
    Step::Fail(RefreshFailure::transient("503"))
}
