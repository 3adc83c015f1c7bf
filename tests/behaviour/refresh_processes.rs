//! Refreshes in many real processes, some of which are killed.

use std::process::Command;

use tokenkeep::chrono::Utc;
use tokenkeep::store::Precondition;
use tokenkeep::stores::{AgeFileStore, PlaintextStore};
use tokenkeep::{AgeKey, AuthTokens, TokenStore};

use crate::provider::{Provider, minutes};
use crate::support::{Actor, program, scratch};

/// A slot with an expired token. Other processes can reach the server that issued it.
struct World {
    _dir: tempfile::TempDir,
    provider: Provider,
    server: String,
    url: String,
    store: Box<dyn TokenStore>,
}

impl World {
    async fn new(sealed: bool) -> Self {
        let dir = scratch();
        let (file, key) = (dir.path().join("state/tokens"), dir.path().join("key.txt"));
        let (url, store): (String, Box<dyn TokenStore>) = if sealed {
            let key_of = AgeKey::create_identity_file(&key).await.unwrap();
            let url = format!("age:{}?identity={}", file.display(), key.display());
            (url, Box::new(AgeFileStore::new(&file, key_of)))
        } else {
            (format!("plaintext:{}", file.display()), Box::new(PlaintextStore::new(&file)))
        };
        let provider = Provider::default();
        let server = provider.listen();
        let world = Self { _dir: dir, provider, server, url, store };
        world.expire().await;
        world
    }

    /// Saves new tokens whose access token has expired already.
    async fn expire(&self) {
        let tokens = self.provider.sign_in(minutes(Utc::now(), -1));
        self.store.save(&tokens.clone().into(), Precondition::Anything).await.unwrap();
        self.provider.issue_until(minutes(Utc::now(), 60));
    }

    fn actor(&self) -> Actor {
        self.killed_at(-1)
    }

    fn killed_at(&self, kill_at: i64) -> Actor {
        let mut command = Command::new(program("test-actor"));
        command.args([&self.url, &kill_at.to_string()]).env("TEST_SERVER", &self.server);
        Actor::spawn(&mut command)
    }

    async fn stored(&self) -> AuthTokens {
        self.store.load().await.unwrap().expect("tokens").record.tokens
    }
}

#[tokio::test]
async fn sixty_four_processes_with_an_expired_token_make_one_call() {
    // Under Wine a process takes a second to start.
    let processes = if cfg!(windows) { 16 } else { 64 };
    for sealed in [false, true] {
        let world = World::new(sealed).await;
        let mut actors: Vec<Actor> = (0..processes).map(|_| world.actor()).collect();
        for actor in &mut actors {
            actor.send("access");
        }
        let first = actors[0].answer().unwrap();
        assert!(first.starts_with("ok access-"), "{first}");
        for actor in &mut actors[1..] {
            assert_eq!(actor.answer().unwrap(), first, "all processes have the same token");
        }
        assert_eq!((world.provider.calls(), world.provider.replays()), (1, 0));
        assert!(world.provider.accepts(&world.stored().await));
    }
}

#[cfg(unix)]
#[tokio::test]
async fn the_next_process_recovers_from_one_that_was_killed_at_any_step_of_a_refresh() {
    let (mut recovered, mut spent) = (0, 0);
    for kill_at in 0.. {
        let world = World::new(kill_at % 2 == 0).await;
        let before = world.stored().await;
        let mut killed = world.killed_at(kill_at);
        killed.send("access");
        let survived = killed.answer().is_some();
        // The slot holds either the old tokens or the new ones.
        let stored = world.stored().await;
        let is_current = world.provider.accepts(&stored);
        assert!(is_current || stored == before, "killed at {kill_at}");

        let calls = world.provider.calls();
        let mut next = world.actor();
        let answer = next.ask("access");
        if is_current {
            assert!(answer.starts_with("ok access-"), "killed at {kill_at}: {answer}");
            assert!(world.provider.accepts(&world.stored().await), "killed at {kill_at}");
            assert_eq!(world.provider.replays(), 0, "killed at {kill_at}");
            recovered += 1;
        } else {
            // The server has rotated the token, and its answer was lost with the process.
            let text = "error RefreshTokenSpent: the refresh token may have been spent by an \
                        unfinished refresh at 20";
            assert!(answer.starts_with(text), "killed at {kill_at}: {answer}");
            assert!(answer.ends_with("sign in again"), "{answer}");
            // No process asks the server again. A new process gets the same error.
            assert_eq!(next.ask("access"), answer);
            assert_eq!(world.provider.calls(), calls + 1);
            assert_eq!(world.actor().ask("access"), answer);
            assert_eq!(world.stored().await, before, "nothing was deleted");
            // Signing in fixes it.
            world.expire().await;
            assert!(next.ask("access").starts_with("ok access-"));
            spent += 1;
        }
        if survived {
            break;
        }
    }
    assert!(recovered > 8 && spent > 0, "{recovered} recovered, {spent} spent");
}

#[cfg(unix)]
#[tokio::test]
async fn killed_processes_do_not_end_the_session_unless_they_spent_its_token() {
    let world = World::new(false).await;
    for round in 0..12 {
        world.expire().await;
        let calls = world.provider.calls();
        let mut actors: Vec<Actor> = (0..6)
            // Half of the processes are killed, at another step in each round.
            .map(|number| world.killed_at(if number % 2 == 0 { round + number } else { -1 }))
            .collect();
        for actor in &mut actors {
            actor.send("access");
        }
        let answers: Vec<Option<String>> = actors.iter_mut().map(Actor::answer).collect();
        let lost = world.provider.replays() > 0 || !world.provider.accepts(&world.stored().await);
        for answer in answers.iter().flatten() {
            if lost {
                continue;
            }
            assert!(answer.starts_with("ok access-"), "round {round}: {answer}");
        }
        if lost {
            // A process died after it sent the token and before it saved the answer.
            let answer = world.actor().ask("access");
            assert!(answer.contains("by an unfinished refresh at"), "round {round}: {answer}");
        } else {
            assert!(world.provider.calls() - calls >= 1, "round {round}");
        }
        world.provider.forget_replays();
    }
}

#[tokio::test]
async fn a_logout_in_another_process_during_a_refresh_wins() {
    let world = World::new(true).await;
    world.provider.hold();
    let mut refreshing = world.actor();
    refreshing.send("access");
    world.provider.wait_for_calls(1);
    assert_eq!(world.actor().ask("clear"), "ok cleared");
    world.provider.let_through();
    let answer = refreshing.answer().unwrap();
    assert!(answer.starts_with("error TokenNotFound"), "{answer}");
    assert!(world.store.load().await.unwrap().is_none(), "the refresh saved its tokens");
}

#[tokio::test]
async fn a_login_in_another_process_during_a_refresh_wins() {
    let world = World::new(true).await;
    world.provider.hold();
    let mut refreshing = world.actor();
    refreshing.send("access");
    world.provider.wait_for_calls(1);
    assert_eq!(world.actor().ask("save login anything"), "ok saved");
    world.provider.let_through();
    assert_eq!(refreshing.answer().unwrap(), "ok login");
    assert_eq!(world.stored().await.access_token.expose_secret(), "login");
}

#[cfg(target_os = "linux")]
#[test]
fn processes_that_share_a_keychain_slot_make_one_call_even_if_it_is_locked_meanwhile() {
    use crate::session::Session;
    use crate::support::available;

    let test = "refresh_processes::processes_that_share_a_keychain_slot_make_one_call_even_if_it_is_locked_meanwhile";
    let parts = ["dbus-daemon", "gnome-keyring-daemon", "gdbus"];
    if !parts.iter().all(|program| available(test, program)) {
        return;
    }
    let session = Session::with_keychain();
    let provider = Provider::default();
    let server = provider.listen();
    let start = || {
        // With prompts allowed, the limit for an answer of the keychain is 2 minutes. Without them it is 3 s
        // of real time, and 16 processes on a busy machine can need longer to start.
        let mut command = session.command(program("test-actor"));
        command.args(["--allow-prompts", "keychain:axiomtrade/alice"]);
        Actor::spawn(command.env("TEST_SERVER", &server))
    };
    provider.sign_in(minutes(Utc::now(), 60));
    let mut actors: Vec<Actor> = (0..16).map(|_| start()).collect();
    assert_eq!(actors[0].ask("save-expired 1"), "ok saved");
    for actor in &mut actors {
        assert_eq!(actor.ask("load"), "ok 1");
    }
    provider.hold();
    for actor in &mut actors {
        actor.send("access");
    }
    provider.wait_for_calls(1);
    session.lock_keychain();
    provider.let_through();
    for actor in &mut actors {
        assert_eq!(actor.answer().unwrap(), "ok access-2");
    }
    assert_eq!((provider.calls(), provider.replays()), (1, 0));
}
