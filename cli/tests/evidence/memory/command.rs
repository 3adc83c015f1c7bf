//! The memory of the command at its end. Its allocator wipes freed memory.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::reader::{Left, scan};
use crate::canaries::{Canary, Search, record, text};
use crate::figures::figure;
use crate::home::Home;
use crate::support::{can_trace, skip};
use crate::token_server::{TokenServer, fetch};

/// After this many bytes, a buffer of 64 KiB has less than 8 KiB left, the size of the standard
/// library's own buffer.
const FIRST_PIECE: usize = 58_000;

const NAMES: [&str; 11] = [
    "CLIENT",
    "PASSPHRASE",
    "access",
    "code",
    "device",
    "extra",
    "id",
    "large",
    "mine",
    "my refresh",
    "refresh",
];

#[test]
fn the_command_leaves_no_secret_in_its_memory() {
    if !can_read("the_command_leaves_no_secret_in_its_memory") {
        return;
    }
    let scene = Scene::new();
    let record = record();
    let plain = format!("plaintext:{}", scene.home.path("tokens.json").display());
    let copy =
        format!("age:{}?identity=config/keys/key.txt", scene.home.path("copy.age").display());
    let moved =
        format!("age:{}?identity=config/keys/safe.txt", scene.home.path("safe.age").display());
    let runs: Vec<(Vec<&str>, &str)> = vec![
        (vec!["set"], &record),
        (vec!["get"], ""),
        (vec!["get", "--field", "refresh"], ""),
        (vec!["get", "--field", "json"], ""),
        (vec!["get", "--header"], ""),
        (vec!["status"], ""),
        (vec!["status", "--json"], ""),
        (vec!["list"], ""),
        (vec!["doctor"], ""),
        (vec!["backup", "--to", &copy, "--overwrite"], ""),
        (vec!["restore", "--from", &copy, "--overwrite"], ""),
        (vec!["migrate", "--to", &plain, "--keep-source"], ""),
        (vec!["clear", "--store", &copy], ""),
        (vec!["keygen", "-o", "another.txt"], ""),
        (vec!["keygen", "--passphrase", "-o", "protected.txt"], ""),
        (vec!["login", "--device"], ""),
        (vec!["login", "--browser"], ""),
        (vec!["refresh"], ""),
        (vec!["migrate", "--to", &moved], ""),
        (vec!["get"], ""),
        (vec!["exec", "--", "there/is/no/such/program"], "fails with 127"),
        (vec!["clear", "--revoke"], ""),
        (vec!["set"], "fails with 2: no tokens"),
        (vec!["get"], "fails with 3"),
    ];
    for (arguments, input) in &runs {
        scene.assert_nothing_is_left(arguments, input);
    }
    let tried = format!("{} commands, read at their ends", runs.len());
    figure("memory of the command", tried, "0 secrets");
}

#[test]
fn a_token_that_is_read_in_pieces_leaves_no_piece_in_memory() {
    if can_read("a_token_that_is_read_in_pieces_leaves_no_piece_in_memory") {
        Scene::new().assert_nothing_is_left(&["set"], &text("large").repeat(1000));
    }
}

#[test]
fn a_passphrase_is_not_in_memory_at_the_end() {
    if !can_read("a_passphrase_is_not_in_memory_at_the_end") {
        return;
    }
    let scene = Scene::new();
    for command in [
        &["keygen", "--passphrase", "-o", "protected.txt"][..],
        &["set"],
        &["rekey", "--identity", "protected.txt"],
        &["get"],
    ] {
        scene.assert_nothing_is_left(command, "a-token");
    }
}

/// Reports whether this test can read the memory of the command. Only root can; its own user cannot.
fn can_read(test: &str) -> bool {
    if !rustix::process::geteuid().is_root() {
        skip(test, "only root can read its memory");
        return false;
    }
    can_trace(test)
}

struct Scene {
    home: Home,
}

impl Scene {
    fn new() -> Self {
        let (home, server) = (Home::new(), TokenServer::start());
        server.mark(|kind| Canary::new(kind).text);
        server.require_client("app", &text("CLIENT"), true);
        for key in ["key", "safe"] {
            let identity = age::x25519::Identity::generate().to_string();
            let identity = tokenkeep::secrecy::ExposeSecret::expose_secret(&identity);
            home.write(&format!("config/keys/{key}.txt"), identity);
        }
        let store = format!(
            "age:{}?identity={}",
            home.path("state/tokens.age").display(),
            home.path("config/keys/key.txt").display()
        );
        home.write_profile("default", &store, &server, "");
        Self { home }
    }

    fn assert_nothing_is_left(&self, arguments: &[&str], input: &str) {
        let left = self.run(arguments, input);
        let (given, left): (Vec<_>, Vec<_>) =
            left.into_iter().partition(|left| left.region == "the environment");
        assert_eq!(given.len(), 2, "the reader finds the secrets in the environment: {given:?}");
        let some: Vec<_> = left.iter().take(9).collect();
        assert!(some.is_empty(), "{arguments:?}: {some:?}");
    }

    /// Runs this command, and returns the secrets in its memory when it is about to exit.
    fn run(&self, arguments: &[&str], input: &str) -> Vec<Left> {
        let mut command = self.home.wrapped("strace");
        command.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=exit_group"]);
        command.args(["-e", "inject=exit_group:delay_enter=60000000"]);
        command.arg(env!("CARGO_BIN_EXE_tokenkeep")).args(arguments);
        command.env("CANARY_CLIENT_SECRET", text("CLIENT"));
        command.env("TOKENKEEP_PASSPHRASE", text("PASSPHRASE"));
        let stopped = Stopped::start(&mut command, input, arguments.contains(&"--browser"));
        let mut canaries: Vec<Canary> = NAMES.map(Canary::new).into();
        // Not all of these keys exist in each run.
        for key in ["config/keys/key.txt", "config/keys/safe.txt", "another.txt"] {
            if let Ok(identity) = fs::read_to_string(self.home.path(key)) {
                let identity = identity.lines().last().unwrap().to_owned();
                canaries.push(Canary::of("a key", &identity));
            }
        }
        let expected = input.strip_prefix("fails with ").map_or(0, |rest| {
            rest.split(':').next().and_then(|code| code.parse().ok()).expect("a number")
        });
        assert_eq!(stopped.code, expected, "{arguments:?}");
        scan(stopped.pid, &Search::new(&canaries))
    }
}

/// A process that is stopped just before its exit.
struct Stopped {
    tracer: Child,
    pid: u32,
    code: u8,
}

impl Stopped {
    fn start(command: &mut Command, input: &str, browser: bool) -> Self {
        let stderr = if browser { Stdio::piped() } else { Stdio::null() };
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(stderr);
        let mut tracer = command.spawn().unwrap();
        feed(&mut tracer.stdin.take().unwrap(), input.as_bytes());
        if browser {
            let mut said = BufReader::new(tracer.stderr.take().unwrap());
            let mut line = String::new();
            said.read_line(&mut line).unwrap();
            let url = line.trim_end().rsplit(' ').next().unwrap();
            let (_, back, _) = fetch(url);
            assert_eq!(fetch(&back.unwrap()).0, 200);
            // Read the rest in another thread, so that the command never waits for the pipe.
            thread::spawn(move || said.read_to_end(&mut Vec::new()));
        }
        let deadline = Instant::now() + Duration::from_secs(50);
        let (pid, code) = loop {
            if let Some(ended) = at_its_end(tracer.id()) {
                break ended;
            }
            assert!(Instant::now() < deadline, "{command:?} does not end");
            thread::yield_now();
        };
        Self { tracer, pid, code }
    }
}

/// Writes long input in two pieces, and the second piece only after the first was read. A reader whose
/// buffer is almost full reads in another way.
fn feed(pipe: &mut ChildStdin, input: &[u8]) {
    let (first, second) = input.split_at(input.len().min(FIRST_PIECE));
    // Some commands exit without reading their input.
    let _ = pipe.write_all(first);
    while !second.is_empty() && rustix::io::ioctl_fionread(&*pipe).unwrap() > 0 {
        thread::yield_now();
    }
    let _ = pipe.write_all(second);
}

/// Returns the process under this tracer and its exit code, once it has called `exit_group`.
fn at_its_end(tracer: u32) -> Option<(u32, u8)> {
    const EXIT_GROUP: &str = if cfg!(target_arch = "x86_64") { "231 " } else { "94 " };
    let children = fs::read_to_string(format!("/proc/{tracer}/task/{tracer}/children")).ok()?;
    let pid = children.split_whitespace().next()?.parse().ok()?;
    // strace first starts other processes, to test what the system supports.
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    if name.trim_end() != "tokenkeep" {
        return None;
    }
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let code_of = |task: &Path| {
        let call = fs::read_to_string(task.join("syscall")).ok()?;
        let code = call.strip_prefix(EXIT_GROUP)?.split(' ').next()?.trim_start_matches("0x");
        u8::from_str_radix(code, 16).ok()
    };
    tasks.flatten().find_map(|task| Some((pid, code_of(&task.path())?)))
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // Kill the traced process too. It may have ended already.
        let pid = rustix::process::Pid::from_raw(self.pid.cast_signed()).unwrap();
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        let _ = self.tracer.kill();
        let _ = self.tracer.wait();
    }
}
