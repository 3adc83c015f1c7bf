//! Tokens of a client itself: its refresher needs no refresh token, and obtains the first tokens too.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use tokenkeep::chrono::{DateTime, Utc};
use tokenkeep::refresh::RefreshPermit;
use tokenkeep::stores::{MemoryStore, PlaintextStore};
use tokenkeep::{
    AuthError, AuthTokens, RefreshFailure, TokenManager, TokenRefresher, TokenStore, async_trait,
};

use crate::support::scratch;

const START: u64 = 1_800_000_000;
const LIFETIME: u64 = 3600;

/// A client of a provider, and the clock of both.
#[derive(Clone, Default)]
struct Client {
    asked: Arc<AtomicUsize>,
    failing: Arc<AtomicUsize>,
    second: Arc<AtomicU64>,
    asks_to_wait: Option<Duration>,
    name: &'static str,
}

impl Client {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(START + self.second.load(Ordering::SeqCst))
    }

    fn manager(&self, store: impl TokenStore) -> TokenManager {
        let clock = self.clone();
        TokenManager::builder()
            .store(store)
            .refresher(self.clone())
            .clock(move || clock.now())
            .build()
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl TokenRefresher for Client {
    async fn refresh(
        &self,
        current: AuthTokens,
        _: &RefreshPermit,
    ) -> Result<AuthTokens, RefreshFailure> {
        assert_eq!(current.refresh_token, None);
        let asked = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        // Others get the time to ask too.
        tokio::task::yield_now().await;
        if self.failing.load(Ordering::SeqCst) > 0 {
            self.failing.fetch_sub(1, Ordering::SeqCst);
            let retry_after = self.asks_to_wait;
            return Err(RefreshFailure::Transient {
                reason: "busy".into(),
                retry_after,
                unspent: true,
            });
        }
        let expiry = self.now() + Duration::from_secs(LIFETIME);
        Ok(AuthTokens::new(format!("own-{asked}")).with_expires_at(DateTime::<Utc>::from(expiry)))
    }

    fn client(&self) -> String {
        self.name.to_owned()
    }

    fn needs_refresh_token(&self) -> bool {
        false
    }
}

async fn token(manager: &TokenManager) -> String {
    manager.get_access_token().await.unwrap().expose_secret().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_empty_slot_is_filled_by_one_request_of_many_tasks_and_managers() {
    let directory = scratch();
    let path = directory.path().join("tokens.json");
    let client = Client::default();
    let managers: Vec<_> = (0..8).map(|_| client.manager(PlaintextStore::new(&path))).collect();
    let tasks: Vec<_> = (0..64)
        .map(|index: usize| {
            let manager = managers[index % managers.len()].clone();
            tokio::spawn(async move { token(&manager).await })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.unwrap(), "own-1");
    }
    assert_eq!(client.asked(), 1);
    // What was obtained is stored.
    let stored = PlaintextStore::new(&path).load().await.unwrap().unwrap();
    assert_eq!(stored.record.tokens.access_token, "own-1".into());
    assert!(stored.record.tokens.obtained_at.is_some());
}

#[tokio::test]
async fn a_token_is_replaced_early_and_when_a_server_refused_it_and_after_a_logout() {
    let client = Client::default();
    let manager = client.manager(MemoryStore::new());
    assert_eq!(token(&manager).await, "own-1");
    client.second.store(LIFETIME - 14 * 60, Ordering::SeqCst);
    assert_eq!(token(&manager).await, "own-2");
    // A server that is asked again at once gets a pause of 30 s.
    client.second.fetch_add(31, Ordering::SeqCst);
    manager.invalidate(&"own-2".into());
    assert_eq!(token(&manager).await, "own-3");
    manager.clear().await.unwrap();
    assert_eq!(token(&manager).await, "own-4");
    assert_eq!(manager.refresh().await.unwrap().access_token, "own-5".into());
    manager.clear().await.unwrap();
    assert_eq!(manager.refresh().await.unwrap().access_token, "own-6".into());
    assert_eq!(client.asked(), 6);
}

#[tokio::test]
async fn a_failure_to_obtain_the_first_token_is_reported_and_not_repeated_at_once() {
    let client = Client::default();
    client.failing.store(1, Ordering::SeqCst);
    let manager = client.manager(MemoryStore::new());
    for _ in 0..20 {
        let error = manager.get_access_token().await.unwrap_err();
        assert!(matches!(error, AuthError::Refresh(RefreshFailure::Transient { .. })), "{error:?}");
    }
    assert_eq!(client.asked(), 1);
    assert!(manager.get_tokens().await.unwrap().is_none());
    client.second.store(3600, Ordering::SeqCst);
    assert_eq!(token(&manager).await, "own-2");
}

#[tokio::test]
async fn a_wait_for_the_first_token_is_kept_by_all_managers_of_a_slot_until_it_is_over() {
    let directory = scratch();
    let (path, memory) = (directory.path().join("tokens.json"), MemoryStore::new());
    let stores: [&dyn Fn() -> Box<dyn TokenStore>; 2] =
        [&|| Box::new(memory.clone()), &|| Box::new(PlaintextStore::new(&path))];
    for store in stores {
        let client = Client { asks_to_wait: Some(Duration::from_secs(120)), ..Client::default() };
        client.failing.store(1, Ordering::SeqCst);
        let get = async || client.manager(store()).get_access_token().await;
        for _ in 0..20 {
            let error = get().await.unwrap_err();
            assert!(error.to_string().contains("busy"), "{error}");
        }
        client.second.store(119, Ordering::SeqCst);
        get().await.unwrap_err();
        assert_eq!(client.asked(), 1);
        // What a user demands is tried at most every 30 s.
        client.failing.store(1, Ordering::SeqCst);
        client.manager(store()).refresh().await.unwrap_err();
        client.manager(store()).refresh().await.unwrap_err();
        assert_eq!(client.asked(), 2);
        // Another client was told nothing.
        let other = Client { name: "other", second: client.second.clone(), ..Client::default() };
        assert_eq!(token(&other.manager(store())).await, "own-1");
        other.manager(store()).clear().await.unwrap();
        // A logout ends the wait, as it does if there are tokens.
        client.failing.store(1, Ordering::SeqCst);
        get().await.unwrap_err();
        client.manager(store()).clear().await.unwrap();
        assert_eq!(token(&client.manager(store())).await, "own-4");
        client.manager(store()).clear().await.unwrap();
        client.failing.store(1, Ordering::SeqCst);
        get().await.unwrap_err();
        client.second.store(119 + 120, Ordering::SeqCst);
        assert_eq!(token(&client.manager(store())).await, "own-6");
    }
    let names = std::fs::read_dir(directory.path()).unwrap();
    let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
    names.sort_unstable();
    assert_eq!(names, ["tokens.json", "tokens.json.lease", "tokens.json.lock"]);
}

#[tokio::test]
async fn tokens_that_were_set_meanwhile_are_not_replaced() {
    let client = Client::default();
    let store = MemoryStore::new();
    let manager = client.manager(store.clone());
    let other = TokenManager::builder().store(store).build();
    other.set_tokens(AuthTokens::new("set")).await.unwrap();
    assert_eq!(token(&manager).await, "set");
    assert_eq!(client.asked(), 0);
}
