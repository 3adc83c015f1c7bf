//! Every process that uses a slot follows what the server told one of them about refreshing.

use std::time::Duration;

use tokenkeep::{AuthError, RefreshFailure};

use crate::provider::{Step, minutes};
use crate::world::{World, access, refresh};

fn busy(seconds: u64) -> Step {
    let retry_after = Some(Duration::from_secs(seconds));
    Step::Fail(RefreshFailure::Transient { reason: "429".into(), retry_after, unspent: true })
}

fn rejected() -> Step {
    Step::Fail(RefreshFailure::rejected("invalid_grant"))
}

#[tokio::test]
async fn every_process_waits_as_long_as_the_server_asks_for() {
    let world = World::new().await;
    world.clock.forward(61 * 60);
    world.provider.script([busy(90)]);
    assert!(matches!(world.access().await, Err(AuthError::Refresh(_))));
    for _ in 0..3 {
        let error = access(&world.other()).await.unwrap_err();
        assert!(error.to_string().contains("429"), "{error}");
    }
    world.clock.forward(89);
    assert!(access(&world.other()).await.is_err());
    assert_eq!(world.provider.calls(), 1);
    world.clock.forward(1);
    assert_eq!(access(&world.other()).await.unwrap(), "access-2");
    assert_eq!(world.provider.calls(), 2);
}

#[tokio::test]
async fn a_client_does_not_wait_if_the_server_asked_another_client_to_wait() {
    let world = World::new().await;
    world.clock.forward(61 * 60);
    world.provider.script([busy(90)]);
    let (one, same) = (world.other_client("one"), world.other_client("one"));
    assert!(access(&one).await.is_err());
    assert!(access(&same).await.is_err());
    assert_eq!(world.provider.calls(), 1);
    assert_eq!(access(&world.other_client("two")).await.unwrap(), "access-2");
    assert_eq!(world.provider.calls(), 2);
}

#[tokio::test]
async fn a_forced_refresh_waits_for_30_seconds_if_the_server_asks_for_more() {
    let world = World::new().await;
    world.provider.script([busy(900)]);
    refresh(&world.manager).await.unwrap_err();
    for (pass, calls) in [(0, 1), (29, 1), (1, 2)] {
        world.clock.forward(pass);
        let refreshed = refresh(&world.other()).await;
        assert_eq!(world.provider.calls(), calls);
        assert_eq!(refreshed.is_ok(), calls == 2);
    }
}

#[tokio::test]
async fn a_rejected_refresh_token_is_sent_once_by_any_number_of_processes() {
    let world = World::new().await;
    world.clock.forward(61 * 60);
    world.provider.script([rejected()]);
    for pass in [0, 1, 3600, 7 * 24 * 3600] {
        world.clock.forward(pass);
        let mut other = world.other();
        if pass == 0 {
            other = world.manager.clone();
        }
        let error = access(&other).await.unwrap_err();
        assert!(matches!(&error, AuthError::LoginRequired { reason } if reason == "invalid_grant"));
    }
    assert_eq!(world.provider.calls(), 1);
    // A login ends the rejection for all processes.
    world.manager.set_tokens(world.provider.sign_in(world.clock.in_minutes(60))).await.unwrap();
    assert_eq!(access(&world.other()).await.unwrap(), "access-2");
}

#[tokio::test]
async fn a_rejection_of_one_client_does_not_stop_another_client() {
    let world = World::new().await;
    world.clock.forward(61 * 60);
    world.provider.script([rejected()]);
    for _ in 0..2 {
        let error = access(&world.other_client("a wrong token URL")).await.unwrap_err();
        assert!(matches!(error, AuthError::LoginRequired { .. }), "{error}");
    }
    assert_eq!(world.provider.calls(), 1);
    assert_eq!(access(&world.other_client("the right one")).await.unwrap(), "access-2");
}

#[tokio::test]
async fn a_forced_refresh_sends_a_rejected_refresh_token_again_after_30_seconds() {
    let world = World::new().await;
    world.provider.script([rejected()]);
    refresh(&world.manager).await.unwrap_err();
    for (pass, calls) in [(0, 1), (29, 1), (1, 2)] {
        world.clock.forward(pass);
        let refreshed = refresh(&world.other()).await;
        assert_eq!(world.provider.calls(), calls);
        assert_eq!(refreshed.is_ok(), calls == 2, "the rejection was a mistake of the server");
    }
}

#[tokio::test]
async fn new_tokens_that_have_already_expired_cause_one_request_in_30_seconds_for_all_processes() {
    let world = World::new().await;
    world.clock.forward(61 * 60);
    world.provider.issue_until(minutes(world.clock.date(), -60));
    assert_eq!(
        world.access().await.unwrap(),
        "access-2",
        "the caller that waited gets the new token"
    );
    for _ in 0..20 {
        assert!(matches!(access(&world.other()).await, Err(AuthError::TokenExpired)));
        world.clock.forward(1);
    }
    assert_eq!(world.provider.calls(), 1);
    world.clock.forward(10);
    assert_eq!(access(&world.other()).await.unwrap(), "access-3");
    assert_eq!((world.provider.calls(), world.provider.replays()), (2, 0));
}

#[tokio::test]
async fn a_clock_that_was_set_back_ends_the_wait_that_a_server_asked_for() {
    let world = World::new().await;
    world.provider.script([busy(900)]);
    refresh(&world.manager).await.unwrap_err();
    world.clock.back(1);
    assert_eq!(refresh(&world.other()).await.unwrap(), "access-2");
}
