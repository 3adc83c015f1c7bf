//! A home for the command, with a provider in its profile.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::support::scratch;
use crate::token_server::TokenServer;

/// A home of its own, without a bus.
pub(crate) struct CliHome(TempDir);

impl CliHome {
    pub(crate) fn new() -> Self {
        Self(scratch())
    }

    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a private file, in private directories.
    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
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

    /// A profile with that store, and this server as its provider.
    pub(crate) fn write_profile(&self, name: &str, store: &str, server: &TokenServer, more: &str) {
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

    /// Any program, in this home.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(self.0.path())
            .env_remove("TOKENKEEP_PASSPHRASE")
            .env_remove("TOKENKEEP_PROFILE")
            .env_remove("TOKENKEEP_STORE")
            .env("DBUS_SESSION_BUS_ADDRESS", format!("unix:path={}", self.path("none").display()))
            .env("HOME", self.0.path())
            .env("TOKENKEEP_CONFIG_DIR", self.path("config"))
            .env("XDG_RUNTIME_DIR", self.0.path())
            .env("XDG_STATE_HOME", self.path("state"));
        command
    }
}
