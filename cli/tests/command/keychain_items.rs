//! Tokens that another program keeps in a keychain item, and their migration to a store of tokenkeep.
#![cfg(all(unix, not(target_vendor = "apple")))]

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use crate::session::Session;
use crate::support::{Actor, available, program};

const ITEM: &str = "keychain-item:their-program/alice";

/// Reports whether all programs that these tests run are installed.
fn parts(test: &str) -> bool {
    ["dbus-daemon", "gnome-keyring-daemon", "gdbus", "secret-tool"]
        .iter()
        .all(|program| available(&format!("keychain_items::{test}"), program))
}

/// Writes this secret to the item, as the other program would.
fn store(session: &Session, secret: &str) {
    let script = format!(
        "printf %s '{secret}' | secret-tool store --label theirs service their-program username alice"
    );
    session.output("sh", &["-c", &script]);
}

fn lookup(session: &Session) -> String {
    session.output("secret-tool", &["lookup", "service", "their-program", "username", "alice"])
}

const RECORD: &str =
    r#"{"access_token": "mine", "refresh_token": "refresh-mine", "expires_at": null}"#;

#[test]
fn a_record_or_a_bare_token_in_an_item_moves_to_a_store_of_ours() {
    if !parts("a_record_or_a_bare_token_in_an_item_moves_to_a_store_of_ours") {
        return;
    }
    let session = Session::with_keychain();
    let plaintext = format!("plaintext:{}", session.state().join("tokens.json").display());
    for (secret, to) in [
        (RECORD, "keychain:axiomtrade/alice"),
        ("mine", &plaintext),
        (RECORD, "keychain:their-program/alice"),
    ] {
        store(&session, secret);
        assert_eq!(session.actor(ITEM).ask("load"), "ok mine");
        assert_eq!(session.actor(ITEM).ask(&format!("migrate {to}")), "ok moved", "{to}");
        assert_eq!(session.actor(to).ask("load"), "ok mine", "{to}");
        assert_eq!(lookup(&session), "", "{to}");
        assert_eq!(session.actor(ITEM).ask("load"), "ok none", "{to}");
        assert_eq!(session.actor(to).ask("clear"), "ok cleared");
    }
}

#[test]
fn a_migration_out_of_an_item_killed_at_any_store_operation_completes_when_run_again() {
    if !parts("a_migration_out_of_an_item_killed_at_any_store_operation_completes_when_run_again") {
        return;
    }
    let session = Session::with_keychain();
    let to = format!("plaintext:{}", session.state().join("tokens.json").display());
    for kill_at in 0.. {
        session.actor(&to).ask("clear");
        store(&session, RECORD);
        let mut command = session.command(program("test-actor"));
        let mut actor = Actor::spawn(command.arg(ITEM).arg(kill_at.to_string()));
        actor.send(&format!("migrate {to}"));
        let answer = actor.answer();
        let sides = [ITEM, &to].map(|store| session.actor(store).ask("load"));
        assert!(sides.contains(&"ok mine".to_owned()), "killed at {kill_at}: {sides:?}");
        session.actor(ITEM).ask(&format!("migrate {to}"));
        assert_eq!(session.actor(&to).ask("load"), "ok mine", "killed at {kill_at}");
        assert_eq!(lookup(&session), "", "killed at {kill_at}");
        if answer.is_some() {
            assert!(kill_at > 8, "it was killed {kill_at} times");
            break;
        }
    }
}

#[test]
fn an_item_of_another_program_is_never_written() {
    if !parts("an_item_of_another_program_is_never_written") {
        return;
    }
    let session = Session::with_keychain();
    store(&session, "theirs");
    for order in ["save mine anything", "save mine absent"] {
        let answer = session.actor(ITEM).ask(order);
        assert!(answer.starts_with("error ReadOnly: "), "{answer}");
        assert!(answer.contains("migrate"), "{answer}");
    }
    let plaintext = format!("plaintext:{}", session.state().join("tokens.json").display());
    assert_eq!(session.actor(&plaintext).ask("save mine absent"), "ok saved");
    let answer = session.actor(&plaintext).ask(&format!("migrate {ITEM}"));
    assert!(answer.starts_with("error "), "{answer}");
    assert_eq!(session.actor(&plaintext).ask("load"), "ok mine");
    assert_eq!(lookup(&session), "theirs");
}

#[test]
fn an_item_that_changed_meanwhile_is_not_removed() {
    if !parts("an_item_that_changed_meanwhile_is_not_removed") {
        return;
    }
    let session = Session::with_keychain();
    store(&session, "old");
    let mut actor = session.actor(ITEM);
    assert_eq!(actor.ask("load"), "ok old");
    store(&session, "new");
    assert!(actor.ask("clear last").starts_with("error Conflict: "));
    assert_eq!(lookup(&session), "new");
}

#[test]
fn an_item_of_go_keyring_is_imported_and_never_taken_for_a_token() {
    if !parts("an_item_of_go_keyring_is_imported_and_never_taken_for_a_token") {
        return;
    }
    let session = Session::with_keychain();
    let go = r#"{"access_token":"canary-a","refresh_token":"r","expiry":"2099-11-22T10:00:00Z"}"#;
    let base64 = |text: &str| format!("go-keyring-base64:{}", BASE64_STANDARD.encode(text));
    for (secret, format, token) in [
        (base64(go), "golang", "canary-a"),
        (go.to_owned(), "auto", "canary-a"),
        (base64("gho_canary"), "gh", "gho_canary"),
    ] {
        store(&session, &secret);
        let answer = session.actor(ITEM).ask("load");
        assert_eq!(answer == "ok canary-a", secret == go, "{answer}");
        assert!(!answer.contains("ok go-keyring"), "{answer}");
        let from = format!("import:{format}:{ITEM}");
        let mut actor = session.actor(&from);
        assert_eq!(actor.ask("load"), format!("ok {token}"));
        // It stays there: only its program removes it.
        let answer = actor.ask("clear last");
        assert!(answer.starts_with("error ReadOnly: "), "{answer}");
        assert_eq!(lookup(&session), secret);
    }
}

#[test]
fn import_finds_the_tokens_that_gh_keeps_in_the_keychain() {
    if !parts("import_finds_the_tokens_that_gh_keeps_in_the_keychain") {
        return;
    }
    let session = Session::with_keychain();
    let hosts = "github.com:\n    users:\n        me:\n    git_protocol: https\n    user: me\n";
    let directory = session.state().display().to_string();
    std::fs::create_dir_all(session.state()).unwrap();
    std::fs::write(session.state().join("hosts.yml"), hosts).unwrap();
    let token = BASE64_STANDARD.encode("gho_canary");
    let script = format!(
        "printf %s 'go-keyring-base64:{token}' | secret-tool store --label gh service gh:github.com username me
         GH_CONFIG_DIR={directory} {} import 2>&1",
        program("tokenkeep").display()
    );
    let shown = session.output("sh", &["-c", &script]);
    assert!(shown.contains("gh): keychain item gh:github.com/me"), "{shown}");
    assert!(shown.contains("--from import:gh:keychain-item:gh:github.com/me"), "{shown}");
    assert!(!shown.contains("canary"), "{shown}");
}

#[test]
fn an_item_that_holds_no_token_is_an_error_and_is_not_shown() {
    if !parts("an_item_that_holds_no_token_is_an_error_and_is_not_shown") {
        return;
    }
    let session = Session::with_keychain();
    store(&session, "canary with blanks");
    let answer = session.actor(ITEM).ask("load");
    assert!(answer.starts_with("error NotARecord: keychain item their-program/alice "), "{answer}");
    assert!(!answer.contains("canary"), "{answer}");
}

#[test]
fn the_command_takes_tokens_over_from_another_programs_item() {
    if !parts("the_command_takes_tokens_over_from_another_programs_item") {
        return;
    }
    let session = Session::with_keychain();
    store(&session, RECORD);
    let tokenkeep = env!("CARGO_BIN_EXE_tokenkeep");
    let arguments = ["migrate", "--from", ITEM, "--to", "keychain:axiomtrade/alice"];
    let output = session.command(tokenkeep).args(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let token = session.output(tokenkeep, &["get", "--store", "keychain:axiomtrade/alice"]);
    assert_eq!(token.trim_end(), "mine");
    assert_eq!(lookup(&session), "");
}

#[test]
fn doctor_says_that_a_locked_item_is_locked_and_fails() {
    if !parts("doctor_says_that_a_locked_item_is_locked_and_fails") {
        return;
    }
    let mut session = Session::with_keychain();
    let tokenkeep = env!("CARGO_BIN_EXE_tokenkeep");
    let run = |session: &Session, arguments: &[&str]| {
        session.command(tokenkeep).args(arguments).output().unwrap()
    };
    assert!(run(&session, &["init"]).status.success());
    let set = format!("echo canary | '{tokenkeep}' set");
    session.output("sh", &["-c", &set]);
    // The default keyring is unlocked, and the item is in another keyring, which is locked.
    session.stop_keychain();
    let keyrings = session.state().with_file_name("data").join("keyrings");
    std::fs::rename(keyrings.join("login.keyring"), keyrings.join("other.keyring")).unwrap();
    session.start_keychain();
    let report = run(&session, &["doctor"]);
    assert_eq!(report.status.code(), Some(1), "{report:?}");
    let report = String::from_utf8(report.stdout).unwrap();
    let line = report.lines().find(|line| line.starts_with("profiles\tdefault\t")).unwrap();
    assert!(line.starts_with("profiles\tdefault\tlocked\t"), "{line}");
    assert!(line.contains("unlock the keychain"), "{line}");
    assert!(report.contains("keychain\tworks"), "{report}");
    assert_eq!(run(&session, &["get"]).status.code(), Some(5));
}
