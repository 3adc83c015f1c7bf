//! The store that is chosen for a program that does not name one.
#![cfg(all(unix, not(target_vendor = "apple")))]

use std::fs;

use crate::session::Session;
use crate::support::{Actor, available, program};

/// Returns whether all programs that these tests need are installed.
fn parts(test: &str) -> bool {
    ["dbus-daemon", "gnome-keyring-daemon", "gdbus"]
        .iter()
        .all(|program| available(&format!("default_store::{test}"), program))
}

/// Starts a process that has not opened a store yet.
fn start_actor(session: &Session) -> Actor {
    Actor::spawn(
        session
            .command(program("test-actor"))
            .env("XDG_CONFIG_HOME", config(session))
            .arg("memory:"),
    )
}

fn config(session: &Session) -> std::path::PathBuf {
    session.state().with_file_name("config")
}

#[test]
fn once_the_keychain_was_chosen_no_other_store_is_used_when_it_is_switched_off() {
    if !parts("once_the_keychain_was_chosen_no_other_store_is_used_when_it_is_switched_off") {
        return;
    }
    let mut session = Session::with_keychain();
    let mut first = start_actor(&session);
    assert_eq!(
        first.ask("open-default key-file"),
        "ok keychain:program/alice because the keychain works"
    );
    assert_eq!(first.ask("save mine absent"), "ok saved");

    session.stop_keychain();
    let mut later = start_actor(&session);
    assert_eq!(
        later.ask("open-default key-file"),
        "ok keychain:program/alice because it was chosen before"
    );
    for order in ["load", "save other anything"] {
        let answer = later.ask(order);
        assert!(answer.starts_with("error Unavailable: keychain item "), "{order}: {answer}");
    }
    assert!(!config(&session).exists(), "no key file was created");
    assert!(!session.state().join("tokenkeep/program/alice.sealed").exists());

    session.start_keychain();
    let mut again = start_actor(&session);
    again.ask("open-default");
    assert_eq!(again.ask("load"), "ok mine");
}

#[test]
fn a_locked_or_silent_keychain_is_an_error_and_the_choice_is_not_saved() {
    if !parts("a_locked_or_silent_keychain_is_an_error_and_the_choice_is_not_saved") {
        return;
    }
    let session = Session::with_keychain();
    session.lock_keychain();
    let answer = start_actor(&session).ask("open-default key-file");
    assert!(answer.starts_with("error Locked: the keychain is locked; "), "{answer}");
    // If prompts are allowed, a locked keychain is chosen: the user can unlock it.
    assert!(!session.state().join("tokenkeep/program/alice.url").exists());
    let pinned = start_actor(&session).ask("open-default key-file prompts");
    assert_eq!(pinned, "ok keychain:program/alice because there is a keychain, though locked");

    let session = Session::with_keychain();
    session.suspend_keychain();
    let answer = start_actor(&session).ask("open-default key-file");
    assert!(answer.starts_with("error Timeout: the keychain"), "{answer}");
    assert!(!session.state().join("tokenkeep").exists(), "the choice was saved");
}

#[test]
fn without_a_keychain_a_key_file_is_used_only_if_that_is_allowed() {
    if !parts("without_a_keychain_a_key_file_is_used_only_if_that_is_allowed") {
        return;
    }
    let mut session = Session::without_keychain();
    let answer = start_actor(&session).ask("open-default");
    assert!(answer.starts_with("error Unavailable: the keychain is unavailable: "), "{answer}");
    assert!(!session.state().exists(), "the choice was saved");

    let mut actor = start_actor(&session);
    let record = session.state().join("tokenkeep/program/alice.sealed");
    let url = format!("age:{}", record.display());
    let answer = actor.ask("open-default key-file");
    assert_eq!(answer, format!("ok {url} because the keychain cannot be used here: no provider"));
    assert_eq!(actor.ask("save mine absent"), "ok saved");
    assert!(fs::read(&record).unwrap().starts_with(b"age-encryption.org/"));
    assert!(config(&session).join("tokenkeep/program/alice.key").exists());

    // A keychain that is started later does not change the choice.
    session.start_keychain();
    let mut later = start_actor(&session);
    assert_eq!(later.ask("open-default"), format!("ok {url} because it was chosen before"));
    assert_eq!(later.ask("load"), "ok mine");
}

#[test]
fn eight_processes_choose_one_store() {
    if !parts("eight_processes_choose_one_store") {
        return;
    }
    let session = Session::without_keychain();
    let mut actors: Vec<Actor> = (0..8).map(|_| start_actor(&session)).collect();
    for actor in &mut actors {
        actor.send("open-default key-file");
    }
    let mut chose = 0;
    for actor in &mut actors {
        let answer = actor.answer().unwrap();
        assert!(answer.starts_with("ok age:"), "{answer}");
        chose += usize::from(!answer.ends_with("because it was chosen before"));
        actor.send("increment 3");
    }
    assert_eq!(chose, 1);
    for actor in &mut actors {
        assert_eq!(actor.answer().as_deref(), Some("ok counted"));
    }
    assert_eq!(actors[0].ask("load"), "ok 24");
}

#[test]
fn an_invalid_saved_choice_is_an_error_that_names_its_file() {
    if !parts("an_invalid_saved_choice_is_an_error_that_names_its_file") {
        return;
    }
    let session = Session::with_keychain();
    start_actor(&session).ask("open-default");
    let pin = session.state().join("tokenkeep/program/alice.url");
    fs::write(&pin, "vault:canary\n").unwrap();
    let answer = start_actor(&session).ask("open-default");
    assert!(answer.starts_with(&format!("error Unavailable: {}", pin.display())), "{answer}");
    assert!(answer.contains("remove it to choose again") && !answer.contains("canary"), "{answer}");
    assert_eq!(fs::read_to_string(&pin).unwrap(), "vault:canary\n");
}

#[test]
fn names_with_slashes_and_spaces_can_be_chosen() {
    if !parts("names_with_slashes_and_spaces_can_be_chosen") {
        return;
    }
    let session = Session::with_keychain();
    let order = "open-default-of https://issuer.example/app alice%20";
    let url = "keychain:https:%2F%2Fissuer.example%2Fapp/alice ";
    let mut actor = start_actor(&session);
    assert_eq!(actor.ask(order), format!("ok {url} because the keychain works"));
    assert_eq!(actor.ask("save mine absent"), "ok saved");
    let mut again = start_actor(&session);
    assert_eq!(again.ask(order), format!("ok {url} because it was chosen before"));
    assert_eq!(again.ask("load"), "ok mine");
}

#[test]
fn a_home_that_a_url_cannot_name_is_refused_and_nothing_is_made_in_it() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    let scratch = crate::support::scratch();
    let latin = scratch.path().join(OsStr::from_bytes(b"caf\xe9"));
    for (variable, value) in [
        ("HOME", OsStr::new("relative")),
        ("HOME", latin.as_os_str()),
        ("XDG_STATE_HOME", latin.as_os_str()),
        ("XDG_CONFIG_HOME", latin.as_os_str()),
    ] {
        let mut actor = std::process::Command::new(program("test-actor"));
        actor.env("HOME", scratch.path()).env("DBUS_SESSION_BUS_ADDRESS", "unix:path=/none");
        actor.env("XDG_RUNTIME_DIR", scratch.path()).env_remove("XDG_STATE_HOME");
        actor.env_remove("XDG_CONFIG_HOME").current_dir(scratch.path()).env(variable, value);
        let answer = Actor::spawn(actor.arg("memory:")).ask("open-default key-file");
        let named = format!("error Unavailable: the directory that ${variable} names ");
        assert!(answer.starts_with(&named), "{variable}={value:?}: {answer}");
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0, "{variable}");
    }
}
