//! Profiles that are links, as stow, chezmoi and home-manager make them.
#![cfg(unix)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use rustix::process::geteuid;

use crate::home::{Done, Home, SEED, done};
use crate::odd_places::{as_nobody, home_of_nobody, names_in};
use crate::support::{available, can_trace, skip};

/// Makes the profile a link to a file in a directory of dotfiles.
fn linked(home: &Home) -> PathBuf {
    let (profile, dotfiles) = (home.path("config/profiles/default.toml"), home.path("dotfiles"));
    fs::create_dir(&dotfiles).unwrap();
    fs::set_permissions(&dotfiles, fs::Permissions::from_mode(0o755)).unwrap();
    let target = dotfiles.join("work.toml");
    fs::rename(&profile, &target).unwrap();
    fs::set_permissions(&target, fs::Permissions::from_mode(0o644)).unwrap();
    symlink("../../dotfiles/work.toml", &profile).unwrap();
    target
}

#[test]
fn a_profile_that_is_a_link_stays_one_and_its_target_is_changed() {
    let home = Home::signed_in();
    let target = linked(&home);
    let profile = home.path("config/profiles/default.toml");
    home.run("keygen -o new.txt").ok();
    for (line, now) in [
        ("migrate --to plaintext:there/tokens.json", "there/tokens.json"),
        ("migrate --to age:back.age?identity=new.txt", "back.age"),
        ("rekey --identity config/keys/default.txt", "default.txt"),
        ("migrate --all --to plaintext:all/{profile}.json", "all/default.json"),
    ] {
        home.run(line).ok();
        assert!(profile.is_symlink(), "{line}");
        assert!(fs::read_to_string(&target).unwrap().contains(now), "{line}");
        assert_eq!(target.metadata().unwrap().permissions().mode() & 0o777, 0o644, "{line}");
        // Nothing is left beside it that `stow` would make a link of.
        assert_eq!(names_in(home.path("dotfiles")), ["work.toml"], "{line}");
        // Linking again finds the tokens.
        fs::remove_file(&profile).unwrap();
        symlink(&target, &profile).unwrap();
        assert_eq!(home.run("get").line(), "canary-a", "{line}");
    }
}

#[test]
fn a_link_to_nothing_is_no_missing_profile() {
    let home = Home::signed_in();
    fs::remove_file(linked(&home)).unwrap();
    for line in ["get", "status", "init", "profile remove default", "migrate --to plaintext:x.json"]
    {
        let said = home.run(line).failed(5);
        assert!(
            said.contains("default.toml is a link to a file that does not exist"),
            "{line}: {said}"
        );
    }
    assert!(home.path("config/profiles/default.toml").is_symlink());
}

#[test]
fn a_link_to_a_read_only_file_is_not_changed() {
    let home = Home::signed_in();
    let target = linked(&home);
    let before = fs::read_to_string(&target).unwrap();
    fs::set_permissions(&target, fs::Permissions::from_mode(0o444)).unwrap();
    home.run("keygen -o new.txt").ok();
    for line in ["migrate --to plaintext:there.json", "rekey --identity new.txt"] {
        let said = home.run(line);
        assert!(said.code != 0 && said.err.contains("it is read-only"), "{line}: {said:?}");
        assert_eq!(fs::read_to_string(&target).unwrap(), before, "{line}");
    }
    assert_eq!(home.run("get").line(), "canary-a");
}

#[test]
fn a_change_of_a_linked_profile_killed_at_any_system_call_can_be_repeated() {
    let test =
        "linked_profiles::a_change_of_a_linked_profile_killed_at_any_system_call_can_be_repeated";
    if !can_trace(test) {
        return;
    }
    for call in ["write", "fsync", "?rename", "renameat", "unlink"] {
        for nth in 1.. {
            let home = Home::signed_in();
            let target = linked(&home);
            let mut strace = home.wrapped("strace");
            strace.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}")]);
            strace.args(["-e", &format!("inject={call}:signal=SIGKILL:when={nth}")]);
            strace.args([
                env!("CARGO_BIN_EXE_tokenkeep"),
                "migrate",
                "--to",
                "plaintext:there.json",
            ]);
            let outcome = done(&mut strace, "");
            let at = format!("killed at {call} {nth}: {outcome:?}");
            // If it was killed after its last step, there is nothing more to do.
            let again = home.run("migrate --to plaintext:there.json");
            assert!(again.code == 0 || again.err.contains("are the same slot"), "{at}: {again:?}");
            assert_eq!(home.run("get").line(), "canary-a", "{at}");
            assert!(home.path("config/profiles/default.toml").is_symlink(), "{at}");
            assert!(fs::read_to_string(&target).unwrap().contains("there.json"), "{at}");
            assert_eq!(names_in(home.path("dotfiles")), ["work.toml"], "{at}");
            if outcome.code == 0 {
                break;
            }
            assert!(nth < 100, "{at}");
        }
    }
}

/// Runs a command while the directory of dotfiles is mounted read-only, as `/nix/store` is.
fn read_only(home: &Home, line: &str) -> Done {
    let mut command = home.wrapped("unshare");
    let script =
        "mount --bind \"$1\" \"$1\" && mount -o remount,ro,bind \"$1\" && shift && exec \"$@\"";
    command.args(["-m", "sh", "-ec", script, "sh"]).arg(home.path("dotfiles"));
    done(command.arg(env!("CARGO_BIN_EXE_tokenkeep")).args(line.split(' ')), "")
}

#[test]
fn a_link_to_a_read_only_profile_is_refused_before_anything_is_changed() {
    let test =
        "linked_profiles::a_link_to_a_read_only_profile_is_refused_before_anything_is_changed";
    if !cfg!(target_os = "linux") || !geteuid().is_root() {
        return skip(test, "it mounts as root");
    }
    if !available(test, "unshare") {
        return;
    }
    let home = Home::signed_in();
    let target = linked(&home);
    let record = fs::read(home.record()).unwrap();
    home.run("keygen -o new.txt").ok();
    let mut commands = Vec::new();
    for line in ["migrate --to plaintext:b.json", "rekey --identity new.txt"] {
        let before = fs::read_to_string(&target).unwrap();
        let said = read_only(&home, line).failed(5);
        assert!(said.contains("is a link to ") && said.contains("work.toml"), "{line}: {said}");
        assert!(said.contains("store = \""), "the line to write: {said}");
        assert_eq!(fs::read_to_string(&target).unwrap(), before, "{line}");
        assert_eq!(fs::read(home.record()).unwrap(), record, "{line}");
        assert!(!home.path("b.json").exists(), "{line}");
        commands.push(said);
    }
    // The advice works. First for other keys: each line is written by hand.
    let lines: Vec<_> = commands[1].split("store = ").skip(1).collect();
    assert_eq!(lines.len(), 2, "{}", commands[1]);
    for line in lines {
        let url = line.split('"').nth(1).unwrap();
        fs::write(&target, format!("store = \"{url}\"\n")).unwrap();
        read_only(&home, "rekey").ok();
        assert_eq!(home.run("get").line(), "canary-a");
    }
    let old = format!("age:{}?identity=config/keys/default.txt", home.record().display());
    home.run(&format!("get --store {old}")).failed(6);
    // Then to another store.
    let said = read_only(&home, "migrate --to plaintext:b.json").failed(5);
    let command = said.split('`').nth(1).unwrap();
    let mut shell = home.wrapped("sh");
    let program = env!("CARGO_BIN_EXE_tokenkeep");
    done(shell.args(["-c", &command.replace("tokenkeep ", &format!("{program} "))]), "").ok();
    let line = said.split("line there: ").nth(1).unwrap().trim_end();
    fs::write(&target, format!("{line}\n")).unwrap();
    assert_eq!(home.run("get").line(), "canary-a");
    assert!(!home.record().exists() && home.path("b.json").exists());
}

#[test]
fn a_link_to_a_profile_of_root_is_refused_before_anything_is_changed() {
    let test = "linked_profiles::a_link_to_a_profile_of_root_is_refused_before_anything_is_changed";
    let Some(home) = home_of_nobody(test) else { return };
    as_nobody(&home, "init", "").ok();
    as_nobody(&home, "set", SEED).ok();
    // Its directory is this user's, so the file could be replaced. It is root's all the same.
    let target = linked(&home);
    std::os::unix::fs::chown(home.path("dotfiles"), Some(65534), Some(65534)).unwrap();
    std::os::unix::fs::chown(&target, Some(0), Some(0)).unwrap();
    let before = (fs::read(&target).unwrap(), fs::read(home.record()).unwrap());
    as_nobody(&home, "keygen -o new.txt", "").ok();
    for line in ["migrate --to plaintext:b.json", "rekey --identity new.txt"] {
        let said = as_nobody(&home, line, "").failed(5);
        assert!(
            said.contains("it belongs to user 0") && said.contains("store = \""),
            "{line}: {said}"
        );
        let now = (fs::read(&target).unwrap(), fs::read(home.record()).unwrap());
        assert!(now == before && !home.path("b.json").exists(), "{line}");
    }
    assert_eq!(as_nobody(&home, "get", "").line(), "canary-a");
}
