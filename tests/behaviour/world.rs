//! A manager with a provider, a clock and a store that fail and turn as a test says.

use std::sync::Arc;
use std::time::Duration;

use tokenkeep::chrono::{DateTime, Utc};
use tokenkeep::manager::Events;
use tokenkeep::refresh::{RefreshPermit, RefreshPolicy};
use tokenkeep::store::{Intent, Lease, Precondition, Record, Revision, Stored};
use tokenkeep::stores::MemoryStore;
use tokenkeep::{
    AuthError, AuthTokens, RefreshFailure, StoreError, TokenManager, TokenRefresher, TokenStore,
    async_trait,
};
use tokio::task::JoinHandle;

use crate::clock::Clock;
use crate::provider::{Provider, Step, minutes};

/// A manager, its provider and its clock, with a session that is good for an hour.
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

    /// Another process, with a manager of its own on the same slot.
    pub(crate) fn other(&self) -> TokenManager {
        self.clock.builder().store(self.store.clone()).refresher(self.provider.clone()).build()
    }

    pub(crate) async fn stored(&self) -> Option<AuthTokens> {
        self.store.inner.load().await.unwrap().map(|stored| stored.record.tokens)
    }

    /// When the slot says that its refresh token was about to be sent.
    pub(crate) async fn intent(&self) -> Option<DateTime<Utc>> {
        let stored = self.store.inner.load().await.unwrap();
        stored.and_then(|stored| stored.record.intent().map(Intent::at))
    }

    /// As a process leaves the slot that ends in the middle of a refresh.
    pub(crate) async fn interrupt(&self, at: DateTime<Utc>) {
        let stored = self.store.inner.load().await.unwrap().unwrap();
        let mut record = stored.record;
        record.refresh.intent = record.tokens.refresh_token.as_ref().map(|it| Intent::new(it, at));
        self.store.inner.save(&record, Precondition::Unchanged(stored.revision)).await.unwrap();
    }

    pub(crate) async fn access(&self) -> Result<String, AuthError> {
        access(&self.manager).await
    }

    /// Another process that sends as another client.
    pub(crate) fn other_client(&self, client: &'static str) -> TokenManager {
        let refresher = Named(self.provider.clone(), client);
        self.clock.builder().store(self.store.clone()).refresher(refresher).build()
    }

    /// Refreshes in a task of its own.
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

    /// How often the lease was renewed.
    pub(crate) fn renewals(&self) -> Vec<Duration> {
        self.store.faults.lock().unwrap().renewals.clone()
    }

    /// Asks for a token in a task of its own.
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

/// The provider, as a client of that name sees it.
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

/// Lets all tasks run until none can go on.
pub(crate) async fn settle() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

/// Everything that happened until now.
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

/// A memory store in which writing fails as long as that is set, and answers get lost.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faulty {
    pub(crate) inner: MemoryStore,
    faults: Arc<std::sync::Mutex<Faults>>,
}

#[derive(Debug, Default)]
pub(crate) struct Faults {
    pub(crate) save: Option<StoreError>,
    pub(crate) intent: Option<StoreError>,
    pub(crate) reserve: Option<StoreError>,
    pub(crate) renew: Option<StoreError>,
    pub(crate) load: Option<StoreError>,
    /// The next save happens, and its answer is lost.
    pub(crate) lose_answer: bool,
    /// Saves do not come to an end.
    pub(crate) hang: bool,
    /// Somebody else has the lease by now.
    pub(crate) lost_lease: bool,
    /// How long the lease was to last, each time that it was renewed.
    pub(crate) renewals: Vec<Duration>,
}

impl Faulty {
    pub(crate) fn set(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.faults.lock().unwrap());
    }

    pub(crate) fn full_disk() -> StoreError {
        let source = Arc::new(std::io::Error::from(std::io::ErrorKind::StorageFull));
        StoreError::Io { action: "write", place: "faulty".into(), source }
    }

    pub(crate) fn read_only() -> StoreError {
        StoreError::ReadOnly { place: "faulty".into(), reason: "for the test".into() }
    }
}

impl std::fmt::Display for Faulty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("faulty")
    }
}

#[async_trait]
impl TokenStore for Faulty {
    async fn load(&self) -> Result<Option<Stored>, StoreError> {
        tokio::task::yield_now().await;
        let fault = self.faults.lock().unwrap().load.clone();
        fault.map_or(Ok(()), Err)?;
        self.inner.load().await
    }

    async fn save(
        &self,
        record: &Record,
        precondition: Precondition,
    ) -> Result<Revision, StoreError> {
        tokio::task::yield_now().await;
        let fault = {
            let faults = self.faults.lock().unwrap();
            let is_intent = record.refresh.intent.is_some();
            if is_intent { faults.intent.clone() } else { faults.save.clone() }
        };
        fault.map_or(Ok(()), Err)?;
        let hangs = self.faults.lock().unwrap().hang && record.refresh.intent.is_none();
        if hangs {
            std::future::pending::<()>().await;
        }
        let saved = self.inner.save(record, precondition).await;
        if record.refresh.intent.is_none()
            && std::mem::take(&mut self.faults.lock().unwrap().lose_answer)
        {
            // As an object store's client that tries again by itself: it conflicts with itself.
            return Err(StoreError::Conflict { place: "faulty".into() });
        }
        saved
    }

    async fn clear(&self, precondition: Precondition) -> Result<(), StoreError> {
        self.inner.clear(precondition).await
    }

    async fn try_lease(&self) -> Result<Option<Box<dyn Lease>>, StoreError> {
        tokio::task::yield_now().await;
        let lease = self.inner.try_lease().await?;
        Ok(lease.map(|lease| Box::new(FaultyLease { lease, store: self.clone() }) as _))
    }
}

#[derive(Debug)]
struct FaultyLease {
    lease: Box<dyn Lease>,
    store: Faulty,
}

#[async_trait]
impl Lease for FaultyLease {
    async fn reserve(&mut self) -> Result<(), StoreError> {
        let fault = self.store.faults.lock().unwrap().reserve.clone();
        fault.map_or(Ok(()), Err)?;
        self.lease.reserve().await
    }

    async fn renew(&mut self, time: Duration) -> Result<bool, StoreError> {
        let faults = &mut *self.store.faults.lock().unwrap();
        faults.renewals.push(time);
        match &faults.renew {
            Some(error) => Err(error.clone()),
            None => Ok(!faults.lost_lease),
        }
    }

    async fn release(self: Box<Self>) -> Result<(), StoreError> {
        self.lease.release().await
    }
}

pub(crate) fn transient() -> Step {
    Step::Fail(RefreshFailure::transient("503"))
}
