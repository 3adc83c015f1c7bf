//! Slots that cannot be replaced: the command finds and names the reason before it sends the refresh token,
//! so no session is lost.
#![cfg(target_os = "linux")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::figures::figure;
use crate::home::{Done, Home, done};
use crate::refresh_command::{expire, expired, sign_in_for};
use crate::support::{available, scratch, skip};
use crate::token_server::TokenServer;

/// Something that makes a save fail.
struct Obstacle {
    name: &'static str,
    put: fn(&Home),
    remove: fn(&Home),
    /// A shell command that makes the obstacle for this process alone. `$1` is the path of the record.
    within: Option<&'static str>,
    code: i32,
    /// Part of the error.
    says: &'static str,
}

impl Obstacle {
    /// Runs a command with the obstacle.
    fn run(&self, home: &Home, line: &str) -> Done {
        self.feed(home, line, "")
    }

    /// Runs a command with the obstacle and with this input.
    fn feed(&self, home: &Home, line: &str, input: &str) -> Done {
        let program = env!("CARGO_BIN_EXE_tokenkeep");
        let Some(within) = self.within else { return home.feed(line, input) };
        let mut command = home.wrapped("unshare");
        let script = format!("{within} && shift && exec \"$@\"");
        command.args(["-m", "sh", "-ec", &script, "sh"]).arg(home.record()).arg(program);
        done(command.args(line.split(' ')), input)
    }
}

const NOTHING: fn(&Home) = |_| {};

fn chattr(home: &Home, flags: &str) {
    let mut chattr = Command::new("chattr");
    assert!(chattr.arg(flags).arg(home.record()).status().unwrap().success());
}

fn lock(home: &Home) -> PathBuf {
    home.record().with_extension("age.lock")
}

fn without_lock(home: &Home) -> PathBuf {
    let lock = lock(home);
    let _ = fs::remove_file(&lock);
    lock
}

/// Names a list of recovery recipients in the profile's store.
fn with_list(home: &Home, text: &str, mode: u32) {
    let (profile, list) = (home.path("config/profiles/default.toml"), home.path("recovery.txt"));
    let before = fs::read_to_string(&profile).unwrap();
    if !before.contains("recipients") {
        let url = before.lines().next().unwrap().trim_end_matches('"');
        let named = format!("{url}&recipients={}\"", list.display());
        fs::write(&profile, before.replace(before.lines().next().unwrap(), &named)).unwrap();
    }
    fs::write(&list, text).unwrap();
    fs::set_permissions(&list, fs::Permissions::from_mode(mode)).unwrap();
}

fn without_list(home: &Home) {
    let profile = home.path("config/profiles/default.toml");
    let text = fs::read_to_string(&profile).unwrap();
    let list = format!("&recipients={}", home.path("recovery.txt").display());
    fs::write(&profile, text.replace(&list, "")).unwrap();
}

const OBSTACLES: [Obstacle; 10] = [
    Obstacle {
        name: "a record that is mounted as a single file",
        put: NOTHING,
        remove: NOTHING,
        within: Some("mount --bind \"$1\" \"$1\""),
        code: 5,
        says: "mount its directory, and not the file",
    },
    Obstacle {
        name: "one that is mounted read-only",
        put: NOTHING,
        remove: NOTHING,
        within: Some("mount --bind \"$1\" \"$1\" && mount -o remount,ro,bind \"$1\""),
        code: 5,
        says: "mount its directory, and not the file",
    },
    Obstacle {
        name: "an immutable record",
        put: |home| chattr(home, "+i"),
        remove: |home| chattr(home, "-i"),
        within: None,
        code: 5,
        says: "marked immutable; run `chattr -i ",
    },
    Obstacle {
        name: "an append-only record",
        put: |home| chattr(home, "+a"),
        remove: |home| chattr(home, "-a"),
        within: None,
        code: 5,
        says: "marked append-only; run `chattr -a ",
    },
    Obstacle {
        name: "a lock that is a directory",
        put: |home| fs::create_dir(without_lock(home)).unwrap(),
        remove: |home| fs::remove_dir(lock(home)).unwrap(),
        within: None,
        code: 6,
        says: ".lock is a directory",
    },
    Obstacle {
        name: "a lock that is a link",
        put: |home| symlink("/etc/passwd", without_lock(home)).unwrap(),
        remove: |home| fs::remove_file(lock(home)).unwrap(),
        within: None,
        code: 5,
        says: ".lock is not private: it is a symbolic link",
    },
    Obstacle {
        name: "a list of recovery recipients that is gone",
        put: |home| {
            with_list(home, "", 0o600);
            fs::remove_file(home.path("recovery.txt")).unwrap();
        },
        remove: without_list,
        within: None,
        code: 5,
        says: "recovery.txt is unavailable: this list of recovery recipients does not exist; put it back",
    },
    Obstacle {
        name: "a list of recovery recipients that holds none",
        put: |home| with_list(home, "nobody\n", 0o600),
        remove: without_list,
        within: None,
        code: 6,
        says: "recovery.txt is not a usable age key: line 1",
    },
    Obstacle {
        name: "a list of recovery recipients that others can write to",
        put: |home| with_list(home, "# nobody\n", 0o666),
        remove: without_list,
        within: None,
        code: 5,
        says: "recovery.txt is not private: others can write to it",
    },
    Obstacle {
        name: "a limit on the size of files",
        put: NOTHING,
        remove: NOTHING,
        within: Some("ulimit -f 40"),
        code: 5,
        says: "raise it (`ulimit -f`)",
    },
];

/// Reports whether these tests can run: they need root, and the programs that mark and mount files.
fn parts(test: &str) -> bool {
    if !rustix::process::geteuid().is_root() {
        skip(test, "it mounts and marks files as root");
        return false;
    }
    available(test, "chattr") && available(test, "unshare")
}

#[test]
fn a_slot_that_cannot_be_replaced_is_found_before_the_refresh_token_is_sent() {
    if !parts("unreplaceable_slots::a_slot_that_cannot_be_replaced_is_found_before") {
        return;
    }
    for obstacle in OBSTACLES {
        let server = TokenServer::start();
        let home = expired(&server);
        (obstacle.put)(&home);
        for line in ["get", "refresh", "exec -- true"] {
            let begun = Instant::now();
            let said = obstacle.run(&home, line).failed(obstacle.code);
            assert!(said.contains(obstacle.says), "{}: {line}: {said}", obstacle.name);
            assert!(begun.elapsed() < Duration::from_secs(15), "{}: {line}", obstacle.name);
        }
        let doctor = obstacle.run(&home, "doctor");
        assert_eq!(doctor.code, 1, "{}: {doctor:?}", obstacle.name);
        assert!(doctor.out.contains(obstacle.says), "{}: {doctor:?}", obstacle.name);
        assert_eq!(server.calls(), 0, "{}", obstacle.name);
        // The attempts leave nothing, and the same session continues.
        (obstacle.remove)(&home);
        let status = home.run("status");
        assert!(!status.out.contains("cut off"), "{}: {status:?}", obstacle.name);
        assert_eq!(home.run("get").line(), "access-canary-2", "{}", obstacle.name);
        assert_eq!(server.calls(), 1, "{}", obstacle.name);
        assert_eq!(remains(&home), Vec::<String>::new(), "{}", obstacle.name);
    }
}

#[test]
fn an_accepted_access_token_is_served_with_a_warning_about_the_obstacle() {
    if !parts("unreplaceable_slots::an_accepted_access_token_is_served_with_a_warning") {
        return;
    }
    for obstacle in OBSTACLES {
        let server = TokenServer::start();
        let home = expired(&server);
        let access = sign_in_for(&server, &home, 10);
        (obstacle.put)(&home);
        for line in ["get", "exec --prefix APP -- printenv APP_ACCESS_TOKEN"] {
            let served = obstacle.run(&home, line);
            assert_eq!((served.code, served.out.trim_end()), (0, &*access), "{}", obstacle.name);
            assert!(
                served.err.starts_with("warning: these tokens were not refreshed: "),
                "{served:?}"
            );
            assert!(served.err.contains(obstacle.says), "{}: {served:?}", obstacle.name);
        }
        obstacle.run(&home, "refresh").failed(obstacle.code);
        assert_eq!(server.calls(), 0, "{}", obstacle.name);
        (obstacle.remove)(&home);
        assert!(home.run("get").ok().starts_with("access-canary-"));
        assert_eq!(server.calls(), 1, "{}", obstacle.name);
    }
}

#[test]
fn each_command_with_each_obstacle_does_its_work_or_changes_nothing() {
    const NEW: &str = r#"{"access_token":"canary-new","refresh_token":"canary-new"}"#;
    const LINES: [&str; 9] = [
        "set",
        "clear",
        "status",
        "doctor",
        "migrate --to plaintext:moved.json",
        "migrate --from plaintext:other.json --to plaintext:there.json",
        "backup --to plaintext:backup.json",
        "restore --from plaintext:before.json --overwrite",
        "rekey --identity second.txt",
    ];

    if !parts(
        "unreplaceable_slots::each_command_with_each_obstacle_does_its_work_or_changes_nothing",
    ) {
        return;
    }
    let mut done = 0;
    for obstacle in OBSTACLES {
        for line in LINES {
            let server = TokenServer::start();
            let home = expired(&server);
            home.run("keygen -o second.txt").ok();
            home.run("backup --to plaintext:before.json").ok();
            home.feed("set --store plaintext:other.json", NEW).ok();
            let before = home.run("get --field refresh").line();
            (obstacle.put)(&home);
            let input = if line == "set" { NEW } else { "" };
            let ran = obstacle.feed(&home, line, input);
            let at = format!("{line}, with {}: {ran:?}", obstacle.name);
            assert!((0..=8).contains(&ran.code), "{at}");
            assert!(!ran.out.contains("canary") && !ran.err.contains("canary"), "{at}");
            (obstacle.remove)(&home);
            let after = home.run("get --field refresh");
            match (line, ran.code) {
                ("clear", 0) => assert_eq!(after.code, 3, "{at}"),
                ("set", 0) => assert_eq!(after.line(), "canary-new", "{at}"),
                _ => assert_eq!(after.line(), before, "{at}"),
            }
            // What failed is done when it is run again.
            if ran.code != 0 && line != "doctor" {
                home.feed(line, input).ok();
            }
            assert_eq!(server.calls(), 0, "{at}");
            assert_eq!(remains(&home), Vec::<String>::new(), "{at}");
            done += 1;
        }
    }
    let tried = format!("{done} commands with {} obstacles", OBSTACLES.len());
    figure("slots that cannot be replaced", tried, "0 lost, 0 silent, 0 sent");
}

/// Returns the temporary files of saves and refreshes beside the record.
fn remains(home: &Home) -> Vec<String> {
    let entries = fs::read_dir(home.record().parent().unwrap()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(".tmp") || name.ends_with(".next")).collect()
}

#[test]
fn a_lock_that_a_stopped_process_holds_is_waited_for_and_then_named() {
    let test = "unreplaceable_slots::a_lock_that_a_stopped_process_holds";
    if !available(test, "flock") || !available(test, "pkill") {
        return;
    }
    let server = TokenServer::start();
    let home = expired(&server);
    let mut holder = Command::new("flock");
    let ready = home.path("ready");
    let mut holder = holder
        .arg(lock(&home))
        .args(["sh", "-c", "touch \"$0\"; kill -STOP $$"])
        .arg(&ready)
        .spawn()
        .unwrap();
    while !ready.exists() {
        std::thread::yield_now();
    }
    let begun = Instant::now();
    let said = home.run("get").failed(5);
    assert!(said.contains("see whether that process is stopped or stuck"), "{said}");
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    assert_eq!(server.calls(), 0);
    let stopped = Command::new("pkill").args(["-CONT", "-P", &holder.id().to_string()]).status();
    assert!(stopped.unwrap().success());
    holder.wait().unwrap();
    assert_eq!(home.run("get").line(), "access-canary-2");
    assert_eq!(server.calls(), 1);
}

#[test]
fn a_directory_in_place_of_a_temporary_file_is_no_obstacle() {
    let server = TokenServer::start();
    let home = expired(&server);
    let record = home.record();
    for (suffix, expected) in [("tmp", 2), ("intent.tmp", 4), ("intent", 6)] {
        let in_the_way = record.with_extension(format!("age.{suffix}"));
        fs::create_dir(&in_the_way).unwrap();
        assert_eq!(home.run("get").line(), format!("access-canary-{expected}"), "{suffix}");
        expire(&server, &home);
    }
    assert!(!server.has_ended_a_session());
}

/// The user id of nobody.
const NOBODY: u32 = 65534;

/// A home whose files belong to an unprivileged user, and a copy of the command for that user.
struct Unprivileged {
    home: Home,
    program: PathBuf,
    _copy: tempfile::TempDir,
}

impl Unprivileged {
    fn new(server: &TokenServer) -> Self {
        let home = expired(server);
        let copy = scratch();
        fs::set_permissions(copy.path(), fs::Permissions::from_mode(0o755)).unwrap();
        // That user may have no access to the build directory.
        let program = copy.path().join("tokenkeep");
        crate::support::copy_command(&program);
        give_away(&home.path(""));
        Self { home, program, _copy: copy }
    }

    fn run(&self, line: &str) -> Done {
        let mut command = self.home.wrapped("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&self.program);
        done(command.args(line.split(' ')), "")
    }
}

/// Gives a file, or a directory and all that it contains, to that user.
fn give_away(path: &Path) {
    chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            give_away(&entry.unwrap().path());
        }
    }
}

#[test]
fn an_unprivileged_user_is_told_which_file_is_in_the_way() {
    let test = "unreplaceable_slots::an_unprivileged_user_is_told_which_file_is_in_the_way";
    if !parts(test) || !available(test, "setpriv") {
        return;
    }
    let root_owned = |path: &Path| chown(path, Some(0), Some(0)).unwrap();
    type Change<'a> = &'a dyn Fn(&Home);

    let obstacles: [(&str, Change<'_>, Change<'_>, &str); 4] = [
        (
            "a lock of root's",
            &|home| {
                fs::write(lock(home), "").unwrap();
                root_owned(&lock(home));
                fs::set_permissions(lock(home), fs::Permissions::from_mode(0o666)).unwrap();
            },
            &|home| fs::remove_file(lock(home)).unwrap(),
            ".lock is not private: it belongs to user 0",
        ),
        (
            "a lock that cannot be written to",
            &|home| fs::set_permissions(lock(home), fs::Permissions::from_mode(0o400)).unwrap(),
            &|home| fs::set_permissions(lock(home), fs::Permissions::from_mode(0o600)).unwrap(),
            ".lock: access denied; stop the programs that use these tokens, and remove",
        ),
        (
            "a directory that cannot be written to",
            &|home| {
                let directory = home.record().parent().unwrap().to_owned();
                fs::set_permissions(directory, fs::Permissions::from_mode(0o500)).unwrap();
            },
            &|home| {
                let directory = home.record().parent().unwrap().to_owned();
                fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).unwrap();
            },
            "access denied",
        ),
        (
            "a list of recipients that cannot be read",
            &|home| {
                with_list(home, "# nobody\n", 0o000);
                give_away(&home.path("config"));
            },
            &|home| {
                without_list(home);
                give_away(&home.path("config"));
            },
            "recovery.txt",
        ),
    ];
    for (name, put, remove, says) in obstacles {
        let server = TokenServer::start();
        let user = Unprivileged::new(&server);
        put(&user.home);
        for line in ["get", "refresh"] {
            let said = user.run(line).failed(5);
            assert!(said.contains(says), "{name}: {said}");
        }
        let doctor = user.run("doctor");
        // There, one command helps against all that root left.
        let says = if name == "a lock of root's" { "run `sudo chown -h 65534:" } else { says };
        assert!(doctor.out.contains(says), "{name}: {doctor:?}");
        assert_eq!(server.calls(), 0, "{name}");
        remove(&user.home);
        assert_eq!(user.run("get").line(), "access-canary-2", "{name}");
        assert_eq!(server.calls(), 1, "{name}");
    }
}

#[test]
fn files_of_another_user_in_a_shared_directory_do_not_end_a_session() {
    let test =
        "unreplaceable_slots::files_of_another_user_in_a_shared_directory_do_not_end_a_session";
    if !parts(test) || !available(test, "setpriv") {
        return;
    }
    let server = TokenServer::start();
    let user = Unprivileged::new(&server);
    let directory = user.home.record().parent().unwrap().to_owned();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o1777)).unwrap();
    // These files belong to a third user. Earlier versions used these names.
    for name in ["default.age.tmp", "default.age.intent.tmp", "default.age.intent"] {
        fs::write(directory.join(name), "").unwrap();
        chown(directory.join(name), Some(12345), Some(12345)).unwrap();
    }
    // In such a directory, any user could hold the locks of these tokens. Nothing is sent.
    let said = user.run("get").failed(5);
    assert!(said.contains("use a directory of your own in it"), "{said}");
    assert_eq!(server.calls(), 0);
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(user.run("get").line(), "access-canary-2");
    assert_eq!(server.calls(), 1);
}

#[test]
fn a_key_file_of_another_user_is_refused_and_nothing_is_sent() {
    let test = "unreplaceable_slots::a_key_file_of_another_user_is_refused_and_nothing_is_sent";
    if !parts(test) || !available(test, "setpriv") {
        return;
    }
    let server = TokenServer::start();
    let user = Unprivileged::new(&server);
    let key = user.home.path("config/keys/default.txt");
    for (owner, mode, says) in [
        (12345, 0o644, "it belongs to user 12345, and this process runs as user 65534"),
        (12345, 0o600, "access denied"),
        (NOBODY, 0o644, "others can read it (mode 0644)"),
    ] {
        chown(&key, Some(owner), Some(owner)).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
        let said = user.run("get").failed(5);
        assert!(said.contains(says), "{owner}, {mode:o}: {said}");
    }
    assert_eq!(server.calls(), 0);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(user.run("get").line(), "access-canary-2");
}
