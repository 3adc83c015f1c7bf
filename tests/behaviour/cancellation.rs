//! Futures that are dropped before they are finished.

use std::sync::Mutex;
use std::sync::mpsc;
use std::task::{Context, Waker};

use tokenkeep::secrecy::SecretString;
use tokenkeep::store::Precondition;
use tokenkeep::stores::AgeFileStore;
use tokenkeep::{AgeKey, AuthTokens, TokenStore};

use crate::support::scratch;

const IDENTITY: &str = "AGE-SECRET-KEY-1GQ9778VQXMMJVE8SK7J6VT8UJ4HDQAJUVSFCWCM02D8GEWQ72PVQ2Y5J33";

#[tokio::test]
async fn a_logout_waits_for_a_dropped_login_that_is_still_running() {
    let dir = scratch();
    // A save waits for its key until the test sends a message.
    let (go_on, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let key = AgeKey::custom("slow key", move || {
        // If the test has failed, there is no sender, and this returns an error.
        let _ = wait.lock().unwrap().recv();
        Ok(SecretString::from(IDENTITY))
    });
    let store = AgeFileStore::new(dir.path().join("tokens.age"), key);

    let tokens = AuthTokens::new("given up");
    let record = tokens.clone().into();
    let mut login = store.save(&record, Precondition::Anything);
    assert!(login.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    drop(login);

    let mut logout = store.clear(Precondition::Anything);
    for _ in 0..10_000 {
        let mut context = Context::from_waker(Waker::noop());
        assert!(logout.as_mut().poll(&mut context).is_pending(), "it did not wait for the login");
        tokio::task::yield_now().await;
    }
    go_on.send(()).unwrap();
    logout.await.unwrap();
    assert!(store.load().await.unwrap().is_none());
}
