//! The manager: which tokens it returns, and when it reads the store again.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokenkeep::{AuthError, AuthTokens, StoreError, TokenManager, TokenStore, async_trait};

use tokenkeep::store::{Lease, Precondition, Record, Revision, Stored};

use tokenkeep::stores::{MemoryStore, PlaintextStore};

use crate::clock::Clock;
use crate::support::block_on;
use crate::support::scratch;

/// A store that counts its loads, and that can fail or never answer.
#[derive(Clone, Debug, Default)]
struct Watched {
    inner: MemoryStore,
    loads: Arc<AtomicUsize>,
    failing: Arc<std::sync::Mutex<Option<&'static str>>>,
}

impl Watched {
    fn fail(&self, kind: Option<&'static str>) {
        *self.failing.lock().unwrap() = kind;
    }

    fn check(&self) -> Result<(), StoreError> {
        let place = "watched".to_owned();
        let (reason, advice) = ("broken".to_owned(), "wait".to_owned());
        match *self.failing.lock().unwrap() {
            None | Some("silent") => Ok(()),
            Some("corrupt") => Err(StoreError::Corrupt { place, reason }),
            Some("denied") => Err(StoreError::Denied { place, advice }),
            Some("locked") => Err(StoreError::Locked { place, advice }),
            Some(_) => Err(StoreError::Unavailable { place, reason, advice }),
        }
    }

    fn loads(&self) -> usize {
        self.loads.load(Ordering::SeqCst)
    }
}

impl std::fmt::Display for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("watched")
    }
}

#[async_trait]
impl TokenStore for Watched {
    async fn load(&self) -> Result<Option<Stored>, StoreError> {
        self.loads.fetch_add(1, Ordering::SeqCst);
        // As in a real store, other tasks run meanwhile.
        tokio::task::yield_now().await;
        if *self.failing.lock().unwrap() == Some("silent") {
            std::future::pending::<()>().await;
        }
        self.check()?;
        self.inner.load().await
    }

    async fn save(
        &self,
        record: &Record,
        precondition: Precondition,
    ) -> Result<Revision, StoreError> {
        self.check()?;
        let revision = self.inner.save(record, precondition).await;
        tokio::task::yield_now().await;
        revision
    }

    async fn clear(&self, precondition: Precondition) -> Result<(), StoreError> {
        self.check()?;
        self.inner.clear(precondition).await
    }

    async fn try_lease(&self) -> Result<Option<Box<dyn Lease>>, StoreError> {
        self.inner.try_lease().await
    }
}

fn is_sync<T: Send + Sync + 'static>(_: &T) {}

#[tokio::test]
async fn a_token_is_returned_until_it_counts_as_expired() {
    let clock = Clock::new();
    let manager = clock.manager(MemoryStore::new());
    is_sync(&manager);
    assert_eq!(manager.get_tokens().await.unwrap(), None);
    assert!(matches!(manager.get_access_token().await, Err(AuthError::TokenNotFound)));
    assert!(matches!(manager.get_refresh_token().await, Err(AuthError::TokenNotFound)));
    assert!(manager.is_expired().await.unwrap() && manager.needs_refresh().await.unwrap());

    let tokens = AuthTokens::new("a").with_expires_at(clock.in_minutes(60));
    manager.set_tokens(tokens).await.unwrap();
    assert!(matches!(manager.get_refresh_token().await, Err(AuthError::TokenNotFound)));
    // How many minutes pass, and whether the token is then due and expired.
    for (pass, due, expired) in [
        (0, false, false),
        (44, false, false),
        (1, true, false),
        (9, true, false),
        (1, true, true),
        (5, true, true),
        (1000, true, true),
    ] {
        clock.forward(60 * pass);
        assert_eq!(manager.needs_refresh().await.unwrap(), due);
        assert_eq!(manager.is_expired().await.unwrap(), expired);
        assert!(manager.get_tokens().await.unwrap().is_some());
        let handed_out = manager.get_access_token().await;
        assert_eq!(handed_out.is_ok(), !expired);
        assert_eq!(manager.get_valid_access_token().await.is_ok(), !expired);
        assert_eq!(manager.ensure_valid_tokens().await.is_ok(), !expired);
        if let Err(error) = handed_out {
            assert!(matches!(error, AuthError::TokenExpired), "{error}");
        }
    }
}

#[tokio::test]
async fn a_login_records_its_time_so_that_the_lifetime_is_known() {
    let clock = Clock::new();
    let manager = clock.manager(MemoryStore::new());
    manager.set_tokens(AuthTokens::new("a").with_expires_at(clock.in_minutes(9))).await.unwrap();
    let tokens = manager.get_tokens().await.unwrap().unwrap();
    assert_eq!(tokens.obtained_at, Some(clock.now().into()));
    assert!(!manager.needs_refresh().await.unwrap());
    clock.forward(60 * 6);
    assert!(manager.needs_refresh().await.unwrap() && !manager.is_expired().await.unwrap());
}

#[tokio::test]
async fn a_cached_token_is_returned_for_30_seconds_without_a_load() {
    let (clock, store) = (Clock::new(), Watched::default());
    let manager = clock.manager(store.clone());
    store.inner.save(&AuthTokens::new("a").into(), Precondition::Absent).await.unwrap();
    for _ in 0..100 {
        manager.get_access_token().await.unwrap();
        manager.get_tokens().await.unwrap();
    }
    clock.forward(29);
    manager.get_access_token().await.unwrap();
    assert_eq!(store.loads(), 1);
    // A login in another process is seen after 30 seconds.
    store.inner.save(&AuthTokens::new("b").into(), Precondition::Anything).await.unwrap();
    clock.forward(1);
    assert_eq!(manager.get_access_token().await.unwrap().expose_secret(), "b");
    assert_eq!(store.loads(), 2);
    // So is a logout.
    store.inner.clear(Precondition::Anything).await.unwrap();
    clock.forward(30);
    assert!(matches!(manager.get_access_token().await, Err(AuthError::TokenNotFound)));
    // If the clock was set back, the age of the cache is unknown, and the store is read again.
    for name in ["c", "d"] {
        store.inner.save(&AuthTokens::new(name).into(), Precondition::Anything).await.unwrap();
        clock.back(10_000);
        assert_eq!(manager.get_access_token().await.unwrap().expose_secret(), name);
    }
}

#[tokio::test]
async fn a_refresh_token_is_always_the_one_in_the_store() {
    let (clock, store) = (Clock::new(), Watched::default());
    let manager = clock.manager(store.clone());
    manager.set_tokens(AuthTokens::new("a").with_refresh_token("old")).await.unwrap();
    // Another process refreshes.
    let rotated = AuthTokens::new("b").with_refresh_token("rotated");
    store.inner.save(&rotated.clone().into(), Precondition::Anything).await.unwrap();
    assert_eq!(manager.get_refresh_token().await.unwrap().expose_secret(), "rotated");
    assert_eq!(manager.get_access_token().await.unwrap().expose_secret(), "b");
    store.fail(Some("locked"));
    assert!(matches!(manager.get_refresh_token().await, Err(AuthError::Store(_))));
}

#[tokio::test]
async fn many_tasks_with_an_old_cache_load_once() {
    let (clock, store) = (Clock::new(), Watched::default());
    let manager = clock.manager(store.clone());
    store.inner.save(&AuthTokens::new("a").into(), Precondition::Absent).await.unwrap();
    let tasks: Vec<_> = (0..1000)
        .map(|_| {
            let manager = manager.clone();
            tokio::spawn(async move { manager.get_access_token().await.unwrap() })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.unwrap().expose_secret(), "a");
    }
    assert_eq!(store.loads(), 1);
}

#[tokio::test]
async fn a_valid_token_is_served_from_memory_while_the_store_cannot_be_reached() {
    let (clock, store) = (Clock::new(), Watched::default());
    let manager = clock.manager(store.clone());
    manager.set_tokens(AuthTokens::new("a").with_expires_at(clock.in_minutes(60))).await.unwrap();
    for kind in ["denied", "locked", "unavailable"] {
        store.fail(Some(kind));
        clock.forward(31);
        assert_eq!(manager.get_access_token().await.unwrap().expose_secret(), "a");
    }
    // A store that cannot be reached is not called each time.
    let loads = store.loads();
    manager.get_access_token().await.unwrap();
    assert_eq!(store.loads(), loads);
    // Damage is not temporary, and an expired token is not returned.
    store.fail(Some("corrupt"));
    clock.forward(31);
    assert!(matches!(manager.get_access_token().await, Err(AuthError::Store(_))));
    store.fail(Some("locked"));
    clock.forward(3600);
    assert!(matches!(manager.get_access_token().await, Err(AuthError::Store(_))));
}

#[tokio::test]
async fn a_valid_token_is_served_from_memory_while_the_store_does_not_answer() {
    let (clock, store) = (Clock::new(), Watched::default());
    let manager = clock.manager(store.clone());
    manager.set_tokens(AuthTokens::new("a").with_expires_at(clock.in_minutes(60))).await.unwrap();
    let ask = || {
        let manager = manager.clone();
        tokio::spawn(async move { manager.get_access_token().await })
    };
    store.fail(Some("silent"));
    clock.forward(31);
    let asked = ask();
    while store.loads() == 0 {
        tokio::task::yield_now().await;
    }
    assert!(!asked.is_finished());
    clock.forward(2);
    assert_eq!(asked.await.unwrap().unwrap().expose_secret(), "a");
    // The store is not called each time.
    assert_eq!(manager.get_access_token().await.unwrap().expose_secret(), "a");
    assert_eq!(store.loads(), 1);
    // Once the token has expired, the caller waits for the store.
    clock.forward(3600);
    let asked = ask();
    for _ in 0..100 {
        clock.forward(2);
        tokio::task::yield_now().await;
    }
    assert!(!asked.is_finished());
    asked.abort();
    // Once the store answers, changes by other processes are seen.
    store.fail(None);
    store.inner.save(&AuthTokens::new("b").into(), Precondition::Anything).await.unwrap();
    clock.forward(31);
    assert_eq!(manager.get_access_token().await.unwrap().expose_secret(), "b");
}

#[tokio::test]
async fn a_login_while_the_store_does_not_answer_replaces_the_cached_tokens() {
    let (clock, store) = (Clock::new(), Watched::default());
    let manager = clock.manager(store.clone());
    let tokens = |name: &str| AuthTokens::new(name).with_expires_at(clock.in_minutes(60));
    manager.set_tokens(tokens("a")).await.unwrap();
    store.fail(Some("silent"));
    clock.forward(31);
    let (asking, login) = (manager.clone(), manager.clone());
    let asked = tokio::spawn(async move { asking.get_access_token().await });
    while store.loads() == 0 {
        tokio::task::yield_now().await;
    }
    // The login waits until the load is abandoned. It ends before the caller of the load does.
    let new = tokens("b");
    let logged_in = tokio::spawn(async move { login.set_tokens(new).await });
    tokio::task::yield_now().await;
    clock.forward(2);
    logged_in.await.unwrap().unwrap();
    asked.await.unwrap().unwrap();
    assert_eq!(manager.get_access_token().await.unwrap().expose_secret(), "b");
}

#[tokio::test]
async fn a_store_that_cannot_be_read_is_never_reported_as_no_tokens() {
    let store = Watched::default();
    let manager = Clock::new().manager(store.clone());
    for kind in ["locked", "unavailable", "corrupt"] {
        store.fail(Some(kind));
        assert!(matches!(manager.get_tokens().await, Err(AuthError::Store(_))));
        assert!(matches!(manager.get_access_token().await, Err(AuthError::Store(_))));
        assert!(matches!(manager.get_refresh_token().await, Err(AuthError::Store(_))));
        assert!(matches!(manager.is_expired().await, Err(AuthError::Store(_))));
        assert!(matches!(manager.needs_refresh().await, Err(AuthError::Store(_))));
    }
}

#[tokio::test]
async fn a_failed_save_or_clear_does_not_change_the_cached_tokens() {
    let store = Watched::default();
    let manager = Clock::new().manager(store.clone());
    manager.set_tokens(AuthTokens::new("old")).await.unwrap();
    store.fail(Some("unavailable"));
    manager.set_tokens(AuthTokens::new("new")).await.unwrap_err();
    manager.clear().await.unwrap_err();
    store.fail(None);
    assert_eq!(manager.get_access_token().await.unwrap().expose_secret(), "old");
}

#[tokio::test]
async fn a_cancelled_login_that_was_saved_is_seen() {
    let store = Watched::default();
    let manager = Clock::new().manager(store.clone());
    manager.set_tokens(AuthTokens::new("old")).await.unwrap();
    {
        let mut login = std::pin::pin!(manager.set_tokens(AuthTokens::new("new")));
        // The login saves, and is dropped before it returns.
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(login.as_mut().poll(&mut context).is_pending());
    }
    assert_eq!(manager.get_access_token().await.unwrap().expose_secret(), "new");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn memory_and_disk_have_the_same_tokens_after_many_tasks_wrote() {
    let dir = scratch();
    let path = dir.path().join("tokens.json");
    let manager = TokenManager::builder().store(PlaintextStore::new(&path)).build();
    let tasks: Vec<_> = (0..40)
        .map(|n| {
            let manager = manager.clone();
            tokio::spawn(async move {
                if n % 5 == 4 {
                    manager.clear().await.unwrap();
                } else {
                    manager.set_tokens(AuthTokens::new(n.to_string())).await.unwrap();
                }
                manager.get_tokens().await.unwrap();
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let in_memory = manager.get_tokens().await.unwrap();
    let on_disk =
        PlaintextStore::new(&path).load().await.unwrap().map(|stored| stored.record.tokens);
    assert_eq!(in_memory, on_disk);
}

#[test]
fn a_manager_can_be_built_and_used_without_a_runtime() {
    let dir = scratch();
    let manager = TokenManager::new(Some(dir.path().join("tokens.json")));
    block_on(async {
        manager.set_tokens(AuthTokens::new("a")).await.unwrap();
        assert_eq!(manager.get_access_token().await.unwrap().expose_secret(), "a");
        manager.clear().await.unwrap();
    });
}

#[test]
fn a_manager_works_after_its_runtime_was_dropped() {
    let dir = scratch();
    let manager = TokenManager::new(Some(dir.path().join("tokens.json")));
    for name in ["a", "b"] {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(manager.set_tokens(AuthTokens::new(name))).unwrap();
        drop(runtime);
    }
    let token = block_on(manager.get_access_token()).unwrap();
    assert_eq!(token.expose_secret(), "b");
}

#[tokio::test]
async fn debug_shows_the_path_and_no_secret() {
    let dir = scratch();
    let path = dir.path().join("tokens.json");
    let manager = TokenManager::new(Some(path.clone()));
    manager.set_tokens(AuthTokens::new("canary")).await.unwrap();
    let shown = format!("{manager:?} {:?}", manager.store());
    assert!(shown.contains(path.to_str().unwrap()) && !shown.contains("canary"), "{shown}");
}
