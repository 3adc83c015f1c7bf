//! The first and the last use of a keychain slot, killed at every message and every change of a file.
#![cfg(target_os = "linux")]

use std::fs;
use std::process::Stdio;

use crate::session::Session;
use crate::support::{available, can_trace, example};

/// Makes the slot's first save, or its last clear, and dies at the nth call of that name. Tells
/// whether it lived long enough to complete.
fn keychain_killed_at(session: &Session, order: &str, call: &str, nth: u32) -> bool {
    let input = session.state().with_file_name("order");
    fs::write(&input, format!("{order}\n")).unwrap();
    let output = session
        .command("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}")])
        .args(["-e", &format!("inject={call}:signal=SIGKILL:when={nth}")])
        .arg(example("test-actor"))
        .arg(KEYCHAIN)
        .stdin(fs::File::open(&input).unwrap())
        .stderr(Stdio::null())
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().starts_with("ok ")
}

const KEYCHAIN: &str = "keychain:axiomtrade/alice";

/// Kills the first save, or the last clear, of a keychain slot at every message to the keychain and
/// every change to a file.
fn kill_everywhere(order: &str) {
    let session = Session::with_keychain();
    let record = session.state().join("tokenkeep/axiomtrade/alice.age");
    let key = || {
        let names = ["lookup", "service", "tokenkeep:axiomtrade", "username", "alice"];
        session.output("secret-tool", &names)
    };
    let mut killed = Vec::new();
    for call in ["sendmsg", "flock", "fsync", "renameat", "unlinkat", "mkdirat"] {
        for nth in 1.. {
            // From nothing, directories included.
            session.actor(KEYCHAIN).ask("clear");
            let _ = fs::remove_dir_all(session.state());
            if order == "clear" {
                assert_eq!(session.actor(KEYCHAIN).ask("save mine absent"), "ok saved");
            }
            let completed = keychain_killed_at(&session, order, call, nth);
            let at = format!("{order} killed at {call} {nth}");

            // A file is never sealed to a key that no keychain holds.
            let mut actor = session.actor(KEYCHAIN);
            let found = actor.ask("load");
            assert!(["ok none", "ok mine"].contains(&found.as_str()), "{at}: {found}");
            assert!(!record.exists() || !key().is_empty(), "{at}");
            // What was begun can be done again, and undone without a trace.
            if found == "ok none" {
                assert_eq!(actor.ask("save mine absent"), "ok saved", "{at}");
            }
            assert_eq!(session.actor(KEYCHAIN).ask("load"), "ok mine", "{at}");
            assert_eq!(session.actor(KEYCHAIN).ask("clear"), "ok cleared", "{at}");
            assert!(!record.exists() && key().is_empty(), "{at}: something was left behind");
            if completed {
                break;
            }
            killed.push(call);
        }
    }
    let points = |call| killed.iter().filter(|&&killed| killed == call).count();
    // Connect, look, make, read back; the locks; the record or its removal.
    assert!(points("sendmsg") > 10 && points("flock") > 1 && points("fsync") > 0, "{killed:?}");
}

#[test]
fn the_first_use_of_a_keychain_slot_killed_anywhere_leaves_no_file_without_its_key() {
    let test = "keychain_kills::the_first_use_of_a_keychain_slot_killed_anywhere_leaves_no_file_without_its_key";
    let parts = ["dbus-daemon", "gnome-keyring-daemon", "gdbus", "secret-tool"];
    if parts.iter().all(|program| available(test, program)) && can_trace(test) {
        kill_everywhere("save mine absent");
    }
}

#[test]
fn the_last_use_of_a_keychain_slot_killed_anywhere_can_be_completed() {
    let test = "keychain_kills::the_last_use_of_a_keychain_slot_killed_anywhere_can_be_completed";
    let parts = ["dbus-daemon", "gnome-keyring-daemon", "gdbus", "secret-tool"];
    if parts.iter().all(|program| available(test, program)) && can_trace(test) {
        kill_everywhere("clear");
    }
}
