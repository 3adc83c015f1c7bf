//! Servers that keep objects, of the tests' own: S3 by moto, Azure Blob Storage by azurite.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::proxy::Proxy;
use crate::support::available;

/// The credentials that both servers take, and where the second one is.
const ENVIRONMENT: [(&str, &str); 5] = [
    ("AWS_ACCESS_KEY_ID", "made-up"),
    ("AWS_SECRET_ACCESS_KEY", "made-up"),
    ("AWS_REGION", "us-east-1"),
    ("AZURE_STORAGE_ACCOUNT_NAME", "devstoreaccount1"),
    // The one that azurite's documentation gives.
    (
        "AZURE_STORAGE_ACCOUNT_KEY",
        "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==",
    ),
];

/// A test has the environment of its process, so it is run again in one with credentials.
///
/// Returns whether this is that one.
fn in_environment(test: &str) -> bool {
    if is_in_environment() {
        return true;
    }
    let done = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .envs(ENVIRONMENT)
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success() && out.contains("1 passed"), "{out}\n{err}");
    false
}

/// Tells whether this process has those credentials.
pub(crate) fn is_in_environment() -> bool {
    let (name, value) = ENVIRONMENT[0];
    std::env::var_os(name).is_some_and(|given| given == value)
}

/// Tells whether S3 can be served, and whether this process has the credentials for it.
pub(crate) fn can_serve_s3(test: &str) -> bool {
    available(test, "moto_server") && in_environment(test)
}

pub(crate) fn can_serve_azure(test: &str) -> bool {
    available(test, "azurite-blob") && in_environment(test)
}

/// A server with one bucket, `tokens`.
pub(crate) struct S3Server {
    process: Child,
    address: SocketAddr,
    pub(crate) proxy: Proxy,
}

impl S3Server {
    pub(crate) fn start() -> Self {
        let address = free_address();
        let process = Command::new("moto_server")
            .args(["-H", "127.0.0.1", "-p", &address.port().to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self { process, address, proxy: Proxy::to(address) };
        wait_for(address);
        assert_eq!(server.request("PUT", "/tokens", b"").0, 200);
        server
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of an object that is reached by the proxy.
    pub(crate) fn url(&self, key: &str, identity: &Path) -> String {
        let (endpoint, identity) = (self.proxy.address(), identity.display());
        format!("s3://tokens/{key}?endpoint=http://{endpoint}&identity={identity}")
    }

    /// Does what an operator would do: status and body of the answer.
    pub(crate) fn request(&self, method: &str, path: &str, body: &[u8]) -> (u16, Vec<u8>) {
        let mut connection = TcpStream::connect(self.address).unwrap();
        let head = format!(
            // Moto does not look at signatures, and wants one.
            "{method} {path} HTTP/1.1\r\nhost: {}\r\nauthorization: AWS4-HMAC-SHA256 \
             Credential=made-up/20200101/us-east-1/s3/aws4_request, SignedHeaders=host, \
             Signature=0\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            self.address,
            body.len()
        );
        connection.write_all(&[head.as_bytes(), body].concat()).unwrap();
        let mut answer = Vec::new();
        connection.read_to_end(&mut answer).unwrap();
        let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("a head");
        let status = std::str::from_utf8(&answer[9..12]).unwrap().parse().unwrap();
        (status, answer.split_off(end + 4))
    }

    pub(crate) fn object(&self, key: &str) -> Vec<u8> {
        let (status, body) = self.request("GET", &format!("/tokens/{key}"), b"");
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
        body
    }

    pub(crate) fn put_object(&self, key: &str, object: &[u8]) {
        assert_eq!(self.request("PUT", &format!("/tokens/{key}"), object).0, 200);
    }

    /// Makes the lease in an object one that is over as soon as it is looked at.
    pub(crate) fn end_lease(&self, key: &str) {
        let (status, object) = self.request("GET", &format!("/tokens/{key}"), b"");
        if status == 404 {
            return;
        }
        let text = String::from_utf8(object[..object.len().min(600)].to_vec());
        let head = text.unwrap_or_else(|error| {
            let valid = error.utf8_error().valid_up_to();
            String::from_utf8(object[..valid].to_vec()).unwrap()
        });
        let Some((before, rest)) = head.split_once("\"lasts_ms\":") else { return };
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let end = before.len() + "\"lasts_ms\":".len();
        let over = [&object[..end], b"0", &object[end + digits..]].concat();
        self.put_object(key, &over);
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        end(&mut self.process);
    }
}

/// A server with no container yet.
pub(crate) struct AzureServer {
    process: Child,
    address: SocketAddr,
}

impl AzureServer {
    pub(crate) fn start(dir: &Path) -> Self {
        let address = free_address();
        let process = Command::new("azurite-blob")
            .args(["--silent", "--skipApiVersionCheck", "--blobHost", "127.0.0.1", "--blobPort"])
            .arg(address.port().to_string())
            .arg("--location")
            .arg(dir)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_for(address);
        Self { process, address }
    }

    /// Makes a container, which takes a signed request.
    pub(crate) fn make_container(&self, name: &str) {
        let made = Command::new("python3")
            .args(["-c", MAKE_CONTAINER, &self.address.to_string(), name])
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }

    pub(crate) fn url(&self, object: &str, identity: &Path) -> String {
        let (address, identity) = (self.address, identity.display());
        format!("az://{object}?endpoint=http://{address}/devstoreaccount1&identity={identity}")
    }
}

/// By the rules of the shared key (learn.microsoft.com, "Authorize with Shared Key").
const MAKE_CONTAINER: &str = r#"
import base64, email.utils, hashlib, hmac, os, sys, urllib.request
address, name = sys.argv[1:]
account, key = os.environ["AZURE_STORAGE_ACCOUNT_NAME"], os.environ["AZURE_STORAGE_ACCOUNT_KEY"]
date = email.utils.formatdate(usegmt=True)
headers = f"x-ms-date:{date}\nx-ms-version:2021-12-02"
text = "PUT" + "\n" * 12 + headers + f"\n/{account}/{account}/{name}\nrestype:container"
digest = hmac.new(base64.b64decode(key), text.encode(), hashlib.sha256).digest()
urllib.request.urlopen(urllib.request.Request(
    f"http://{address}/{account}/{name}?restype=container", method="PUT", headers={
        "x-ms-date": date, "x-ms-version": "2021-12-02", "Content-Length": "0",
        "Authorization": f"SharedKey {account}:{base64.b64encode(digest).decode()}"}))
"#;

impl Drop for AzureServer {
    fn drop(&mut self) {
        end(&mut self.process);
    }
}

fn end(process: &mut Child) {
    // It may have ended by itself.
    let _ = process.kill();
    let _ = process.wait();
}

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
