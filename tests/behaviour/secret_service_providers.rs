//! The programs that provide a keychain on Linux, other than gnome-keyring: what each of them does before it
//! gives an item to a program.
#![cfg(all(unix, not(target_vendor = "apple")))]

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use crate::session::Session;
use crate::support::{Actor, available, program};

const STORE: &str = "keychain:axiomtrade/alice";
const ITEM: &str = "keychain item tokenkeep:axiomtrade/alice";
const SETTING: &str = "Confirm when passwords are retrieved by clients";

/// Whether everything is there that a test runs.
fn parts(test: &str, provider: &[&str]) -> bool {
    ["dbus-daemon", "dbus-monitor", "gdbus", "python3", "setpriv"]
        .iter()
        .chain(provider)
        .all(|program| available(&format!("secret_service_providers::{test}"), program))
}

fn probe(session: &Session) -> String {
    session.actor("memory:").ask("probe")
}

#[test]
fn a_wallet_that_the_login_opened_is_used_without_a_prompt() {
    if !parts("a_wallet_that_the_login_opened_is_used_without_a_prompt", &["kwalletd5"]) {
        return;
    }
    let mut session = Session::without_keychain();
    session.start_kwallet();
    // This is what makes KWallet different: the wallet is open, and its collection is locked.
    assert_eq!(session.property("Locked"), "(<true>,)\n");
    assert_eq!(session.actor(STORE).ask("save mine absent"), "ok saved");
    assert_eq!(session.actor(STORE).ask("load"), "ok mine");

    session.start_kwallet();
    assert_eq!(session.property("Locked"), "(<true>,)\n");
    assert_eq!(probe(&session), "ok works");
    assert_eq!(session.actor(STORE).ask("load"), "ok mine");
    assert_eq!(session.actor(STORE).ask("clear"), "ok cleared");
    assert_eq!(session.items(), 0);
}

#[test]
fn a_closed_wallet_is_locked_and_no_dialog_comes_of_it() {
    if !parts("a_closed_wallet_is_locked_and_no_dialog_comes_of_it", &["kwalletd5"]) {
        return;
    }
    let mut session = Session::without_keychain();
    session.start_kwallet();
    assert_eq!(session.actor(STORE).ask("save mine absent"), "ok saved");
    session.start_closed_kwallet();
    let prompts = session.watch("org.freedesktop.Secret.Prompt", "Prompt");
    assert_eq!(probe(&session), "ok locked");
    let answer = session.actor(STORE).ask("load");
    assert!(answer.starts_with(&format!("error Locked: {ITEM}")), "{answer}");
    assert_eq!(prompts.calls(&session), 0);
}

#[test]
fn keepassxc_that_asks_before_each_access_is_found_before_a_store_is_chosen_and_keeps_no_item() {
    let test = "keepassxc_that_asks_before_each_access_is_found_before_a_store_is_chosen_and_keeps_no_item";
    if !parts(test, &["keepassxc", "keepassxc-cli"]) {
        return;
    }
    let mut session = Session::without_keychain();
    session.start_keepassxc(true);
    let asked = Actor::spawn(session.command(program("test-actor")).arg("memory:"))
        .ask("open-default key-file");
    assert!(asked.starts_with("error Locked: ") && asked.contains(SETTING), "{asked}");
    assert!(!session.state().join("tokenkeep/program").exists(), "something is pinned");
    let saved = session.actor(STORE).ask("save mine absent");
    assert!(saved.starts_with(&format!("error Locked: {ITEM}")), "{saved}");
    assert!(saved.contains(SETTING) && saved.contains("allow prompts"), "{saved}");
    assert_eq!(session.items(), 0);
    // The user may be asked. Nobody is: the program that made an item may read it.
    let mut actor = session.actor_with_prompts(STORE);
    assert_eq!(
        actor.ask("open-default prompts"),
        "ok keychain:program/alice because the keychain works"
    );
    let mut actor = session.actor_with_prompts(STORE);
    assert_eq!(actor.ask("save mine absent"), "ok saved");
}

#[test]
fn an_item_that_keepassxc_asks_about_is_an_error_that_names_the_setting() {
    let test = "an_item_that_keepassxc_asks_about_is_an_error_that_names_the_setting";
    if !parts(test, &["keepassxc", "keepassxc-cli"]) {
        return;
    }
    let mut session = Session::without_keychain();
    session.start_keepassxc(false);
    let mut actor = session.actor("memory:");
    let opened = actor.ask("open-default");
    assert_eq!(opened, "ok keychain:program/alice because the keychain works");
    assert_eq!(session.items(), 0, "the trial left its item");
    assert_eq!(session.actor(STORE).ask("save mine absent"), "ok saved");
    assert_eq!(session.actor(STORE).ask("load"), "ok mine");

    session.start_keepassxc(true);
    let prompts = session.watch("org.freedesktop.Secret.Prompt", "Prompt");
    assert_eq!(probe(&session), "ok asks before each access");
    for store in [STORE, "keychain:axiomtrade/bob"] {
        let answer = session.actor(store).ask("save new anything");
        assert!(answer.starts_with("error Locked: ") && answer.contains(SETTING), "{answer}");
    }
    assert_eq!(prompts.calls(&session), 0);
    assert_eq!(session.items(), 1);

    session.start_keepassxc(false);
    assert_eq!(session.actor(STORE).ask("load"), "ok mine");
    assert_eq!(session.actor(STORE).ask("clear"), "ok cleared");
    assert_eq!(session.items(), 0);
}

#[test]
fn with_prompts_the_user_can_give_access_to_an_item_of_keepassxc() {
    let test = "with_prompts_the_user_can_give_access_to_an_item_of_keepassxc";
    if !parts(test, &["keepassxc", "keepassxc-cli", "Xvfb", "xdotool"]) {
        return;
    }
    let mut session = Session::without_keychain();
    session.start_keepassxc(false);
    assert_eq!(session.actor(STORE).ask("save mine absent"), "ok saved");
    session.start_screen();
    session.start_keepassxc(true);
    let mut actor = session.actor_with_prompts(STORE);
    actor.send("load");
    session.accept_dialog("Access Request");
    assert_eq!(actor.answer().as_deref(), Some("ok mine"));
}

#[test]
fn a_default_collection_that_is_lost_at_logout_is_none() {
    if !parts("a_default_collection_that_is_lost_at_logout_is_none", &["gnome-keyring-daemon"]) {
        return;
    }
    let mut session = Session::without_keychain();
    session.start_empty_keychain();
    let call = ["call", "--session", "--dest", "org.freedesktop.secrets", "--object-path"];
    let set = ["/org/freedesktop/secrets", "--method", "org.freedesktop.Secret.Service.SetAlias"];
    let volatile = ["default", "/org/freedesktop/secrets/collection/session"];
    session.output("gdbus", &[&call[..], &set, &volatile].concat());
    assert_eq!(probe(&session), "ok the default collection is lost at logout");
    for mut actor in [session.actor(STORE), session.actor_with_prompts(STORE)] {
        let answer = actor.ask("save mine absent");
        assert!(answer.starts_with(&format!("error Unavailable: {ITEM}")), "{answer}");
        assert!(answer.contains("make another keyring the default one"), "{answer}");
    }
}

#[test]
fn sixty_four_processes_use_one_keychain_at_once() {
    if !parts("sixty_four_processes_use_one_keychain_at_once", &["gnome-keyring-daemon"]) {
        return;
    }
    let session = Session::with_keychain();
    assert_eq!(session.actor(STORE).ask("save a absent"), "ok saved");
    let mut actors: Vec<Actor> = (0..64).map(|_| session.actor(STORE)).collect();
    for actor in &mut actors {
        actor.send("load");
    }
    for actor in &mut actors {
        assert_eq!(actor.answer().as_deref(), Some("ok a"));
    }
}

#[test]
fn the_daemons_of_a_test_end_with_its_process_even_if_that_is_killed() {
    const HELD: &str = "TOKENKEEP_TEST_HELD_SESSION";

    let test = "the_daemons_of_a_test_end_with_its_process_even_if_that_is_killed";
    if !parts(test, &["gnome-keyring-daemon"]) {
        return;
    }
    if env::var_os(HELD).is_some() {
        let session = Session::with_keychain();
        let line = format!("\nsession at {}\n", session.address());
        io::stdout().write_all(line.as_bytes()).unwrap();
        thread::park();
    }
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", &format!("secret_service_providers::{test}"), "--nocapture"]);
    let mut killed = command.env(HELD, "1").stdout(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(killed.stdout.take().unwrap()).lines().map(Result::unwrap);
    let address = said.find(|line| line.starts_with("session at ")).unwrap();
    let socket = address.split(['=', ',']).nth(1).unwrap();
    UnixStream::connect(socket).unwrap();
    killed.kill().unwrap();
    killed.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while UnixStream::connect(socket).is_ok() {
        assert!(Instant::now() < deadline, "the bus is still there");
        thread::sleep(Duration::from_millis(10));
    }
    fs::remove_dir_all(Path::new(socket).parent().unwrap()).unwrap();
}
