//! Failures between a fleet and its server, and changes by an operator.

use crate::proxy::Way;
use crate::world::{World, eventually, on_each_engine};

#[tokio::test]
async fn a_holder_that_was_stopped_past_its_lease_does_not_overwrite_a_later_login() {
    let test = "faults::a_holder_that_was_stopped_past_its_lease_does_not_overwrite_a_later_login";
    on_each_engine(test, async |world: World| {
        let mut stopped = world.stopped_in_mid_refresh().await;
        let mut successor = world.actor();
        let told = successor.ask("access");
        assert!(
            told.starts_with("error RefreshTokenSpent: the refresh token may have been"),
            "{told}"
        );
        // So the user signs in again.
        let login = world.sign_in(60).await;

        stopped.signal("CONT");
        let answer = stopped.answer().unwrap();
        assert_eq!(answer, format!("ok {}", login.access_token.expose_secret()));
        assert_eq!(world.stored().await, login, "the login stays");
        assert!(successor.ask("access").starts_with("ok access-"));
    })
    .await;
}

#[tokio::test]
async fn a_holder_that_was_stopped_does_not_save_while_the_next_holder_has_the_lease() {
    let test =
        "faults::a_holder_that_was_stopped_does_not_save_while_the_next_holder_has_the_lease";
    on_each_engine(test, async |world: World| {
        let mut stopped = world.stopped_in_mid_refresh().await;
        let store = world.open();
        // The lease of the stopped host has ended. This process waits for the host, and then takes the lease.
        let lease = eventually("the lease ends", async || store.try_lease().await.unwrap()).await;
        let stored = store.load().await.unwrap().unwrap();
        assert!(stored.record.intent().is_some(), "the token may be spent");
        let before = world.stored().await;
        stopped.signal("CONT");
        let answer = stopped.answer().unwrap();
        assert!(answer.starts_with("ok access-"), "its token in memory is valid: {answer}");
        assert_eq!(world.stored().await, before, "it saved without the lease");
        assert!(!world.provider.accepts(&before));

        // The other process releases the lease, and then the first one saves its tokens.
        lease.release().await.unwrap();
        let is_saved = async || (world.stored().await != before).then_some(());
        eventually("the tokens are saved", is_saved).await;
        assert!(world.provider.accepts(&world.stored().await));
    })
    .await;
}

#[tokio::test]
async fn while_the_server_cannot_be_reached_a_valid_token_is_served_and_none_is_refreshed() {
    let test =
        "faults::while_the_server_cannot_be_reached_a_valid_token_is_served_and_none_is_refreshed";
    on_each_engine(test, async |mut world: World| {
        let (mut good, mut expired) = (world.actor(), world.actor());
        // The token is due, and is accepted for 10 more minutes.
        world.sign_in(10).await;
        world
            .provider
            .script([crate::provider::Step::Fail(tokenkeep::RefreshFailure::transient("x"))]);
        let token = good.ask("access");
        assert!(token.starts_with("ok access-"), "{token}");
        let calls = world.provider.calls();

        world.stop();
        assert_eq!(good.ask("access"), token);
        let answer = expired.ask("access");
        let names = [
            "error Unavailable: PostgreSQL database fleet",
            "error Unavailable: s3://tokens/fleet",
            "error Unavailable: az://tokens/fleet",
        ];
        assert!(names.iter().any(|name| answer.starts_with(name)), "{answer}");
        assert_eq!(world.provider.calls(), calls, "nothing is refreshed without the lease");

        world.go_on();
        assert!(expired.ask("access").starts_with("ok access-"));
        assert!(good.ask("load").starts_with("ok access-"));
    })
    .await;
}

#[tokio::test]
async fn no_token_is_lost_if_the_server_restarts_during_a_refresh() {
    let test = "faults::no_token_is_lost_if_the_server_restarts_during_a_refresh";
    on_each_engine(test, async |mut world: World| {
        world.sign_in(-1).await;
        world.provider.hold();
        let mut host = world.actor();
        host.send("access");
        world.provider.wait_for_calls(1);
        world.stop();
        world.provider.let_through();
        let answer = host.answer().unwrap();
        assert!(answer.starts_with("ok access-"), "it is served from memory: {answer}");
        world.go_on();
        let is_saved = async || world.provider.accepts(&world.stored().await).then_some(());
        eventually("the new tokens are saved", is_saved).await;
        assert_eq!(world.actor().ask("access"), answer);
        assert_eq!((world.provider.calls(), world.provider.replays()), (1, 0));
    })
    .await;
}

#[tokio::test]
async fn a_restored_backup_is_refused_by_a_process_that_saw_a_later_state() {
    let test = "faults::a_restored_backup_is_refused_by_a_process_that_saw_a_later_state";
    on_each_engine(test, async |world: World| {
        world.sign_in(-1).await;
        let backup = world.back_up();
        let mut running = world.actor();
        let token = running.ask("access");
        assert!(token.starts_with("ok access-"), "{token}");
        let calls = world.provider.calls();
        world.restore(&backup);

        let answer = running.ask("load");
        assert!(answer.starts_with("error RolledBack: "), "{answer}");
        assert_eq!(running.ask("access"), token, "its token in memory is valid");
        assert_eq!(world.provider.calls(), calls, "a spent token was sent again");
        // The same if the slot was deleted.
        world.delete();
        assert!(running.ask("load").starts_with("error RolledBack"));
        assert!(running.ask("save new anything").starts_with("error RolledBack"));

        // A logout and a login fix it for all processes.
        let mut other = world.actor();
        assert_eq!(other.ask("load"), "ok none");
        assert_eq!(running.ask("clear"), "ok cleared");
        assert_eq!(running.ask("load"), "ok none");
        assert_eq!(other.ask("save new anything"), "ok saved");
        assert_eq!(running.ask("load"), "ok new");
    })
    .await;
}

#[tokio::test]
async fn a_host_that_is_disconnected_during_a_refresh_keeps_its_tokens_until_it_can_save() {
    let test =
        "faults::a_host_that_is_disconnected_during_a_refresh_keeps_its_tokens_until_it_can_save";
    on_each_engine(test, async |world: World| {
        world.sign_in(-1).await;
        let before = world.stored().await;
        world.provider.hold();
        let (mut cut_off, way) = world.actor_behind_a_proxy();
        cut_off.send("access");
        world.provider.wait_for_calls(1);
        way.set(Way::Closed);
        world.provider.let_through();
        let answer = cut_off.answer().unwrap();
        assert!(answer.starts_with("ok access-"), "it is served from memory: {answer}");
        assert_eq!(cut_off.ask("access"), answer);

        // The other hosts see the lease, and do not send the token again. They do not send it after the end
        // of the lease either, because its holder may have new tokens.
        let mut other = world.actor();
        assert_eq!(other.ask("lease"), "ok taken");
        world.end_lease();
        assert_eq!(other.ask("lease"), "ok taken");
        assert_eq!(world.stored().await, before);
        other.send("access");
        way.set(Way::Open);
        assert_eq!(other.answer().unwrap(), answer);
        assert!(world.provider.accepts(&world.stored().await));
        assert_eq!((world.provider.calls(), world.provider.replays()), (1, 0));
    })
    .await;
}
