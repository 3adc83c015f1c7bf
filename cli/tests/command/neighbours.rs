//! Another user of the machine attacks, and gets nothing.
//!
//! The user that the command runs as and the neighbour are real users, with numbers that no account has.
#![cfg(target_os = "linux")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::geteuid;

use crate::figures::figure;
use crate::home::{Done, SEED, done};
use crate::support::{available, scratch, skip};

/// How many commands were run while a neighbour could attack.
static TRIED: AtomicUsize = AtomicUsize::new(0);

const VICTIM: u32 = 41001;
const NEIGHBOUR: u32 = 41002;
/// A group that both may be in. `/etc/group` does not name it.
const GROUP: u32 = 41003;

/// Returns whether processes of other users can be started.
fn parts(test: &str) -> bool {
    if !geteuid().is_root() {
        skip(test, "only root can start processes of other users");
        return false;
    }
    available(test, "setpriv")
}

/// A machine with the files of two users.
struct Machine {
    root: tempfile::TempDir,
    program: PathBuf,
    /// Who runs the command.
    user: u32,
}

impl Machine {
    fn new(user: u32) -> Self {
        let root = scratch();
        chmod(root.path(), 0o755);
        // The build directory may be closed to these users.
        let program = root.path().join("tokenkeep");
        crate::support::copy_command(&program);
        let machine = Self { root, program, user };
        machine.directory("home", user, 0o711);
        machine.directory("home/.ssh", user, 0o700);
        machine.directory("theirs", NEIGHBOUR, 0o755);
        machine.run("keygen -o home/key.txt").ok();
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn directory(&self, name: &str, owner: u32, mode: u32) {
        fs::create_dir(self.path(name)).unwrap();
        chown(self.path(name), Some(owner), Some(owner)).unwrap();
        chmod(&self.path(name), mode);
    }

    fn file(&self, name: &str, owner: u32, mode: u32, content: &str) {
        fs::write(self.path(name), content).unwrap();
        chown(self.path(name), Some(owner), Some(owner)).unwrap();
        chmod(&self.path(name), mode);
    }

    fn command(&self, user: u32, program: &Path) -> Command {
        let tried = TRIED.fetch_add(1, Ordering::SeqCst) + 1;
        figure("neighbours", format!("{tried} commands of two users"), "0 let in");
        let mut command = Command::new("setpriv");
        let (uid, gid) = (format!("--reuid={user}"), format!("--regid={user}"));
        command.args([&uid, &gid, &format!("--groups={GROUP}")]).arg(program);
        command
            .current_dir(self.root.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", self.path("home"))
            .env("TOKENKEEP_CONFIG_DIR", self.path("home/config"))
            .env("XDG_STATE_HOME", self.path("home/state"))
            .env("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nonexistent");
        command
    }

    /// Runs the command as the user. `$` in the line is this machine's directory.
    fn run(&self, line: &str) -> Done {
        let root = self.root.path().display().to_string();
        let line = line.replace('$', &root);
        let mut command = self.command(self.user, &self.program);
        done(command.args(line.split(' ')), SEED)
    }

    /// Runs a shell command as the neighbour.
    fn attack(&self, script: &str) -> bool {
        let mut shell = self.command(NEIGHBOUR, Path::new("sh"));
        shell.args(["-c", script]).status().unwrap().success()
    }

    /// Names all files in a directory, with their owners.
    fn files(&self, name: &str) -> Vec<(String, u32)> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.path(name)).unwrap().flatten() {
            let owner = entry.path().symlink_metadata().unwrap().uid();
            found.push((entry.file_name().into_string().unwrap(), owner));
        }
        found.sort();
        found
    }
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Each command that reads, writes, locks or removes a file, with its file in `$/shared/app`.
const LINES: [&str; 18] = [
    "set --store plaintext:$/shared/app/t.json",
    "get --store plaintext:$/shared/app/t.json",
    "status --store plaintext:$/shared/app/t.json",
    "clear --store plaintext:$/shared/app/t.json",
    "exec --store plaintext:$/shared/app/t.json -- true",
    "doctor --store plaintext:$/shared/app/t.json",
    "set --store age:$/shared/app/t.age?identity=$/home/key.txt",
    "get --store age:$/home/t.age?identity=$/shared/app/key.txt",
    "set --store age:$/home/t.age?identity=$/shared/app/key.txt",
    "set --store age:$/home/t.age?identity=$/home/key.txt&recipients=$/shared/app/list.txt",
    "migrate --from plaintext:$/shared/app/t.json --to plaintext:$/home/t.json",
    "migrate --from plaintext:$/home/good.json --to plaintext:$/shared/app/t.json",
    "backup --store plaintext:$/home/good.json --to plaintext:$/shared/app/b.json",
    "restore --store plaintext:$/home/good.json --from plaintext:$/shared/app/t.json",
    "keygen -o $/shared/app/new.txt",
    "keygen -o $/shared/app/deep/er/new.txt",
    "rekey --store age:$/shared/app/t.age?identity=$/home/key.txt --identity $/home/key2.txt",
    "init --profile new --store age:$/shared/app/t.age?identity=$/shared/app/key.txt",
];

#[test]
fn a_directory_above_that_a_neighbour_can_change_is_not_entered_by_any_command() {
    let test =
        "neighbours::a_directory_above_that_a_neighbour_can_change_is_not_entered_by_any_command";
    if !parts(test) {
        return;
    }
    let swap = "mv shared/app shared/mine && ln -s ../home/.ssh shared/app";
    for user in [VICTIM, 0] {
        for (owner, mode) in [(0, 0o777), (0, 0o775), (NEIGHBOUR, 0o755), (user, 0o773)] {
            let machine = Machine::new(user);
            machine.run("keygen -o home/key2.txt").ok();
            machine.run("set --store plaintext:$/home/good.json").ok();
            machine.run("set --store age:$/home/t.age?identity=$/home/key.txt").ok();
            machine.directory("shared", owner, mode);
            chown(machine.path("shared"), Some(owner), Some(GROUP)).unwrap();
            machine.directory("shared/app", user, 0o700);
            machine.file(
                "shared/app/key.txt",
                user,
                0o600,
                &fs::read_to_string(machine.path("home/key.txt")).unwrap(),
            );
            machine.file("shared/app/t.json", user, 0o600, SEED);
            machine.file(
                "shared/app/list.txt",
                user,
                0o600,
                "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa\n",
            );
            let mut home = machine.files("home");
            home.retain(|(name, _)| !name.ends_with(".lock"));
            for round in ["before", "after"] {
                for line in LINES {
                    let done = machine.run(line);
                    let at =
                        format!("{user}: {owner} {mode:o}, {round} the attack: {line}: {done:?}");
                    // `doctor` reports it among other things.
                    let expected = if line.starts_with("doctor") { 1 } else { 5 };
                    assert_eq!(done.code, expected, "{at}");
                    assert!(!done.out.contains("canary") && !done.err.contains("canary"), "{at}");
                    assert!(done.out.contains("shared") || done.err.contains("/shared"), "{at}");
                    assert_eq!(machine.files("home/.ssh"), [], "{at}");
                    let mut now = machine.files("home");
                    now.retain(|(name, _)| !name.ends_with(".lease") && !name.ends_with(".lock"));
                    assert_eq!(now, home, "{at}");
                }
                if round == "before" {
                    assert!(machine.attack(swap), "{owner} {mode:o}");
                }
            }
            // The user's files are as they were.
            assert_eq!(fs::read_to_string(machine.path("shared/mine/t.json")).unwrap(), SEED);
            assert_eq!(fs::read_dir(machine.path("shared/mine")).unwrap().count(), 3);
        }
    }
}

#[test]
fn profiles_in_a_directory_that_a_neighbour_can_change_are_not_read_and_no_lock_is_created() {
    let test = "neighbours::profiles_in_a_directory_that_a_neighbour_can_change_are_not_read_and_no_lock_is_created";
    if !parts(test) {
        return;
    }
    for user in [VICTIM, 0] {
        let machine = Machine::new(user);
        machine.directory("shared", 0, 0o777);
        machine.directory("shared/config", user, 0o755);
        machine.directory("shared/config/profiles", user, 0o755);
        let profile = "store = \"env:APP\"\n";
        machine.file("shared/config/profiles/default.toml", user, 0o644, profile);
        let run = |line: &str| {
            let mut command = machine.command(user, &machine.program);
            command.env("TOKENKEEP_CONFIG_DIR", machine.path("shared/config"));
            command.env("APP_ACCESS_TOKEN", "canary");
            done(command.args(line.split(' ')), SEED)
        };
        for round in ["before", "after"] {
            for line in [
                "get",
                "status",
                "set",
                "clear",
                "refresh",
                "init --profile new --store env:APP",
                "profile remove default",
                "migrate --to plaintext:home/x.json",
            ] {
                let done = run(line);
                assert_eq!(done.code, 5, "{round}: {line}: {done:?}");
                assert!(!done.out.contains("canary"), "{round}: {line}: {done:?}");
                assert_eq!(machine.files("home/.ssh"), [], "{round}: {line}");
            }
            if round == "before" {
                let swap = "mv shared/config shared/mine && mkdir shared/config && \
                            ln -s ../../home/.ssh shared/config/profiles";
                assert!(machine.attack(swap));
            }
        }
    }
}

#[test]
fn doctor_gives_no_advice_about_files_of_root_that_a_neighbour_chose() {
    let test = "neighbours::doctor_gives_no_advice_about_files_of_root_that_a_neighbour_chose";
    if !parts(test) {
        return;
    }
    let machine = Machine::new(VICTIM);
    machine.directory("etc", 0, 0o755);
    machine.file("etc/shadow", 0, 0o600, "of root");
    machine.directory("home/own", VICTIM, 0o700);
    machine.file("home/own/shadow", 0, 0o600, "of root");
    let own = machine.run("doctor --store plaintext:$/home/own/shadow");
    assert!(own.out.contains("sudo chown"), "{own:?}");
    machine.directory("shared", 0, 0o777);
    assert!(machine.attack("ln -s ../etc shared/app"));
    let done = machine.run("doctor --store plaintext:$/shared/app/shadow");
    assert!(!done.out.contains("chown") && done.out.contains("/shared is not private"), "{done:?}");
}

#[test]
fn a_link_into_a_directory_of_a_neighbour_is_not_followed() {
    let test = "neighbours::a_link_into_a_directory_of_a_neighbour_is_not_followed";
    if !parts(test) {
        return;
    }
    let machine = Machine::new(VICTIM);
    machine.run("set --store plaintext:$/home/good.json").ok();
    let theirs = "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa\n";
    // The file itself belongs to root, so only its directory tells.
    machine.file("theirs/list.txt", 0, 0o644, theirs);
    machine.file("theirs/profile.toml", 0, 0o644, "store = \"env:APP\"\n");
    let key = fs::read_to_string(machine.path("home/key.txt")).unwrap();
    machine.file("theirs/key.txt", VICTIM, 0o600, &key);
    symlink("../theirs/list.txt", machine.path("home/list.txt")).unwrap();
    symlink("../theirs/key.txt", machine.path("home/link.txt")).unwrap();
    machine.directory("home/config", VICTIM, 0o755);
    machine.directory("home/config/profiles", VICTIM, 0o755);
    symlink("../../../theirs/profile.toml", machine.path("home/config/profiles/default.toml"))
        .unwrap();
    for line in [
        "set --store age:$/home/t.age?identity=$/home/key.txt&recipients=$/home/list.txt",
        "set --store age:$/home/t.age?identity=$/home/link.txt",
        "get",
        "set",
    ] {
        let said = machine.run(line).failed(5);
        assert!(said.contains("/theirs is not private: it leads to "), "{line}: {said}");
        assert!(said.contains("belongs to user 41002"), "{line}: {said}");
    }
    assert!(!machine.path("home/t.age").exists());
}

#[test]
fn a_text_of_a_process_is_no_file() {
    let test = "neighbours::a_text_of_a_process_is_no_file";
    if !parts(test) {
        return;
    }
    let machine = Machine::new(VICTIM);
    symlink("/proc/self/environ", machine.path("home/link.txt")).unwrap();
    for line in [
        "set --store age:$/home/t.age?identity=$/home/key.txt&recipients=/proc/1/cmdline",
        "set --store age:$/home/t.age?identity=$/home/key.txt&recipients=$/home/link.txt",
        "set --store age:$/home/t.age?identity=/proc/self/environ",
        "get --store plaintext:/proc/self/fd/0",
        "set --store age:$/home/t.age?identity=$/home/key.txt&recipients=/dev/fd/0",
    ] {
        let said = machine.run(line).failed(5);
        assert!(said.contains("use a regular file"), "{line}: {said}");
    }
}

#[test]
fn in_a_directory_like_tmp_nothing_of_a_neighbour_is_used() {
    let test = "neighbours::in_a_directory_like_tmp_nothing_of_a_neighbour_is_used";
    if !parts(test) {
        return;
    }
    let machine = Machine::new(VICTIM);
    machine.directory("tmp", 0, 0o1777);
    assert!(machine.attack("mkdir -m 777 tmp/app && ln -s ../home tmp/link"));
    for line in [
        "set --store plaintext:$/tmp/app/t.json",
        "set --store plaintext:$/tmp/link/t.json",
        "set --store plaintext:$/tmp/t.json",
        "keygen -o $/tmp/app/key.txt",
    ] {
        let said = machine.run(line).failed(5);
        assert!(said.contains("a directory of your own"), "{line}: {said}");
    }
    assert_eq!(machine.files("theirs"), []);
    assert_eq!(machine.files("tmp/app"), []);
    // A directory of the user's own there works, and nobody else can rename it.
    machine.run("set --store plaintext:$/tmp/own/t.json").ok();
    assert!(!machine.attack("mv tmp/own tmp/gone"));
    assert_eq!(machine.run("get --store plaintext:$/tmp/own/t.json").line(), "canary-a");
}

#[test]
fn a_lock_that_a_neighbour_can_hold_is_not_taken() {
    let test = "neighbours::a_lock_that_a_neighbour_can_hold_is_not_taken";
    if !parts(test) {
        return;
    }
    let machine = Machine::new(VICTIM);
    machine.directory("home/state", VICTIM, 0o711);
    let store = "--store plaintext:$/home/state/t.json";
    machine.run(&format!("set {store}")).ok();
    let lock = machine.path("home/state/t.json.lock");
    for mode in [0o644, 0o666, 0o604] {
        chmod(&lock, mode);
        let said = machine.run(&format!("set {store}")).failed(5);
        assert!(said.contains("t.json.lock is not private") && said.contains("remove"), "{said}");
    }
    chmod(&lock, 0o600);
    fs::hard_link(&lock, machine.path("home/second")).unwrap();
    let said = machine.run(&format!("set {store}")).failed(5);
    assert!(said.contains("a second name"), "{said}");
    fs::remove_file(machine.path("home/second")).unwrap();
    machine.run(&format!("set {store}")).ok();
}

#[test]
fn each_set_up_that_people_have_works() {
    let test = "neighbours::each_set_up_that_people_have_works";
    if !parts(test) || !available(test, "setfacl") {
        return;
    }
    let machine = Machine::new(VICTIM);
    let key = fs::read_to_string(machine.path("home/key.txt")).unwrap();
    // A secret in Kubernetes: a mount like /tmp, and links that root replaces.
    machine.directory("secrets", 0, 0o1777);
    machine.directory("secrets/..2026", 0, 0o755);
    symlink("..2026", machine.path("secrets/..data")).unwrap();
    symlink("..data/key.txt", machine.path("secrets/key.txt")).unwrap();
    machine.file("secrets/..2026/key.txt", 0, 0o440, &key);
    chown(machine.path("secrets/..2026/key.txt"), Some(0), Some(GROUP)).unwrap();
    machine.run("set --store age:$/home/a.age?identity=$/secrets/key.txt").ok();
    chmod(&machine.path("secrets/..2026/key.txt"), 0o444);
    let said = machine.run("get --store age:$/home/a.age?identity=$/secrets/key.txt").failed(5);
    assert!(said.contains("defaultMode: 0440"), "{said}");

    // A credential of systemd: a file of root's, and an access list with the user of the service.
    machine.directory("credentials", 0, 0o755);
    machine.file("credentials/key.txt", 0, 0o400, &key);
    let set_list = |entry: String| {
        let mut set = Command::new("setfacl");
        let set = set.args(["-b", "-m", &entry]).arg(machine.path("credentials/key.txt")).status();
        assert!(set.unwrap().success());
    };
    set_list(format!("u:{VICTIM}:r"));
    let credential = "set --store age:$/home/c.age?identity=$/credentials/key.txt";
    machine.run(credential).ok();
    set_list(format!("u:{VICTIM}:r,u:{NEIGHBOUR}:r"));
    machine.run(credential).failed(5);
    set_list(format!("u:{VICTIM}:r,g:{GROUP}:r"));
    machine.run(credential).failed(5);

    // A list in /nix/store: everybody's links in a directory of root's, and files with many names.
    machine.directory("nix", 0, 0o1775);
    machine.file(
        "nix/list.txt",
        0,
        0o444,
        "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa\n",
    );
    fs::hard_link(machine.path("nix/list.txt"), machine.path("nix/again.txt")).unwrap();
    symlink(machine.path("nix/list.txt"), machine.path("home/list.txt")).unwrap();
    machine
        .run("set --store age:$/home/b.age?identity=$/home/key.txt&recipients=$/home/list.txt")
        .ok();

    // A home that others may only enter, below directories of root's.
    machine.directory("homes", 0, 0o711);
    machine.directory("homes/me", VICTIM, 0o711);
    machine.run("set --store plaintext:$/homes/me/deep/t.json").ok();

    // A volume of a group. It is refused until the group is named.
    machine.directory("volume", 0, 0o2775);
    chown(machine.path("volume"), Some(0), Some(GROUP)).unwrap();
    chmod(&machine.path("volume"), 0o2775);
    let said = machine.run("set --store plaintext:$/volume/t.json").failed(5);
    assert!(said.contains("trust_group=41003"), "{said}");
    machine.run("set --store plaintext:$/volume/t.json?trust_group=41003").ok();
    let get = "get --store plaintext:$/volume/t.json?trust_group=41003";
    assert_eq!(machine.run(get).line(), "canary-a");
    machine.run("get --store plaintext:$/volume/t.json?trust_group=41004").failed(5);
    machine.run("init --profile volume --store plaintext:$/volume/t.json?trust_group=41003").ok();
    machine.run("profile remove volume").ok();
    assert_eq!(machine.files("volume"), []);
    assert!(
        machine.run("get --store plaintext:$/home/x?trust_group=me").failed(2).contains("id -g")
    );
}

#[test]
fn a_group_of_the_user_alone_may_write_and_a_group_with_others_may_not() {
    let test = "neighbours::a_group_of_the_user_alone_may_write_and_a_group_with_others_may_not";
    if !parts(test) || !available(test, "unshare") || !available(test, "setfacl") {
        return;
    }
    let machine = Machine::new(VICTIM);
    // As with umask 002, which is usual where each user has a group of their own.
    for name in ["home/config", "home/config/profiles", "home/data"] {
        machine.directory(name, VICTIM, 0o775);
    }
    let (users, groups) = (machine.path("passwd"), machine.path("group"));
    fs::write(&users, format!("root:x:0:0::/:/bin/sh\nme:x:{VICTIM}:{VICTIM}::/:/bin/sh\nyou:x:{NEIGHBOUR}:{NEIGHBOUR}::/:/bin/sh\n")).unwrap();
    let store = format!("plaintext:{}", machine.path("home/data/t.json").display());
    let run = |line: &str| {
        let mut command = Command::new("unshare");
        let mount = "mount --bind \"$1\" /etc/passwd && mount --bind \"$2\" /etc/group && shift 2 && exec \"$@\"";
        command.args(["-m", "sh", "-ec", mount, "sh"]).arg(&users).arg(&groups);
        let inner = machine.command(VICTIM, &machine.program);
        command.arg(inner.get_program()).args(inner.get_args()).args(line.split(' '));
        command.current_dir(machine.root.path()).env_clear();
        command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        done(&mut command, SEED)
    };
    for (members, code) in
        [("", 0), ("me", 0), ("me,root", 0), ("you", 5), ("me,you", 5), ("unknown", 5)]
    {
        fs::write(&groups, format!("me:x:{VICTIM}:{members}\nyou:x:{NEIGHBOUR}:\n")).unwrap();
        let profile = format!("store = \"{store}\"\n");
        machine.file("home/config/profiles/default.toml", VICTIM, 0o664, &profile);
        for line in [format!("set --store {store}"), "set".to_owned(), "get".to_owned()] {
            let done = run(&line);
            assert_eq!(done.code, code, "{members}: {line}: {done:?}");
        }
        if code != 0 {
            let said = run(&format!("set --store {store}")).failed(5);
            assert!(said.contains(&format!("group {VICTIM} can write to")), "{said}");
            assert!(said.contains("chmod g-w"), "{said}");
        }
    }
    // With an access list, the mode does not say who can write.
    fs::write(&groups, format!("me:x:{VICTIM}:\n")).unwrap();
    let entry = format!("u:{NEIGHBOUR}:rwx");
    let set = Command::new("setfacl").args(["-m", &entry]).arg(machine.path("home/data")).status();
    assert!(set.unwrap().success());
    run(&format!("set --store {store}")).failed(5);
    let profile = machine.path("home/config/profiles/default.toml");
    let set = Command::new("setfacl").args(["-m", &entry]).arg(&profile).status();
    assert!(set.unwrap().success());
    let said = run("get").failed(5);
    assert!(said.contains("default.toml is not private: others can write to it"), "{said}");
}
