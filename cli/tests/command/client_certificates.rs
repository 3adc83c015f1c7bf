//! Mutual TLS, with a server of another make.
#![cfg(unix)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use crate::home::{Home, done};
use crate::issuing::{Authority, VALID};
use crate::support::available;

/// A process that ends with this value.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_client_proves_who_it_is_by_its_certificate() {
    const TEST: &str = "a_client_proves_who_it_is_by_its_certificate";
    if !available(TEST, "python3") {
        return;
    }
    let (authority, stranger) = (Authority::new("ours"), Authority::new("ours"));
    let home = Home::new();
    let server = authority.issue("localhost", VALID);
    home.write("server.pem", [server.certificate, server.key].concat());
    home.write("roots.pem", authority.pem());
    let ours = authority.issue("the client", VALID);
    home.write("ours.pem", &ours.certificate);
    home.write("ours.key", &ours.key);
    let theirs = stranger.issue("a stranger", VALID);
    home.write("theirs.pem", &theirs.certificate);
    home.write("theirs.key", &theirs.key);

    let script = include_str!("../../../tests/support/src/mutual_tls_server.py");
    let mut server = Command::new("python3");
    server.args(["-c", script]).arg(home.path("server.pem")).arg(home.path("roots.pem"));
    server.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut server = Ended(server.spawn().unwrap());
    let mut said = BufReader::new(server.0.stdout.take().unwrap()).lines();
    let port = said.next().unwrap().unwrap();

    home.run("init").ok();
    let path = home.path("config/profiles/default.toml");
    let store = fs::read_to_string(&path).unwrap();
    let run = |line: &str, certificate: &str, key: &str| {
        let url = |path: &str| format!("https://localhost:{port}{path}");
        let setting = |name: &str, file: &str| match file {
            "" => String::new(),
            file => format!("{name} = \"{}\"\n", home.path(file).display()),
        };
        let text = format!(
            "{store}[oauth2]\ntoken_url = \"{}\"\nclient_id = \"app\"\n\
             device_authorization_url = \"{}\"\nrevocation_url = \"{}\"\n{}{}",
            url("/token"),
            url("/device"),
            url("/revoke"),
            setting("client_certificate", certificate),
            setting("client_certificate_key", key)
        );
        fs::write(&path, text).unwrap();
        let mut command = home.command();
        command.args(line.split(' ')).env_remove("SSL_CERT_DIR");
        done(command.env("SSL_CERT_FILE", home.path("roots.pem")), "")
    };
    for (certificate, key, code, expected) in [
        ("", "", 1, "does not accept the client's certificate, or wants one"),
        ("theirs.pem", "theirs.key", 1, "does not accept the client's certificate, or wants one"),
        (
            "ours.pem",
            "theirs.key",
            2,
            "client_certificate_key is not the key of client_certificate",
        ),
        ("ours.key", "ours.key", 2, "client_certificate is not a certificate in PEM"),
        ("ours.pem", "ours.pem", 2, "is not a private key in PEM without a passphrase"),
        ("ours.pem", "none.key", 5, "none.key does not exist; put the key there"),
        ("ours.pem", "", 2, "client_certificate and client_certificate_key need each other"),
    ] {
        let failed = run("login", certificate, key).failed(code);
        assert!(failed.contains(expected), "{certificate}: {failed}");
        assert!(!failed.contains("PRIVATE") && !failed.contains("MI"), "{failed}");
    }
    run("login", "ours.pem", "ours.key").ok();
    assert_eq!(run("get", "ours.pem", "ours.key").line(), "access-canary-new");
    run("refresh", "ours.pem", "ours.key").ok();
    // The refresh token was sent after the handshake, and the server did not look at it.
    let refused = run("refresh", "theirs.pem", "theirs.key").failed(1);
    assert!(refused.contains("set the certificate that is registered there"), "{refused}");
    let status = run("status", "ours.pem", "ours.key").ok();
    assert!(!status.contains("was cut off"), "{status}");
    run("clear --revoke", "ours.pem", "ours.key").ok();
    drop(server);
    let said: Vec<_> = said.map(Result::unwrap).collect();
    assert_eq!(
        said,
        [
            "issued /device False client_id",
            "issued /token False client_id device_code grant_type",
            "issued /token False client_id grant_type refresh_token",
            "issued /revoke False client_id token token_type_hint",
            "issued /revoke False client_id token token_type_hint",
        ]
    );
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    fs::set_permissions(home.path("ours.key"), mode).unwrap();
    run("login", "ours.pem", "ours.key").failed(5);
}
