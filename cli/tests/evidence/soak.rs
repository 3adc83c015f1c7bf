//! Many processes with many tasks use the tokens of several users, and processes are killed all the time.
//! The server ends a session if a refresh token is used twice.
//!
//! `TOKENKEEP_SOAK_SECONDS` sets the duration, and `TOKENKEEP_SOAK_SEED` the random decisions. All events
//! are in `target/tmp/soak.log`.

mod admin;
mod client;
mod keychain;
mod model;
mod process;
mod server;
mod settle;

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use tokenkeep::AgeKey;

use self::keychain::Keychain;
use self::model::{Time, World};
use self::process::Process;
use crate::figures::figure;
use crate::support::{available, program, scratch};

const PROCESSES: usize = 16;

/// The number of processes that run from start to end. They must not leak memory or descriptors.
const LONG_LIVING: usize = 3;

/// The number of orders that a process works on at a time. One order may be for several tasks.
const CLIENTS: usize = 4;

const ADMINS: usize = 2;

/// The second place of the first user is in the keychain, if there is one.
const USERS: usize = 8;

/// An order that takes longer counts as hanging, also on a very busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// The longest time that a manager which rarely reads the store may return an old state.
const LAZINESS: Time = 1_300_000;

/// A small random generator. The same seed makes the same decisions.
pub(crate) struct Random(u64);

impl Random {
    fn new(seed: u64, stream: u64) -> Self {
        let mut random = Self(seed ^ stream.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        (0..8).for_each(|_| {
            random.below(2);
        });
        random
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }

    fn index(&mut self, bound: usize) -> usize {
        self.below(bound as u64) as usize
    }
}

struct Soak {
    seed: u64,
    began: Instant,
    seconds: u64,
    /// Set once all processes have warmed up.
    ends: OnceLock<Instant>,
    /// The files of each user: plaintext, sealed, and the backup.
    files: Vec<[PathBuf; 3]>,
    world: Mutex<World>,
    changed: Condvar,
    processes: OnceLock<Vec<Arc<Process>>>,
    log: Mutex<File>,
    numbers: AtomicU64,
    /// Whether the server sometimes fails and kills processes.
    faults: AtomicBool,
}

impl Soak {
    fn now(&self) -> Time {
        Time::try_from(self.began.elapsed().as_micros()).unwrap()
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    fn processes(&self) -> &[Arc<Process>] {
        self.processes.get().expect("they run")
    }

    fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    fn is_over(&self) -> bool {
        let world = self.world();
        let ends = self.ends.get().expect("they have warmed up");
        // A busy machine needs more time for enough refreshes and kills.
        let is_time = |limit: Duration| Instant::now() >= *ends + limit;
        world.ended || is_time(PATIENCE) || (is_time(Duration::ZERO) && self.is_enough(&world))
    }

    /// Reports whether there were enough refreshes and kills for a useful result.
    fn is_enough(&self, world: &World) -> bool {
        let least = self.seconds.min(20);
        world.refreshes > 2 * least && world.kills > least / 4
    }

    fn log(&self, event: &str) {
        let line = format!("{:.6} {event}\n", self.now() as f64 / 1e6);
        self.log.lock().unwrap().write_all(line.as_bytes()).unwrap();
    }

    fn fail(&self, user: Option<usize>, what: &str) {
        self.log(&format!("FAILED: {what}"));
        self.world().fail(user, what);
        self.changed.notify_all();
    }

    /// Gives an order, and returns the answer. Returns `None` if the process dies first.
    fn ask(&self, process: usize, user: Option<usize>, order: &str) -> Option<String> {
        let process = &self.processes()[process];
        match process.order(order).recv_timeout(PATIENCE) {
            Ok(answer) => Some(answer),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => {
                let pid = process.pid();
                let what = format!("grep . /proc/{pid}/task/*/comm /proc/{pid}/task/*/wchan");
                let threads = Command::new("sh").args(["-c", &what]).output();
                let threads = threads.map(|it| String::from_utf8_lossy(&it.stdout).into_owned());
                let what = format!("process {} hangs in `{order}`\n{threads:?}", process.number);
                self.fail(user, &what);
                None
            }
        }
    }

    /// Kills a process, unless it must live or is about to end normally. Returns whether it was killed.
    fn kill(&self, number: usize, life: Option<u32>) -> bool {
        let process = &self.processes()[number];
        let life = life.unwrap_or_else(|| process.life());
        {
            let mut world = self.world();
            let may_not_be = number < LONG_LIVING || world.processes[number].closed;
            if may_not_be || !world.killed.insert((number, life)) {
                return false;
            }
            world.kills += 1;
        }
        self.log(&format!("kill process {number}.{life}"));
        process.kill(life);
        true
    }

    /// Lets a process finish its orders, and ends it normally.
    fn end(&self, number: usize) {
        let mut world = self.world();
        if world.processes[number].closed {
            return;
        }
        world.processes[number].closed = true;
        while world.processes[number].at_work > 0 {
            world = self.changed.wait_timeout(world, PATIENCE).unwrap().0;
        }
        world.ends += 1;
        drop(world);
        self.log(&format!("end process {number}"));
        match self.ask(number, None, "shutdown").as_deref() {
            Some("ok bye") | None => self.processes()[number].end(false),
            Some(answer) => self.fail(None, &format!("process {number} cannot end: {answer}")),
        }
        self.world().processes[number].closed = false;
        self.changed.notify_all();
    }
}

/// The files of all users, and the URLs of their stores.
struct Places {
    dir: tempfile::TempDir,
    files: Vec<[PathBuf; 3]>,
    /// The plaintext stores of all users, then the sealed stores, then the backups.
    urls: Vec<String>,
}

impl Places {
    fn new(keychain: Option<&Keychain>) -> Self {
        let dir = scratch();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut urls = [const { Vec::new() }; 3];
        let mut files = Vec::new();
        for user in 0..USERS {
            let home = dir.path().join(format!("user{user}"));
            let key = home.join("keys/key.txt");
            runtime.block_on(AgeKey::create_identity_file(&key)).unwrap();
            let sealed = |name: &str| {
                let file = home.join(name).join("tokens.age");
                (format!("age:{}?identity={}", file.display(), key.display()), file)
            };
            let plain = home.join("plain/tokens.json");
            urls[0].push(format!("plaintext:{}", plain.display()));
            let (url, file) = match keychain {
                Some(keychain) if user == 0 => (
                    "keychain:soak/alice".to_owned(),
                    keychain.state().join("tokenkeep/soak/alice.age"),
                ),
                _ => sealed("sealed"),
            };
            urls[1].push(url);
            let (url, backup) = sealed("backup");
            urls[2].push(url);
            files.push([plain, file, backup]);
        }
        Self { dir, files, urls: urls.concat() }
    }
}

fn setting(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |value| value.parse().expect("a number"))
}

#[test]
fn nothing_is_lost_brought_back_or_left_behind_when_everything_happens_at_once() {
    let test = "soak::nothing_is_lost_brought_back_or_left_behind_when_everything_happens_at_once";
    let parts = ["dbus-daemon", "gnome-keyring-daemon", "gdbus"];
    let has_keychain = parts.iter().all(|program| available(test, program));
    let keychain = has_keychain.then(|| Arc::new(Keychain::start()));
    let seconds = setting("TOKENKEEP_SOAK_SECONDS", 20);
    let random = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().subsec_nanos();
    let seed = setting("TOKENKEEP_SOAK_SEED", u64::from(random));
    // The log is beside the binary, so a copy of the binary has its own log.
    let tmp = std::env::current_exe().unwrap().ancestors().nth(3).unwrap().join("tmp");
    std::fs::create_dir_all(&tmp).unwrap();
    let complaints = tmp.join("soak-stderr.log");
    File::create(&complaints).unwrap();

    let Places { dir, files, urls } = Places::new(keychain.as_deref());
    let began = Instant::now();
    let world = World::new(USERS, PROCESSES, keychain.clone(), began);
    let soak = Arc::new(Soak {
        seed,
        began,
        seconds,
        ends: OnceLock::new(),
        files,
        world: Mutex::new(world),
        changed: Condvar::new(),
        processes: OnceLock::new(),
        log: Mutex::new(File::create(tmp.join("soak.log")).unwrap()),
        numbers: AtomicU64::new(0),
        faults: AtomicBool::new(false),
    });
    soak.log(&format!("seed {seed}, {seconds} seconds"));
    let server = server::listen(&soak);
    let line = format!("{server}\t{}", urls.join("\t"));
    let processes = (0..PROCESSES).map(|number| {
        let (keychain, complaints, failing) = (keychain.clone(), complaints.clone(), soak.clone());
        let command = move || {
            let program = program("soak-actor");
            let mut command = match &keychain {
                Some(keychain) => keychain.command(&program),
                None => Command::new(program),
            };
            command.stderr(Stdio::from(File::options().append(true).open(&complaints).unwrap()));
            command
        };
        Process::start(number, line.clone(), command, move |what| failing.fail(None, what))
    });
    assert!(soak.processes.set(processes.collect()).is_ok());

    let before = settle::warm_up(&soak);
    soak.ends.set(Instant::now() + Duration::from_secs(seconds)).expect("it is set once");
    soak.faults.store(true, Ordering::SeqCst);
    thread::scope(|scope| {
        let soak = &*soak;
        for number in 0..(PROCESSES * CLIENTS) as u64 {
            let random = Random::new(seed, number + 1);
            scope.spawn(move || client::run(soak, number as usize % PROCESSES, random));
        }
        for number in 0..ADMINS as u64 {
            let random = Random::new(seed, 1000 + number);
            scope.spawn(move || admin::run(soak, random));
        }
        scope.spawn(move || killer(soak, Random::new(seed, 2000)));
    });
    soak.faults.store(false, Ordering::SeqCst);
    soak.log("everybody is done");
    settle::settle(&soak, &before);
    for process in soak.processes() {
        process.end(true);
    }
    let complaints = std::fs::read_to_string(&complaints).unwrap();
    let world = soak.world();
    let summary = world.summary();
    soak.log(&summary);
    // The test harness captures the output of the print macros, so write to stderr directly.
    std::io::stderr().write_all(format!("{summary}\n").as_bytes()).unwrap();
    drop(dir);
    assert_eq!(complaints, "", "seed {seed}");
    assert!(world.failures.is_empty(), "seed {seed}: {}", world.failures.join("\n\n"));
    assert!(soak.is_enough(&world), "{summary}");
    figure(
        "soak",
        format!(
            "{seconds} s, {PROCESSES} processes, {} operations, {} refreshes, {} kills, {} migrations, {} crashes of gnome-keyring",
            world.operations,
            world.refreshes,
            world.kills,
            world.migrations,
            world.crashes()
        ),
        "0 sessions lost, 0 tokens resurrected, 0 files left, 0 descriptors or threads leaked",
    );
}

/// Kills processes, and sometimes ends one normally.
fn killer(soak: &Soak, mut random: Random) {
    while !soak.is_over() {
        thread::sleep(Duration::from_millis(50 + random.below(400)));
        let number = LONG_LIVING + random.index(PROCESSES - LONG_LIVING);
        if random.below(6) == 0 {
            soak.end(number);
        } else {
            soak.kill(number, None);
        }
    }
}
