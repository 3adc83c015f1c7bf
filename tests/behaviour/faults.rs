//! System calls that fail: the old record stays, no temporary file is left, and the next try works. Writes
//! that fail are in `cli/tests/evidence/faults.rs`, and writes to a full disk in `scarcity.rs` there.
#![cfg(target_os = "linux")]

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::{Actor, can_trace, program, scratch};

/// Starts an actor under `strace`, which logs its system calls of this name.
fn traced(store: &str, log: &Path, call: &str, inject: Option<String>) -> Actor {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-y", "-o"]).arg(log).args(["-e", &format!("trace={call}")]);
    if let Some(inject) = inject {
        strace.args(["-e", &format!("inject={call}:{inject}")]);
    }
    Actor::spawn(strace.arg(program("test-actor")).arg(store))
}

/// Starts an actor whose first call of this name on the temporary file fails with this error. The name of
/// that file is random, so a run before finds out the number of the call.
fn failing(store: &str, log: &Path, call: &str, error: &str) -> Actor {
    let before = scratch();
    let rehearsal = format!("plaintext:{}", before.path().join("tokens.json").display());
    assert_eq!(Actor::start(&rehearsal).ask("save old absent"), "ok saved");
    assert_eq!(traced(&rehearsal, log, call, None).ask("save new anything"), "ok saved");
    let calls = fs::read_to_string(log).unwrap();
    // strace counts the calls of each thread separately.
    let begun = || calls.lines().filter(|line| !line.contains("resumed>"));
    let meant = begun().find(|line| line.contains(".tmp")).expect("there is one");
    let thread = meant.split(' ').next();
    let of_thread = begun().filter(|line| line.split(' ').next() == thread);
    let number = 1 + of_thread.take_while(|line| *line != meant).count();
    traced(store, log, call, Some(format!("error={error}:when={number}")))
}

/// Returns whether the right call failed, the one on the temporary file.
fn was_hit(log: &Path) -> bool {
    let calls = fs::read_to_string(log).unwrap();
    calls.lines().any(|line| line.contains("(INJECTED)") && line.contains(".tmp"))
}

/// Returns the names of temporary files that are left.
fn remains(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap().map(|it| it.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(".tmp")).collect()
}

#[test]
fn a_failing_disk_leaves_the_old_record_and_nothing_else() {
    if !can_trace("faults::a_failing_disk_leaves_the_old_record_and_nothing_else") {
        return;
    }
    for (call, error, kind) in [
        ("openat", "ENOSPC", "error NoSpace: there is no room"),
        ("openat", "EACCES", "error Denied: "),
        ("openat", "EROFS", "error ReadOnly: "),
        ("fsync", "EIO", "error Io: cannot write"),
        ("fsync", "ENOSPC", "error NoSpace: there is no room"),
        ("renameat", "EIO", "error Io: cannot write"),
        ("renameat", "EBUSY", "error ReadOnly: "),
    ] {
        let dir = scratch();
        let path = dir.path().join("tokens.json");
        let store = format!("plaintext:{}", path.display());
        assert_eq!(Actor::start(&store).ask("save old absent"), "ok saved");

        let log = dir.path().join("calls");
        let mut actor = failing(&store, &log, call, error);
        let answer = actor.ask("save new anything");
        let at = format!("{call} fails with {error}: {answer}");
        assert!(answer.starts_with(kind) && answer.contains("tokens.json"), "{at}");
        assert_eq!(Actor::start(&store).ask("load"), "ok old", "{at}");
        assert!(was_hit(&log), "{at}");
        assert_eq!(remains(dir.path()), Vec::<String>::new(), "{at}");
        assert_eq!(actor.ask("save new anything"), "ok saved", "{at}");
        assert_eq!(Actor::start(&store).ask("load"), "ok new", "{at}");
    }
}

#[test]
fn an_interrupted_system_call_is_repeated() {
    if !can_trace("faults::an_interrupted_system_call_is_repeated") {
        return;
    }
    for call in ["openat", "fsync"] {
        let dir = scratch();
        let path = dir.path().join("tokens.json");
        let store = format!("plaintext:{}", path.display());
        assert_eq!(Actor::start(&store).ask("save old absent"), "ok saved");
        let log = dir.path().join("calls");
        let mut actor = failing(&store, &log, call, "EINTR");
        assert_eq!(actor.ask("save new anything"), "ok saved", "{call}");
        assert!(was_hit(&log), "{call}");
        assert_eq!(actor.ask("load"), "ok new", "{call}");
    }
}
