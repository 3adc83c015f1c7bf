//! `migrate --all` moves every profile: a few one after the other, many in parallel.

use std::fs;

use crate::home::Home;
#[cfg(unix)]
use crate::home::done;
#[cfg(target_os = "linux")]
use crate::support::available;
#[cfg(unix)]
use crate::support::can_trace;

#[test]
fn migrate_all_goes_on_past_a_profile_that_fails_and_completes_when_run_again() {
    let home = Home::new();
    for n in 0..5 {
        home.run(&format!("init --profile p{n}")).ok();
        home.feed(&format!("set --profile p{n}"), &format!("canary-{n}")).ok();
    }
    home.run("clear --profile p4").ok();
    let blocker = home.path("all/p2.json");
    fs::create_dir_all(&blocker).unwrap();
    #[cfg(unix)]
    fs::set_permissions(home.path("all"), std::os::unix::fs::PermissionsExt::from_mode(0o700))
        .unwrap();
    let order = "migrate --all --to plaintext:all/{profile}.json";
    let message = home.run(order);
    assert_eq!(message.code, 1, "{message:?}");
    assert!(
        message.err.contains("p2: ") && message.err.contains("did not move: p2"),
        "{message:?}"
    );
    assert_eq!(home.run("get --profile p2").line(), "canary-2");
    fs::remove_dir(&blocker).unwrap();
    home.run(order).ok();
    for n in 0..4 {
        assert_eq!(home.run(&format!("get --profile p{n}")).line(), format!("canary-{n}"));
        assert!(home.path(format!("all/p{n}.json")).exists());
    }
}

#[test]
fn an_empty_profile_that_migrate_all_changes_is_named() {
    let home = Home::new();
    for name in ["empty", "full"] {
        home.run(&format!("init --profile {name} --store plaintext:{name}.json")).ok();
    }
    home.feed("set --profile full", "canary").ok();
    let to = |name: &str| home.path("all").join(format!("{name}.json")).display().to_string();
    let order = "migrate --all --to plaintext:all/{profile}.json";
    let shown = home.run(&format!("{order} --dry-run"));
    let would = format!("empty: would name plaintext file {}", to("empty"));
    assert!(shown.err.contains(&would) && !shown.err.contains("full: "), "{shown:?}");
    let moved = home.run(order);
    let names = format!("the profile names plaintext file {} now", to("empty"));
    let said = moved.err.lines().find(|line| line.starts_with("empty: there was nothing to move"));
    assert!(said.is_some_and(|line| line.ends_with(&names)), "{moved:?}");
    assert!(!moved.err.contains("full: "), "{moved:?}");
    // A second run does not change the profile again.
    assert!(!home.run(order).err.contains("empty: "));
}

/// Returns a home with this many profiles, each with tokens in a plaintext file.
fn profiles(count: usize) -> Home {
    let home = Home::new();
    home.run("keygen -o key.txt").ok();
    for n in 0..count {
        home.run(&format!("init --profile p{n} --store plaintext:from/p{n}.json")).ok();
        home.feed(&format!("set --profile p{n}"), &format!("canary-{n}")).ok();
    }
    home
}

const ORDER: &str = "migrate --all --to age:to/{profile}.age?identity=key.txt";

/// Enough profiles for more than one thread.
const MANY: usize = 24;

#[test]
fn many_profiles_move_in_parallel_and_those_that_fail_keep_their_store() {
    let home = profiles(MANY);
    home.run("clear --profile p3").ok();
    home.feed("set --store age:to/p7.age?identity=key.txt", "theirs").ok();
    let broken = home.path("config/profiles/p11.toml");
    let sound = fs::read_to_string(&broken).unwrap();
    fs::write(&broken, "store = 1").unwrap();
    let message = home.run(ORDER);
    assert!(message.code == 1 && message.err.contains("2 of the profiles did not"), "{message:?}");
    for failed in ["p7: ", "p11: ", "holds other tokens already", "wrong type"] {
        assert!(message.err.contains(failed), "{message:?}");
    }
    assert_eq!(message.err.matches("moved to ").count(), MANY - 3);
    fs::write(&broken, sound).unwrap();
    home.run("get --profile p3").failed(3);
    for n in (0..MANY).filter(|n| *n != 3) {
        assert_eq!(home.run(&format!("get --profile p{n}")).line(), format!("canary-{n}"));
        let stayed = n == 7 || n == 11;
        assert_eq!(home.path(format!("from/p{n}.json")).exists(), stayed, "p{n}");
    }
    // Without the other tokens at its target, p7 moves too.
    home.run("clear --store age:to/p7.age?identity=key.txt").ok();
    home.run(ORDER).ok();
    home.run(ORDER).ok();
    assert_eq!(home.run("get --profile p7").line(), "canary-7");
    assert_eq!(home.run("get --profile p11").line(), "canary-11");
    let store = home.run("status --profile p3 --json").out;
    assert!(store.contains("p3.age"), "{store}");
}

#[cfg(unix)]
#[test]
fn after_a_kill_every_profile_has_its_tokens_and_the_next_run_completes() {
    let test = "migrate_all::after_a_kill_every_profile_has_its_tokens_and_the_next_run_completes";
    if !can_trace(test) {
        return;
    }
    let mut killed = 0;
    for (call, nth) in
        [("fsync", 2), ("fsync", 9), ("renameat", 1), ("renameat", 6), ("unlinkat", 3)]
    {
        let home = profiles(MANY);
        let mut strace = home.wrapped("strace");
        strace.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}")]);
        // strace counts the calls of each thread. The first thread that reaches `nth` ends the process.
        strace.args(["-e", &format!("inject={call}:signal=SIGKILL:when={nth}")]);
        let outcome = done(strace.arg(env!("CARGO_BIN_EXE_tokenkeep")).args(ORDER.split(' ')), "");
        killed += usize::from(outcome.code != 0);
        let at = format!("killed at {call} {nth}: {outcome:?}");
        for n in 0..MANY {
            let (from, to) = (format!("from/p{n}.json"), format!("to/p{n}.age"));
            assert!(home.path(&from).exists() || home.path(&to).exists(), "p{n}, {at}");
        }
        home.run(ORDER).ok();
        for n in 0..MANY {
            assert_eq!(
                home.run(&format!("get --profile p{n}")).line(),
                format!("canary-{n}"),
                "{at}"
            );
            assert!(!home.path(format!("from/p{n}.json")).exists(), "p{n}, {at}");
        }
        for directory in ["config/profiles", "to"] {
            for entry in fs::read_dir(home.path(directory)).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                assert!(!name.ends_with(".tmp") && !name.ends_with(".intent"), "{name}, {at}");
            }
        }
    }
    assert_eq!(killed, 5);
}

#[cfg(target_os = "linux")]
#[test]
fn a_passphrase_needs_its_memory_once_for_any_number_of_profiles() {
    let test = "migrate_all::a_passphrase_needs_its_memory_once_for_any_number_of_profiles";
    if !available(test, "python3") {
        return;
    }
    let home = profiles(16);
    let passphrase = ("TOKENKEEP_PASSPHRASE", "canary");
    let mut keygen = home.command();
    keygen.args(["keygen", "--passphrase", "-o", "protected.txt"]);
    done(keygen.env(passphrase.0, passphrase.1), "").ok();
    let measure = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); \
                   print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)";
    let order = ORDER.replace("key.txt", "protected.txt");
    let mut measured = home.wrapped("python3");
    measured.args(["-c", measure, env!("CARGO_BIN_EXE_tokenkeep")]).args(order.split(' '));
    let kib = done(measured.env(passphrase.0, passphrase.1), "").ok();
    let kib: u64 = kib.lines().last().unwrap().parse().unwrap();
    // 128 MiB of this are for scrypt.
    assert!((128 * 1024..240 * 1024).contains(&kib), "{kib} KiB");
}
