//! A refresh on any executor, and on one that is blocked.

use std::time::{Duration, Instant};

use tokenkeep::{AuthError, AuthTokens, RefreshFailure, TokenManager};

use crate::support::block_on;

/// Returns a manager whose tokens have expired, and whose refresher is a closure.
fn manager() -> TokenManager {
    let manager = TokenManager::builder()
        .refresh_with(|_| async { Ok::<_, RefreshFailure>(AuthTokens::new("new")) })
        .build();
    let due = AuthTokens::new("old").with_expires_at(tokenkeep::chrono::DateTime::UNIX_EPOCH);
    block_on(manager.set_tokens(due)).unwrap();
    manager
}

#[test]
fn blocking_the_only_thread_of_the_runtime_is_an_error_within_seconds() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let began = Instant::now();
    let manager = manager();
    let refreshed = runtime.block_on(async { block_on(manager.refresh()) });
    let error = refreshed.unwrap_err();
    assert!(matches!(error, AuthError::Refresh(RefreshFailure::Transient { .. })), "{error}");
    assert!(error.to_string().contains("is not running"), "{error}");
    let got = runtime.block_on(async { block_on(manager.get_access_token()) });
    assert!(got.is_err());
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    // Once the runtime runs, the refresh succeeds.
    let refreshed = runtime.block_on(manager.refresh()).unwrap();
    assert_eq!(refreshed.access_token.expose_secret(), "new");
}

#[test]
fn blocking_works_if_other_threads_run_the_runtime() {
    let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let manager = manager();
    let refreshed = threads.block_on(async { block_on(manager.refresh()) });
    assert_eq!(refreshed.unwrap().access_token.expose_secret(), "new");
}

/// A task that a worker spawns is the next task of that worker, and no other worker takes it.
#[test]
fn blocking_a_worker_works_if_other_workers_run_the_runtime() {
    let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let manager = manager();
    let blocked = threads.spawn(async move { block_on(manager.refresh()) });
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || send.send(block_on(blocked)));
    // The limit makes the test fail instead of hang.
    let refreshed = receive.recv_timeout(Duration::from_secs(10)).map(Result::unwrap);
    threads.shutdown_background();
    assert_eq!(refreshed.unwrap().unwrap().access_token.expose_secret(), "new");
}
