//! Kills commands at each system call that touches a file. No tokens are lost, torn or exposed, and the
//! same command completes afterwards.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::figures::figure;
use crate::scenes::Scene;
use crate::stages::{ON_A_KEYCHAIN, ON_FILES, ON_OTHER_FILES, Stage};
use crate::support::available;
use crate::trace::{Call, Meddling, calls, can_meddle, kill_at_message, meddle};

#[test]
fn a_command_killed_at_any_system_call_loses_nothing_and_completes_when_run_again() {
    let test =
        "kills::a_command_killed_at_any_system_call_loses_nothing_and_completes_when_run_again";
    if !can_meddle(test) {
        return;
    }
    let stages = [&ON_FILES[..], &ON_OTHER_FILES].concat();
    let (points, wrong) =
        on_two_threads(&stages, |scene| kill_everywhere(scene, |call| !only_looks(call)));
    assert!(wrong.is_empty(), "{} of {points}:\n{}", wrong.len(), wrong.join("\n"));
    let tried = format!("{points} system calls in {} commands", stages.len());
    figure("kill points", tried, "0 torn, 0 lost");
}

/// Plays stages on two threads. Returns the number of tries, and what was wrong.
pub(crate) fn on_two_threads(
    stages: &[Stage],
    play: fn(&Scene) -> (usize, Vec<String>),
) -> (usize, Vec<String>) {
    let (next, tried, wrong) = (AtomicUsize::new(0), AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(stage) = stages.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (count, found) = play(&stage());
                    tried.fetch_add(count, Ordering::Relaxed);
                    wrong.lock().unwrap().extend(found);
                }
            });
        }
    });
    (tried.into_inner(), wrong.into_inner().unwrap())
}

/// Reports whether a call only reads. A kill at such a call leaves the same disk as a kill at the next
/// call, so it is not tried.
fn only_looks(call: &Call) -> bool {
    [
        "access",
        "fcntl",
        "fgetxattr",
        "fstatfs",
        "getdents64",
        "ioctl",
        "lseek",
        "newfstatat",
        "read",
        "readlink",
        "readlinkat",
        "statfs",
        "statx",
    ]
    .contains(&call.name.as_str())
        || call.is_unlock()
        || call.is_a_step()
        || call.name == "close" && Path::new(&call.paths[0]).is_dir()
}

/// Runs with a keychain are slow. So calls that only open or close an existing file are not tried either,
/// for the same reason.
fn changes_something(call: &Call) -> bool {
    let opens = call.name == "openat" && !call.text.contains("O_CREAT");
    !only_looks(call) && !opens && call.name != "close"
}

fn kill_everywhere(scene: &Scene, is_tried: fn(&Call) -> bool) -> (usize, Vec<String>) {
    let calls: Vec<Call> = calls(scene).into_iter().filter(is_tried).collect();
    let mut wrong = Vec::new();
    for call in &calls {
        meddle(scene, call, &Meddling::Kill);
        let at = format!("{}, killed at {}({})", scene.name, call.name, call.text);
        wrong.extend(after_a_kill(scene).into_iter().map(|what| format!("{at}: {what}")));
    }
    (calls.len(), wrong)
}

/// Checks the scene, runs the command again, and returns what is wrong.
fn after_a_kill(scene: &Scene) -> Vec<String> {
    let mut wrong = Vec::new();
    let found = scene.look();
    if !scene.may_be(&found) {
        wrong.push(format!("{found:?}"));
    }
    wrong.extend(scene.exposed().into_iter().map(|path| format!("exposed {path}")));
    wrong.extend(scene.complete());
    wrong
}

#[test]
fn a_command_killed_at_any_message_to_the_keychain_leaves_no_tokens_without_their_key() {
    let test =
        "kills::a_command_killed_at_any_message_to_the_keychain_leaves_no_tokens_without_their_key";
    let parts = ["dbus-daemon", "gnome-keyring-daemon", "gdbus", "secret-tool"];
    if !parts.iter().all(|program| available(test, program)) || !can_meddle(test) {
        return;
    }
    let (points, wrong) = on_two_threads(&ON_A_KEYCHAIN, |scene| {
        let (files, mut wrong) = kill_everywhere(scene, changes_something);
        let (messages, found) = kill_at_each_message(scene);
        wrong.extend(found);
        (files + messages, wrong)
    });
    assert!(wrong.is_empty(), "{} of {points}:\n{}", wrong.len(), wrong.join("\n"));
    let tried = format!("{points} system calls in {} commands", ON_A_KEYCHAIN.len());
    figure("kill points with a keychain", tried, "0 torn, 0 lost");
}

/// Several threads send messages to the bus, in an order that differs between runs. So the messages
/// cannot be listed before. The command is killed at the 1st, 2nd, … message, until it completes.
fn kill_at_each_message(scene: &Scene) -> (usize, Vec<String>) {
    let mut wrong = Vec::new();
    for nth in 1.. {
        if !kill_at_message(scene, nth) {
            // The messages connect, look up the item, create or delete it, and read it back.
            assert!(nth > 10, "{}: it was killed only {nth} times", scene.name);
            return (nth - 1, wrong);
        }
        let at = format!("{}, killed at message {nth}", scene.name);
        wrong.extend(after_a_kill(scene).into_iter().map(|what| format!("{at}: {what}")));
    }
    unreachable!("a command ends")
}
