//! Checks at the start and at the end, when no client is active.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::client::Asked;
use super::{LONG_LIVING, Soak, USERS, server};

/// How much the memory of a process may grow, in KiB. Allocators keep freed memory.
const MEMORY: u64 = 32 * 1024;

/// The descriptors, threads, and KiB of memory of a process.
pub(super) struct Report {
    descriptors: u64,
    threads: u64,
    memory: u64,
}

/// Signs all users in. Lets the long-living processes use everything once, and returns their reports.
pub(super) fn warm_up(soak: &Soak) -> Vec<Report> {
    (0..USERS).for_each(|user| sign_in(soak, user));
    (0..LONG_LIVING).for_each(|process| use_everything(soak, process));
    (0..LONG_LIVING).map(|process| report(soak, process)).collect()
}

/// Checks that in the end, all expected tokens are there, and nothing else.
pub(super) fn settle(soak: &Soak, before: &[Report]) {
    if soak.world().ended {
        return;
    }
    for user in 0..USERS {
        let at = soak.world().users[user].at;
        let (here, elsewhere) = (USERS * at + user, USERS * (1 - at) + user);
        let moving = soak.world().users[user].moving;
        if moving {
            soak.fail(Some(user), "a migration has not come to its end");
        }
        expect(soak, user, &format!("load {elsewhere}"), "ok none");
        let found = ask(soak, user, &format!("load {here}"));
        judge(soak, user, &found);
        let refreshed = ask(soak, user, &format!("refresh {here} 1"));
        judge(soak, user, &refreshed);
        let is_spent = refreshed.starts_with("error RefreshTokenSpent");
        if is_spent || refreshed.starts_with("error TokenNotFound") {
            sign_in(soak, user);
        } else if !refreshed.starts_with("ok ") {
            soak.fail(Some(user), &format!("a session was lost: {refreshed}"));
        }
        // Move the tokens to the other place and back, without faults.
        for (from, to) in [(here, elsewhere), (elsewhere, here)] {
            expect(soak, user, &format!("migrate {from} {to}"), "ok moved");
            let refreshed = ask(soak, user, &format!("refresh {to} 0"));
            judge(soak, user, &refreshed);
        }
        expect(soak, user, &format!("backup {here} {}", USERS * 2 + user), "ok copied");
        let [plain, sealed, backup] = &soak.files[user];
        let (full, empty) = if at == 0 { (plain, sealed) } else { (sealed, plain) };
        files(soak, user, full, &["", ".lock", ".lease"]);
        files(soak, user, empty, &[".lock", ".lease"]);
        files(soak, user, backup, &["", ".lock"]);
    }
    for (process, before) in before.iter().enumerate() {
        use_everything(soak, process);
        let after = report(soak, process);
        soak.log(&format!(
            "process {process} has {} descriptors, {} threads and {} KiB; it had {}, {} and {}",
            after.descriptors,
            after.threads,
            after.memory,
            before.descriptors,
            before.threads,
            before.memory
        ));
        if after.descriptors > before.descriptors || after.threads > before.threads {
            soak.fail(None, &format!("process {process} leaks descriptors or threads"));
        }
        if after.memory > before.memory + MEMORY {
            soak.fail(None, &format!("process {process} leaks memory"));
        }
    }
}

fn ask(soak: &Soak, user: usize, order: &str) -> String {
    let answer = soak.ask(0, Some(user), order).unwrap_or_else(|| "died".into());
    let event = format!("process 0 {order}: {answer}");
    soak.log(&event);
    soak.world().users[user].note(soak.now(), &event);
    answer
}

fn expect(soak: &Soak, user: usize, order: &str, expected: &str) {
    let answer = ask(soak, user, order);
    if answer != expected {
        soak.fail(Some(user), &format!("{order}: {answer}, not {expected}"));
    }
}

fn judge(soak: &Soak, user: usize, answer: &str) {
    let now = soak.now();
    let asked =
        Asked { user, begin: now, from: now, to: now, by: None, moved: false, good_at: None };
    asked.judge(&mut soak.world(), answer);
}

fn sign_in(soak: &Soak, user: usize) {
    let (session, place) = {
        let mut world = soak.world();
        (world.sign_in(user), USERS * world.users[user].at + user)
    };
    let tokens = server::tokens(session, 0);
    expect(soak, user, &format!("login {place} 0 {tokens}"), "ok signed in");
    let (number, now) = (soak.number(), soak.now());
    soak.world().users[user].settle(number, Some(session), now);
}

fn use_everything(soak: &Soak, process: usize) {
    for user in 0..USERS {
        let at = soak.world().users[user].at;
        for manager in 0..3 {
            for order in ["refresh", "access", "load"] {
                let tasks = if order == "access" { " 8" } else { "" };
                let manager = if order == "load" { String::new() } else { format!(" {manager}") };
                let order = format!("{order} {}{manager}{tasks}", USERS * at + user);
                let answer = soak.ask(process, Some(user), &order);
                if answer.is_none_or(|answer| answer.contains("error")) {
                    soak.fail(Some(user), &format!("process {process} {order} failed"));
                }
            }
        }
        let _ = soak.ask(process, Some(user), &format!("load {}", USERS * (1 - at) + user));
    }
}

fn report(soak: &Soak, process: usize) -> Report {
    let report = soak.ask(process, None, "report").expect("the process runs");
    let mut numbers = report.split(' ').skip(1).map(|number| number.parse().unwrap());
    let mut next = || numbers.next().unwrap();
    Report { descriptors: next(), threads: next(), memory: next() }
}

/// Fails if there are other files beside a slot, or if the files are not private.
fn files(soak: &Soak, user: usize, file: &Path, suffixes: &[&str]) {
    let name = file.file_name().unwrap().to_str().unwrap();
    let directory = file.parent().unwrap();
    let mode = |path: &Path| path.symlink_metadata().unwrap().permissions().mode() & 0o777;
    if mode(directory) != 0o700 {
        soak.fail(Some(user), &format!("{} is not private", directory.display()));
    }
    for entry in directory.read_dir().unwrap() {
        let entry = entry.unwrap();
        let (path, entry) = (entry.path(), entry.file_name().into_string().unwrap());
        let is_key_lock = entry == "alice.key.lock";
        if !is_key_lock && !suffixes.iter().any(|suffix| entry == format!("{name}{suffix}")) {
            soak.fail(Some(user), &format!("{} was left behind", path.display()));
        }
        if mode(&path) != 0o600 {
            soak.fail(Some(user), &format!("{} is not private", path.display()));
        }
    }
}
