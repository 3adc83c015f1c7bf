//! What the tests stand on: processes, real programs, and a keychain of their own.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};

use tempfile::TempDir;

/// Tells whether a test can use a program that is not part of the project.
///
/// In CI a missing program is a failure. Elsewhere the test is skipped by name, so that nobody
/// takes it for done.
pub(crate) fn available(test: &str, program: &str) -> bool {
    let found = std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
    });
    if !found {
        skip(test, &format!("there is no `{program}` on this machine"));
    }
    found
}

/// Says that a test was skipped; in CI, fails it.
pub(crate) fn skip(test: &str, reason: &str) {
    assert!(std::env::var_os("CI").is_none(), "{test}: {reason}, and CI must run this test");
    // The test harness captures what the print macros print, and no more than that.
    std::io::stderr().write_all(format!("skipped {test}: {reason}\n").as_bytes()).unwrap();
}

/// Whether `strace` is there and may trace.
pub(crate) fn can_trace(test: &str) -> bool {
    if !available(test, "strace") {
        return false;
    }
    let traced = Command::new("strace").args(["-o", "/dev/null", "true"]).output().unwrap();
    if !traced.status.success() {
        skip(test, "tracing is not allowed here");
    }
    traced.status.success()
}

/// The example of that name, built by `cargo test` along with the tests.
pub(crate) fn example(name: &str) -> PathBuf {
    let this = std::env::current_exe().unwrap();
    let path = this.ancestors().nth(2).unwrap().join("examples").join(name);
    assert!(path.exists(), "{} is missing: run all of `cargo test --all-features`", path.display());
    path
}

/// A directory of its own, private like a home directory.
pub(crate) fn scratch() -> TempDir {
    let mut scratch = tempfile::Builder::new();
    #[cfg(unix)]
    scratch.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700));
    scratch.prefix("tokenkeep-test").tempdir().unwrap()
}

/// A process that works on one store as it is told.
pub(crate) struct Actor {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Actor {
    pub(crate) fn start(store: &str) -> Self {
        Self::spawn(Command::new(example("test-actor")).arg(store))
    }

    pub(crate) fn spawn(command: &mut Command) -> Self {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, input, output }
    }

    /// Gives an order without waiting for the answer.
    pub(crate) fn send(&mut self, line: &str) {
        writeln!(self.input.as_ref().expect("it lives"), "{line}").unwrap();
    }

    /// Waits for the answer; `None` if the process died.
    pub(crate) fn answer(&mut self) -> Option<String> {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        (!line.is_empty()).then(|| line.trim_end().to_owned())
    }

    pub(crate) fn ask(&mut self, line: &str) -> String {
        self.send(line);
        self.answer().expect("the process lives")
    }

    /// Lets it come to its end, and waits for that.
    pub(crate) fn end(mut self) -> ExitStatus {
        drop(self.input.take());
        self.child.wait().unwrap()
    }

    /// Kills it as the system would: no destructor runs.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        // It may have ended long ago.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A D-Bus session of the test's own, with a gnome-keyring in it or without.
pub(crate) struct Session {
    home: TempDir,
    bus: Child,
    address: String,
    daemon: Option<Child>,
}

impl Session {
    /// Starts a session bus that nobody offers secrets on.
    pub(crate) fn without_keychain() -> Self {
        let home = scratch();
        // No service files: nothing may be started by itself.
        let config = home.path().join("bus.conf");
        std::fs::write(
            &config,
            format!(
                "<!DOCTYPE busconfig PUBLIC \"-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN\" \
                 \"http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd\"><busconfig>\
                 <type>session</type><listen>unix:path={}/bus</listen><policy context=\"default\">\
                 <allow send_destination=\"*\" eavesdrop=\"true\"/><allow eavesdrop=\"true\"/>\
                 <allow own=\"*\"/></policy></busconfig>",
                home.path().display()
            ),
        )
        .unwrap();
        let mut bus = Command::new("dbus-daemon")
            .args(["--nofork", "--print-address=1", "--config-file"])
            .arg(&config)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("dbus-daemon starts");
        let mut address = String::new();
        BufReader::new(bus.stdout.take().unwrap()).read_line(&mut address).unwrap();
        Self { home, bus, address: address.trim_end().to_owned(), daemon: None }
    }

    /// Starts a session with an unlocked keychain, whose default collection is made by unlocking.
    pub(crate) fn with_keychain() -> Self {
        let mut session = Self::without_keychain();
        session.start_keychain();
        session
    }

    /// Starts the keychain, again if need be, and waits until it answers.
    pub(crate) fn start_keychain(&mut self) {
        self.stop_keychain();
        let mut daemon = self
            .command("gnome-keyring-daemon")
            .args(["--foreground", "--unlock", "--components=secrets", "--control-directory"])
            .arg(self.home.path().join("control"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("gnome-keyring-daemon starts");
        daemon.stdin.take().unwrap().write_all(b"password\n").unwrap();
        self.daemon = Some(daemon);
        let answers = self
            .command("gdbus")
            .args(["wait", "--session", "--timeout", "20", "org.freedesktop.secrets"])
            .status();
        assert!(answers.expect("gdbus starts").success(), "the keychain came up");
    }

    /// Locks the default collection.
    pub(crate) fn lock_keychain(&self) {
        let call = ["call", "--session", "--dest", "org.freedesktop.secrets", "--object-path"];
        let method =
            ["/org/freedesktop/secrets", "--method", "org.freedesktop.Secret.Service.Lock"];
        let collection = ["['/org/freedesktop/secrets/collection/login']"];
        self.output("gdbus", &[&call[..], &method, &collection].concat());
    }

    /// Counts the calls of a method on this session's bus from now on.
    pub(crate) fn watch(&self, interface: &'static str, method: &'static str) -> Watch {
        let rule = format!("type='method_call',interface='{interface}',member='{method}'");
        let mut monitor = self
            .command("dbus-monitor")
            .args(["--session", &rule])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("dbus-monitor starts");
        let mut output = BufReader::new(monitor.stdout.take().unwrap());
        // Who becomes a monitor loses its name, and is told.
        let mut line = String::new();
        while !line.contains("member=NameLost") {
            line.clear();
            assert_ne!(output.read_line(&mut line).unwrap(), 0, "the monitor starts");
        }
        Watch { monitor, output, interface, method }
    }

    pub(crate) fn stop_keychain(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill().unwrap();
            daemon.wait().unwrap();
        }
    }

    /// A command that lives in this session and no other.
    pub(crate) fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        command
            .env_remove("DISPLAY")
            .env_remove("TOKENKEEP_PASSPHRASE")
            .env_remove("TOKENKEEP_PROFILE")
            .env_remove("TOKENKEEP_STORE")
            .env("DBUS_SESSION_BUS_ADDRESS", &self.address)
            .env("HOME", self.home.path())
            .env("XDG_RUNTIME_DIR", self.home.path())
            .env("XDG_STATE_HOME", self.state())
            .env("XDG_DATA_HOME", self.home.path().join("data"));
        command
    }

    pub(crate) fn actor(&self, store: &str) -> Actor {
        Actor::spawn(self.command(example("test-actor")).arg(store))
    }

    /// Where stores of this session keep their files.
    pub(crate) fn state(&self) -> PathBuf {
        self.home.path().join("state")
    }

    /// Runs a command to its end, and returns what it printed.
    pub(crate) fn output(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.command(program).args(arguments).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }
}

/// A watch on one method of a session's bus.
pub(crate) struct Watch {
    monitor: Child,
    output: BufReader<ChildStdout>,
    interface: &'static str,
    method: &'static str,
}

impl Watch {
    /// How often the method was called until now: makes a call that nobody answers, and counts what
    /// came before it.
    pub(crate) fn calls(mut self, session: &Session) -> usize {
        let (marker, method) =
            ("/the/end/of/the/watch", format!("{}.{}", self.interface, self.method));
        let mut counted = 0;
        let mut call = session.command("gdbus");
        call.args(["call", "--session", "--dest", "org.freedesktop.DBus", "--object-path", marker]);
        call.args(["--method", &method]).stderr(Stdio::null()).status().unwrap();
        loop {
            let mut line = String::new();
            assert_ne!(self.output.read_line(&mut line).unwrap(), 0, "the monitor is there");
            if line.contains(marker) {
                return counted;
            }
            counted += usize::from(line.contains(&format!("member={}", self.method)));
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // It may have ended with the bus.
        let _ = self.monitor.kill();
        let _ = self.monitor.wait();
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.stop_keychain();
        // It may have died before.
        let _ = self.bus.kill();
        let _ = self.bus.wait();
    }
}
