//! What can only go wrong on several threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokenkeep::chrono::{DateTime, Utc};
use tokenkeep::stores::MemoryStore;
use tokenkeep::{AuthTokens, TokenManager, TokenStore};

use crate::provider::Provider;

/// So many refreshes, each with a few moments in which it could be lost.
const ROUNDS: usize = 20_000;

/// A look into the store that began before a refresh came back took what that brought for something
/// that a login had ended, and dropped it: the spent refresh token stayed in the store.
#[test]
fn a_look_that_ends_while_a_refresh_comes_back_does_not_lose_what_it_brings() {
    let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(4).build().unwrap();
    threads.block_on(async {
        let (provider, store) = (Provider::default(), MemoryStore::new());
        let manager = TokenManager::builder()
            .store(store.clone())
            .refresher(provider.clone())
            .recheck_after(Duration::ZERO)
            .build();
        let never = DateTime::<Utc>::MAX_UTC;
        provider.issue_until(never);
        manager.set_tokens(provider.sign_in(never)).await.unwrap();
        let done = Arc::new(AtomicBool::new(false));
        let lookers: Vec<_> = (0..3)
            .map(|_| {
                let (manager, done) = (manager.clone(), done.clone());
                tokio::spawn(async move {
                    while !done.load(Ordering::Relaxed) {
                        manager.get_tokens().await.unwrap().unwrap();
                    }
                })
            })
            .collect();
        for round in 0..ROUNDS {
            let refreshed = manager.refresh().await.unwrap();
            let stored: AuthTokens = store.load().await.unwrap().unwrap().record.tokens;
            assert!(provider.accepts(&stored), "the tokens of refresh {round} are lost");
            assert_eq!(stored, refreshed);
        }
        done.store(true, Ordering::Relaxed);
        for looker in lookers {
            looker.await.unwrap();
        }
        assert_eq!((provider.calls(), provider.replays()), (ROUNDS, 0));
    });
}
