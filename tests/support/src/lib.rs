//! Helpers for the tests: processes, real programs, servers and home directories.

#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::missing_errors_doc,
    clippy::must_use_candidate,
    clippy::new_without_default,
    clippy::unwrap_used,
    reason = "these are tests, and their tokens are made up"
)]

#[cfg(target_os = "linux")]
pub mod bucket_server;
#[cfg(unix)]
pub mod certificates;
pub mod clock;
pub mod faulty_store;
pub mod figures;
#[cfg(target_os = "linux")]
pub mod fleet;
#[cfg(target_os = "linux")]
pub mod forward_proxy;
#[cfg(target_os = "linux")]
pub mod google_server;
pub mod home;
#[cfg(target_os = "linux")]
pub mod hostile_server;
#[cfg(target_os = "linux")]
pub mod postgres_server;
pub mod provider;
#[cfg(target_os = "linux")]
pub mod proxy;
#[cfg(target_os = "linux")]
pub mod real_provider;
#[cfg(all(unix, not(target_vendor = "apple")))]
pub mod session;
pub mod token_server;

use std::env::consts::EXE_EXTENSION;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};

use tempfile::TempDir;

/// Returns whether a test can use a program that is not part of the project.
///
/// In CI a missing program is a failure. Elsewhere a message names the skipped test, so that it does not seem
/// to have passed.
#[cfg(unix)]
pub fn available(test: &str, program: &str) -> bool {
    let found = std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
    });
    if !found {
        skip(test, &format!("there is no `{program}` on this machine"));
    }
    found
}

/// Returns whether `faketime` can be used. It keeps files in shared memory that are named after its process.
/// Those of killed processes are removed first: a later process with the same number could not start.
#[cfg(unix)]
pub fn can_fake_time(test: &str) -> bool {
    let entries = std::fs::read_dir("/dev/shm").into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let name = name.strip_prefix("sem.").unwrap_or(&name);
        let process = name.strip_prefix("faketime_").and_then(|name| name.split('_').nth(1));
        let is_alive = |process: &str| Path::new("/proc").join(process).exists();
        if process.is_some_and(|process| !is_alive(process)) {
            // Another test may have removed it.
            let _ = std::fs::remove_file(&path);
        }
    }
    available(test, "faketime")
}

/// Reports that a test was skipped. In CI, fails the test.
#[cfg(unix)]
pub fn skip(test: &str, reason: &str) {
    // The test harness gives the thread of a test its whole name.
    let this = std::thread::current();
    let test = this.name().filter(|name| name.contains("::")).unwrap_or(test);
    assert!(std::env::var_os("CI").is_none(), "{test}: {reason}, and CI must run this test");
    // The test harness captures only the output of the print macros.
    std::io::stderr().write_all(format!("skipped {test}: {reason}\n").as_bytes()).unwrap();
}

/// Returns whether `strace` is installed and may trace.
#[cfg(unix)]
pub fn can_trace(test: &str) -> bool {
    if !available(test, "strace") {
        return false;
    }
    let traced = Command::new("strace").args(["-o", "/dev/null", "true"]).output().unwrap();
    if !traced.status.success() {
        skip(test, "tracing is not allowed here");
    }
    traced.status.success()
}

/// Returns whether this process runs only that test. If not, runs the test in its own process, and fails if
/// that process fails.
pub fn is_alone(test: &str) -> bool {
    const ALONE: &str = "TOKENKEEP_TEST_ALONE";

    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    let ran = output(command.args(["--exact", test, "--nocapture"]).env(ALONE, "1"));
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(
        ran.status.success() && said.contains("1 passed"),
        "{said}{}",
        String::from_utf8_lossy(&ran.stderr)
    );
    false
}

/// Returns the path of the example of that name. `scripts/test` builds it along with the tests.
pub fn example(name: &str) -> PathBuf {
    built(&Path::new("examples").join(name))
}

/// Returns the path of a program of this workspace: a process of the tests, or the command.
pub fn program(name: &str) -> PathBuf {
    built(Path::new(name))
}

/// Copies the command for a user who has no access to the build directory.
///
/// Another program copies it. If this process wrote the file, a child that another thread starts at that moment would
/// have it open for writing, and nothing could run it until that child has started its own program.
#[cfg(unix)]
pub fn copy_command(to: &Path) {
    let copied = Command::new("cp").arg(program("tokenkeep")).arg(to).status();
    assert!(copied.unwrap().success());
}

fn built(name: &Path) -> PathBuf {
    let this = std::env::current_exe().unwrap();
    let path = this.ancestors().nth(2).unwrap().join(name).with_extension(EXE_EXTENSION);
    assert!(path.exists(), "{} is missing: run `scripts/test`, which builds it", path.display());
    path
}

/// Creates a temporary directory that is private like a home directory.
pub fn scratch() -> TempDir {
    let mut scratch = tempfile::Builder::new();
    #[cfg(unix)]
    scratch.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700));
    scratch.prefix("tokenkeep-test").tempdir().unwrap()
}

/// Makes a named pipe.
#[cfg(unix)]
pub fn make_pipe(path: &Path) {
    assert!(Command::new("mkfifo").args(["-m", "600"]).arg(path).status().unwrap().success());
}

/// Things that can be in the place of a file of this crate.
#[cfg(unix)]
pub const ODD_FILES: [&str; 5] =
    ["a pipe", "a link to a device", "a directory", "garbage", "a large file"];

/// Creates one of [`ODD_FILES`].
#[cfg(unix)]
pub fn put_odd_file(kind: &str, at: &Path) {
    match kind {
        "a pipe" => make_pipe(at),
        "a link to a device" => std::os::unix::fs::symlink("/dev/zero", at).unwrap(),
        "a directory" => std::fs::create_dir(at).unwrap(),
        "garbage" => std::fs::write(at, b"\xff\xfe garbage").unwrap(),
        _ => std::fs::write(at, "x".repeat(1 << 20)).unwrap(),
    }
}

/// Starts a process. Under load, Wine sometimes fails before any of the process has run.
pub fn start(command: &mut Command) -> Child {
    const ERROR_INTERNAL_ERROR: i32 = 1359;
    const TRIES: usize = 5;
    for _ in 1..TRIES {
        match command.spawn() {
            Err(error) if cfg!(windows) && error.raw_os_error() == Some(ERROR_INTERNAL_ERROR) => {}
            started => return started.expect("it starts"),
        }
    }
    command.spawn().expect("it starts")
}

/// Runs a process to its end, and returns its output.
pub fn output(command: &mut Command) -> Output {
    start(command.stdout(Stdio::piped()).stderr(Stdio::piped())).wait_with_output().unwrap()
}

/// A process that does on one store what its input says.
pub struct Actor {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Actor {
    pub fn start(store: &str) -> Self {
        Self::spawn(Command::new(program("test-actor")).arg(store))
    }

    pub fn spawn(command: &mut Command) -> Self {
        let mut child = start(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, input, output }
    }

    /// Sends an order without waiting for the answer.
    pub fn send(&mut self, line: &str) {
        writeln!(self.input.as_ref().expect("it lives"), "{line}").unwrap();
    }

    /// Waits for the answer. Returns `None` if the process died.
    pub fn answer(&mut self) -> Option<String> {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        (!line.is_empty()).then(|| line.trim_end().to_owned())
    }

    pub fn ask(&mut self, line: &str) -> String {
        self.send(line);
        self.answer().expect("the process lives")
    }

    /// Returns the most memory that it has had, in bytes.
    #[cfg(target_os = "linux")]
    pub fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let kilobytes: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
        kilobytes * 1024
    }

    /// Closes the input of the process, and waits until it ends.
    #[cfg(all(unix, not(target_vendor = "apple")))]
    pub fn end(mut self) -> std::process::ExitStatus {
        drop(self.input.take());
        self.child.wait().unwrap()
    }

    /// Sends a signal, such as `STOP` or `CONT`.
    #[cfg(unix)]
    #[allow(dead_code, reason = "not all of the tests stop a process")]
    pub fn signal(&self, name: &str) {
        let sent =
            Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(sent.unwrap().success());
    }

    /// Kills the process as the system does: no destructor runs.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A minimal executor without tokio.
pub fn block_on<F: Future>(future: F) -> F::Output {
    use std::sync::Arc;
    use std::task::{Context, Poll, Wake, Waker};

    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = std::pin::pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        std::thread::park();
    }
}
