//! Real proxies: `tinyproxy` for CONNECT, and `microsocks` for SOCKS5.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::{scratch, start};

/// A proxy on a port of this machine. It ends with this value.
pub struct ForwardProxy {
    child: Child,
    pub address: SocketAddr,
    log: PathBuf,
    _directory: TempDir,
}

/// Connects to an address of this machine that is not a loopback address by its form. The systems of Linux take
/// it as one, so a proxy reaches a server of the tests there, without a network and without a resolver.
pub const NOT_LOOPBACK: &str = "0.0.0.0";

impl ForwardProxy {
    /// Starts a proxy for CONNECT. `more` are more lines of its settings.
    pub fn tinyproxy(more: &str) -> Self {
        let (directory, address) = (scratch(), free_address());
        let (log, settings) = (directory.path().join("log"), directory.path().join("settings"));
        let text = format!(
            "Port {}\nListen 127.0.0.1\nTimeout 600\nLogLevel Connect\nLogFile \"{}\"\n{more}\n",
            address.port(),
            log.display()
        );
        fs::write(&settings, text).unwrap();
        let mut command = Command::new("tinyproxy");
        command.args(["-d", "-c"]).arg(&settings).stdout(Stdio::null()).stderr(Stdio::null());
        Self::started(&mut command, address, log, directory)
    }

    /// Starts a SOCKS5 proxy, which may want a user and a password.
    pub fn microsocks(user: Option<(&str, &str)>) -> Self {
        let (directory, address) = (scratch(), free_address());
        let log = directory.path().join("log");
        let mut command = Command::new("microsocks");
        command.args(["-i", "127.0.0.1", "-p", &address.port().to_string()]);
        if let Some((user, password)) = user {
            command.args(["-u", user, "-P", password]);
        }
        command.stdout(Stdio::null()).stderr(File::create(&log).unwrap());
        Self::started(&mut command, address, log, directory)
    }

    /// Starts a proxy with TLS, which gives everything to another one.
    pub fn with_tls(to: &Self, certificate: &str, key: &str) -> Self {
        let (directory, address) = (scratch(), free_address());
        let pem = directory.path().join("pem");
        fs::write(&pem, [certificate, key].concat()).unwrap();
        let mut command = Command::new("python3");
        command.args(["-c", include_str!("tls_in_front.py")]);
        command.arg(&pem).arg(address.port().to_string()).arg(to.address.port().to_string());
        let log = directory.path().join("log");
        command.stdout(Stdio::null()).stderr(File::create(&log).unwrap());
        Self::started(&mut command, address, log, directory)
    }

    fn started(
        command: &mut Command,
        address: SocketAddr,
        log: PathBuf,
        directory: TempDir,
    ) -> Self {
        let child = start(command.stdin(Stdio::null()));
        let proxy = Self { child, address, log, _directory: directory };
        let deadline = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < deadline, "the proxy listens: {}", proxy.log());
            thread::yield_now();
        }
        proxy
    }

    /// Returns what it logged.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for ForwardProxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns an address of this machine that nothing listens on.
pub fn free_address() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}
