//! Which process may send the refresh token, and for how long.

use std::time::Duration;

use tokenkeep::{AuthError, AuthTokens, RefreshFailure, StoreError, TokenStore};

use crate::faulty_store::Faulty;
use crate::provider::Step;
use crate::world::{World, refresh, settle};

/// The deadline of an answer and the margin to save it.
const ANSWER_AND_SAVE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn the_lease_is_renewed_before_the_token_is_sent_and_before_it_is_sent_again() {
    let world = World::new().await;
    world.provider.script([Step::Fail(RefreshFailure::ambiguous("lost"))]);
    let refreshing = world.begin().await;
    assert_eq!(world.renewals(), [ANSWER_AND_SAVE]);
    world.provider.let_through();
    refreshing.await.unwrap().unwrap();
    assert_eq!(world.provider.calls(), 2);
    assert_eq!(world.renewals(), [ANSWER_AND_SAVE; 2]);
}

#[tokio::test]
async fn nothing_is_sent_under_a_lease_that_cannot_be_renewed() {
    let world = World::new().await;
    world.store.set(|faults| faults.renew = Some(Faulty::full_disk()));
    let error = world.manager.refresh().await.unwrap_err();
    assert!(matches!(error, AuthError::Store(StoreError::Io { .. })), "{error}");
    assert_eq!(world.provider.calls(), 0);
    assert_eq!(world.intent().await, None, "nothing was sent");
    assert!(world.store.inner.try_lease().await.unwrap().is_some());
}

#[tokio::test]
async fn nothing_is_sent_under_a_lease_that_passed_to_another_holder() {
    let world = World::new().await;
    world.store.set(|faults| faults.lost_lease = true);
    let error = world.manager.refresh().await.unwrap_err();
    assert!(matches!(error, AuthError::Store(StoreError::Timeout { .. })), "{error}");
    assert_eq!(world.provider.calls(), 0);
    assert!(world.store.inner.try_lease().await.unwrap().is_some());
}

#[tokio::test]
async fn after_a_lost_answer_nothing_is_sent_again_without_the_lease() {
    for is_away in [false, true] {
        let world = World::new().await;
        let at = world.clock.date();
        world.provider.script([Step::Fail(RefreshFailure::ambiguous("lost"))]);
        let refreshing = world.begin().await;
        world.store.set(|faults| match is_away {
            true => faults.renew = Some(Faulty::full_disk()),
            false => faults.lost_lease = true,
        });
        world.provider.let_through();
        let error = refreshing.await.unwrap().unwrap_err();
        assert!(matches!(error, AuthError::Refresh(RefreshFailure::Ambiguous { .. })), "{error}");
        assert_eq!(world.provider.calls(), 1);
        assert_eq!(world.intent().await, Some(at));
    }
}

#[tokio::test]
async fn the_lease_is_kept_and_renewed_while_tokens_are_unsaved() {
    let world = World::new().await;
    world.store.set(|faults| faults.save = Some(Faulty::full_disk()));
    world.manager.refresh().await.unwrap();
    for _ in 0..5 {
        let before = world.renewals().len();
        world.clock.forward(5);
        settle().await;
        let renewals = world.renewals();
        assert!(renewals.len() > before, "the lease was not renewed after an attempt");
        // This is enough for the pause until the next attempt and for that attempt.
        assert_eq!(renewals.last(), Some(&Duration::from_secs(35)));
        assert!(world.store.inner.try_lease().await.unwrap().is_none());
    }
    world.store.set(|faults| faults.save = None);
    world.clock.forward(5);
    settle().await;
    let before = world.renewals().len();
    assert!(world.store.inner.try_lease().await.unwrap().is_some());
    world.clock.forward(60);
    settle().await;
    assert_eq!(world.renewals().len(), before, "the lease was renewed after the save");
}

#[tokio::test]
async fn without_room_for_new_tokens_nothing_is_sent_and_no_intent_is_left() {
    let world = World::new().await;
    let full =
        StoreError::NoSpace { place: "faulty".into(), reason: "12 bytes are missing".into() };
    world.store.set(|faults| faults.reserve = Some(full));
    let error = world.manager.refresh().await.unwrap_err();
    assert!(matches!(error, AuthError::Store(StoreError::NoSpace { .. })), "{error}");
    assert_eq!(world.provider.calls(), 0);
    let stored = world.store.inner.load().await.unwrap().unwrap();
    assert!(stored.record.refresh.is_empty());
    assert!(world.store.inner.try_lease().await.unwrap().is_some());
    // Once there is room, the same refresh token is sent.
    world.store.set(|faults| faults.reserve = None);
    assert_eq!(refresh(&world.manager).await.unwrap(), "access-2");
    assert_eq!(world.provider.calls(), 1);
}

#[tokio::test]
async fn a_record_without_an_access_token_is_refreshed_for_the_first_caller() {
    let world = World::new().await;
    let tokens = world.stored().await.unwrap();
    let tokens = AuthTokens::without_access_token(tokens.refresh_token.unwrap());
    world.manager.set_tokens(tokens).await.unwrap();
    assert_eq!(world.manager.cached_access_token(), None);
    assert_eq!(world.access().await.unwrap(), "access-2");
    assert_eq!((world.provider.calls(), world.provider.replays()), (1, 0));
}

/// A refresh holds the lock of the manager while it saves. Then its runtime stops running.
#[test]
fn a_login_or_a_logout_fails_if_a_stopped_runtime_holds_the_lock() {
    for logout in [false, true] {
        let parked = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let world = parked.block_on(World::new());
        world.store.set(|faults| faults.hang = true);
        parked.block_on(async {
            drop(world.refresh());
            settle().await;
        });
        assert_eq!(world.provider.calls(), 1);
        world.store.set(|faults| faults.hang = false);
        let driven = tokio::runtime::Builder::new_current_thread().build().unwrap();
        driven.block_on(async {
            let manager = world.manager.clone();
            let waiting = tokio::spawn(async move {
                match logout {
                    true => manager.clear().await,
                    false => manager.set_tokens(AuthTokens::new("new")).await,
                }
            });
            settle().await;
            world.clock.forward(44);
            settle().await;
            assert!(!waiting.is_finished());
            world.clock.forward(1);
            let error = waiting.await.unwrap().unwrap_err();
            assert!(matches!(error, AuthError::Store(StoreError::Timeout { .. })), "{error}");
            assert!(error.to_string().contains("within 45s"), "{error}");
        });
        // After its runtime is dropped, another one completes the save.
        drop(parked);
        driven.block_on(async {
            world.manager.shutdown(Duration::from_secs(1)).await.unwrap();
            assert!(world.provider.accepts(&world.stored().await.unwrap()));
        });
    }
}
