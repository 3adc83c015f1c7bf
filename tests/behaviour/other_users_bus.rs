//! The session bus of another user, as programs find it after `su` and `sudo`.
#![cfg(all(unix, not(target_vendor = "apple")))]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::session::Session;
use crate::support::{Actor, available, program, scratch, skip};

/// The user `nobody` of Debian.
const NOBODY: &str = "65534";

/// Whether a test may become another user.
fn can_become_others(test: &str) -> bool {
    let test = format!("other_users_bus::{test}");
    let parts = ["dbus-daemon", "gdbus", "gnome-keyring-daemon", "setpriv"];
    if !parts.iter().all(|program| available(&test, program)) {
        return false;
    }
    let id = Command::new("id").arg("-u").output().unwrap().stdout;
    let is_root = id == b"0\n";
    if !is_root {
        skip(&test, "only root can become another user");
    }
    is_root
}

/// A process of another user with a session's environment. It uses its own home directory.
fn actor_of_nobody(home: &Path, address: &str) -> Actor {
    let copy = home.join("test-actor");
    if !copy.exists() {
        fs::copy(program("test-actor"), &copy).unwrap();
        fs::set_permissions(home, fs::Permissions::from_mode(0o755)).unwrap();
        let state = home.join("state");
        fs::create_dir(&state).unwrap();
        std::os::unix::fs::chown(&state, Some(65534), Some(65534)).unwrap();
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]).arg(&copy);
    command.arg("keychain:axiomtrade/alice").env("HOME", home.join("state"));
    command.env_remove("XDG_STATE_HOME").env("DBUS_SESSION_BUS_ADDRESS", address);
    Actor::spawn(&mut command)
}

/// Checks that a process takes its bus for another user's.
fn is_refused(mut actor: Actor) {
    assert_eq!(actor.ask("probe"), "ok the bus is another user's");
    let answer = actor.ask("save mine absent");
    assert!(answer.starts_with("error Unavailable: keychain item "), "{answer}");
    assert!(answer.contains("the session bus of another user; sign in as this user"), "{answer}");
    assert!(answer.contains("`dbus-run-session`") && answer.contains("age file"), "{answer}");
}

#[test]
fn a_bus_in_the_runtime_directory_of_another_user_is_that_users() {
    if !can_become_others("a_bus_in_the_runtime_directory_of_another_user_is_that_users") {
        return;
    }
    let session = Session::with_keychain();
    let home = scratch();
    // The runtime directory is closed to others.
    is_refused(actor_of_nobody(home.path(), session.address()));
    // The bus itself refuses others.
    let runtime = session.state().parent().unwrap().to_owned();
    fs::set_permissions(runtime, fs::Permissions::from_mode(0o755)).unwrap();
    is_refused(actor_of_nobody(home.path(), session.address()));
}

#[test]
fn a_bus_without_a_file_refuses_other_users_too() {
    if !can_become_others("a_bus_without_a_file_refuses_other_users_too") {
        return;
    }
    let home = scratch();
    let session = Session::without_keychain_at("unix:abstract=/tokenkeep/other-users-bus");
    is_refused(actor_of_nobody(home.path(), session.address()));
}

#[test]
fn root_does_not_use_the_keychain_of_another_user() {
    if !can_become_others("root_does_not_use_the_keychain_of_another_user") {
        return;
    }
    let session = Session::with_keychain();
    let socket = session.address().trim_start_matches("unix:path=");
    let socket = socket.split(',').next().unwrap();
    // The owner of the socket is the owner of the bus.
    std::os::unix::fs::chown(socket, Some(65534), Some(65534)).unwrap();
    is_refused(session.actor("keychain:axiomtrade/alice"));
}

#[test]
fn a_bus_whose_path_is_too_long_is_no_bus() {
    let home = scratch();
    let mut command = Command::new(program("test-actor"));
    let address = format!("unix:path={}/{}", home.path().display(), "long".repeat(40));
    command.arg("memory:").env("DBUS_SESSION_BUS_ADDRESS", address);
    assert_eq!(Actor::spawn(&mut command).ask("probe"), "ok no bus");
}
