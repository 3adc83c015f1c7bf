//! Signing out with a revocation at the provider.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokenkeep::{AuthTokens, TokenManager, TokenStore};

use tokenkeep::manager::Logout;

use tokenkeep::store::Precondition;

use crate::faulty_store::Faulty;
use crate::world::{World, settle};

/// The access tokens of all tokens that were revoked.
#[derive(Clone, Default)]
struct Revoked(Arc<Mutex<Vec<String>>>);

impl Revoked {
    async fn by(&self, manager: &TokenManager) -> Logout<&'static str> {
        manager
            .revoke_and_clear(|tokens: AuthTokens| {
                self.0.lock().unwrap().push(tokens.access_token.expose_secret().to_owned());
                std::future::ready(Ok(()))
            })
            .await
            .unwrap()
    }

    fn names(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

#[tokio::test]
async fn a_logout_revokes_the_tokens_once_and_removes_them() {
    let (world, revoked) = (World::new().await, Revoked::default());
    let logout = revoked.by(&world.manager).await;
    assert!(logout.not_revoked.is_empty() && !logout.refresh_under_way);
    assert_eq!(revoked.names(), ["access-1"]);
    assert_eq!(world.stored().await, None);
    assert_eq!(world.manager.get_tokens().await.unwrap(), None);
    // An empty slot has nothing to revoke.
    revoked.by(&world.manager).await;
    assert_eq!(revoked.names().len(), 1);
    assert!(world.store.inner.try_lease().await.unwrap().is_some(), "the lease is free");
}

#[tokio::test]
async fn a_logout_waits_for_a_running_refresh_and_revokes_its_tokens() {
    // The refresh is in this process, or in another one.
    for elsewhere in [false, true] {
        let (world, revoked) = (World::new().await, Revoked::default());
        world.provider.hold();
        let refreshing = {
            let manager = if elsewhere { world.other() } else { world.manager.clone() };
            tokio::spawn(async move { manager.refresh().await })
        };
        settle().await;
        let clearing = {
            let (manager, revoked) = (world.manager.clone(), revoked.clone());
            tokio::spawn(async move { revoked.by(&manager).await })
        };
        settle().await;
        assert!(revoked.names().is_empty(), "it did not wait for the refresh");
        world.provider.let_through();
        refreshing.await.unwrap().unwrap();
        while !clearing.is_finished() {
            settle().await;
            world.clock.forward_by(Duration::from_millis(250));
        }
        assert!(!clearing.await.unwrap().refresh_under_way);
        assert_eq!(revoked.names(), ["access-2"], "elsewhere: {elsewhere}");
        assert_eq!(world.stored().await, None);
    }
}

#[tokio::test]
async fn a_logout_reports_a_refresh_that_does_not_end_and_clears_the_slot() {
    for elsewhere in [false, true] {
        let (world, revoked) = (World::new().await, Revoked::default());
        world.provider.hold();
        let manager = if elsewhere { world.other() } else { world.manager.clone() };
        let refreshing = tokio::spawn(async move { manager.refresh().await });
        settle().await;
        let clearing = {
            let (manager, revoked) = (world.manager.clone(), revoked.clone());
            tokio::spawn(async move { revoked.by(&manager).await })
        };
        // The logout waits for 30 s. The refresh takes longer: it sends twice, and waits 30 s each time.
        for _ in 0..140 {
            settle().await;
            world.clock.forward_by(Duration::from_millis(250));
        }
        while !clearing.is_finished() {
            settle().await;
            world.clock.forward_by(Duration::from_millis(250));
        }
        assert!(clearing.await.unwrap().refresh_under_way, "elsewhere: {elsewhere}");
        assert_eq!(revoked.names(), ["access-1"]);
        assert_eq!(world.stored().await, None);
        world.provider.let_through();
        while !refreshing.is_finished() {
            settle().await;
            world.clock.forward_by(Duration::from_millis(250));
        }
        refreshing.await.unwrap().unwrap_err();
        assert_eq!(world.stored().await, None, "a logout is not undone");
    }
}

#[tokio::test]
async fn unsaved_tokens_are_revoked_together_with_the_tokens_in_the_slot() {
    let (world, revoked) = (World::new().await, Revoked::default());
    world.store.set(|faults| faults.save = Some(Faulty::full_disk()));
    world.manager.refresh().await.unwrap();
    revoked.by(&world.manager).await;
    assert_eq!(revoked.names(), ["access-1", "access-2"]);
    assert_eq!(world.stored().await, None);
    world.store.set(|faults| faults.save = None);
    world.manager.shutdown(Duration::ZERO).await.unwrap();
    assert_eq!(world.stored().await, None);
    assert!(world.store.inner.try_lease().await.unwrap().is_some(), "the lease is free");
}

#[tokio::test]
async fn a_login_during_a_logout_is_revoked_too() {
    let world = World::new().await;
    let (revoked, store) = (Revoked::default(), world.store.inner.clone());
    let logout: Logout<()> = world
        .manager
        .revoke_and_clear(|tokens: AuthTokens| {
            let (revoked, store) = (revoked.clone(), store.clone());
            async move {
                let is_first = revoked.names().is_empty();
                revoked.0.lock().unwrap().push(tokens.access_token.expose_secret().to_owned());
                if is_first {
                    let login = AuthTokens::new("another login").into();
                    store.save(&login, Precondition::Anything).await.unwrap();
                }
                Ok(())
            }
        })
        .await
        .unwrap();
    assert!(logout.not_revoked.is_empty());
    assert_eq!(revoked.names(), ["access-1", "another login"]);
    assert_eq!(world.stored().await, None);
}

#[tokio::test]
async fn a_failed_revocation_is_reported_and_the_slot_is_still_cleared() {
    let world = World::new().await;
    let logout = world
        .manager
        .revoke_and_clear(|_| std::future::ready(Err("the provider cannot be reached")))
        .await
        .unwrap();
    assert_eq!(logout.not_revoked, ["the provider cannot be reached"]);
    assert_eq!(world.stored().await, None);
}

#[tokio::test]
async fn a_slot_that_cannot_be_read_is_reported_and_cleared() {
    let (world, revoked) = (World::new().await, Revoked::default());
    world.store.set(|faults| faults.load = Some(Faulty::full_disk()));
    let logout = revoked.by(&world.manager).await;
    assert!(logout.unknown.is_some() && revoked.names().is_empty());
    assert_eq!(world.stored().await, None);
}
