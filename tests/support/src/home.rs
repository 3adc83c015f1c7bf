//! A home directory for the command.

use std::ffi::OsStr;
#[cfg(unix)]
use std::fs;
use std::io::Write;
#[cfg(unix)]
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

#[cfg(unix)]
use crate::token_server::TokenServer;
use crate::{program, scratch, start};

pub const SEED: &str =
    r#"{"access_token":"canary-a","refresh_token":"canary-r","expires_at":"2099-01-01T00:00:00Z"}"#;

/// A temporary home directory. No D-Bus session is reachable from it.
pub struct Home(TempDir);

/// The exit code and the output of a command.
#[derive(Debug)]
pub struct Done {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Done {
    /// Checks that the command succeeded. Returns its output.
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.out
    }

    /// Checks that the command succeeded and printed one whole line. Returns that line.
    pub fn line(self) -> String {
        let mut line = self.ok();
        assert_eq!(line.find('\n'), Some(line.len().wrapping_sub(1)), "one line: {line:?}");
        line.pop();
        line
    }

    /// Checks that the command failed with this code and printed at most two lines of errors, and that its
    /// output shows no secret. Returns the errors.
    pub fn failed(self, code: i32) -> String {
        assert_eq!(self.code, code, "{self:?}");
        assert!(self.err.starts_with("tokenkeep: ") && self.err.lines().count() <= 2, "{self:?}");
        assert!(!self.err.contains("canary") && !self.out.contains("canary"), "{self:?}");
        self.err
    }
}

impl Home {
    pub fn new() -> Self {
        Self(scratch())
    }

    /// Creates a home with a profile whose store is an age file with tokens.
    pub fn signed_in() -> Self {
        let home = Self::new();
        if cfg!(windows) {
            // There is always a keychain, and `init` would choose it.
            let key = "config/keys/default.txt";
            home.run(&format!("keygen -o {key}")).ok();
            home.run(&format!("init --store age:state/tokenkeep/default.age?identity={key}")).ok();
        } else {
            home.run("init").ok();
        }
        home.feed("set", SEED).ok();
        home
    }

    pub fn directory(&self) -> &Path {
        self.0.path()
    }

    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(name)
    }

    #[cfg(unix)]
    /// Writes a private file, in private directories.
    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path(name);
        for directory in path.parent().unwrap().ancestors() {
            if directory == self.0.path() {
                break;
            }
            fs::create_dir_all(directory).unwrap();
            fs::set_permissions(directory, PermissionsExt::from_mode(0o700)).unwrap();
        }
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    }

    #[cfg(unix)]
    /// Writes a profile with that store, and with this server as its provider.
    pub fn write_profile(&self, name: &str, store: &str, server: &TokenServer, more: &str) {
        let text = format!(
            "store = \"{store}\"\n[oauth2]\nclient_id = \"app\"\ntoken_url = \"{}\"\n\
             authorization_url = \"{}\"\ndevice_authorization_url = \"{}\"\nrevocation_url = \"{}\"\n\
             client_secret_env = \"CANARY_CLIENT_SECRET\"\n{more}",
            server.url("/token"),
            server.url("/authorize"),
            server.url("/device"),
            server.url("/revoke"),
        );
        self.write(&format!("config/profiles/{name}.toml"), text);
    }

    pub fn record(&self) -> PathBuf {
        self.path("state/tokenkeep/default.age")
    }

    pub fn command(&self) -> Command {
        self.wrapped(program("tokenkeep"))
    }

    /// Returns a command for any program in this home.
    pub fn wrapped(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(self.0.path())
            .env_remove("TOKENKEEP_PASSPHRASE")
            .env_remove("TOKENKEEP_PROFILE")
            .env_remove("TOKENKEEP_STORE")
            .env("DBUS_SESSION_BUS_ADDRESS", format!("unix:path={}", self.path("none").display()))
            .env("HOME", self.0.path())
            .env("LOCALAPPDATA", self.path("state"))
            .env("TOKENKEEP_CONFIG_DIR", self.path("config"))
            .env("XDG_RUNTIME_DIR", self.0.path())
            .env("XDG_STATE_HOME", self.path("state"));
        command
    }

    /// Runs a command line, split at spaces, without a terminal.
    pub fn run(&self, line: &str) -> Done {
        self.feed(line, "")
    }

    pub fn feed(&self, line: &str, input: &str) -> Done {
        done(self.command().args(line.split(' ')), input)
    }
}

pub fn done(command: &mut Command, input: &str) -> Done {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = start(command);
    // The command may end before it has read all of its input.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    Done {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}
