//! A home directory on a simulated disk. After a power cut, the disk has all durable changes, and any of
//! the others.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use tempfile::TempDir;

use super::disk::{Disk, Tree};
use super::record::{Stage, Step, record};
use crate::figures::figure;
use crate::support::program;

/// The numbers of all scenes so far.
static TALLY: Mutex<Tally> = Mutex::new(Tally { states: 0, operations: 0, commands: 0 });

struct Tally {
    states: usize,
    operations: usize,
    commands: usize,
}

pub(crate) struct Scene {
    root: TempDir,
    /// The content of the disk at the start. All of it is durable.
    start: Tree,
    /// The steps of each command.
    runs: Vec<Vec<Step>>,
}

/// The number of commands that have started, and the stage of the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Moment(pub(crate) usize, pub(crate) Stage);

/// The result of a command.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Done {
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.out
    }
}

impl Scene {
    /// Creates a home with the content that `prepare` makes.
    pub(crate) fn new(prepare: impl FnOnce(&Self)) -> Self {
        // The disk is simulated, so no real disk is needed, and memory is faster.
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let mut root = tempfile::Builder::new();
        root.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700));
        let root = root.prefix("tokenkeep-power").tempdir_in(parent).unwrap();
        let mut scene = Self { root, start: Tree::new(), runs: Vec::new() };
        prepare(&scene);
        scene.start = scene.found();
        scene
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Returns the URL of an age file with an identity.
    pub(crate) fn age(&self, name: &str, identity: &str) -> String {
        let (file, key) = (self.path(name), self.path(identity));
        format!("age:{}?identity={}", file.display(), key.display())
    }

    pub(crate) fn plaintext(&self, name: &str) -> String {
        format!("plaintext:{}", self.path(name).display())
    }

    /// Returns the real command in this home. The line is split at spaces.
    pub(crate) fn command(&self, line: &str) -> Command {
        self.wrapped(env!("CARGO_BIN_EXE_tokenkeep").as_ref(), line)
    }

    /// Returns a program that uses a store through the library. Its input says what it does.
    pub(crate) fn actor(&self, store: &str) -> Command {
        self.wrapped(&program("test-actor"), store)
    }

    fn wrapped(&self, program: &Path, line: &str) -> Command {
        let mut command = Command::new(program);
        command
            .args(line.split(' '))
            .current_dir(self.root.path())
            .env_remove("TOKENKEEP_PASSPHRASE")
            .env_remove("TOKENKEEP_PROFILE")
            .env_remove("TOKENKEEP_STORE")
            .env("DBUS_SESSION_BUS_ADDRESS", format!("unix:path={}", self.path("none").display()))
            .env("HOME", self.root.path())
            .env("TOKENKEEP_CONFIG_DIR", self.path("etc/config"))
            .env("XDG_CONFIG_HOME", self.path("etc"))
            .env("XDG_RUNTIME_DIR", self.root.path())
            .env("XDG_STATE_HOME", self.path("var/state"));
        command
    }

    /// Runs a program without recording it.
    pub(crate) fn run(&self, mut command: Command, input: &str) -> Done {
        use std::io::Write;

        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // The program may exit before it has read all input.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        done(child.wait_with_output().unwrap())
    }

    pub(crate) fn tokenkeep(&self, line: &str) -> Done {
        self.run(self.command(line), "")
    }

    /// Runs a program that must succeed, and records what it does to the disk.
    pub(crate) fn record(&mut self, command: &Command, input: &str) -> String {
        self.try_record(command, input).ok()
    }

    /// Records what a program does to the disk, whether it succeeds or not.
    pub(crate) fn try_record(&mut self, command: &Command, input: &str) -> Done {
        let disk = self.disk();
        self.put(&disk.now());
        let (output, steps) = record(self.root.path(), &disk, command, input);
        assert_eq!(steps.last().map(reached), Some(Some(Stage::Ended)), "{steps:?}");
        self.runs.push(steps);
        // All changes have been recorded.
        assert_eq!(self.disk().now(), self.found(), "{:?}", self.runs.last());
        done(output)
    }

    /// Returns the disk after all recorded steps.
    fn disk(&self) -> Disk {
        let mut disk = Disk::of(&self.start);
        for step in self.runs.iter().flatten() {
            if let Step::Does(operation) = step {
                disk.apply(operation);
            }
        }
        disk
    }

    /// Cuts the power after every step. For each state that the disk may then have, puts it into the home
    /// and calls `check`, which may change the home.
    pub(crate) fn cut_power(&self, check: impl FnMut(&Self, Moment)) {
        self.cut_power_from(Moment(0, Stage::Running), check);
    }

    pub(crate) fn cut_power_from(&self, first: Moment, mut check: impl FnMut(&Self, Moment)) {
        let mut disk = Disk::of(&self.start);
        let mut seen = HashSet::new();
        let mut operations = 0;
        let mut moment = Moment(0, Stage::Running);
        for (run, steps) in self.runs.iter().enumerate() {
            moment = Moment(run + 1, Stage::Running);
            for (number, step) in steps.iter().enumerate() {
                match step {
                    Step::Does(operation) => disk.apply(operation),
                    Step::Reaches(stage) => moment.1 = *stage,
                }
                operations += usize::from(matches!(step, Step::Does(_)));
                if moment < first {
                    continue;
                }
                for state in disk.states() {
                    if seen.insert((moment, state.clone())) {
                        self.put(&state);
                        let _cut = Cut { moment, number, step, state: &state };
                        check(self, moment);
                    }
                }
            }
        }
        assert!(moment.1 == Stage::Ended && operations > 0, "{:?}", self.runs);
        let mut tally = TALLY.lock().unwrap();
        tally.states += seen.len();
        tally.operations += operations;
        tally.commands += self.runs.len();
        let Tally { states, operations, commands } = *tally;
        let tried =
            format!("{states} disk states of {operations} operations in {commands} commands");
        figure("power loss", tried, "0 lost");
    }

    /// Kills the recorded command after each of its operations. Each time, records what `again` does, and
    /// cuts the power at each of the new steps.
    pub(crate) fn kill(mut self, again: impl Fn(&mut Self), mut check: impl FnMut(&Self, Moment)) {
        let [whole] = &*std::mem::take(&mut self.runs) else { panic!("one command") };
        for (number, step) in whole.iter().enumerate() {
            if matches!(step, Step::Does(_)) {
                self.runs = vec![whole[..=number].to_vec()];
                again(&mut self);
                self.cut_power_from(Moment(2, Stage::Running), &mut check);
            }
        }
    }

    /// Replaces the content of the home with this.
    fn put(&self, tree: &Tree) {
        for entry in fs::read_dir(self.root.path()).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
        }
        for (path, content) in tree {
            let path = self.root.path().join(path);
            match content {
                None => fs::DirBuilder::new().mode(0o700).create(path).unwrap(),
                Some(bytes) => {
                    use std::io::Write;

                    let mut file = fs::OpenOptions::new();
                    let file = file.write(true).create_new(true).mode(0o600).open(path);
                    file.unwrap().write_all(bytes).unwrap();
                }
            }
        }
    }

    /// Returns the content of the home.
    pub(crate) fn found(&self) -> Tree {
        let mut tree = Tree::new();
        let mut directories = vec![self.root.path().to_owned()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                let content = path.is_file().then(|| fs::read(&path).unwrap());
                tree.insert(path.strip_prefix(self.root.path()).unwrap().to_owned(), content);
                if path.is_dir() {
                    directories.push(path);
                }
            }
        }
        tree
    }
}

/// If a check fails, prints where the power was cut.
struct Cut<'a> {
    moment: Moment,
    number: usize,
    step: &'a Step,
    state: &'a Tree,
}

impl Drop for Cut<'_> {
    #[expect(clippy::print_stderr, reason = "the harness shows it with the failure")]
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let Self { moment, number, step, state } = self;
        let names: Vec<_> = state
            .iter()
            .map(|(path, content)| match content {
                Some(bytes) => format!("{} ({} bytes)", path.display(), bytes.len()),
                None => format!("{}/", path.display()),
            })
            .collect();
        eprintln!(
            "power cut at {moment:?}, after step {number}, {step:?}; the disk has {names:#?}"
        );
    }
}

fn reached(step: &Step) -> Option<Stage> {
    match step {
        Step::Does(_) => None,
        Step::Reaches(stage) => Some(*stage),
    }
}

fn done(output: std::process::Output) -> Done {
    Done {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}
