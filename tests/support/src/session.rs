//! A D-Bus session with its own keychain.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::{Actor, program, scratch};

/// A D-Bus session of the test's own, with a keychain in it or without.
///
/// The fields are dropped in this order: the keychain ends before its bus, and the files go last.
pub struct Session {
    daemon: Option<Daemon>,
    /// A screen, and its address.
    screen: Option<(Daemon, String)>,
    _bus: Daemon,
    address: String,
    home: TempDir,
}

/// A process that ends when this value is dropped, or when the process of the test ends, in whatever way.
struct Daemon {
    child: Child,
    /// Kills the daemon when the pipe to it is closed.
    watcher: Child,
}

impl Daemon {
    fn start(command: &mut Command) -> Self {
        let child = command.spawn().expect("it starts");
        let watcher = Command::new("sh")
            .args(["-c", "read -r _; kill -KILL \"$1\"", "sh", &child.id().to_string()])
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh starts");
        Self { child, watcher }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // The watcher goes first. Later, another process could have the daemon's number.
        for process in [&mut self.watcher, &mut self.child] {
            // It may have ended before.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Session {
    /// Starts a session bus without a Secret Service.
    pub fn without_keychain() -> Self {
        let home = scratch();
        let address = format!("unix:path={}/bus", home.path().display());
        Self::start(home, &address)
    }

    /// Starts such a session bus at an address.
    pub fn without_keychain_at(address: &str) -> Self {
        Self::start(scratch(), address)
    }

    fn start(home: TempDir, address: &str) -> Self {
        // Without service files, no service starts by itself.
        let config = home.path().join("bus.conf");
        std::fs::write(
            &config,
            format!(
                "<!DOCTYPE busconfig PUBLIC \"-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN\" \
                 \"http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd\"><busconfig>\
                 <type>session</type><listen>{address}</listen><policy context=\"default\">\
                 <allow send_destination=\"*\" eavesdrop=\"true\"/><allow eavesdrop=\"true\"/>\
                 <allow own=\"*\"/></policy></busconfig>"
            ),
        )
        .unwrap();
        let mut bus = Daemon::start(
            Command::new("dbus-daemon")
                .args(["--nofork", "--print-address=1", "--config-file"])
                .arg(&config)
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::null()),
        );
        let mut address = String::new();
        BufReader::new(bus.child.stdout.take().unwrap()).read_line(&mut address).unwrap();
        Self { daemon: None, screen: None, _bus: bus, address: address.trim_end().to_owned(), home }
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
        let mut command = self.command("gnome-keyring-daemon");
        command.args(arguments);
        command.args(["--foreground", "--components=secrets", "--control-directory"]);
        self.start_provider(command.arg(self.home.path().join("control")));
    }

    /// Starts a provider of the Secret Service, and waits until it has its name. It may read the password from
    /// its standard input.
    fn start_provider(&mut self, command: &mut Command) {
        self.stop_keychain();
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut daemon = Daemon::start(command);
        // Without a password to unlock with, it may not read its input.
        let _ = daemon.child.stdin.take().unwrap().write_all(b"password\n");
        self.daemon = Some(daemon);
        let answers = self
            .command("gdbus")
            .args(["wait", "--session", "--timeout", "20", "org.freedesktop.secrets"])
            .status();
        assert!(answers.expect("gdbus starts").success(), "the keychain did not start");
    }

    /// Starts KWallet as a desktop login does, with the user's wallet open. The wallet exists from an earlier
    /// login.
    pub fn start_kwallet(&mut self) {
        for _login in ["first", "second"] {
            self.close_kwallet();
            self.start_provider(&mut self.kwallet(Some("password")));
            self.wait_until("the wallet is open", "true", |session| {
                let object = ["--object-path", "/modules/kwalletd5"];
                let method = ["--method", "org.kde.KWallet.isOpen", "kdewallet"];
                let call = ["call", "--session", "--dest", "org.kde.kwalletd5"];
                session.output("gdbus", &[&call[..], &object, &method].concat())
            });
        }
    }

    /// Starts KWallet again without the user's password. The wallet is closed.
    pub fn start_closed_kwallet(&mut self) {
        self.close_kwallet();
        self.start_provider(&mut self.kwallet(None));
    }

    /// Lets KWallet write its file, as at a logout. It does that a few seconds after each change, too.
    fn close_kwallet(&self) {
        let call = ["call", "--session", "--dest", "org.kde.kwalletd5", "--object-path"];
        let close =
            ["/modules/kwalletd5", "--method", "org.kde.KWallet.close", "kdewallet", "true"];
        self.output("gdbus", &[&call[..], &close].concat());
    }

    fn kwallet(&self, password: Option<&str>) -> Command {
        let mut command = self.command("python3");
        command.args(["-c", include_str!("kwallet_login.py")]).args(password);
        command
    }

    /// Starts KeePassXC with an open database, which it provides to others. `confirm` says whether it asks
    /// the user before a program may read an item. That is on by default.
    pub fn start_keepassxc(&mut self, confirm: bool) {
        let home = self.home.path().to_owned();
        let path = |name: &str| home.join(name).display().to_string();
        let settings = format!(
            "[FdoSecrets]\nEnabled=true\n{}[General]\nConfigVersion=2\n[GUI]\nCheckForUpdates=false\n",
            if confirm { "" } else { "ConfirmAccessItem=false\n" }
        );
        std::fs::write(path("keepassxc.ini"), settings).unwrap();
        let database = path("passwords.kdbx");
        if !Path::new(&database).exists() {
            let exposed: Vec<String> =
                [7_u8; 16].iter().map(|byte| format!("{byte:02x}")).collect();
            let exposed = [0..4, 4..6, 6..8, 8..10, 10..16].map(|part| exposed[part].concat());
            let content = format!(
                "<KeePassFile><Meta><RecycleBinEnabled>True</RecycleBinEnabled><CustomData><Item>\
                 <Key>FDO_SECRETS_EXPOSED_GROUP</Key><Value>{{{}}}</Value></Item></CustomData></Meta>\
                 <Root><Group><UUID>BwcHBwcHBwcHBwcHBwcHBw==</UUID><Name>Root</Name></Group></Root>\
                 </KeePassFile>",
                exposed.join("-")
            );
            std::fs::write(path("passwords.xml"), content).unwrap();
            let import = "printf 'password\\npassword\\n' | keepassxc-cli import -p \"$@\"";
            let mut import = vec!["-c", import, "sh"];
            let xml = path("passwords.xml");
            import.extend([xml.as_str(), &database]);
            self.output("sh", &import);
        }
        if self.daemon.is_some() {
            self.wait_for_keepassxc(&database);
        }
        let mut command = self.command("keepassxc");
        if let Some((_, screen)) = &self.screen {
            command.env("DISPLAY", screen).env("QT_QPA_PLATFORM", "xcb");
        }
        command.arg("--config").arg(path("keepassxc.ini")).arg("--localconfig");
        command.arg(path("local.ini")).args(["--pw-stdin", &database]);
        self.start_provider(&mut command);
        self.wait_until("the database is open", "false", |session| session.property("Locked"));
    }

    /// How many items the default collection has.
    pub fn items(&self) -> usize {
        let items = self.property("Items");
        assert!(items.starts_with("(<"), "{items}");
        items.matches("/org/freedesktop/secrets/collection/").count()
    }

    /// A property of the default collection, as gdbus prints it.
    pub fn property(&self, name: &str) -> String {
        let default = "/org/freedesktop/secrets/aliases/default";
        let call = ["call", "--session", "--dest", "org.freedesktop.secrets", "--object-path"];
        let get = ["--method", "org.freedesktop.DBus.Properties.Get"];
        let property = ["org.freedesktop.Secret.Collection", name];
        self.output("gdbus", &[&call[..], &[default], &get, &property].concat())
    }

    /// Starts a screen, on which the next KeePassXC can show a dialog.
    pub fn start_screen(&mut self) {
        let mut command = self.command("Xvfb");
        command.args(["-displayfd", "1", "-nolisten", "tcp"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut screen = Daemon::start(&mut command);
        let mut number = String::new();
        BufReader::new(screen.child.stdout.take().unwrap()).read_line(&mut number).unwrap();
        self.screen = Some((screen, format!(":{}", number.trim_end())));
    }

    /// Waits for the dialog of that name, and presses its default button.
    pub fn accept_dialog(&self, name: &str) {
        let (_, screen) = self.screen.as_ref().expect("there is a screen");
        let mut command = self.command("timeout");
        command.env("DISPLAY", screen).stderr(Stdio::null());
        command.args([
            "20",
            "xdotool",
            "search",
            "--sync",
            "--onlyvisible",
            "--name",
            name,
            "windowfocus",
        ]);
        // The window may be gone before the key is released.
        let _ = command.args(["key", "Return"]).output().unwrap();
    }

    /// Waits until KeePassXC has written all entries to its file. It does that a moment after each change.
    fn wait_for_keepassxc(&self, database: &str) {
        // Removed entries are in a group of their own.
        let count = "echo password | keepassxc-cli ls --quiet \"$1\" | grep -c '^tokenkeep'";
        self.wait_until("the database is written", &format!("{}\n", self.items()), |session| {
            session.output("sh", &["-c", count, "sh", database])
        });
    }

    /// Asks again until the answer contains a text.
    fn wait_until(&self, what: &str, text: &str, ask: impl Fn(&Self) -> String) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !ask(self).contains(text) {
            assert!(Instant::now() < deadline, "{what}");
            std::thread::sleep(Duration::from_millis(20));
        }
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
        let id = daemon.child.id().to_string();
        let stopped = Command::new("kill").args(["-STOP", &id]).status();
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
        self.daemon = None;
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
            .env("QT_QPA_PLATFORM", "offscreen")
            // KeePassXC runs once for each of these.
            .env("TMPDIR", self.home.path())
            .env("XDG_CACHE_HOME", self.home.path().join("cache"))
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
