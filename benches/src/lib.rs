//! Code that the benches share: a server, homes for the command, and numbers that are not times.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tempfile::TempDir;

/// A token of the length of a JWT with a few claims.
pub const TOKEN: &str = concat!(
    "eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIiwibmFtZSI6IkpvaG4gRG9lIiwiYWRt",
    "aW4iOnRydWUsImlhdCI6MTUxNjIzOTAyMn0.NHVaYe26MbtOYhSKkoKYdFVomg4i8ZJd8_-RU8VNbftc4TSMb4bXP3l3Y",
    "lNWACwyXPGffz5aXHc6lty1Y2t4SWRqGteragsVdZufDn5BlnJl9pdR_kdVFUsra2rWKEofkZeIC4yWytE58sMIihvo9H"
);

/// Writes a number that is not a time to a file, for the report.
pub fn note(name: &str, value: f64) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/numbers");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join(name), value.to_string()).unwrap();
}

/// Replaces the text between two marks.
pub fn between(text: &str, name: &str, new: &str) -> String {
    let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- end of {name} -->"));
    let (before, rest) = text.split_once(&begin).expect("there is a place for it");
    let (_, after) = rest.split_once(&end).expect("it ends");
    format!("{before}{begin}{new}{end}{after}")
}

/// Returns a private directory on a real disk. In a file system in memory, a sync does nothing.
pub fn scratch() -> TempDir {
    let private = fs::Permissions::from_mode(0o700);
    let parent = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/disk");
    fs::create_dir_all(&parent).unwrap();
    tempfile::Builder::new().permissions(private).tempdir_in(parent).unwrap()
}

/// Replaces a file durably: a temporary file, its fsync, a rename, and the fsync of the directory.
pub fn durable_replace(path: &Path, bytes: &[u8]) {
    let temporary = path.with_extension("tmp");
    let mut file = fs::File::create_new(&temporary).unwrap();
    file.write_all(bytes).unwrap();
    file.sync_all().unwrap();
    fs::rename(&temporary, path).unwrap();
    fs::File::open(path.parent().unwrap()).unwrap().sync_all().unwrap();
}

/// A token endpoint that answers every request with tokens that expire after 1 hour.
pub struct TokenServer {
    pub url: String,
    calls: Arc<AtomicUsize>,
}

impl TokenServer {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/token", listener.local_addr().unwrap());
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = calls.clone();
        thread::spawn(move || {
            for connection in listener.incoming() {
                let number = counted.fetch_add(1, Ordering::SeqCst);
                let mut connection = connection.unwrap();
                let mut reader = BufReader::new(connection.try_clone().unwrap());
                let mut length = 0;
                loop {
                    let mut line = String::new();
                    reader.read_line(&mut line).unwrap();
                    if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                        length = value.trim().parse().unwrap();
                    }
                    if line.trim().is_empty() {
                        break;
                    }
                }
                reader.read_exact(&mut vec![0; length]).unwrap();
                let body = format!(
                    r#"{{"access_token":"{TOKEN}","token_type":"Bearer","expires_in":3600,"refresh_token":"refresh-{number}"}}"#
                );
                write!(
                    connection,
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
                     connection: close\r\n\r\n{body}",
                    body.len()
                )
                .unwrap();
            }
        });
        Self { url, calls }
    }

    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

/// An empty home directory for the command, without a session bus.
pub struct Home(TempDir);

impl Home {
    pub fn new() -> Self {
        Self(scratch())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Returns the command as it is shipped, in this home.
    pub fn tokenkeep(&self, arguments: &[&str]) -> Command {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/tokenkeep");
        let mut command = self.command(program.to_str().unwrap());
        command.args(arguments);
        command
    }

    /// Returns a command that runs any program in this home.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(self.0.path())
            .env_remove("DBUS_SESSION_BUS_ADDRESS")
            .env("HOME", self.0.path())
            .env("TOKENKEEP_CONFIG_DIR", self.path("config"))
            .env("XDG_STATE_HOME", self.path("state"))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    /// Saves tokens in a profile that exists.
    pub fn sign_in(&self, profile: &str, expires_at: &str) {
        let record = format!(
            r#"{{"access_token":"{TOKEN}","refresh_token":"refresh","expires_at":"{expires_at}"}}"#
        );
        fill(&mut self.tokenkeep(&["set", "--profile", profile]), &record);
    }
}

impl Default for Home {
    fn default() -> Self {
        Self::new()
    }
}

/// Runs a command with this input. It must succeed.
pub fn fill(command: &mut Command, input: &str) {
    let mut child = command.stdin(Stdio::piped()).spawn().expect("scripts/bench makes it");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{command:?}");
}

/// Writes the peak memory of a command, in bytes, for the report. `peak` is the program that measures it.
pub fn note_memory(peak: &str, name: &str, command: &Command) {
    let measured = || -> f64 {
        let mut measuring = Command::new(peak);
        measuring.arg(command.get_program()).args(command.get_args());
        for (variable, value) in command.get_envs() {
            match value {
                Some(value) => measuring.env(variable, value),
                None => measuring.env_remove(variable),
            };
        }
        if let Some(directory) = command.get_current_dir() {
            measuring.current_dir(directory);
        }
        let printed = String::from_utf8(measuring.output().unwrap().stdout).unwrap();
        printed.trim().parse().expect("it ran")
    };
    note(&format!("memory of {name}"), (0..5).map(|_| measured()).fold(f64::MAX, f64::min));
}

/// Runs a command. It must succeed.
pub fn run(command: &mut Command) {
    assert!(command.status().unwrap().success(), "{command:?}");
}
