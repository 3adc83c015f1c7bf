//! A refresh token that may be spent is reported as such, and no other one is.

use std::time::Duration;

use tokenkeep::{AuthError, RefreshFailure, RefreshToken, StoreError, TokenStore};

use tokenkeep::error::SpentBy;

use tokenkeep::store::{Intent, Precondition};

use crate::faulty_store::Faulty;
use crate::provider::Step;
use crate::world::{World, refresh, settle};

fn rejected() -> Step {
    Step::Fail(RefreshFailure::rejected("invalid_grant"))
}

fn lost() -> Step {
    Step::Fail(RefreshFailure::ambiguous("the connection broke"))
}

impl World {
    /// Returns the intent in the slot, even if it is about another token.
    async fn whole_intent(&self) -> Option<Intent> {
        self.store.inner.load().await.unwrap().unwrap().record.refresh.intent
    }

    /// Writes an intent, like another holder of the lease that is about to send the token.
    async fn intend(&self, seconds_ago: u64) -> Intent {
        let at = self.clock.date() - Duration::from_secs(seconds_ago);
        self.interrupt(at).await;
        self.whole_intent().await.unwrap()
    }
}

#[tokio::test]
async fn a_failure_that_proves_the_token_unspent_leaves_no_intent() {
    for failure in [
        RefreshFailure::transient("429"),
        RefreshFailure::misconfigured("invalid_client"),
        RefreshFailure::Transient {
            reason: "429".into(),
            retry_after: Some(Duration::from_secs(9)),
            unspent: true,
        },
    ] {
        let world = World::new().await;
        world.provider.script([Step::Fail(failure)]);
        assert!(matches!(world.manager.refresh().await, Err(AuthError::Refresh(_))));
        assert_eq!(world.whole_intent().await, None);
    }
}

#[tokio::test]
async fn a_failure_that_proves_nothing_leaves_the_intent_for_the_next_process() {
    for failure in [
        RefreshFailure::transient("503").maybe_spent(),
        RefreshFailure::misconfigured("404").maybe_spent(),
    ] {
        let world = World::new().await;
        let at = world.clock.date();
        world.provider.script([Step::Fail(failure)]);
        assert!(matches!(world.manager.refresh().await, Err(AuthError::Refresh(_))));
        assert_eq!(world.intent().await, Some(at));
        world.clock.forward(60);
        world.provider.script([rejected()]);
        let error = world.other().refresh().await.unwrap_err();
        assert!(
            matches!(error, AuthError::RefreshTokenSpent { by: SpentBy::DeadProcess { at: when } } if when == at),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_plain_rejection_leaves_no_intent() {
    let world = World::new().await;
    world.provider.script([rejected()]);
    let error = world.manager.refresh().await.unwrap_err();
    assert!(matches!(error, AuthError::LoginRequired { .. }), "{error}");
    assert_eq!(world.whole_intent().await, None);
}

#[tokio::test]
async fn a_rejection_after_a_lost_answer_keeps_the_intent() {
    let world = World::new().await;
    let at = world.clock.date();
    world.provider.script([lost(), rejected()]);
    let error = world.manager.refresh().await.unwrap_err();
    assert!(matches!(error, AuthError::RefreshTokenSpent { .. }), "{error}");
    assert_eq!(world.intent().await, Some(at));
    // A failure that proves its own send harmless proves nothing about the send before it.
    world.clock.forward(60);
    world.provider.script([Step::Fail(RefreshFailure::transient("429"))]);
    world.manager.refresh().await.unwrap_err();
    assert_eq!(world.intent().await, Some(at));
}

#[tokio::test]
async fn an_intent_about_another_token_is_ignored() {
    let world = World::new().await;
    let stored = world.store.inner.load().await.unwrap().unwrap();
    let mut record = stored.record;
    let other = RefreshToken::from("another token");
    record.refresh.intent = Some(Intent::new(&other, world.clock.date()));
    world.store.inner.save(&record, Precondition::Anything).await.unwrap();
    assert_eq!(world.intent().await, None);
    world.provider.script([rejected()]);
    let error = world.other().refresh().await.unwrap_err();
    assert!(matches!(error, AuthError::LoginRequired { .. }), "{error}");
    assert_eq!(world.whole_intent().await, None);
}

#[tokio::test]
async fn the_next_holder_writes_its_own_intent_with_the_time_of_the_earlier_one() {
    let world = World::new().await;
    let earlier = world.intend(90).await;
    let refreshing = world.begin().await;
    let taken_over = world.whole_intent().await.unwrap();
    assert_ne!(taken_over, earlier, "the earlier holder sees that another process sends");
    assert_eq!(taken_over.at(), earlier.at());
    world.provider.let_through();
    refreshing.await.unwrap().unwrap();
    assert_eq!(world.whole_intent().await, None);
}

#[tokio::test]
async fn the_doubt_of_another_holder_is_saved_with_the_new_tokens() {
    let world = World::new().await;
    let refreshing = world.begin().await;
    // The next holder of the lease is about to send the same token.
    let at = world.intend(0).await.at();
    world.provider.let_through();
    assert_eq!(refreshing.await.unwrap().unwrap(), "access-2");
    assert!(world.provider.accepts(&world.stored().await.unwrap()));
    assert_eq!(world.intent().await, Some(at), "the server may have revoked it");
    world.provider.revoke();
    let error = world.other().refresh().await.unwrap_err();
    assert!(matches!(error, AuthError::RefreshTokenSpent { .. }), "{error}");
}

#[tokio::test]
async fn the_doubt_of_another_holder_is_saved_with_new_tokens_that_are_saved_later() {
    // With and without a load before the save.
    for looks in [false, true] {
        let world = World::new().await;
        world.store.set(|faults| faults.save = Some(Faulty::full_disk()));
        world.manager.refresh().await.unwrap();
        let at = world.intend(0).await.at();
        if looks {
            let token = world.manager.get_refresh_token().await.unwrap();
            assert_eq!(token.expose_secret(), "refresh-2");
        }
        world.store.set(|faults| faults.save = None);
        world.manager.shutdown(Duration::from_secs(60)).await.unwrap();
        assert!(world.provider.accepts(&world.stored().await.unwrap()));
        assert_eq!(world.intent().await, Some(at), "with a load before the save: {looks}");
    }
}

#[tokio::test]
async fn a_rekey_during_a_refresh_leaves_no_doubt() {
    let world = World::new().await;
    let refreshing = world.begin().await;
    let there = world.store.inner.load().await.unwrap().unwrap();
    world.store.inner.save(&there.record, Precondition::Anything).await.unwrap();
    world.provider.let_through();
    refreshing.await.unwrap().unwrap();
    assert_eq!(world.whole_intent().await, None);
}

#[tokio::test]
async fn a_rekey_during_a_refresh_that_is_rejected_leaves_no_intent() {
    let world = World::new().await;
    world.provider.script([rejected()]);
    let refreshing = world.begin().await;
    let there = world.store.inner.load().await.unwrap().unwrap();
    world.store.inner.save(&there.record, Precondition::Anything).await.unwrap();
    world.provider.let_through();
    refreshing.await.unwrap().unwrap_err();
    assert_eq!(world.whole_intent().await, None);
}

#[tokio::test]
async fn proof_that_a_token_is_unspent_does_not_remove_the_intent_of_another_holder() {
    let world = World::new().await;
    world.provider.script([Step::Fail(RefreshFailure::transient("429"))]);
    let refreshing = world.begin().await;
    let theirs = world.intend(0).await;
    world.provider.let_through();
    refreshing.await.unwrap().unwrap_err();
    assert_eq!(world.whole_intent().await, Some(theirs));
}

#[tokio::test]
async fn a_rejection_is_not_reported_if_the_store_cannot_be_read_after_it() {
    let world = World::new().await;
    let mut events = world.manager.subscribe();
    world.provider.script([rejected()]);
    let refreshing = world.begin().await;
    world.store.set(|faults| faults.load = Some(Faulty::full_disk()));
    world.provider.let_through();
    let error = refreshing.await.unwrap().unwrap_err();
    assert!(matches!(error, AuthError::Store(StoreError::Io { .. })), "{error}");
    assert_eq!(crate::world::drain(&mut events).await, ["RefreshFailed"]);
    world.store.set(|faults| faults.load = None);
    let stored = world.store.inner.load().await.unwrap().unwrap();
    assert_eq!(stored.record.refresh.rejection, None);
    // Another process may have refreshed first. Then the session is still valid.
    world.clock.forward(60);
    assert_eq!(refresh(&world.manager).await.unwrap(), "access-2");
}

#[tokio::test]
async fn saved_tokens_are_returned_even_if_the_store_cannot_be_read_after_it() {
    let world = World::new().await;
    let refreshing = world.begin().await;
    world.store.set(|faults| faults.load = Some(Faulty::full_disk()));
    world.provider.let_through();
    assert_eq!(refreshing.await.unwrap().unwrap(), "access-2");
    assert!(world.provider.accepts(&world.stored().await.unwrap()));
    settle().await;
    world.manager.shutdown(Duration::ZERO).await.unwrap();
}
