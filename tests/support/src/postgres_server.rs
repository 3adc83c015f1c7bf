//! A PostgreSQL server for one test.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;
use tokenkeep::StoreUrl;

use crate::{available, skip};

pub struct PostgresServer {
    dir: TempDir,
    port: u16,
    process: Option<Child>,
    /// The user that the server runs as, because it refuses to run as root.
    user: Option<(u32, u32)>,
}

/// An open transaction of another client.
pub struct Transaction {
    psql: Child,
    _input: ChildStdin,
}

impl Drop for Transaction {
    fn drop(&mut self) {
        // When the client ends, the server rolls its transaction back.
        let _ = self.psql.kill();
        let _ = self.psql.wait();
    }
}

/// A database with the table, on a server.
pub struct Database {
    name: String,
    port: u16,
}

/// Returns the path where Debian installs a program of the server.
fn program(name: &str) -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let mut found: Vec<PathBuf> = versions
        .filter_map(|version| Some(version.ok()?.path().join("bin").join(name)))
        .filter(|path| path.exists())
        .collect();
    found.sort();
    found.pop().unwrap_or_else(|| match name {
        "pgbouncer" => "/usr/sbin/pgbouncer".into(),
        name => name.into(),
    })
}

/// Returns whether a PostgreSQL server can be started.
pub fn can_serve(test: &str) -> bool {
    let found = program("initdb").is_absolute();
    if !found {
        skip(test, "there is no PostgreSQL on this machine");
    }
    found && available(test, "psql")
}

impl PostgresServer {
    pub fn start() -> Self {
        let mut server = Self::new();
        let mut made = server.command("initdb");
        made.args(["--username=postgres", "--auth=trust", "--no-sync", "-D"]).arg(server.data());
        run(&mut made);
        server.restart_with("unix_socket_directories = ''\n");
        server
    }

    /// Starts a standby server that follows this one until it is promoted.
    pub fn start_standby(&self) -> Self {
        let mut standby = Self::new();
        let mut copied = standby.command("pg_basebackup");
        copied.args(["-h", "127.0.0.1", "-U", "postgres", "-p", &self.port.to_string()]);
        copied.args(["--write-recovery-conf", "--no-sync", "--checkpoint=fast", "-D"]);
        run(copied.arg(standby.data()));
        standby.go_on();
        standby
    }

    /// Promotes a standby server, so that it accepts writes.
    pub fn promote(&self) {
        run(self.command("pg_ctl").args(["promote", "--wait", "-D"]).arg(self.data()));
    }

    /// Creates the directory of a server, and chooses a port.
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("tokenkeep-pg").tempdir().unwrap();
        let is_root = fs::metadata("/proc/self").unwrap().uid() == 0;
        let user = is_root.then(|| (id("-u"), id("-g")));
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        if let Some((uid, gid)) = user {
            chown(dir.path(), Some(uid), Some(gid)).unwrap();
        }
        Self { dir, port: unused_port(), process: None, user }
    }

    /// Gives a file or a directory to the user that the server runs as.
    pub fn give(&self, path: &Path) {
        if let Some((uid, gid)) = self.user {
            chown(path, Some(uid), Some(gid)).unwrap();
        }
    }

    /// Restarts it with other settings, in addition to those that every server here has.
    pub fn restart_with(&mut self, settings: &str) {
        self.stop();
        self.write(
            "postgresql.auto.conf",
            &format!("fsync = off\nmax_connections = 200\n{settings}"),
        );
        self.go_on();
    }

    /// Writes a file that belongs to the server into its directory.
    pub fn write(&self, name: &str, text: &str) {
        let path = self.data().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        self.give(&path);
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(program(name));
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        command.current_dir(self.dir.path()).stdin(Stdio::null());
        command
    }

    /// Starts the server, always on the same port, and waits until it answers.
    pub fn go_on(&mut self) {
        let log = fs::File::create(self.dir.path().join("log")).unwrap();
        let process = self
            .command("postgres")
            .arg("-D")
            .arg(self.data())
            .args(["-p", &self.port.to_string(), "-c", "listen_addresses=*"])
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.process = Some(process);
        let ready = || {
            let mut asked = self.command("pg_isready");
            asked.args(["-h", "127.0.0.1", "-t", "1", "-p", &self.port.to_string()]);
            asked.output().unwrap().status.success()
        };
        for _ in 0..600 {
            if ready() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        panic!("the server did not come up: {log}");
    }

    /// Stops the server at once, as a crash does.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            for signal in ["-QUIT", "-CONT"] {
                run(Command::new("kill").args([signal, &process.id().to_string()]));
            }
            process.wait().unwrap();
        }
    }

    /// Suspends the process that accepts connections. The system still completes new connections.
    pub fn freeze(&self) {
        let process = self.process.as_ref().expect("it runs");
        run(Command::new("kill").args(["-STOP", &process.id().to_string()]));
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Starts a pooler with two connections. A client gets one of them for one transaction at a time.
    pub fn start_pooler(&self) -> Pooler {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        self.write("users.txt", "\"postgres\" \"\"\n");
        let users = self.data().join("users.txt");
        let settings = format!(
            "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir =\nauth_type = trust\nauth_file = {}\n\
             pool_mode = transaction\ndefault_pool_size = 2\n",
            self.port,
            users.display()
        );
        self.write("pooler.ini", &settings);
        let process = self
            .command("pgbouncer")
            .args(["-q".into(), self.data().join("pooler.ini")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let pooler = Pooler { port, process };
        for _ in 0..600 {
            if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return pooler;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        panic!("the pooler did not come up");
    }

    /// Creates a database with the table.
    pub async fn database(&self) -> Database {
        static COUNT: AtomicU32 = AtomicU32::new(0);

        let name = format!("fleet{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let database = Database { name: "postgres".into(), port: self.port };
        database.sql(&format!("CREATE DATABASE {name}"));
        let database = Database { name, port: self.port };
        let url = database.url("any", Path::new("/nowhere"));
        url.parse::<StoreUrl>().unwrap().prepare_server().await.unwrap();
        database
    }

    /// Returns a backup of a database.
    pub fn dump(&self, database: &Database) -> String {
        let mut dump = self.command("pg_dump");
        dump.args(["-h", "127.0.0.1", "-U", "postgres", "--clean", "-p"]);
        run(dump.args([&self.port.to_string(), &database.name]))
    }
}

/// A connection pooler between a server and its clients.
pub struct Pooler {
    port: u16,
    process: Child,
}

impl Pooler {
    /// Returns the same URL with the port of the pooler.
    pub fn url(&self, server: &PostgresServer, url: &str) -> String {
        let [direct, pooled] = [server.port, self.port].map(|port| format!(":{port}/"));
        assert!(url.contains(&direct));
        url.replace(&direct, &pooled)
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        // The pooler may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Database {
    pub fn address(&self, user: &str, host: &str) -> String {
        format!("postgres://{user}@{host}:{}/{}", self.port, self.name)
    }

    /// Returns the URL of a slot, for the administrator of the server.
    pub fn url(&self, slot: &str, identity: &Path) -> String {
        let address = self.address("postgres", "127.0.0.1");
        format!("{address}?slot={slot}&identity={}", identity.display())
    }

    /// Begins a transaction. It ends when the returned value is dropped.
    pub fn begin(&self, sql: &str) -> Transaction {
        let mut psql = self.psql();
        let (mut input, output) = (psql.stdin.take().unwrap(), psql.stdout.take().unwrap());
        writeln!(input, "BEGIN; {sql}; SELECT 'begun';").unwrap();
        let mut lines = BufReader::new(output).lines();
        assert!(lines.any(|line| line.unwrap() == "begun"));
        Transaction { psql, _input: input }
    }

    fn psql(&self) -> Child {
        Command::new("psql")
            .args(["-h", "127.0.0.1", "-U", "postgres", "-qtAX", "-v", "ON_ERROR_STOP=1", "-p"])
            .args([&self.port.to_string(), &self.name])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Runs SQL as an operator, and returns its output.
    pub fn sql(&self, sql: &str) -> String {
        let mut psql = self.psql();
        psql.stdin.take().unwrap().write_all(sql.as_bytes()).unwrap();
        let done = psql.wait_with_output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap().trim_end().to_owned()
    }
}

fn id(what: &str) -> u32 {
    let found = run(Command::new("id").args([what, "postgres"]));
    found.trim().parse().expect("it is a number")
}

/// Runs a command, checks that it succeeds, and returns its output.
fn run(command: &mut Command) -> String {
    let done = command.output().unwrap();
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

/// Returns a port that the server keeps over restarts. It is below those that the system gives to everybody else, so
/// that nobody takes it meanwhile.
fn unused_port() -> u16 {
    let given = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let ports = (0..12_000).map(|next| 20_000 + (given % 12_000 + next) % 12_000);
    let is_unused = |port: &u16| TcpListener::bind(("0.0.0.0", *port)).is_ok();
    ports.into_iter().find(is_unused).expect("a port is unused")
}
