//! Commands of which each system call that touches a file fails in turn: the old tokens stay, the
//! message names the file, nothing lies around, and the next try works.

use std::path::Path;

use crate::figures::figure;
use crate::kills::on_two_threads;
use crate::scenes::Scene;
use crate::stages::ON_FILES;
use crate::support::can_trace;
use crate::trace::{Call, Meddling, calls, meddle};

#[test]
fn a_command_of_which_any_system_call_fails_says_so_and_leaves_the_old_tokens() {
    let test = "faults::a_command_of_which_any_system_call_fails_says_so_and_leaves_the_old_tokens";
    if !can_trace(test) {
        return;
    }
    let (faults, wrong) = on_two_threads(&ON_FILES, fail_everywhere);
    assert!(wrong.is_empty(), "{} of {faults}:\n{}", wrong.len(), wrong.join("\n"));
    let tried = format!("{faults} errors of system calls in {} commands", ON_FILES.len());
    figure("failing calls", tried, "0 lost, 0 silent");
}

/// The errors that the kernel gives for a call; none for what cannot fail, or concerns no file.
fn errors_of(call: &Call) -> &'static [&'static str] {
    match call.name.as_str() {
        "openat" if call.text.contains("O_CREAT") => &["ENOSPC", "EACCES", "EINTR"],
        "openat" => &["EIO", "EACCES", "EINTR"],
        "mkdir" | "mkdirat" => &["EDQUOT", "EACCES"],
        "rename" | "renameat" | "renameat2" | "link" | "linkat" => &["ENOSPC", "EIO", "EACCES"],
        "unlink" | "unlinkat" => &["EIO", "EACCES"],
        "read" => &["EIO", "EINTR"],
        "write" => &["ENOSPC", "EDQUOT", "EIO", "EINTR"],
        "fsync" => &["ENOSPC", "EIO", "EINTR"],
        // That of a directory has nothing to write that could fail.
        "close" if Path::new(&call.paths[0]).is_dir() => &[],
        "close" => &["EIO"],
        "flock" if call.is_unlock() => &[],
        "flock" => &["ENOLCK", "EINTR"],
        "statx" | "newfstatat" | "readlink" | "access" | "getdents64" | "chmod" => &["EIO"],
        "fcntl" | "ioctl" | "lseek" => &[],
        name => panic!("{name} is a call that nobody thought of"),
    }
}

fn fail_everywhere(scene: &Scene) -> (usize, Vec<String>) {
    let mut tried = 0;
    let mut wrong = Vec::new();
    for call in calls(scene) {
        for error in errors_of(&call) {
            tried += 1;
            let here = fail_at(scene, &call, error);
            let at = format!("{}, {error} from {}({})", scene.name, call.name, call.text);
            wrong.extend(here.into_iter().map(|what| format!("{at}: {what}")));
        }
    }
    (tried, wrong)
}

/// Lets one call fail, and returns what is wrong then.
fn fail_at(scene: &Scene, call: &Call, error: &str) -> Vec<String> {
    let done = meddle(scene, call, &Meddling::Fail(error));
    let found = scene.look();
    let mut wrong = Vec::new();
    match done.code {
        Some(0) if !scene.is_done(&found) => wrong.push(format!("not done: {found:?}")),
        Some(0) => {}
        _ if error == "EINTR" => wrong.push(format!("interrupted: {done:?}")),
        // Somebody has to give leave, or else another place has to be found.
        Some(5) if ["EACCES", "ENOLCK"].contains(&error) => {}
        Some(1) if error != "EACCES" => {}
        Some(1) if done.err.contains("of the profiles did not move") => {}
        _ => wrong.push(format!("the wrong code: {done:?}")),
    }
    if done.code != Some(0) && !names(&done.err, &call.about()) {
        wrong.push(format!("does not name {}: {done:?}", call.about()));
    }
    if done.err.contains("canary") {
        wrong.push(format!("shows a secret: {done:?}"));
    }
    if !scene.may_be(&found) {
        wrong.push(format!("{found:?}"));
    }
    wrong.extend(scene.exposed().into_iter().map(|path| format!("exposed {path}")));
    // It cannot be removed if removing is what fails. The note of a refresh token that is about to
    // be sent is kept when in doubt, for the next refresh to remove.
    let stays = |path: &String| call.name.starts_with("unlink") || path.ends_with(".intent");
    let litter = scene.litter().into_iter().filter(|path| !stays(path));
    wrong.extend(litter.map(|path| format!("left {path}")));
    wrong.extend(scene.complete());
    wrong
}

/// Whether a message names a file, or the slot or the profile that it lies beside.
fn names(message: &str, path: &str) -> bool {
    let suffixes = [".tmp", ".lock", ".lease", ".intent"];
    let trimmed = suffixes.iter().fold(path, |path, suffix| path.trim_end_matches(suffix));
    message.contains(trimmed.trim_end_matches('/'))
}
