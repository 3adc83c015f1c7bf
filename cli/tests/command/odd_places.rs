//! Odd places for profiles, tokens and keys: what does not work there is found before anything is changed.
#![cfg(unix)]

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use rustix::process::geteuid;

use crate::home::{Done, Home, SEED, done};
use crate::support::{available, can_trace, skip};

/// A user that is not root: `nobody`.
const NOBODY: u32 = 65534;

pub(crate) fn names_in(directory: impl AsRef<Path>) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    names
}

#[test]
fn a_home_that_a_url_cannot_name_is_refused_by_name_before_anything_is_made() {
    let latin = OsStr::from_bytes(b"/tmp/caf\xe9");
    for (variable, value, what) in [
        ("HOME", latin, "$HOME"),
        ("HOME", OsStr::new("relative"), "$HOME"),
        ("XDG_CONFIG_HOME", latin, "$XDG_CONFIG_HOME"),
        ("XDG_STATE_HOME", latin, "$XDG_STATE_HOME"),
        ("TOKENKEEP_CONFIG_DIR", latin, "TOKENKEEP_CONFIG_DIR"),
        ("TOKENKEEP_CONFIG_DIR", OsStr::new("relative"), "TOKENKEEP_CONFIG_DIR"),
    ] {
        if cfg!(target_vendor = "apple") && variable.starts_with("XDG") {
            continue;
        }
        let home = Home::new();
        for line in ["init", "init --store keychain:app/a"] {
            let mut command = home.command();
            command.args(line.split(' ')).env_remove("TOKENKEEP_CONFIG_DIR");
            command.env_remove("XDG_STATE_HOME").env_remove("XDG_CONFIG_HOME");
            let refused = done(command.env(variable, value), "");
            assert!(
                !refused.out.contains('\u{fffd}') && refused.code != 0,
                "{variable}: {refused:?}"
            );
            let is_of_profiles = variable != "XDG_STATE_HOME";
            if line == "init" || is_of_profiles {
                let said = refused.failed(2);
                assert!(said.contains(what), "{variable}={value:?}: {line}: {said}");
            }
            assert_eq!(names_in(home.directory()), [""; 0], "{variable}: {line}");
        }
    }
    // As the XDG specification says, a relative path counts as no path.
    let home = Home::new();
    let mut command = home.command();
    command.env_remove("TOKENKEEP_CONFIG_DIR").env("XDG_STATE_HOME", "relative");
    done(command.env("XDG_CONFIG_HOME", "relative").arg("init"), "").ok();
    assert!(!home.path("relative").exists());
}

#[test]
fn a_path_that_a_url_cannot_name_is_refused() {
    let home = Home::signed_in();
    let latin = OsStr::from_bytes(b"caf\xe9");
    fs::create_dir(home.path(latin)).unwrap();
    home.run("keygen -o key.txt").ok();
    let identity = home.path(latin).join("key.txt");
    fs::rename(home.path("key.txt"), &identity).unwrap();
    let said = done(home.command().args(["rekey", "--identity"]).arg(&identity), "").failed(2);
    assert!(said.contains("not UTF-8"), "{said}");
    assert_eq!(home.run("get").line(), "canary-a");
    // A working directory, before a relative path.
    for line in ["init --profile b --store plaintext:b.json", "set --store plaintext:b.json"] {
        let mut command = home.command();
        let refused = done(command.args(line.split(' ')).current_dir(home.path(latin)), SEED);
        assert!(refused.failed(2).contains("not UTF-8"), "{line}");
    }
    assert_eq!(names_in(home.path(latin)), ["key.txt"]);
    // `~/` in a home directory that depends on where the command is started.
    let mut command = home.command();
    command.args(["set", "--store", "plaintext:~/b.json"]).env("HOME", "relative");
    assert!(done(&mut command, SEED).failed(2).contains("HOME"));
    assert!(!home.path("relative").exists());
}

#[test]
fn a_name_without_room_for_the_names_beside_it_is_refused_before_anything_is_changed() {
    let home = Home::signed_in();
    // Linux and macOS: 255 bytes, and 22 for `.RANDOM.next`.
    let (longest, longer) = ("n".repeat(233), "n".repeat(234));
    home.feed(&format!("set --store plaintext:fits/{longest}"), SEED).ok();
    assert_eq!(home.run(&format!("get --store plaintext:fits/{longest}")).line(), "canary-a");
    home.run(&format!("clear --store plaintext:fits/{longest}")).ok();
    assert!(!home.path("fits").join(&longest).exists());

    let store = format!("plaintext:new/{longer}");
    for line in [
        format!("set --store {store}"),
        format!("migrate --to {store}"),
        format!("init --profile b --store {store}"),
    ] {
        let said = home.feed(&line, SEED).failed(5);
        assert!(said.contains("234 bytes") && said.contains("at most 233"), "{line}: {said}");
        assert!(!home.path("new").exists(), "{line}");
    }
    assert_eq!(home.run("get").line(), "canary-a");
    assert!(!home.path("config/profiles/b.toml").exists());

    // One that is there is read, and not half removed.
    for length in [234, 251, 255] {
        let name = "o".repeat(length);
        home.write(&format!("old/{name}"), SEED);
        let store = format!("plaintext:old/{name}");
        assert_eq!(home.run(&format!("get --store {store}")).line(), "canary-a");
        for line in ["clear --store", "migrate --to plaintext:moved.json --from"] {
            let said = home.run(&format!("{line} {store}")).failed(5);
            assert!(said.contains(&format!("{length} bytes")), "{line}: {said}");
        }
        assert_eq!(names_in(home.path("old")), [name.as_str()]);
        fs::remove_file(home.path("old").join(name)).unwrap();
        assert!(!home.path("moved.json").exists());
    }
}

#[test]
fn init_pins_no_store_that_does_not_work() {
    let home = Home::new();
    home.run("keygen -o key.txt").ok();
    fs::create_dir(home.path("open")).unwrap();
    fs::set_permissions(home.path("open"), fs::Permissions::from_mode(0o777)).unwrap();
    home.write("file", "");
    home.write("list.txt", "nobody\n");
    for (store, code, says) in [
        ("age:a.age?identity=none.txt", 5, "none.txt"),
        ("age:a.age?identity=file", 6, "file"),
        ("age:a.age?identity=key.txt&recipients=none.txt", 5, "none.txt"),
        ("age:a.age?identity=key.txt&recipients=list.txt", 6, "list.txt"),
        ("age:open/a.age?identity=key.txt", 5, "chmod"),
        ("age:file/a.age?identity=key.txt", 1, "file"),
        ("plaintext:open/a.json", 5, "chmod"),
        ("plaintext:config", 6, "directory"),
        ("keychain:app/a", 5, "bus"),
        ("age:a.age?identity=keychain:app/a", 5, "bus"),
    ] {
        fs::create_dir_all(home.path("config")).unwrap();
        let said = home.run(&format!("init --store {store}")).failed(code);
        assert!(said.contains(says), "{store}: {said}");
        assert!(!home.path("config/profiles").exists(), "{store}");
    }
    home.run("init --store age:a.age?identity=key.txt").ok();
    home.feed("set", SEED).ok();
    assert_eq!(home.run("get").line(), "canary-a");
}

#[test]
fn a_key_behind_a_passphrase_can_be_pinned_without_it() {
    let home = Home::new();
    let mut keygen = home.command();
    keygen.args(["keygen", "-o", "key.txt", "--passphrase"]).env("TOKENKEEP_PASSPHRASE", "canary");
    done(&mut keygen, "").ok();
    home.run("init --store age:a.age?identity=key.txt").ok();
}

/// A home of `nobody`, and the command at a path that it can use.
pub(crate) fn home_of_nobody(test: &str) -> Option<Home> {
    if !geteuid().is_root() {
        skip(test, "only root can be another user");
        return None;
    }
    if !available(test, "setpriv") {
        return None;
    }
    let home = Home::new();
    crate::support::copy_command(&home.path("tokenkeep"));
    chown(home.directory(), Some(NOBODY), Some(NOBODY)).unwrap();
    Some(home)
}

pub(crate) fn as_nobody(home: &Home, line: &str, input: &str) -> Done {
    let mut command = home.wrapped("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(home.path("tokenkeep"));
    done(command.args(line.split(' ')), input)
}

#[test]
fn root_in_somebody_elses_home_is_told_to_run_as_its_owner() {
    let test = "odd_places::root_in_somebody_elses_home_is_told_to_run_as_its_owner";
    let Some(home) = home_of_nobody(test) else { return };
    let there = names_in(home.directory());
    for line in ["init", "init --store plaintext:tokens.json", "set --store plaintext:tokens.json"]
    {
        let said = home.feed(line, SEED).failed(5);
        assert!(said.contains("run as its owner"), "{line}: {said}");
        assert_eq!(names_in(home.directory()), there, "{line}");
    }
    as_nobody(&home, "init", "").ok();
    as_nobody(&home, "set", SEED).ok();
    let before = fs::read(home.record()).unwrap();
    for line in ["get", "set", "clear", "migrate --to plaintext:b.json", "rekey --recipient age1"] {
        let refused = home.feed(line, SEED);
        assert!(refused.code != 0, "{line}: {refused:?}");
        if !line.starts_with("rekey") {
            assert!(refused.err.contains("run as its owner"), "{line}: {refused:?}");
        }
        assert_eq!(fs::read(home.record()).unwrap(), before, "{line}");
    }
    assert_eq!(as_nobody(&home, "get", "").line(), "canary-a");
}

#[test]
fn doctor_finds_what_a_run_as_root_left_and_its_advice_works() {
    let test = "odd_places::doctor_finds_what_a_run_as_root_left_and_its_advice_works";
    let Some(home) = home_of_nobody(test) else { return };
    as_nobody(&home, "init", "").ok();
    as_nobody(&home, "set", SEED).ok();
    as_nobody(&home, "doctor", "").ok();
    let record = home.record();
    let beside = |ending: &str| record.with_extension(format!("age{ending}"));
    for file in [
        beside(".lock"),
        beside(".lease"),
        beside(".0123456789abcdef.tmp"),
        beside(".0123456789abcdef.next"),
        record.clone(),
        record.parent().unwrap().to_owned(),
        home.path("config/profiles/.lock"),
    ] {
        let is_new = !file.exists();
        if is_new {
            fs::write(&file, "").unwrap();
        }
        chown(&file, Some(0), Some(0)).unwrap();
        let found = as_nobody(&home, "doctor --json", "");
        assert_eq!(found.code, 1, "{}: {found:?}", file.display());
        let report: serde_json::Value = serde_json::from_str(&found.out).unwrap();
        let fix = report["profiles"][0]["fix"].as_str().unwrap();
        assert!(fix.contains(file.to_str().unwrap()), "{fix}");
        let command = fix.split('`').nth(1).unwrap().strip_prefix("sudo ").unwrap();
        let fixed = home.wrapped("sh").args(["-c", command]).status().unwrap();
        assert!(fixed.success(), "{command}");
        as_nobody(&home, "doctor", "").ok();
        as_nobody(&home, "set", SEED).ok();
        if is_new {
            let _ = fs::remove_file(&file);
        }
    }
    // Files that are not of this slot are none of its business. What is to be given to this user is never a
    // second name of another file, nor anything that others may have put there.
    fs::write(record.with_file_name("another.age"), "").unwrap();
    fs::write(beside(".lease"), "").unwrap();
    chown(beside(".lease"), Some(0), Some(0)).unwrap();
    fs::hard_link(beside(".lease"), home.path("second name")).unwrap();
    let found = as_nobody(&home, "doctor", "");
    assert!(!found.out.contains("chown"), "{found:?}");
    fs::remove_file(home.path("second name")).unwrap();
    assert!(as_nobody(&home, "doctor", "").out.contains("chown"));
    let directory = record.parent().unwrap();
    fs::set_permissions(directory, fs::Permissions::from_mode(0o1777)).unwrap();
    let found = as_nobody(&home, "doctor", "");
    assert!(!found.out.contains("chown"), "{found:?}");
}

#[test]
fn a_rekey_names_the_new_key_only_after_the_record_for_it_is_durable() {
    let test = "odd_places::a_rekey_names_the_new_key_only_after_the_record_for_it_is_durable";
    if !can_trace(test) {
        return;
    }
    let home = Home::signed_in();
    home.run("keygen -o new.txt").ok();
    let records = home.record().parent().unwrap().to_owned();
    let mut strace = home.wrapped("strace");
    strace.args(["-f", "-y", "-qq", "-o", "calls", "-e", "trace=fsync,?rename,renameat", "-P"]);
    strace.arg(&records).arg("-P").arg(home.path("config/profiles"));
    // The first sync of a directory in this thread: that after the record was sealed to both keys.
    strace.args(["-e", "inject=fsync:error=EIO:when=1", env!("CARGO_BIN_EXE_tokenkeep")]);
    // The main thread syncs the profiles first. There, the same fault is an error.
    done(strace.args(["rekey", "--identity", "new.txt"]), "").failed(1);
    let mut strace = home.wrapped("strace");
    strace.args(["-f", "-y", "-qq", "-o", "calls", "-e", "trace=fsync", "-P"]).arg(&records);
    strace.args(["-e", "inject=fsync:error=EIO:when=1", env!("CARGO_BIN_EXE_tokenkeep")]);
    done(strace.args(["rekey", "--identity", "new.txt"]), "").ok();
    let calls = fs::read_to_string(home.path("calls")).unwrap();
    // Failed, then repeated before the profile is changed, then sealed to the new key alone.
    let synced: Vec<_> = calls.lines().map(|call| call.contains("= 0")).collect();
    assert_eq!(synced, [false, true, true], "{calls}");
    assert_eq!(home.run("get").line(), "canary-a");
    // If it cannot be made durable at all, the profile keeps the old key.
    let home = Home::signed_in();
    home.run("keygen -o new.txt").ok();
    let profile = fs::read(home.path("config/profiles/default.toml")).unwrap();
    let mut strace = home.wrapped("strace");
    strace.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync", "-P"]);
    strace.arg(home.record().parent().unwrap());
    strace.args(["-e", "inject=fsync:error=EIO", env!("CARGO_BIN_EXE_tokenkeep")]);
    done(strace.args(["rekey", "--identity", "new.txt"]), "").failed(1);
    assert_eq!(fs::read(home.path("config/profiles/default.toml")).unwrap(), profile);
    assert_eq!(home.run("get").line(), "canary-a");
}

#[cfg(target_os = "linux")]
#[test]
fn what_is_made_below_an_unreadable_directory_is_durable_or_an_error() {
    let test = "odd_places::what_is_made_below_an_unreadable_directory_is_durable_or_an_error";
    let Some(home) = home_of_nobody(test) else { return };
    if !can_trace(test) {
        return;
    }
    as_nobody(&home, "init", "").ok();
    as_nobody(&home, "set", SEED).ok();
    // A directory that its owner may write to and not read, and one that they may do neither with.
    // An earlier run may have made what is in them, and may have been killed before it was durable.
    for (name, mode, owner) in [("dark", 0o300, NOBODY), ("roots", 0o711, 0)] {
        let directory = home.path(name);
        for made in ["set", "backup", "no-set", "no-bac"] {
            fs::create_dir_all(directory.join(made)).unwrap();
            chown(directory.join(made), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        chown(&directory, Some(owner), Some(owner)).unwrap();
        fs::set_permissions(&directory, fs::Permissions::from_mode(mode)).unwrap();
    }
    let recipient = as_nobody(&home, "keygen -o escrow.txt", "").line();
    let run = |line: &str, inject: &[&str]| {
        let mut strace = home.wrapped("strace");
        strace.args(["-f", "-qq", "-o"]).arg(home.path("calls")).args(["-e", "trace=syncfs"]);
        strace.args(inject).args(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]);
        let done = done(strace.arg(home.path("tokenkeep")).args(line.split(' ')), SEED);
        (done, fs::read_to_string(home.path("calls")).unwrap())
    };
    for (line, reached) in [
        ("set --store plaintext:dark/NAME/tokens.json".to_owned(), true),
        (format!("backup --to dark/NAME/backup.age --recipient {recipient}"), true),
        ("set --store plaintext:roots/NAME/tokens.json".to_owned(), false),
    ] {
        let (done, calls) = run(&line.replace("NAME", line.split(' ').next().unwrap()), &[]);
        done.ok();
        assert_eq!(calls.contains("= 0"), reached, "{line}: {calls}");
        if reached {
            let failing = ["-e", "inject=syncfs:error=EIO"];
            let (done, _) = run(&line.replace("NAME", &format!("no-{}", &line[..3])), &failing);
            let said = done.failed(1);
            assert!(said.contains("Input/output error"), "{line}: {said}");
        }
    }
}

#[cfg(unix)]
#[test]
fn a_variable_that_is_not_utf_8_is_refused_and_no_other_tokens_are_used() {
    use std::os::unix::ffi::OsStrExt;

    let home = Home::signed_in();
    let odd = OsStr::from_bytes(b"plaintext:/tmp/zo\xeb.json");
    for variable in ["TOKENKEEP_STORE", "TOKENKEEP_PROFILE"] {
        for line in ["get", "clear", "set", "init"] {
            let mut command = home.command();
            command.arg(line).env(variable, odd);
            if (variable, line) == ("TOKENKEEP_STORE", "init") {
                continue;
            }
            let said = done(&mut command, SEED).failed(2);
            assert!(said.contains(&format!("${variable} is not UTF-8")), "{line}: {said}");
        }
    }
    assert_eq!(home.run("get").line(), "canary-a");
}
