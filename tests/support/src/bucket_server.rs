//! Object stores for the tests: moto for S3, and azurite for Azure Blob Storage.

use std::fs;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::proxy::{Proxy, Way};
use crate::{available, scratch};

/// The credentials for the servers, and the variables that allow plain HTTP.
pub const ENVIRONMENT: [(&str, &str); 8] = [
    ("AWS_ACCESS_KEY_ID", "made-up"),
    ("AWS_SECRET_ACCESS_KEY", "made-up"),
    ("AWS_REGION", "us-east-1"),
    ("AZURE_STORAGE_ACCOUNT_NAME", "devstoreaccount1"),
    // The key in the documentation of azurite.
    (
        "AZURE_STORAGE_ACCOUNT_KEY",
        "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==",
    ),
    ("AWS_ALLOW_HTTP", "true"),
    ("AZURE_ALLOW_HTTP", "true"),
    ("GOOGLE_ALLOW_HTTP", "true"),
];

/// A service account that needs no token from Google.
const ACCOUNT: &str =
    r#"{"client_email": "", "private_key": "", "private_key_id": "", "disable_oauth": true}"#;

/// Runs this test again in a process with credentials in its environment.
///
/// Returns whether this is that process.
pub fn in_environment(test: &str) -> bool {
    if is_in_environment() {
        return true;
    }
    let account = tempfile::NamedTempFile::new().unwrap();
    fs::write(&account, ACCOUNT).unwrap();
    let done = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .envs(ENVIRONMENT)
        .env("GOOGLE_SERVICE_ACCOUNT", account.path())
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success() && out.contains("1 passed"), "{out}\n{err}");
    // Repeat the reports about skipped tests.
    for line in err.lines().filter(|line| line.starts_with("skipped ")) {
        io::stderr().write_all(format!("{line}\n").as_bytes()).unwrap();
    }
    false
}

/// Returns whether this process has the credentials in its environment.
pub fn is_in_environment() -> bool {
    let (name, value) = ENVIRONMENT[0];
    std::env::var_os(name).is_some_and(|given| given == value)
}

/// Returns whether moto is installed and this process has the credentials.
pub fn can_serve_s3(test: &str) -> bool {
    in_environment(test) && Protocol::S3.is_here(test)
}

/// The protocol of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Azure,
    S3,
}

impl Protocol {
    pub fn is_here(self, test: &str) -> bool {
        available(test, self.program())
    }

    fn program(self) -> &'static str {
        match self {
            Self::Azure => "azurite-blob",
            Self::S3 => "moto_server",
        }
    }
}

/// A server with one bucket, `tokens`.
pub struct BucketServer {
    protocol: Protocol,
    process: Child,
    address: SocketAddr,
    /// The stores of the tests reach the server through this proxy.
    pub proxy: Proxy,
    /// The directory in which azurite keeps its objects. Moto keeps them in memory.
    dir: TempDir,
}

impl BucketServer {
    pub fn start(protocol: Protocol) -> Self {
        let server = Self::start_empty(protocol);
        server.make_bucket();
        server
    }

    /// Starts a server without the bucket.
    pub fn start_empty(protocol: Protocol) -> Self {
        let (dir, address) = (scratch(), free_address());
        let process = run(protocol, address, dir.path());
        Self { protocol, process, address, proxy: Proxy::to(address), dir }
    }

    pub fn make_bucket(&self) {
        let path = match self.protocol {
            Protocol::Azure => "tokens?restype=container",
            Protocol::S3 => "tokens",
        };
        let (status, answer) = self.request("PUT", path, b"");
        assert!(status < 300, "{}", String::from_utf8_lossy(&answer));
    }

    /// Makes the server unreachable. It is not killed, so it keeps all acknowledged writes.
    pub fn stop(&mut self) {
        match self.protocol {
            Protocol::Azure => {
                let end = ["-TERM", &self.process.id().to_string()];
                assert!(Command::new("kill").args(end).status().unwrap().success());
                self.process.wait().unwrap();
            }
            Protocol::S3 => self.proxy.set(Way::Closed),
        }
    }

    pub fn go_on(&mut self) {
        match self.protocol {
            Protocol::Azure => self.process = run(self.protocol, self.address, self.dir.path()),
            Protocol::S3 => self.proxy.set(Way::Open),
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the URL of an object, through the proxy.
    pub fn url(&self, key: &str, identity: &Path) -> String {
        let (scheme, account) = match self.protocol {
            Protocol::Azure => ("az", "/devstoreaccount1"),
            Protocol::S3 => ("s3", ""),
        };
        let (endpoint, identity) = (self.proxy.address(), identity.display());
        format!("{scheme}://tokens/{key}?endpoint=http://{endpoint}{account}&identity={identity}")
    }

    /// Sends a request of an operator. Returns the status and the body of the answer.
    fn request(&self, method: &str, path: &str, body: &[u8]) -> (u16, Vec<u8>) {
        let sign = match self.protocol {
            Protocol::Azure => SIGN_FOR_AZURE,
            Protocol::S3 => SIGN_FOR_S3,
        };
        let mut python = Command::new("python3")
            .args(["-c", &format!("{sign}{SEND}"), &self.address.to_string(), method, path])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        python.stdin.take().unwrap().write_all(body).unwrap();
        let done = python.wait_with_output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let (status, answer) = done.stdout.split_at(3);
        (std::str::from_utf8(status).unwrap().parse().unwrap(), answer.to_vec())
    }

    /// Returns the content of an object, or `None` if it does not exist.
    pub fn find_object(&self, key: &str) -> Option<Vec<u8>> {
        let (status, body) = self.request("GET", &format!("tokens/{key}"), b"");
        assert!([200, 404].contains(&status), "{}", String::from_utf8_lossy(&body));
        (status == 200).then_some(body)
    }

    pub fn object(&self, key: &str) -> Vec<u8> {
        self.find_object(key).expect("an object")
    }

    pub fn put_object(&self, key: &str, object: &[u8]) {
        let (status, answer) = self.request("PUT", &format!("tokens/{key}"), object);
        assert!(status < 300, "{}", String::from_utf8_lossy(&answer));
    }

    pub fn delete_object(&self, key: &str) {
        assert!(self.request("DELETE", &format!("tokens/{key}"), b"").0 < 300);
    }

    /// Changes the head of an object, if it has a lease.
    pub fn edit(&self, key: &str, edit: impl FnOnce(&mut Value)) {
        let Some(object) = self.find_object(key) else { return };
        let lines: Vec<_> = object.splitn(3, |byte| *byte == b'\n').collect();
        let [format, head, record] = lines[..] else { panic!("it has three parts") };
        let mut head: Value = serde_json::from_slice(head).unwrap();
        if !head["lease"].is_null() {
            edit(&mut head);
            let head = head.to_string();
            self.put_object(key, &[format, head.as_bytes(), record].join(&b'\n'));
        }
    }
}

impl Drop for BucketServer {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Starts the server, and waits until it answers.
fn run(protocol: Protocol, address: SocketAddr, dir: &Path) -> Child {
    let (host, port) = (address.ip().to_string(), address.port().to_string());
    let mut server = Command::new(protocol.program());
    match protocol {
        Protocol::Azure => server
            .args(["--silent", "--skipApiVersionCheck", "--blobHost", &host, "--blobPort", &port])
            .arg("--location")
            .arg(dir),
        Protocol::S3 => server.args(["-H", &host, "-p", &port]),
    };
    let process = server.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for(address);
    process
}

/// Moto requires a signature, but does not check it.
const SIGN_FOR_S3: &str = r#"
import sys, urllib.error, urllib.request
address, method, path = sys.argv[1:]
body, url = sys.stdin.buffer.read(), f"http://{address}/{path}"
headers = {"Authorization": "AWS4-HMAC-SHA256 Credential=made-up/20200101/us-east-1/s3/aws4_request, "
    "SignedHeaders=host, Signature=0"}
"#;

/// Signs with a shared key (learn.microsoft.com, "Authorize with Shared Key").
const SIGN_FOR_AZURE: &str = r#"
import base64, email.utils, hashlib, hmac, os, sys, urllib.error, urllib.request
address, method, path = sys.argv[1:]
account, key = os.environ["AZURE_STORAGE_ACCOUNT_NAME"], os.environ["AZURE_STORAGE_ACCOUNT_KEY"]
body, url = sys.stdin.buffer.read(), f"http://{address}/{account}/{path}"
headers = {"x-ms-date": email.utils.formatdate(usegmt=True), "x-ms-version": "2021-12-02"}
resource, _, query = path.partition("?")
if method == "PUT" and not query:
    headers["x-ms-blob-type"] = "BlockBlob"
kind = "application/octet-stream" if body else ""
text = f"{method}\n\n\n{len(body) or ''}\n\n{kind}\n" + "\n" * 6
text += "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
text += f"/{account}/{account}/{resource}" + ("\n" + query.replace("=", ":") if query else "")
digest = hmac.new(base64.b64decode(key), text.encode(), hashlib.sha256).digest()
headers["Authorization"] = f"SharedKey {account}:{base64.b64encode(digest).decode()}"
"#;

const SEND: &str = r#"
headers["Content-Type"] = "application/octet-stream"
if not body:
    del headers["Content-Type"]
    headers["Content-Length"] = "0"
request = urllib.request.Request(url, body or None, headers, method=method)
try:
    answer = urllib.request.urlopen(request)
except urllib.error.HTTPError as error:
    answer = error
sys.stdout.buffer.write(b"%d" % answer.status + answer.read())
"#;

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn wait_for(address: SocketAddr) {
    for _ in 0..600 {
        if TcpStream::connect(address).is_ok() {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("no server came up at {address}");
}
