//! Several processes on one slot.

use tokenkeep::{AgeKey, AuthTokens, TokenStore};

use tokenkeep::store::Precondition;

use tokenkeep::stores::PlaintextStore;

use tokenkeep::migrate;

use crate::support::{Actor, scratch};

/// Lets eight processes increment a number in one slot, and returns the last number.
fn count_together(store: &str) -> String {
    let mut actors: Vec<Actor> = (0..8).map(|_| Actor::start(store)).collect();
    for actor in &mut actors {
        actor.send("increment 50");
    }
    for actor in &mut actors {
        assert_eq!(actor.answer().as_deref(), Some("ok counted"));
    }
    actors[0].ask("load")
}

#[test]
fn no_update_of_a_plaintext_file_is_lost_between_processes() {
    let dir = scratch();
    let count = count_together(&format!("plaintext:{}", dir.path().join("tokens.json").display()));
    assert_eq!(count, "ok 400");
}

#[tokio::test]
async fn no_update_of_an_age_file_is_lost_between_processes() {
    let dir = scratch();
    let (path, key) = (dir.path().join("tokens.age"), dir.path().join("key.txt"));
    AgeKey::create_identity_file(&key).await.unwrap();
    assert_eq!(
        count_together(&format!("age:{}?identity={}", path.display(), key.display())),
        "ok 400"
    );
}

#[test]
fn one_of_eight_processes_fills_an_empty_slot() {
    let dir = scratch();
    let store = format!("plaintext:{}", dir.path().join("tokens.json").display());
    let mut actors: Vec<Actor> = (0..8).map(|_| Actor::start(&store)).collect();
    for (number, actor) in actors.iter_mut().enumerate() {
        actor.send(&format!("save {number} absent"));
    }
    let answers: Vec<String> = actors.iter_mut().map(|actor| actor.answer().unwrap()).collect();
    let winners: Vec<usize> = (0..8).filter(|&number| answers[number] == "ok saved").collect();
    let losers = answers.iter().filter(|answer| answer.starts_with("error Conflict")).count();
    assert_eq!((winners.len(), losers), (1, 7), "{answers:?}");
    assert_eq!(actors[0].ask("load"), format!("ok {}", winners[0]));
}

#[tokio::test]
async fn room_that_a_killed_holder_reserved_is_removed_with_the_tokens_or_by_the_next_holder() {
    let dir = scratch();
    let path = dir.path().join("tokens.json");
    let half = dir.path().join("tokens.json.0123456789abcdef.next");
    let store = PlaintextStore::new(&path);
    let leave = || std::fs::write(&half, "half").unwrap();
    // A migration and a logout remove the file, even if the slot is empty already.
    let elsewhere = PlaintextStore::new(dir.path().join("elsewhere.json"));
    let tokens = AuthTokens::new("access").with_refresh_token("refresh");
    store.save(&tokens.clone().into(), Precondition::Absent).await.unwrap();
    leave();
    migrate(&store, &elsewhere).await.unwrap();
    assert!(!half.exists(), "a migration did not remove it");
    leave();
    store.clear(Precondition::Anything).await.unwrap();
    assert!(!half.exists(), "a logout did not remove it");
    // So does the next holder of the lease. Before that, the file may still belong to the current holder.
    store.save(&tokens.clone().into(), Precondition::Absent).await.unwrap();
    let lease = store.try_lease().await.unwrap().unwrap();
    leave();
    store.clear(Precondition::Anything).await.unwrap();
    assert!(half.exists(), "it was removed while the lease was held");
    lease.release().await.unwrap();
    let lease = store.try_lease().await.unwrap().unwrap();
    assert!(!half.exists(), "the next holder did not remove it");
    lease.release().await.unwrap();
}

#[test]
fn a_killed_holder_releases_its_lease_and_leaves_its_intent() {
    let dir = scratch();
    let store = format!("plaintext:{}", dir.path().join("tokens.json").display());
    let (mut first, mut second) = (Actor::start(&store), Actor::start(&store));
    assert_eq!(first.ask("save old absent"), "ok saved");
    assert_eq!(first.ask("lease"), "ok leased");
    assert_eq!(first.ask("intent"), "ok written");
    assert_eq!(second.ask("lease"), "ok taken");
    first.kill();
    assert_eq!(second.ask("lease"), "ok leased");
    assert_eq!(second.ask("has-intent"), "ok true");
}

#[test]
fn neither_a_login_nor_a_logout_waits_for_the_lease_of_another_process() {
    let dir = scratch();
    let store = format!("plaintext:{}", dir.path().join("tokens.json").display());
    let (mut first, mut second) = (Actor::start(&store), Actor::start(&store));
    assert_eq!(first.ask("lease"), "ok leased");
    assert_eq!(second.ask("save login anything"), "ok saved");
    assert_eq!(second.ask("clear"), "ok cleared");
}

#[tokio::test]
async fn a_running_process_sees_what_another_one_saved() {
    let dir = scratch();
    let path = dir.path().join("tokens.json");
    let store = PlaintextStore::new(&path);
    let mut other = Actor::start(&format!("plaintext:{}", path.display()));
    assert_eq!(other.ask("load"), "ok none");
    assert_eq!(other.ask("save theirs absent"), "ok saved");
    let found = store.load().await.unwrap().unwrap();
    assert_eq!(found.record.tokens.access_token.expose_secret(), "theirs");
}
