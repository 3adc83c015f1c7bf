//! No secret leaks into messages, logs, arguments, files or core dumps.

mod command;
mod errors;
mod library;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::process::Command;

use tokenkeep::secrecy::ExposeSecret;

use crate::canaries::{Canary, Search, text};
use crate::home::Home;
use crate::servers::{SharedSlot, shared_slots};
use crate::support::output;
use crate::token_server::TokenServer;

/// All secrets of a test, and the server that issues some of them.
struct Scene {
    home: Home,
    server: TokenServer,
    search: Search,
    /// Two age identities, in the files `key.txt` and `other.txt`.
    keys: [String; 2],
    runs: Cell<usize>,
    codes: RefCell<BTreeSet<i32>>,
}

/// The result of a command.
struct Done {
    code: i32,
    out: Vec<u8>,
    err: String,
}

const SECRETS: [&str; 14] = [
    "CLIENT",
    "PASSPHRASE",
    "PASSWORD",
    "SECRET KEY",
    "access",
    "code",
    "device",
    "echo",
    "extra",
    "id",
    "mine",
    "my refresh",
    "refresh",
    "stray",
];

impl Scene {
    fn new() -> Self {
        let (home, server) = (Home::new(), TokenServer::start());
        server.mark(text);
        server.require_client("app", &text("CLIENT"), true);
        let keys = ["key", "other"].map(|name| {
            let identity = age::x25519::Identity::generate().to_string();
            let identity = identity.expose_secret().to_owned();
            home.write(&format!("config/keys/{name}.txt"), &identity);
            identity
        });
        let mut canaries: Vec<Canary> = SECRETS.map(Canary::new).into();
        canaries.extend(keys.iter().map(|key| Canary::of("a key", key)));
        let scene = Self {
            home,
            server,
            search: Search::new(&canaries),
            keys,
            runs: Cell::default(),
            codes: RefCell::default(),
        };
        scene.home.write_profile("default", &scene.age("tokens"), &scene.server, "");
        fs::create_dir(scene.home.path("tmp")).unwrap();
        scene
    }

    /// Returns the URL of an age file.
    fn age(&self, name: &str) -> String {
        let path = |path: String| self.home.path(path).display().to_string();
        let (record, key) = (path(format!("state/{name}.age")), path("config/keys/key.txt".into()));
        format!("age:{record}?identity={key}")
    }

    fn plaintext(&self, name: &str) -> String {
        format!("plaintext:{}", self.home.path(format!("plain/{name}.json")).display())
    }

    /// Returns slots on the installed servers. The servers have their own secrets.
    fn shared_slots(&self, test: &str) -> Vec<SharedSlot> {
        let key = self.home.path("config/keys/key.txt");
        shared_slots(test, &key, &text("PASSWORD"), &text("SECRET KEY"))
    }

    /// Returns the command with the most detailed logs and backtraces.
    fn tokenkeep(&self, arguments: &[&str]) -> Command {
        let mut command = self.home.wrapped(env!("CARGO_BIN_EXE_tokenkeep"));
        command
            .args(arguments)
            .env("CANARY_CLIENT_SECRET", text("CLIENT"))
            .env("RUST_BACKTRACE", "full")
            .env("RUST_LOG", "trace")
            .env("TMPDIR", self.home.path("tmp"))
            .env("TOKENKEEP_PASSPHRASE", text("PASSPHRASE"));
        command
    }

    /// Runs a command, and returns its output. Fails if standard error shows a secret.
    fn run(&self, command: &mut Command, input: &str) -> Done {
        self.home.write("input", input);
        command.stdin(File::open(self.home.path("input")).unwrap());
        let done = output(command);
        fs::remove_file(self.home.path("input")).unwrap();
        let code = done.status.code().unwrap_or(-1);
        let what: Vec<_> = command.get_args().collect();
        self.assert_shows_nothing(&format!("{what:?} on standard error"), &done.stderr);
        self.runs.set(self.runs.get() + 1);
        self.codes.borrow_mut().insert(code);
        Done { code, out: done.stdout, err: String::from_utf8(done.stderr).unwrap() }
    }

    /// Runs a command that must succeed and print no secret.
    fn quiet(&self, arguments: &[&str], input: &str) {
        self.ends(0, &mut self.tokenkeep(arguments), input);
    }

    /// Runs a command that must fail with this code and print no secret.
    fn fails(&self, code: i32, arguments: &[&str], input: &str) {
        self.ends(code, &mut self.tokenkeep(arguments), input);
    }

    /// Runs a command that must exit with this code and print no secret.
    fn ends(&self, code: i32, command: &mut Command, input: &str) {
        let done = self.run(command, input);
        let what: Vec<_> = command.get_args().collect();
        assert_eq!(done.code, code, "{what:?}: {}", done.err);
        self.assert_shows_nothing(&format!("{what:?} on standard output"), &done.out);
    }

    /// Runs a command that must print these secrets, and no others.
    fn prints(&self, secrets: &[&str], arguments: &[&str]) {
        let done = self.run(&mut self.tokenkeep(arguments), "");
        assert_eq!(done.code, 0, "{}", done.err);
        let found = self.search.find(&done.out);
        for secret in secrets {
            assert!(found.iter().any(|found| found.name == *secret), "{arguments:?}: {found:?}");
        }
        let others = found.iter().filter(|found| !secrets.contains(&found.name));
        assert_eq!(others.count(), 0, "{arguments:?}: {found:?}");
    }

    fn assert_shows_nothing(&self, what: &str, bytes: &[u8]) {
        let found = self.search.find(bytes);
        assert!(found.is_empty(), "{what}: {found:?}");
    }

    /// Searches all files, except those that hold secrets in plain text by design.
    fn assert_files_show_nothing(&self) -> usize {
        let mut count = 0;
        let mut directories = vec![self.home.path("")];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    let name = path.strip_prefix(self.home.path("")).unwrap();
                    // Skip the plaintext stores and the keys.
                    if !["plain", "config/keys"].contains(&name.to_str().unwrap()) {
                        directories.push(path);
                    }
                } else {
                    count += 1;
                    let bytes = fs::read(&path).unwrap();
                    self.assert_shows_nothing(&path.display().to_string(), &bytes);
                }
            }
        }
        count
    }
}
