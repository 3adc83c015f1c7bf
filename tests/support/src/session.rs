//! A D-Bus session with its own keychain.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use tempfile::TempDir;

use crate::{Actor, program, scratch};

/// A D-Bus session for one test, with or without a gnome-keyring.
pub struct Session {
    home: TempDir,
    bus: Child,
    address: String,
    daemon: Option<Child>,
}

impl Session {
    /// Starts a session bus without a Secret Service.
    pub fn without_keychain() -> Self {
        let home = scratch();
        // Without service files, no service starts by itself.
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

    /// Starts a session with an unlocked keychain. Unlocking creates its default collection.
    pub fn with_keychain() -> Self {
        let mut session = Self::without_keychain();
        session.start_keychain();
        session
    }

    /// Starts the keychain, or restarts it, and waits until it answers.
    pub fn start_keychain(&mut self) {
        self.start_daemon(&["--unlock"]);
    }

    /// Starts a keychain that is empty: it has no default collection either.
    pub fn start_empty_keychain(&mut self) {
        self.start_daemon(&[]);
    }

    fn start_daemon(&mut self, arguments: &[&str]) {
        self.stop_keychain();
        let mut daemon = self
            .command("gnome-keyring-daemon")
            .args(arguments)
            .args(["--foreground", "--components=secrets", "--control-directory"])
            .arg(self.home.path().join("control"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("gnome-keyring-daemon starts");
        // The daemon may not read its input if it does not have to unlock.
        let _ = daemon.stdin.take().unwrap().write_all(b"password\n");
        self.daemon = Some(daemon);
        let answers = self
            .command("gdbus")
            .args(["wait", "--session", "--timeout", "20", "org.freedesktop.secrets"])
            .status();
        assert!(answers.expect("gdbus starts").success(), "the keychain did not start");
    }

    /// Locks the default collection.
    pub fn lock_keychain(&self) {
        let call = ["call", "--session", "--dest", "org.freedesktop.secrets", "--object-path"];
        let method =
            ["/org/freedesktop/secrets", "--method", "org.freedesktop.Secret.Service.Lock"];
        let collection = ["['/org/freedesktop/secrets/collection/login']"];
        self.output("gdbus", &[&call[..], &method, &collection].concat());
    }

    /// Suspends the keychain, as a debugger does.
    pub fn suspend_keychain(&self) {
        let daemon = self.daemon.as_ref().expect("it runs");
        let stopped = Command::new("kill").args(["-STOP", &daemon.id().to_string()]).status();
        assert!(stopped.unwrap().success());
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    /// Counts the calls of a method on the bus of this session from now on.
    pub fn watch(&self, interface: &'static str, method: &'static str) -> Watch {
        let rule = format!("type='method_call',interface='{interface}',member='{method}'");
        let mut monitor = self
            .command("dbus-monitor")
            .args(["--session", &rule])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("dbus-monitor starts");
        let mut output = BufReader::new(monitor.stdout.take().unwrap());
        // A client that becomes a monitor loses its name, and gets a message about it.
        let mut line = String::new();
        while !line.contains("member=NameLost") {
            line.clear();
            assert_ne!(output.read_line(&mut line).unwrap(), 0, "the monitor did not start");
        }
        Watch { monitor, output, interface, method }
    }

    pub fn stop_keychain(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill().unwrap();
            daemon.wait().unwrap();
        }
    }

    /// Returns a command for a program in this session.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
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

    pub fn actor(&self, store: &str) -> Actor {
        Actor::spawn(self.command(program("test-actor")).arg(store))
    }

    pub fn actor_with_prompts(&self, store: &str) -> Actor {
        Actor::spawn(self.command(program("test-actor")).args(["--allow-prompts", store]))
    }

    /// Stops the keychain, and deletes its data.
    pub fn forget_keychain(&mut self) {
        self.stop_keychain();
        std::fs::remove_dir_all(self.home.path().join("data")).unwrap();
    }

    /// Returns the directory in which stores of this session keep their files.
    pub fn state(&self) -> PathBuf {
        self.home.path().join("state")
    }

    /// Runs a command to its end, and returns its output.
    pub fn output(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.command(program).args(arguments).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }
}

/// Counts the calls of one method on the bus of a session.
pub struct Watch {
    monitor: Child,
    output: BufReader<ChildStdout>,
    interface: &'static str,
    method: &'static str,
}

impl Watch {
    /// Returns how often the method was called. Makes a call that marks the end, and counts those before it.
    pub fn calls(mut self, session: &Session) -> usize {
        let (marker, method) =
            ("/the/end/of/the/watch", format!("{}.{}", self.interface, self.method));
        let mut counted = 0;
        let mut call = session.command("gdbus");
        call.args(["call", "--session", "--dest", "org.freedesktop.DBus", "--object-path", marker]);
        call.args(["--method", &method]).stderr(Stdio::null()).status().unwrap();
        loop {
            let mut line = String::new();
            assert_ne!(self.output.read_line(&mut line).unwrap(), 0, "the monitor has ended");
            if line.contains(marker) {
                return counted;
            }
            counted += usize::from(line.contains(&format!("member={}", self.method)));
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // The monitor may have ended with the bus.
        let _ = self.monitor.kill();
        let _ = self.monitor.wait();
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.stop_keychain();
        // The bus may have ended already.
        let _ = self.bus.kill();
        let _ = self.bus.wait();
    }
}
