//! The keychain store, with a real gnome-keyring on its own D-Bus session.
#![cfg(all(unix, not(target_vendor = "apple")))]

use std::fs;

use crate::session::Session;
use crate::support::{Actor, available, program};

const STORE: &str = "keychain:axiomtrade/alice";

/// Returns whether all programs that these tests need are installed.
fn parts(test: &str) -> bool {
    ["dbus-daemon", "dbus-monitor", "gnome-keyring-daemon", "gdbus", "secret-tool"]
        .iter()
        .all(|program| available(&format!("keychain::{test}"), program))
}

fn key_in_keychain(session: &Session) -> String {
    session
        .output("secret-tool", &["lookup", "service", "tokenkeep:axiomtrade", "username", "alice"])
}

#[test]
fn the_keychain_store_conforms() {
    if !parts("the_keychain_store_conforms") {
        return;
    }
    let session = Session::with_keychain();
    assert_eq!(session.actor(STORE).ask("conformance"), "ok conforms");
}

#[test]
fn the_keychain_holds_the_key_and_the_record_is_a_file_that_age_opens() {
    let test = "the_keychain_holds_the_key_and_the_record_is_a_file_that_age_opens";
    if !parts(test) || !available(test, "age") {
        return;
    }
    let session = Session::with_keychain();
    assert_eq!(session.actor(STORE).ask("save mine absent"), "ok saved");
    assert_eq!(session.actor(STORE).ask("load"), "ok mine");

    let key = key_in_keychain(&session);
    assert!(key.starts_with("AGE-SECRET-KEY-1") && !key.trim_end().contains('\n'));
    let found =
        session.output("secret-tool", &["search", "--all", "service", "tokenkeep:axiomtrade"]);
    assert!(found.contains("label = tokenkeep: key of axiomtrade/alice"), "{found}");

    let record = session.state().join("tokenkeep/axiomtrade/alice.age");
    let key_file = session.state().join("key.txt");
    fs::write(&key_file, key).unwrap();
    let arguments = ["-d", "-i", key_file.to_str().unwrap(), record.to_str().unwrap()];
    assert!(session.output("age", &arguments).contains("\"access_token\": \"mine\""));
}

#[test]
fn a_record_of_60_kb_fits() {
    if !parts("a_record_of_60_kb_fits") {
        return;
    }
    let session = Session::with_keychain();
    assert_eq!(session.actor(STORE).ask("fill 60000"), "ok saved");
    assert_eq!(session.actor(STORE).ask("load"), "ok 60000");
}

#[test]
fn clearing_removes_the_item_and_the_record() {
    if !parts("clearing_removes_the_item_and_the_record") {
        return;
    }
    let session = Session::with_keychain();
    let (mut one, mut other) = (session.actor(STORE), session.actor(STORE));
    assert_eq!(one.ask("save mine absent"), "ok saved");
    assert_eq!(other.ask("load"), "ok mine");
    assert_eq!(other.ask("clear"), "ok cleared");
    assert_eq!(key_in_keychain(&session), "");
    assert!(!session.state().join("tokenkeep/axiomtrade/alice.age").exists());

    // A process that still has the old key in memory does not seal to that key.
    assert_eq!(one.ask("load"), "ok none");
    assert_eq!(one.ask("save again absent"), "ok saved");
    assert_eq!(session.actor(STORE).ask("load"), "ok again");
    // The other process, which also has the old key, reads the new key.
    assert_eq!(other.ask("load"), "ok again");
}

#[test]
fn an_item_deleted_by_hand_is_key_missing_and_not_logged_out() {
    if !parts("an_item_deleted_by_hand_is_key_missing_and_not_logged_out") {
        return;
    }
    let session = Session::with_keychain();
    assert_eq!(session.actor(STORE).ask("save mine absent"), "ok saved");
    session
        .output("secret-tool", &["clear", "service", "tokenkeep:axiomtrade", "username", "alice"]);
    let mut actor = session.actor(STORE);
    for order in ["load", "save new anything"] {
        let answer = actor.ask(order);
        assert!(answer.starts_with("error KeyMissing: the age key for "), "{answer}");
        assert!(
            answer.contains("there is no keychain item tokenkeep:axiomtrade/alice"),
            "{answer}"
        );
    }
    // The message names this way to fix it.
    assert_eq!(actor.ask("clear"), "ok cleared");
    assert_eq!(actor.ask("save new absent"), "ok saved");
}

#[test]
fn a_process_that_has_read_the_key_can_save_without_the_keychain() {
    if !parts("a_process_that_has_read_the_key_can_save_without_the_keychain") {
        return;
    }
    let mut session = Session::with_keychain();
    let mut actor = session.actor(STORE);
    assert_eq!(actor.ask("save old absent"), "ok saved");
    session.stop_keychain();
    assert_eq!(actor.ask("save rotated last"), "ok saved");
    assert_eq!(actor.ask("load"), "ok rotated");
    // A new process needs the keychain, so it fails and names it. The record is not changed.
    let answer = session.actor(STORE).ask("load");
    assert!(
        answer.starts_with("error Unavailable: keychain item tokenkeep:axiomtrade/alice"),
        "{answer}"
    );
    session.start_keychain();
    assert_eq!(session.actor(STORE).ask("load"), "ok rotated");
}

#[test]
fn a_restarted_keychain_is_found_again_by_a_running_process() {
    if !parts("a_restarted_keychain_is_found_again_by_a_running_process") {
        return;
    }
    let mut session = Session::with_keychain();
    let mut actor = session.actor(STORE);
    assert_eq!(actor.ask("save one absent"), "ok saved");
    session.stop_keychain();
    session.start_keychain();
    // Saving into an empty slot uses the keychain again.
    assert_eq!(actor.ask("clear"), "ok cleared");
    assert_eq!(actor.ask("save two absent"), "ok saved");
    assert_eq!(session.actor(STORE).ask("load"), "ok two");
}

#[test]
fn a_locked_keychain_is_an_error_at_once_and_no_token_is_lost() {
    if !parts("a_locked_keychain_is_an_error_at_once_and_no_token_is_lost") {
        return;
    }
    let session = Session::with_keychain();
    let mut running = session.actor(STORE);
    assert_eq!(running.ask("save old absent"), "ok saved");
    session.lock_keychain();
    let prompts = session.watch("org.freedesktop.Secret.Prompt", "Prompt");
    // As at the end of a refresh: a process that has read the key can save without the keychain.
    assert_eq!(running.ask("save rotated last"), "ok saved");
    let mut fresh = session.actor(STORE);
    for order in ["load", "save new anything", "save new absent"] {
        let answer = fresh.ask(order);
        assert!(answer.starts_with("error Locked: keychain item "), "{order}: {answer}");
        assert!(answer.contains("unlock the keychain"), "{answer}");
    }
    // An empty slot can be read, but nothing can be saved in it.
    let mut other = session.actor("keychain:axiomtrade/bob");
    assert_eq!(other.ask("load"), "ok none");
    assert!(other.ask("save mine absent").starts_with("error Locked: "));
    assert_eq!(running.ask("load"), "ok rotated");
    assert_eq!(prompts.calls(&session), 0, "a prompt was requested");
}

#[test]
fn eight_processes_make_one_key() {
    if !parts("eight_processes_make_one_key") {
        return;
    }
    let session = Session::with_keychain();
    let mut actors: Vec<Actor> = (0..8).map(|_| session.actor(STORE)).collect();
    for actor in &mut actors {
        actor.send("increment 5");
    }
    for actor in &mut actors {
        assert_eq!(actor.answer().as_deref(), Some("ok counted"));
    }
    assert_eq!(actors[0].ask("load"), "ok 40");
    let found =
        session.output("secret-tool", &["search", "--all", "service", "tokenkeep:axiomtrade"]);
    assert_eq!(found.matches("label = ").count(), 1, "{found}");
}

#[test]
fn files_that_share_a_key_in_the_keychain_are_all_sealed_to_the_same_one() {
    if !parts("files_that_share_a_key_in_the_keychain_are_all_sealed_to_the_same_one") {
        return;
    }
    let session = Session::with_keychain();
    let url = |number: usize| {
        let file = session.state().join(format!("{number}.age"));
        format!("age:{}?identity=keychain:axiomtrade/shared", file.display())
    };
    let mut actors: Vec<Actor> = (0..8).map(|number| session.actor(&url(number))).collect();
    for actor in &mut actors {
        actor.send("save mine absent");
    }
    for (number, actor) in actors.iter_mut().enumerate() {
        assert_eq!(actor.answer().as_deref(), Some("ok saved"));
        // A new process has no key in memory, so it reads the key in the keychain.
        assert_eq!(session.actor(&url(number)).ask("load"), "ok mine");
    }
    // The key is shared by several slots, so it stays when one of them is cleared.
    assert_eq!(session.actor(&url(0)).ask("clear"), "ok cleared");
    assert_eq!(session.actor(&url(1)).ask("load"), "ok mine");
}

#[test]
fn tokens_move_into_the_keychain_and_out_of_it_again() {
    if !parts("tokens_move_into_the_keychain_and_out_of_it_again") {
        return;
    }
    let session = Session::with_keychain();
    let plaintext = format!("plaintext:{}", session.state().join("tokens.json").display());
    // A key of the user, with the same names as the store.
    let age = session.state().join("tokens.age");
    let age = format!("age:{}?identity=keychain:axiomtrade/alice", age.display());
    assert_eq!(session.actor(&plaintext).ask("save mine absent"), "ok saved");
    for (from, to) in
        [(plaintext.as_str(), STORE), (STORE, &age), (&age, STORE), (STORE, &plaintext)]
    {
        assert_eq!(session.actor(from).ask(&format!("migrate {to}")), "ok moved", "{from} {to}");
        assert_eq!(session.actor(to).ask("load"), "ok mine", "{from} {to}");
        assert_eq!(session.actor(from).ask("load"), "ok none", "{from} {to}");
    }
    assert_eq!(key_in_keychain(&session), "");
}

#[test]
fn a_migration_into_the_keychain_killed_at_any_store_operation_completes_when_run_again() {
    if !parts(
        "a_migration_into_the_keychain_killed_at_any_store_operation_completes_when_run_again",
    ) {
        return;
    }
    let session = Session::with_keychain();
    let plaintext = format!("plaintext:{}", session.state().join("tokens.json").display());
    for (from, to) in [(plaintext.as_str(), STORE), (STORE, &plaintext)] {
        for kill_at in 0.. {
            session.actor(to).ask("clear");
            session.actor(from).ask("clear");
            assert_eq!(session.actor(from).ask("save mine absent"), "ok saved");
            let mut command = session.command(program("test-actor"));
            let mut actor = Actor::spawn(command.arg(from).arg(kill_at.to_string()));
            actor.send(&format!("migrate {to}"));
            let answer = actor.answer();
            let sides = [from, to].map(|store| session.actor(store).ask("load"));
            assert!(sides.contains(&"ok mine".to_owned()), "killed at {kill_at}: {sides:?}");
            session.actor(from).ask(&format!("migrate {to}"));
            assert_eq!(session.actor(to).ask("load"), "ok mine", "killed at {kill_at}");
            assert_eq!(session.actor(from).ask("load"), "ok none", "killed at {kill_at}");
            if answer.is_some() {
                assert!(kill_at > 8, "it was killed {kill_at} times");
                break;
            }
        }
    }
}

#[test]
fn a_key_without_a_record_is_used_again_and_the_next_logout_removes_it() {
    if !parts("a_key_without_a_record_is_used_again_and_the_next_logout_removes_it") {
        return;
    }
    let session = Session::with_keychain();
    let record = session.state().join("tokenkeep/axiomtrade/alice.age");
    assert_eq!(session.actor(STORE).ask("save mine absent"), "ok saved");
    let key = key_in_keychain(&session);
    // As if a logout was killed after it removed the record and before it removed the key.
    fs::remove_file(&record).unwrap();
    assert_eq!(session.actor(STORE).ask("load"), "ok none");
    assert_eq!(session.actor(STORE).ask("save again absent"), "ok saved");
    assert_eq!(key_in_keychain(&session), key);
    fs::remove_file(&record).unwrap();
    assert_eq!(session.actor(STORE).ask("clear"), "ok cleared");
    assert_eq!(key_in_keychain(&session), "");
}

#[test]
fn an_item_that_holds_no_key_is_neither_used_nor_deleted() {
    if !parts("an_item_that_holds_no_key_is_neither_used_nor_deleted") {
        return;
    }
    let session = Session::with_keychain();
    // `clear` looks for a key only if this crate has created one before.
    assert_eq!(session.actor(STORE).ask("save mine absent"), "ok saved");
    assert_eq!(session.actor(STORE).ask("clear"), "ok cleared");
    let script = "printf canary | secret-tool store --label theirs service tokenkeep:axiomtrade \
                  username alice";
    session.output("sh", &["-c", script]);
    let mut actor = session.actor(STORE);
    for order in ["save mine absent", "clear"] {
        let answer = actor.ask(order);
        assert!(answer.starts_with("error InvalidKey: "), "{answer}");
        assert!(!answer.contains("canary"), "{answer}");
    }
    assert_eq!(key_in_keychain(&session), "canary");
}
