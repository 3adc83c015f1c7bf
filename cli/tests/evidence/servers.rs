//! Servers of a fleet, for the tests that read the memory and the logs of processes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::bucket_server::{BucketServer, ENVIRONMENT, Protocol};
use crate::postgres_server::{PostgresServer, can_serve};
use crate::support::scratch;

/// A slot on a server, and the environment variables that a process needs to reach it.
pub(crate) struct SharedSlot {
    pub(crate) url: String,
    environment: Vec<(String, String)>,
    _server: Server,
}

/// The server, which is stopped when the test ends.
enum Server {
    Bucket { _server: BucketServer },
    Postgres { _server: PostgresServer, _passwords: TempDir },
}

impl SharedSlot {
    /// Gives a process the environment variables that it needs to reach the slot.
    pub(crate) fn to<'a>(&self, process: &'a mut Command) -> &'a mut Command {
        process.envs(self.environment.iter().map(|(name, value)| (name, value)))
    }
}

/// Returns an empty slot on each installed server, sealed to this identity file. `password` is for
/// PostgreSQL, `key` is the secret key for S3.
pub(crate) fn shared_slots(
    test: &str,
    identity: &Path,
    password: &str,
    key: &str,
) -> Vec<SharedSlot> {
    let mut slots = Vec::new();
    if can_serve(test) {
        slots.push(in_postgres(identity, password));
    }
    if Protocol::S3.is_here(test) {
        slots.push(in_s3(identity, key));
    }
    slots
}

fn in_postgres(identity: &Path, password: &str) -> SharedSlot {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let server = PostgresServer::start();
    let database = runtime.block_on(server.database());
    database.sql(&format!("CREATE ROLE app LOGIN PASSWORD '{password}'"));
    database.sql("GRANT SELECT, INSERT, UPDATE ON tokenkeep TO app");
    server.write("pg_hba.conf", "host all postgres all trust\nhost all all all scram-sha-256\n");
    database.sql("SELECT pg_reload_conf()");
    let passwords = scratch();
    let file = passwords.path().join("passwords");
    fs::write(&file, format!("*:*:*:app:{password}\n")).unwrap();
    fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    SharedSlot {
        url: database.url("fleet", identity).replace("postgres@", "app@"),
        environment: vec![("PGPASSFILE".into(), file.display().to_string())],
        _server: Server::Postgres { _server: server, _passwords: passwords },
    }
}

fn in_s3(identity: &Path, key: &str) -> SharedSlot {
    let server = BucketServer::start(Protocol::S3);
    let mut environment: Vec<_> =
        ENVIRONMENT.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    environment.push(("AWS_SECRET_ACCESS_KEY".into(), key.to_owned()));
    SharedSlot {
        url: server.url("fleet", identity),
        environment,
        _server: Server::Bucket { _server: server },
    }
}
