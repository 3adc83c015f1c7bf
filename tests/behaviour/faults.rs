//! System calls that fail: the old record stays, nothing lies around, and the next try works.
#![cfg(target_os = "linux")]

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::{Actor, can_trace, example, scratch};

/// An actor whose first call of this name that concerns the temporary file fails with that error.
fn failing(store: &str, path: &Path, call: &str, error: &str) -> Actor {
    let temporary = format!("{}.tmp", path.display());
    let mut strace = Command::new("strace");
    // By its whole path it is known once it is open, and by its name when it is opened.
    strace.args(["-f", "-qq", "-o", "/dev/null", "-P", &temporary, "-P", "tokens.json.tmp"]);
    strace.args(["-e", &format!("trace={call}")]);
    strace.args(["-e", &format!("inject={call}:error={error}:when=1")]);
    Actor::spawn(strace.arg(example("test-actor")).arg(store))
}

#[test]
fn a_failing_disk_leaves_the_old_record_and_nothing_else() {
    if !can_trace("faults::a_failing_disk_leaves_the_old_record_and_nothing_else") {
        return;
    }
    for (call, error, kind) in [
        ("openat", "ENOSPC", "error Io: cannot write"),
        ("openat", "EACCES", "error Denied: "),
        ("openat", "EROFS", "error ReadOnly: "),
        ("write", "ENOSPC", "error Io: cannot write"),
        ("write", "EDQUOT", "error Io: cannot write"),
        ("write", "EIO", "error Io: cannot write"),
        ("fsync", "EIO", "error Io: cannot write"),
        ("fsync", "ENOSPC", "error Io: cannot write"),
        ("renameat", "EIO", "error Io: cannot write"),
    ] {
        let dir = scratch();
        let path = dir.path().join("tokens.json");
        let store = format!("plaintext:{}", path.display());
        assert_eq!(Actor::start(&store).ask("save old absent"), "ok saved");

        let mut actor = failing(&store, &path, call, error);
        let answer = actor.ask("save new anything");
        let at = format!("{call} fails with {error}: {answer}");
        assert!(answer.starts_with(kind) && answer.contains("tokens.json"), "{at}");
        assert_eq!(Actor::start(&store).ask("load"), "ok old", "{at}");
        assert!(!fs::exists(dir.path().join("tokens.json.tmp")).unwrap(), "{at}");
        assert_eq!(actor.ask("save new anything"), "ok saved", "{at}");
        assert_eq!(Actor::start(&store).ask("load"), "ok new", "{at}");
    }
}

#[test]
fn an_interrupted_call_is_made_again() {
    if !can_trace("faults::an_interrupted_call_is_made_again") {
        return;
    }
    for call in ["openat", "write", "fsync"] {
        let dir = scratch();
        let path = dir.path().join("tokens.json");
        let store = format!("plaintext:{}", path.display());
        let mut actor = failing(&store, &path, call, "EINTR");
        assert_eq!(actor.ask("save new absent"), "ok saved", "{call}");
        assert_eq!(actor.ask("load"), "ok new", "{call}");
    }
}
