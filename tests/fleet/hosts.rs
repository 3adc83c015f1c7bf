//! Many hosts with one expired token.

use std::time::Duration;

use tokenkeep::TokenManager;
use tokenkeep::chrono::Utc;

use crate::provider::minutes;
use crate::support::{Actor, can_fake_time};
use crate::world::{World, eventually, on_each_engine};

#[tokio::test]
async fn sixteen_hosts_with_an_expired_token_make_one_call() {
    let test = "hosts::sixteen_hosts_with_an_expired_token_make_one_call";
    on_each_engine(test, async |world: World| {
        world.sign_in(-1).await;
        let hosts: Vec<Actor> = (0..16).map(|_| world.actor()).collect();
        world.one_refreshes(hosts);
        assert!(world.provider.accepts(&world.stored().await));
    })
    .await;
}

#[tokio::test]
async fn the_next_host_recovers_from_one_that_was_killed_at_any_step_of_a_refresh() {
    let test = "hosts::the_next_host_recovers_from_one_that_was_killed_at_any_step_of_a_refresh";
    on_each_engine(test, async |world: World| {
        let (mut recovered, mut spent) = (0, 0);
        for kill_at in 0.. {
            world.sign_in(-1).await;
            world.provider.forget_replays();
            let before = world.stored().await;
            let mut killed = world.killed_at(kill_at);
            killed.send("access");
            let survived = killed.answer().is_some();
            let stored = world.stored().await;
            let is_current = world.provider.accepts(&stored);
            assert!(is_current || stored == before, "killed at {kill_at}");

            // The lease of a lost machine ends by itself.
            world.give_up_lease();
            let mut next = world.actor();
            let answer = next.ask("access");
            if is_current {
                assert!(answer.starts_with("ok access-"), "killed at {kill_at}: {answer}");
                assert!(world.provider.accepts(&world.stored().await), "killed at {kill_at}");
                assert_eq!(world.provider.replays(), 0, "killed at {kill_at}");
                recovered += 1;
            } else {
                let text = "the refresh token may have been spent by an unfinished refresh at 20";
                let text = format!("error RefreshTokenSpent: {text}");
                assert!(answer.starts_with(&text), "killed at {kill_at}: {answer}");
                assert_eq!(world.stored().await, before, "nothing was deleted");
                spent += 1;
            }
            if survived {
                break;
            }
        }
        assert!(recovered > 8 && spent > 0, "{recovered} recovered, {spent} spent");
    })
    .await;
}

#[tokio::test]
async fn hosts_whose_clocks_are_minutes_apart_agree_on_who_refreshes() {
    let test = "hosts::hosts_whose_clocks_are_minutes_apart_agree_on_who_refreshes";
    if !can_fake_time(test) {
        return;
    }
    on_each_engine(test, async |world: World| {
        world.sign_in(-60).await;
        world.provider.issue_until(minutes(Utc::now(), 120));
        let hosts: Vec<Actor> =
            ["-7m", "-1m", "+0", "+1m", "+9m"].into_iter().map(|by| world.actor_at(by)).collect();
        world.one_refreshes(hosts);
    })
    .await;
}

#[tokio::test]
async fn the_lease_of_a_lost_host_can_be_taken_only_after_its_deadline() {
    let test = "hosts::the_lease_of_a_lost_host_can_be_taken_only_after_its_deadline";
    on_each_engine(test, async |world: World| {
        let mut lost = world.actor();
        assert_eq!(lost.ask("lease"), "ok leased");
        lost.kill();
        let store = world.open();
        let begun = std::time::Instant::now();
        eventually("the lease ends", async || store.try_lease().await.unwrap()).await;
        assert!(begun.elapsed().as_secs() >= 25, "{:?}", begun.elapsed());
    })
    .await;
}

#[tokio::test]
async fn a_host_notices_the_refresh_of_another_host() {
    let test = "hosts::a_host_notices_the_refresh_of_another_host";
    on_each_engine(test, async |world: World| {
        let login = world.sign_in(60).await;
        let manager = TokenManager::builder()
            .store(world.open())
            .refresher(world.provider.clone())
            .recheck_after(Duration::ZERO)
            .build();
        let token = manager.get_access_token().await.unwrap();
        assert_eq!(token, login.access_token);
        let mut other = world.actor();
        assert!(other.ask("refresh").starts_with("ok access-"));
        let current = world.stored().await.access_token;
        assert_ne!(current, token);
        // The manager may still be loading in the background.
        let is_noticed =
            async || (manager.get_access_token().await.unwrap() == current).then_some(());
        eventually("the other refresh is noticed", is_noticed).await;
        assert_eq!(world.provider.calls(), 1);
    })
    .await;
}
