//! Admins: they move tokens between the places of a user, and back them up and restore them.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::client::Asked;
use super::model::Time;
use super::{LONG_LIVING, PATIENCE, PROCESSES, Random, Soak, USERS};

pub(super) fn run(soak: &Soak, mut random: Random) {
    while !soak.is_over() {
        thread::sleep(Duration::from_millis(random.below(100)));
        let (first, kind) = (random.index(USERS), random.below(3));
        let mut world = soak.world();
        let free = |&user: &usize| !world.users[user].moving && !world.users[user].taken;
        let Some(user) = (0..USERS).map(|add| (first + add) % USERS).find(free) else { continue };
        if kind == 0 {
            world.users[user].taken = true;
            drop(world);
            restore(soak, user, &mut random);
        } else {
            world.users[user].start_moving();
            drop(world);
            migrate(soak, user, &mut random);
        }
        soak.world().users[user].taken = false;
        soak.changed.notify_all();
    }
}

/// Lets a random process carry out an order, and another one if that is killed or the keychain fails.
/// Returns the answer, and whether more than one try was needed.
pub(super) fn have(
    soak: &Soak,
    user: usize,
    random: &mut Random,
    order: &str,
) -> Option<(String, bool)> {
    let deadline = Instant::now() + PATIENCE;
    let mut died = false;
    while Instant::now() < deadline && !soak.world().ended {
        let (process, since) = (random.index(PROCESSES), soak.now());
        match ask(soak, user, process, order) {
            Some(answer) if !is_keychains_fault(soak, user, &answer, since) => {
                return Some((answer, died));
            }
            _ => died = true,
        }
    }
    None
}

/// Lets this process carry out an order.
fn ask(soak: &Soak, user: usize, process: usize, order: &str) -> Option<String> {
    {
        let mut world = soak.world();
        while world.processes[process].closed && !world.ended {
            world = soak.changed.wait_timeout(world, PATIENCE).unwrap().0;
        }
        world.processes[process].at_work += 1;
    }
    let answer = soak.ask(process, Some(user), order);
    let event = format!("process {process} {order}: {}", answer.as_deref().unwrap_or("died"));
    soak.log(&event);
    let mut world = soak.world();
    world.users[user].note(soak.now(), &event);
    world.processes[process].at_work -= 1;
    world.operations += 1;
    drop(world);
    soak.changed.notify_all();
    answer
}

/// Moves the tokens to the other place with one or two processes, while the clients continue. Then
/// completes the move, and checks it.
fn migrate(soak: &Soak, user: usize, random: &mut Random) {
    let from = soak.world().users[user].at;
    let (here, there) = (USERS * from + user, USERS * (1 - from) + user);
    let order = format!("migrate {here} {there}");
    let first = random.index(PROCESSES);
    let second =
        (random.below(4) == 0).then(|| (first + 1 + random.index(PROCESSES - 1)) % PROCESSES);
    let kill = (first >= LONG_LIVING && random.below(3) == 0).then(|| random.below(30_000));
    let (mut answers, since) = (Vec::new(), soak.now());
    thread::scope(|scope| {
        let runs: Vec<_> = [Some(first), second].into_iter().flatten().collect();
        let runs: Vec<_> = runs
            .into_iter()
            .map(|process| {
                scope.spawn({
                    let order = &order;
                    move || ask(soak, user, process, order)
                })
            })
            .collect();
        if let Some(after) = kill {
            thread::sleep(Duration::from_micros(after));
            soak.kill(first, None);
        }
        answers.extend(runs.into_iter().map(|run| run.join().unwrap()));
    });
    let is_undone = |answer: &Option<String>| {
        answer.as_ref().is_none_or(|answer| is_keychains_fault(soak, user, answer, since))
    };
    let mut died = answers.iter().any(is_undone);
    for answer in answers.into_iter().flatten() {
        accept(soak, user, &answer, since, died);
    }
    if !take(soak, user) {
        return;
    }
    // Repeat the move, in case a process was killed during it, or a client signed in at the first place.
    loop {
        let since = soak.now();
        let Some((answer, killed)) = have(soak, user, random, &order) else { return };
        died |= killed;
        match accept(soak, user, &answer, since, died) {
            Some(Migrated::Done) => break,
            Some(Migrated::Occupied) => {
                // All clients still use the first place, so its tokens are the current ones.
                if have(soak, user, random, &format!("logout {there} 0")).is_none() {
                    return;
                }
            }
            None => return,
        }
    }
    let Some((left, _)) = have(soak, user, random, &format!("load {here}")) else { return };
    if left != "ok none" {
        return soak.fail(Some(user), &format!("{left} was left where it was moved away from"));
    }
    let (login, logout) = {
        let user = &soak.world().users[user];
        (user.login_while_moving, user.logout_while_moving)
    };
    if died || login {
        // A process that was killed at the first place may have left a temporary file.
        let Some(_) = have(soak, user, random, &format!("logout {here} 0")) else { return };
    }
    left_behind(soak, user, &soak.files[user][from]);
    if logout && (died || login) {
        // There may have been two copies or two sessions, and the logout removed only one.
        let Some(_) = have(soak, user, random, &format!("logout {there} 0")) else { return };
        soak.world().users[user].settle(soak.number(), None, soak.now());
    }
    let Some((found, _)) = have(soak, user, random, &format!("load {there}")) else { return };
    let now = soak.now();
    let mut world = soak.world();
    let asked =
        Asked { user, begin: now, from: now, to: now, by: None, moved: false, good_at: None };
    asked.judge(&mut world, &found);
    let session = found.split('-').nth(1).map(|session| session.parse().unwrap());
    world.users[user].settle(soak.number(), session, now);
    world.users[user].at = 1 - from;
    world.users[user].moving = false;
    world.users[user].arrived = soak.now();
    world.migrations += 1;
    world.interrupted_migrations += u64::from(died);
}

enum Migrated {
    Done,
    Occupied,
}

fn accept(soak: &Soak, user: usize, answer: &str, since: Time, died: bool) -> Option<Migrated> {
    let is_disturbed = died || soak.world().users[user].login_while_moving;
    if is_keychains_fault(soak, user, answer, since) {
        // The move is repeated later.
        return Some(Migrated::Done);
    }
    if let Some(error) = answer.strip_prefix("error ") {
        let kind = format!("migrate: {}", error.split(':').next().unwrap());
        *soak.world().errors.entry(kind).or_default() += 1;
    }
    if answer == "ok moved" || answer == "ok nothing to move" || answer.starts_with("error Empty") {
        return Some(Migrated::Done);
    }
    if is_disturbed
        && (answer.starts_with("error Occupied") || answer.starts_with("error Changing"))
    {
        return Some(Migrated::Occupied);
    }
    soak.fail(Some(user), &format!("unexpected answer of a migration: {answer}"));
    None
}

fn is_keychains_fault(soak: &Soak, user: usize, answer: &str, since: Time) -> bool {
    let error = answer.strip_prefix("error ").and_then(|error| error.split(':').next());
    error.is_some_and(|kind| soak.world().is_keychains_fault(user, kind, since))
}

/// Waits until no client uses this user's tokens, and keeps the clients away.
fn take(soak: &Soak, user: usize) -> bool {
    let deadline = Instant::now() + PATIENCE + PATIENCE;
    let mut world = soak.world();
    world.users[user].taken = true;
    while !world.users[user].is_quiet() && !world.ended {
        world = soak.changed.wait_timeout(world, Duration::from_secs(1)).unwrap().0;
        assert!(Instant::now() < deadline, "{}", world.users[user].describe());
    }
    !world.ended
}

/// Clears the tokens, and restores them from a backup.
fn restore(soak: &Soak, user: usize, random: &mut Random) {
    if !take(soak, user) {
        return;
    }
    let at = soak.world().users[user].at;
    let (place, backup) = (USERS * at + user, USERS * 2 + user);
    // A backup of tokens in doubt would be in doubt too, so refresh first.
    let Some((fresh, died)) = have(soak, user, random, &format!("refresh {place} 0")) else {
        return;
    };
    let judge = |answer: &str| {
        let now = soak.now();
        let asked =
            Asked { user, begin: now, from: now, to: now, by: None, moved: false, good_at: None };
        asked.judge(&mut soak.world(), answer);
    };
    judge(&fresh);
    if died || !fresh.starts_with("ok ") {
        return;
    }
    let orders = [
        (format!("backup {place} {backup}"), "ok copied"),
        (format!("logout {place} 0"), "ok signed out"),
        (format!("load {place}"), "ok none"),
        (format!("restore {backup} {place}"), "ok restored"),
        (format!("load {place}"), &*fresh),
    ];
    for (order, expected) in orders {
        let Some((answer, _)) = have(soak, user, random, &order) else { return };
        if answer != expected {
            return soak.fail(Some(user), &format!("{order}: {answer}, not {expected}"));
        }
        if order.starts_with("logout") {
            left_behind(soak, user, &soak.files[user][at]);
        }
    }
    soak.world().restores += 1;
}

/// Fails if there are files beside an empty slot, other than its lock and lease.
pub(super) fn left_behind(soak: &Soak, user: usize, file: &Path) {
    let name = file.file_name().unwrap().to_str().unwrap();
    let Ok(entries) = file.parent().unwrap().read_dir() else { return };
    for entry in entries {
        let entry = entry.unwrap().file_name().into_string().unwrap();
        let is_lock = [".lock", ".lease"].iter().any(|lock| entry == format!("{name}{lock}"));
        if entry.starts_with(name) && !is_lock {
            soak.fail(Some(user), &format!("{entry} was left behind"));
        }
    }
}
