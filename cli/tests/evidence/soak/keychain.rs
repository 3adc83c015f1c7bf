//! The keychain that holds the first user's key. It is a real keychain, which may crash. Then it is
//! started again, as D-Bus does on a desktop.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::session::Session;

/// How long after a restart a process may still report that the keychain cannot be reached.
const ECHO: Duration = Duration::from_secs(30);

pub(super) struct Keychain(Mutex<State>);

struct State {
    session: Session,
    restarted: Vec<Instant>,
}

impl Keychain {
    pub(super) fn start() -> Self {
        Self(Mutex::new(State { session: Session::with_keychain(), restarted: Vec::new() }))
    }

    /// Returns a command that can reach the keychain.
    pub(super) fn command(&self, program: &Path) -> Command {
        self.0.lock().unwrap().session.command(program)
    }

    /// Returns the directory of the records whose keys are in the keychain.
    pub(super) fn state(&self) -> PathBuf {
        self.0.lock().unwrap().session.state()
    }

    /// Reports whether the keychain could not be reached at some time since then. Restarts it if it has
    /// crashed.
    pub(super) fn was_away(&self, since: Instant) -> bool {
        let mut state = self.0.lock().unwrap();
        let method = ["call", "--session", "--dest", "org.freedesktop.DBus", "--object-path"];
        let of = ["/org/freedesktop/DBus", "--method", "org.freedesktop.DBus.NameHasOwner"];
        let mut has_owner = state.session.command("gdbus");
        has_owner.args(method).args(of).arg("org.freedesktop.secrets");
        if !String::from_utf8_lossy(&has_owner.output().unwrap().stdout).contains("true") {
            state.session.start_keychain();
            state.restarted.push(Instant::now());
        }
        state.restarted.last().is_some_and(|restarted| since <= *restarted + ECHO)
    }

    pub(super) fn restarts(&self) -> usize {
        self.0.lock().unwrap().restarted.len()
    }
}
