//! The keychain store with the Credential Manager of Windows.
#![cfg(windows)]

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use keyring_core::api::CredentialStoreApi;
use keyring_core::{Entry, Error};
use tempfile::TempDir;
use tokenkeep::StoreUrl;

use crate::support::{Actor, program, scratch, start};

/// The directories of a user, and the credentials that the test creates.
///
/// All tests share one Credential Manager, so each test uses its own names.
struct Profile {
    home: TempDir,
    targets: Vec<String>,
}

impl Profile {
    /// `targets` are the names in Credential Manager, without "tokenkeep: ".
    fn new(targets: &[&str]) -> Self {
        let targets = targets.iter().map(|target| format!("tokenkeep: {target}")).collect();
        let profile = Self { home: scratch(), targets };
        profile.forget();
        profile
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(self.home.path())
            .env_remove("TOKENKEEP_PASSPHRASE")
            .env_remove("TOKENKEEP_PROFILE")
            .env_remove("TOKENKEEP_STORE")
            .env("LOCALAPPDATA", self.home.path().join("local"))
            .env("APPDATA", self.home.path().join("roaming"));
        command
    }

    fn actor(&self, store: &str) -> Actor {
        Actor::spawn(self.command(program("test-actor")).arg(store))
    }

    /// Runs the command, and returns its exit code and what it printed.
    fn run(&self, line: &str, input: &str) -> (i32, String) {
        let mut command = self.command(env!("CARGO_BIN_EXE_tokenkeep"));
        command.args(line.split(' ')).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = start(command.stderr(Stdio::piped()));
        // The command may exit before it has read all input.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        let printed = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.code().unwrap_or(-1), printed)
    }

    fn record(&self, slot: &str) -> PathBuf {
        self.home.path().join("local/tokenkeep").join(slot)
    }

    fn credential(&self, index: usize) -> Entry {
        let store = windows_native_keyring_store::Store::new().unwrap();
        let target = HashMap::from([("target", self.targets[index].as_str())]);
        store.build("test", "test", Some(&target)).unwrap()
    }

    fn exists(&self, index: usize) -> bool {
        !matches!(self.credential(index).get_secret(), Err(Error::NoEntry))
    }

    fn forget(&self) {
        for index in 0..self.targets.len() {
            // Most of them do not exist.
            let _ = self.credential(index).delete_credential();
        }
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        self.forget();
    }
}

#[test]
fn the_keychain_store_conforms() {
    let profile = Profile::new(&["key of conforming/alice"]);
    assert_eq!(profile.actor("keychain:conforming/alice").ask("conformance"), "ok conforms");
}

#[test]
fn two_tokens_of_10_kb_fit_although_one_credential_cannot_hold_one() {
    let profile = Profile::new(&["key of large/alice"]);
    let (access, refresh) = ("a".repeat(10_240), "r".repeat(10_240));
    let record = format!(r#"{{"access_token":"{access}","refresh_token":"{refresh}"}}"#);
    assert_eq!(profile.run("set --store keychain:large/alice", &record).0, 0);
    assert_eq!(profile.run("get --store keychain:large/alice", "").1, format!("{access}\n"));
    assert_eq!(
        profile.run("get --store keychain:large/alice --field refresh", "").1,
        format!("{refresh}\n")
    );
    let alone = profile.credential(0).set_secret(access.as_bytes());
    assert!(matches!(alone, Err(Error::TooLong(_, 2560))), "{alone:?}");
}

#[test]
fn the_credential_stays_on_this_machine_and_has_a_readable_name() {
    let profile = Profile::new(&["key of local/alice"]);
    assert_eq!(profile.actor("keychain:local/alice").ask("save mine absent"), "ok saved");
    let attributes = profile.credential(0).get_attributes().unwrap();
    assert_eq!(attributes["persistence"], "Local");
    assert_eq!(attributes["target_name"], "tokenkeep: key of local/alice");
    let key = String::from_utf8(profile.credential(0).get_secret().unwrap()).unwrap();
    assert!(key.starts_with("AGE-SECRET-KEY-1") && !key.contains('\n'));
    let record = fs::read_to_string(profile.record("local/alice.age"));
    assert!(!record.is_ok_and(|record| record.contains("mine")));
}

/// Without escapes, some of these slots would share a credential. Credential Manager ignores the case of
/// names.
#[test]
fn names_that_look_alike_are_different_slots() {
    let profile = Profile::new(&[
        "key of alike.x/y",
        "key of alike/x.y",
        "key of alike%2fx/y",
        "key of alike/x%2fy",
        "key of alike/alice",
        "key of alike/%41lice",
    ]);
    let stores = [
        "keychain:alike.x/y",
        "keychain:alike/x.y",
        "keychain:alike%2Fx/y",
        "keychain:alike/x%2Fy",
        "keychain:alike/alice",
        "keychain:alike/Alice",
    ];
    for (index, store) in stores.iter().enumerate() {
        assert_eq!(profile.actor(store).ask(&format!("save {index} absent")), "ok saved");
        assert!(profile.exists(index), "{store}");
    }
    let keys: Vec<_> =
        (0..stores.len()).map(|index| profile.credential(index).get_secret().unwrap()).collect();
    for (index, key) in keys.iter().enumerate() {
        assert!(!keys[..index].contains(key), "{} has a key of its own", stores[index]);
    }
    // Clearing one slot does not remove the keys of the others.
    for (index, store) in stores.iter().enumerate() {
        assert_eq!(profile.actor(store).ask("load"), format!("ok {index}"));
        assert_eq!(profile.actor(store).ask("clear"), "ok cleared");
    }
}

#[test]
fn clearing_a_store_leaves_a_shared_key_of_the_same_name() {
    let profile = Profile::new(&["key of both/alice", "shared key of both/alice"]);
    let sealed = "age:sealed/tokens.age?identity=keychain:both/alice";
    assert_eq!(profile.actor(sealed).ask("save sealed absent"), "ok saved");
    let mut store = profile.actor("keychain:both/alice");
    assert_eq!(store.ask("save own absent"), "ok saved");
    assert!(profile.exists(0) && profile.exists(1));
    assert_eq!(store.ask("clear"), "ok cleared");
    assert!(!profile.exists(0) && profile.exists(1));
    assert_eq!(profile.actor(sealed).ask("load"), "ok sealed");
}

#[test]
fn clearing_leaves_neither_credential_nor_record() {
    let profile = Profile::new(&["key of cleared/alice"]);
    let mut actor = profile.actor("keychain:cleared/alice");
    assert_eq!(actor.ask("save mine absent"), "ok saved");
    assert!(profile.exists(0) && profile.record("cleared/alice.age").exists());
    assert_eq!(actor.ask("clear"), "ok cleared");
    assert!(!profile.exists(0) && !profile.record("cleared/alice.age").exists());
    assert_eq!(actor.ask("save again absent"), "ok saved");
    assert_eq!(profile.actor("keychain:cleared/alice").ask("load"), "ok again");
}

#[test]
fn a_deleted_credential_is_a_missing_key_and_not_an_empty_slot() {
    let profile = Profile::new(&["key of deleted/alice"]);
    let store = "keychain:deleted/alice";
    assert_eq!(profile.actor(store).ask("save mine absent"), "ok saved");
    let before = fs::read(profile.record("deleted/alice.age")).unwrap();
    profile.credential(0).delete_credential().unwrap();
    for order in ["load", "save other anything", "save other absent"] {
        let answer = profile.actor(store).ask(order);
        assert!(answer.starts_with("error KeyMissing"), "{order}: {answer}");
    }
    assert_eq!(fs::read(profile.record("deleted/alice.age")).unwrap(), before);
    assert_eq!(profile.actor(store).ask("clear"), "ok cleared");
    assert_eq!(profile.actor(store).ask("load"), "ok none");
}

#[test]
fn one_of_eight_processes_fills_an_empty_slot() {
    let profile = Profile::new(&["key of race/alice"]);
    let store = "keychain:race/alice";
    let mut actors: Vec<Actor> = (0..8).map(|_| profile.actor(store)).collect();
    for (number, actor) in actors.iter_mut().enumerate() {
        actor.send(&format!("save {number} absent"));
    }
    let answers: Vec<String> = actors.iter_mut().map(|actor| actor.answer().unwrap()).collect();
    let winners: Vec<usize> = (0..8).filter(|&number| answers[number] == "ok saved").collect();
    let losers = answers.iter().filter(|answer| answer.starts_with("error Conflict")).count();
    assert_eq!((winners.len(), losers), (1, 7), "{answers:?}");
    for actor in actors.iter_mut().chain([&mut profile.actor(store)]) {
        assert_eq!(actor.ask("load"), format!("ok {}", winners[0]));
    }
}

#[tokio::test]
async fn eight_processes_that_need_a_key_at_the_same_time_make_one() {
    // From the second round on, all processes have started, so they ask at the same time.
    const ROUNDS: usize = 8;
    let targets: Vec<String> =
        (0..ROUNDS).map(|round| format!("shared key of together/{round}")).collect();
    let targets: Vec<&str> = targets.iter().map(String::as_str).collect();
    let profile = Profile::new(&targets);
    let mut actors: Vec<Actor> =
        (0..8).map(|number| profile.actor(&format!("plaintext:{number}.json"))).collect();
    for (number, actor) in actors.iter_mut().enumerate() {
        assert_eq!(actor.ask(&format!("save {number} absent")), "ok saved");
    }
    for round in 0..ROUNDS {
        let sealed = |number| {
            let path = profile.home.path().join(format!("{round}/{number}.age"));
            format!("age:{}?identity=keychain:together/{round}", path.display())
        };
        for (number, actor) in actors.iter_mut().enumerate() {
            actor.send(&format!("backup {}", sealed(number)));
        }
        for actor in &mut actors {
            assert_eq!(actor.answer().as_deref(), Some("ok copied"), "round {round}");
        }
        for number in 0..8 {
            let store = sealed(number).parse::<StoreUrl>().unwrap().open().unwrap();
            let found = store.load().await.unwrap().unwrap();
            assert_eq!(found.record.tokens.access_token.expose_secret(), number.to_string());
        }
    }
}

#[test]
fn the_command_pins_the_keychain_and_moves_tokens_into_it_and_out_of_it() {
    let profile = Profile::new(&["key of tokenkeep/walk", "key of tokenkeep/moved"]);
    let ok = |line: &str, input: &str| {
        let (code, printed) = profile.run(line, input);
        assert_eq!(code, 0, "{line}: {printed}");
        printed
    };
    let init = ok("init --profile walk", "");
    assert!(init.starts_with("keychain:tokenkeep/walk, because"), "{init}");
    ok("set --profile walk", "canary-a");
    assert_eq!(ok("get --profile walk", ""), "canary-a\n");
    assert!(ok("status --profile walk", "").contains("keychain item tokenkeep:tokenkeep/walk"));
    let doctor = ok("doctor", "");
    assert!(doctor.contains("keychain\tworks") && doctor.contains("swap\tnot known"), "{doctor}");
    ok("clear --profile walk", "");
    assert_eq!(profile.run("get --profile walk", "").0, 3);
    assert!(!profile.exists(0));

    ok("set --store plaintext:tokens.json", "canary-b");
    let keychain = "keychain:tokenkeep/moved";
    ok(&format!("migrate --from plaintext:tokens.json --to {keychain}"), "");
    assert!(!profile.home.path().join("tokens.json").exists() && profile.exists(1));
    assert_eq!(ok(&format!("get --store {keychain}"), ""), "canary-b\n");
    ok("keygen -o key.txt", "");
    let age = "age:tokens.age?identity=key.txt";
    ok(&format!("migrate --from {keychain} --to {age}"), "");
    assert_eq!(ok(&format!("get --store {age}"), ""), "canary-b\n");
    assert!(!profile.exists(1) && !profile.record("tokenkeep/moved.age").exists());
}
