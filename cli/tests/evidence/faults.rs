//! Makes each system call that touches a file fail, one in each run. The old tokens stay, the message
//! names the file, no temporary file stays, and the next run succeeds.

use std::path::Path;

use crate::figures::figure;
use crate::kills::on_two_threads;
use crate::scenes::Scene;
use crate::stages::ON_FILES;
use crate::trace::{Call, Meddling, calls, can_meddle, meddle};

#[test]
fn a_command_with_a_failing_system_call_reports_it_and_keeps_the_old_tokens() {
    let test = "faults::a_command_with_a_failing_system_call_reports_it_and_keeps_the_old_tokens";
    if !can_meddle(test) {
        return;
    }
    let (faults, wrong) = on_two_threads(&ON_FILES, fail_everywhere);
    assert!(wrong.is_empty(), "{} of {faults}:\n{}", wrong.len(), wrong.join("\n"));
    let tried = format!("{faults} errors of system calls in {} commands", ON_FILES.len());
    figure("failing calls", tried, "0 lost, 0 silent");
}

/// Returns the errors of the kernel for a call. Calls that cannot fail have none.
fn errors_of(call: &Call) -> &'static [&'static str] {
    match call.name.as_str() {
        "openat" if call.is_a_step() => &["EACCES"],
        "openat" if call.text.contains("O_CREAT") => &["ENOSPC", "EACCES", "EINTR"],
        "openat" => &["EIO", "EACCES", "EINTR"],
        "mkdir" | "mkdirat" => &["EDQUOT", "EACCES"],
        "rename" | "renameat" | "renameat2" | "link" | "linkat" => &["ENOSPC", "EIO", "EACCES"],
        "unlink" | "unlinkat" => &["EIO", "EACCES"],
        "read" => &["EIO", "EINTR"],
        "write" => &["ENOSPC", "EDQUOT", "EIO", "EINTR"],
        "fsync" => &["ENOSPC", "EIO", "EINTR"],
        // After EOPNOTSUPP, the command writes zeros.
        "fallocate" => &["ENOSPC", "EDQUOT", "EFBIG", "EIO", "EINTR", "EOPNOTSUPP"],
        "ftruncate" => &["EIO", "EINTR"],
        // Closing a directory writes nothing, so it cannot fail.
        "close" if Path::new(&call.paths[0]).is_dir() => &[],
        "close" => &["EIO"],
        "flock" if call.is_unlock() => &[],
        "flock" => &["ENOLCK", "EINTR"],
        "access" | "chmod" | "fgetxattr" | "fstatfs" | "getdents64" | "newfstatat" | "readlink"
        | "readlinkat" | "statfs" | "statx" => &["EIO"],
        "fcntl" | "ioctl" | "lseek" => &[],
        name => panic!("errors_of has no entry for {name}"),
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

/// Makes one call fail, and returns what is wrong afterwards.
fn fail_at(scene: &Scene, call: &Call, error: &str) -> Vec<String> {
    let done = meddle(scene, call, &Meddling::Fail(error));
    let found = scene.look();
    let mut wrong = Vec::new();
    match done.code {
        Some(0) if !scene.is_done(&found) => wrong.push(format!("not done: {found:?}")),
        Some(0) => {}
        _ if error == "EINTR" => wrong.push(format!("interrupted: {done:?}")),
        _ if error == "EOPNOTSUPP" => wrong.push(format!("needs an optional call: {done:?}")),
        // The user must change permissions, or use another place.
        Some(5) if ["EACCES", "ENOLCK"].contains(&error) => {}
        // The user must free space. For a record, the message says how much.
        _ if is_about_room(error)
            && slot_of_a_draft(&call.about()).is_some()
            && !done.err.contains("there is no room for new tokens in ") =>
        {
            wrong.push(format!("does not say that there is no room: {done:?}"));
        }
        Some(5) if is_about_room(error) && done.err.contains("there is no room for ") => {}
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
    // If the removal fails, the temporary file stays.
    if !call.name.starts_with("unlink") {
        wrong.extend(scene.litter().into_iter().map(|path| format!("left {path}")));
    }
    let mut again = scene.complete();
    if call.name == "unlinkat" && call.about().ends_with(".next") {
        // `init` only checks that room can be reserved. The next refresh removes what stays of that.
        again.retain(|what| !what.starts_with("again: left ") || !what.ends_with(".next"));
    }
    wrong.extend(again);
    wrong
}

fn is_about_room(error: &str) -> bool {
    ["ENOSPC", "EDQUOT", "EFBIG"].contains(&error)
}

/// Reports whether a message names a file, or the slot or profile that the file belongs to.
fn names(message: &str, path: &str) -> bool {
    let path = match slot_of_a_draft(path) {
        Some(slot) => slot,
        None => path,
    };
    let suffixes = [".tmp", ".lock", ".lease", ".intent"];
    let trimmed = suffixes.iter().fold(path, |path, suffix| path.trim_end_matches(suffix));
    message.contains(trimmed.trim_end_matches('/'))
}

/// Returns the slot of a temporary file. The name of that file consists of the name of the slot, 16
/// random hex digits, and `tmp` or `next`.
fn slot_of_a_draft(path: &str) -> Option<&str> {
    let path = path.strip_suffix(".tmp").or_else(|| path.strip_suffix(".next"))?;
    let (slot, random) = path.rsplit_once('.')?;
    (random.len() == 16 && random.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(slot)
}
