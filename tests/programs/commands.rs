//! Commands that keep tokens: docker, gh and rclone.

use std::fs;
use std::path::Path;
use std::process::Command;

use tokenkeep::import::{self, Format, Options, Source};
use tokenkeep_test_support::token_server::{Act, TokenServer};
use tokenkeep_test_support::{available, scratch};

use crate::taken::{assert_taken, imported};
use crate::writers::{run, writer};

fn rclone(config: &Path) -> Command {
    let mut command = Command::new("rclone");
    command.arg("--config").arg(config).arg("--ask-password=false");
    // What rclone does with a new token needs a network that the tests do not use.
    command.env("HTTPS_PROXY", "http://127.0.0.1:9");
    command.args(["--retries=1", "--low-level-retries=1"]);
    command
}

/// Makes two remotes with tokens, one of files, and one with a password.
fn configure(config: &Path) {
    let drive = r#"{"access_token":"access","token_type":"Bearer","refresh_token":"first","expiry":"2020-11-22T12:00:00.5+02:00"}"#;
    let of_box = r#"{"access_token":"access-of-box","token_type":"Bearer","refresh_token":"refresh-of-box","expiry":"0001-01-01T00:00:00Z"}"#;
    for remote in [
        &[
            "drive",
            "drive",
            "client_id=client",
            "client_secret=client-secret",
            &format!("token={drive}"),
        ][..],
        &["box", "box", &format!("token={of_box}")],
        &["here", "local"],
        &["sealed", "crypt", "remote=here:/", "password=9ZGJ0pkrxFguQAjT3GnL0fE"],
    ] {
        let mut command = rclone(config);
        run(command.args(["config", "create", "--non-interactive"]).args(remote));
    }
}

const DRIVE: &str = "drive: access=access refresh=first expires=2020-11-22T10:00:00.500Z \
                     token_type=Bearer client_id=client client_secret=client-secret";
const BOX: &str = "box: access=access-of-box refresh=refresh-of-box token_type=Bearer";

#[test]
fn each_remote_of_rclone_with_a_token_is_an_account() {
    if !available("each_remote_of_rclone_with_a_token_is_an_account", "rclone") {
        return;
    }
    let directory = scratch();
    let config = directory.path().join("rclone.conf");
    configure(&config);
    assert_taken(&config, Format::Rclone, &[DRIVE, BOX]);
    let dump = directory.path().join("dump");
    fs::write(&dump, run(rclone(&config).args(["config", "dump"]))).unwrap();
    assert_taken(&dump, Format::Rclone, &[BOX, DRIVE]);
}

#[test]
fn the_token_that_rclone_refreshed_is_taken_over() {
    if !available("the_token_that_rclone_refreshed_is_taken_over", "rclone") {
        return;
    }
    let directory = scratch();
    let config = directory.path().join("rclone.conf");
    configure(&config);
    let server = TokenServer::start();
    let answer = r#"{"access_token":"new-access","token_type":"Bearer","expires_in":3600,"refresh_token":"rotated"}"#;
    server.script([Act::answer(200, answer)]);
    run(rclone(&config)
        .args(["config", "update", "--non-interactive", "drive"])
        .arg(format!("token_url={}", server.token_url())));
    // It refreshes, writes the file, and then cannot reach the service.
    rclone(&config).args(["lsd", "drive:"]).output().unwrap();
    let (import, text) = imported(&config);
    let drive = import.accounts.iter().find(|account| account.name == "drive").unwrap();
    assert_eq!(drive.tokens.access_token.expose_secret(), "new-access", "{text}");
    let refresh_token = drive.tokens.refresh_token.as_ref().unwrap();
    assert_eq!(refresh_token.expose_secret(), "rotated", "{text}");
    let expiry = text.split(r#""expiry":""#).nth(1).unwrap().split('"').next().unwrap();
    assert_eq!(drive.tokens.expires_at, Some(expiry.parse().unwrap()), "{text}");
    assert_eq!(drive.provider.token_url, Some(server.token_url()), "{text}");
}

#[test]
fn an_encrypted_file_of_rclone_is_refused_by_name() {
    let test = "an_encrypted_file_of_rclone_is_refused_by_name";
    if !available(test, "rclone") || !available(test, "programs-python") {
        return;
    }
    let directory = scratch();
    let config = directory.path().join("rclone.conf");
    let script = writer("write_rclone_encrypted.py");
    run(Command::new("programs-python").arg(script).arg(directory.path()));
    let text = fs::read(&config).unwrap();
    assert!(text.windows(9).any(|part| part == b"Encrypted"), "rclone did not encrypt its file");
    assert_eq!(import::recognize(&text), Some(Format::Rclone));
    let error = Source::parse(&text, &Options::default()).unwrap_err().to_string();
    assert!(error.contains("encrypted"), "{error}");
}

#[test]
fn each_host_of_gh_is_an_account() {
    let test = "each_host_of_gh_is_an_account";
    if !available(test, "gh") || !available(test, "programs-python") {
        return;
    }
    let directory = scratch();
    run(Command::new("programs-python").arg(writer("write_gh.py")).arg(directory.path()));
    let first = "github.com: access=gho_access host=github.com";
    let other = "git.example.com: access=ghp_other host=git.example.com";
    assert_taken(&directory.path().join("github.com"), Format::Gh, &[first]);
    assert_taken(&directory.path().join("git.example.com"), Format::Gh, &[first, other]);
}

#[test]
fn the_refresh_token_of_docker_is_taken_over_and_a_password_is_refused() {
    let test = "the_refresh_token_of_docker_is_taken_over_and_a_password_is_refused";
    if !available(test, "docker") || !available(test, "programs-python") {
        return;
    }
    let directory = scratch();
    run(Command::new("programs-python").arg(writer("write_docker.py")).arg(directory.path()));
    let (import, text) = imported(&directory.path().join("tokens"));
    let host = text.split('"').find(|part| part.starts_with("127.0.0.1:")).unwrap();
    let account = format!("{host}: refresh=refresh");
    assert_taken(&directory.path().join("tokens"), Format::Docker, &[&account]);
    assert!(!import.is_only_tokens, "{text}");
    let text = fs::read(directory.path().join("passwords")).unwrap();
    assert_eq!(import::recognize(&text), Some(Format::Docker));
    let error = Source::parse(&text, &Options::default()).unwrap_err().to_string();
    assert!(error.contains("it has no identitytoken"), "{error}");
}
