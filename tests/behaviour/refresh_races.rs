//! Races that need several threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokenkeep::chrono::{DateTime, Utc};
use tokenkeep::stores::MemoryStore;
use tokenkeep::{AuthTokens, TokenManager, TokenStore};

use crate::provider::Provider;

/// The number of refreshes. Each has only a few moments in which its tokens could be lost.
const ROUNDS: usize = 20_000;

/// In an earlier version, a load that began before the answer to a refresh mistook the new tokens for tokens
/// that a login had replaced, and dropped them. The spent refresh token stayed in the store.
#[test]
fn a_load_during_a_refresh_does_not_lose_the_new_tokens() {
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
