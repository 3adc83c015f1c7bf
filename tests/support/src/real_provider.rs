//! Authorization servers that others wrote: the certified `oidc-provider`, and one of Authlib.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;

use serde_json::Value;
use tempfile::TempDir;

use crate::{available, output, scratch};

/// The secret of each client that has one.
pub const SECRET: &str = "canary-secret";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Make {
    Authlib,
    OidcProvider,
}

impl Make {
    pub const ALL: [Self; 2] = [Self::Authlib, Self::OidcProvider];

    /// Returns whether the server is installed.
    pub fn is_here(self, test: &str) -> bool {
        available(test, "python3")
            && match self {
                Self::Authlib => available(test, "authlib-python"),
                Self::OidcProvider => {
                    available(test, "node") && available(test, "oidc-provider.js")
                }
            }
    }

    fn paths(self) -> Paths {
        match self {
            Self::Authlib => Paths {
                api: "/api",
                authorization: "/authorize",
                device_authorization: "/device_authorization",
                revocation: "/revoke",
                scopes: r#"["read"]"#,
            },
            Self::OidcProvider => Paths {
                api: "/me",
                // It issues a refresh token only if the person was asked.
                authorization: "/auth?prompt=consent",
                device_authorization: "/device/auth",
                revocation: "/token/revocation",
                scopes: r#"["openid", "offline_access"]"#,
            },
        }
    }
}

struct Paths {
    api: &'static str,
    authorization: &'static str,
    device_authorization: &'static str,
    revocation: &'static str,
    scopes: &'static str,
}

/// A running server. It ends with this value, and with the process of the test.
pub struct RealProvider {
    pub make: Make,
    /// Its issuer, which is also the beginning of each of its URLs.
    pub issuer: String,
    /// The private key of the client `jwt` for each algorithm, as PEM.
    pub keys: BTreeMap<String, String>,
    process: Child,
    orders: Mutex<(ChildStdin, BufReader<ChildStdout>)>,
    certificates: Option<TempDir>,
}

impl RealProvider {
    pub fn start(make: Make) -> Self {
        Self::run(make, None)
    }

    /// Starts `oidc-provider` with TLS. Its certificate is of a private authority.
    pub fn start_with_tls() -> Self {
        Self::run(Make::OidcProvider, Some(make_certificates()))
    }

    fn run(make: Make, certificates: Option<TempDir>) -> Self {
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/real_provider");
        let mut command = match make {
            Make::Authlib => Command::new("authlib-python"),
            Make::OidcProvider => Command::new("node"),
        };
        match make {
            Make::Authlib => command.arg(scripts.join("authlib_server.py")),
            Make::OidcProvider => {
                command.arg(scripts.join("oidc_provider.mjs")).arg(found("oidc-provider.js"))
            }
        };
        command.args(certificates.iter().map(TempDir::path));
        // What the servers log is of no use to a test that passes.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn().unwrap();
        let mut says = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        says.read_line(&mut line).unwrap();
        let ready: Value =
            serde_json::from_str(&line).unwrap_or_else(|_| panic!("{make:?} does not start"));
        let keys = ready["keys"].as_object().unwrap().iter();
        Self {
            make,
            issuer: ready["issuer"].as_str().unwrap().to_owned(),
            keys: keys.map(|(name, key)| (name.clone(), key.as_str().unwrap().into())).collect(),
            orders: Mutex::new((process.stdin.take().unwrap(), says)),
            process,
            certificates,
        }
    }

    fn order(&self, order: &str) -> String {
        let (input, says) = &mut *self.orders.lock().unwrap();
        writeln!(input, "{order}").unwrap();
        let mut line = String::new();
        says.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Moves the clock of the server. Only `oidc-provider` can do that.
    pub fn later(&self, seconds: u32) {
        assert_eq!(self.order(&format!("later {seconds}")), "ok");
    }

    /// Returns the number of requests to the token endpoint.
    pub fn calls(&self) -> usize {
        self.requests("/token")
    }

    /// Returns the number of requests to a path.
    pub fn requests(&self, path: &str) -> usize {
        self.order(&format!("requests {path}")).parse().unwrap()
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.issuer)
    }

    pub fn token_url(&self) -> String {
        self.url("/token")
    }

    pub fn authorization_url(&self) -> String {
        self.url(self.make.paths().authorization)
    }

    pub fn device_authorization_url(&self) -> String {
        self.url(self.make.paths().device_authorization)
    }

    pub fn revocation_url(&self) -> String {
        self.url(self.make.paths().revocation)
    }

    /// Returns the `[oauth2]` table of a profile, with all endpoints written by hand.
    pub fn table(&self, client: &str, more: &str) -> String {
        format!(
            "[oauth2]\nclient_id = \"{client}\"\ntoken_url = \"{}\"\nauthorization_url = \"{}\"\n\
             device_authorization_url = \"{}\"\nrevocation_url = \"{}\"\nscopes = {}\n{more}",
            self.token_url(),
            self.authorization_url(),
            self.device_authorization_url(),
            self.revocation_url(),
            self.make.paths().scopes,
        )
    }

    /// Returns the path of a file with the private authority, the server's certificate, or the client's:
    /// `ca.pem`, `client.pem`, `client-key.pem`. Only a server with TLS has them.
    pub fn certificate(&self, name: &str) -> PathBuf {
        self.certificates.as_ref().unwrap().path().join(name)
    }

    /// Opens a URL as a person does in a browser, who signs in and allows everything. Returns the status and
    /// the text of the last page.
    pub fn visit(&self, url: &str, code: Option<&str>) -> String {
        self.browse(&[&[url], code.as_slice()].concat())
    }

    /// Opens a URL as a person does who then declines.
    pub fn decline(&self, url: &str) -> String {
        self.browse(&[url, "--decline"])
    }

    fn browse(&self, arguments: &[&str]) -> String {
        let mut browser = Command::new("python3");
        browser.args(["-c", include_str!("real_provider/browser.py")]).args(arguments);
        if self.certificates.is_some() {
            browser.env("SSL_CERT_FILE", self.certificate("ca.pem"));
        }
        let done = output(&mut browser);
        let said = String::from_utf8(done.stdout).unwrap();
        assert!(done.status.success(), "{said}{}", String::from_utf8_lossy(&done.stderr));
        said
    }

    /// Returns whether the server's API accepts an access token.
    pub fn accepts(&self, access_token: &str) -> bool {
        const ASK: &str = "import sys, urllib.request as r, urllib.error as e\n\
            q = r.Request(sys.argv[1], headers={'Authorization': 'Bearer ' + sys.argv[2]})\n\
            try: print(r.build_opener(r.ProxyHandler({})).open(q).status)\n\
            except e.HTTPError as error: print(error.code)";
        let url = self.url(self.make.paths().api);
        let said = output(Command::new("python3").args(["-c", ASK, &url, access_token]));
        match str::from_utf8(&said.stdout).unwrap().trim_end() {
            "200" => true,
            "401" => false,
            other => panic!("{other}: {}", String::from_utf8_lossy(&said.stderr)),
        }
    }
}

impl fmt::Debug for RealProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.make)
    }
}

impl Drop for RealProvider {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Returns where on the path a file is.
fn found(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap();
    let mut places = std::env::split_paths(&path).map(|directory| directory.join(name));
    places.find(|place| place.is_file()).unwrap()
}

/// Makes a private authority, and certificates of it for the server and for the client `mtls`.
fn make_certificates() -> TempDir {
    let directory = scratch();
    let write = |name: &str, text: String| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        // A key must be private.
        fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
    };
    let mut parameters = rcgen::CertificateParams::default();
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    // A certificate with the name of its issuer would look self-signed.
    parameters.distinguished_name.push(rcgen::DnType::CommonName, "a private authority");
    let key = rcgen::KeyPair::generate().unwrap();
    write("ca.pem", parameters.self_signed(&key).unwrap().pem());
    let issuer = rcgen::Issuer::new(parameters, key);
    for (name, host) in [("server", "127.0.0.1"), ("client", "client.example")] {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(vec![host.to_owned()]).unwrap();
        parameters.use_authority_key_identifier_extension = true;
        write(&format!("{name}.pem"), parameters.signed_by(&key, &issuer).unwrap().pem());
        write(&format!("{name}-key.pem"), key.serialize_pem());
    }
    directory
}
