//! The original `age` opens the files of this crate, and this crate opens the files of `age`.
#![cfg(unix)]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tokenkeep::{AgeKey, AuthTokens, TokenStore};

use tokenkeep::store::Precondition;

use tokenkeep::stores::AgeFileStore;

use crate::support::{available, scratch};

const RECORD: &str =
    r#"{"access_token":"from-age","refresh_token":"r","expires_at":"2030-01-01T00:00:00Z"}"#;

struct Files {
    dir: tempfile::TempDir,
    key: PathBuf,
    data: PathBuf,
}

impl Files {
    fn new() -> Self {
        let dir = scratch();
        let (key, data) = (dir.path().join("key.txt"), dir.path().join("tokens.age"));
        Self { dir, key, data }
    }

    fn store(&self) -> AgeFileStore {
        AgeFileStore::new(&self.data, AgeKey::identity_file(&self.key))
    }
}

/// Runs a program with this input, and returns its output.
fn run(program: &str, arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}");
    output.stdout
}

fn private(path: &Path) {
    run("chmod", &["600", path.to_str().unwrap()], b"");
}

#[tokio::test]
async fn age_decrypts_a_record_of_this_crate() {
    if !available("age_tool::age_decrypts_a_record_of_this_crate", "age") {
        return;
    }
    let files = Files::new();
    AgeKey::create_identity_file(&files.key).await.unwrap();
    let tokens = AuthTokens::new("to age").with_refresh_token("r");
    files.store().save(&tokens.clone().into(), Precondition::Absent).await.unwrap();
    let (key, data) = (files.key.to_str().unwrap(), files.data.to_str().unwrap());
    let json: serde_json::Value =
        serde_json::from_slice(&run("age", &["-d", "-i", key, data], b"")).unwrap();
    assert_eq!(json["access_token"], "to age");
    assert_eq!(json["refresh_token"], "r");
}

#[tokio::test]
async fn files_of_age_and_age_keygen_can_be_read_binary_and_armored() {
    let test = "age_tool::files_of_age_and_age_keygen_can_be_read_binary_and_armored";
    if !available(test, "age") {
        return;
    }
    let files = Files::new();
    let (key, data) = (files.key.to_str().unwrap(), files.data.to_str().unwrap());
    run("age-keygen", &["-o", key], b"");
    let recipient = AgeKey::identity_file(&files.key).recipients().await.unwrap().remove(0);
    assert_eq!(run("age-keygen", &["-y", key], b""), format!("{recipient}\n").as_bytes());
    for armor in [&[][..], &["-a"]] {
        run("age", &[&["-r", &recipient, "-o", data], armor].concat(), RECORD.as_bytes());
        private(&files.data);
        let found = files.store().load().await.unwrap().unwrap().record.tokens;
        assert_eq!(found.access_token.expose_secret(), "from-age");
        // An armored record can be replaced like any other. The new record is binary.
        files.store().save(&AuthTokens::new("ours").into(), Precondition::Anything).await.unwrap();
        assert!(fs::read(&files.data).unwrap().starts_with(b"age-encryption.org/v1\n"));
        fs::remove_file(&files.data).unwrap();
    }
}

#[tokio::test]
async fn age_reads_an_identity_file_of_this_crate() {
    if !available("age_tool::age_reads_an_identity_file_of_this_crate", "age") {
        return;
    }
    let files = Files::new();
    let made = AgeKey::create_identity_file(&files.key).await.unwrap();
    let recipient = made.recipients().await.unwrap().remove(0);
    let printed = run("age-keygen", &["-y", files.key.to_str().unwrap()], b"");
    assert_eq!(printed, format!("{recipient}\n").as_bytes());
}

/// Runs `age` in its own terminal, because it asks for a passphrase only there.
fn with_passphrase(directory: &Path, command: &str, passphrase: &str) {
    let script = r"
import os, pty, sys
pid, fd = pty.fork()
if pid == 0:
    os.chdir(sys.argv[1])
    os.execvp('sh', ['sh', '-c', sys.argv[2]])
while True:
    try:
        text = os.read(fd, 1000)
    except OSError:
        break
    if not text:
        break
    if b'passphrase' in text.lower() and b':' in text:
        os.write(fd, sys.argv[3].encode() + b'\n')
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
";
    let status = Command::new("python3")
        .args(["-c", script, directory.to_str().unwrap(), command, passphrase])
        .status()
        .unwrap();
    assert!(status.success(), "{command}");
}

#[tokio::test]
async fn a_file_with_a_passphrase_of_age_is_read_and_the_next_save_seals_it_to_the_key() {
    let test =
        "age_tool::a_file_with_a_passphrase_of_age_is_read_and_the_next_save_seals_it_to_the_key";
    if !available(test, "age") || !available(test, "python3") {
        return;
    }
    let files = Files::new();
    AgeKey::create_identity_file(&files.key).await.unwrap();
    fs::write(files.dir.path().join("plain"), RECORD).unwrap();
    with_passphrase(files.dir.path(), "age -p -o tokens.age plain", "secret words");
    private(&files.data);

    let locked = files.store().load().await.unwrap_err();
    assert!(matches!(locked, tokenkeep::StoreError::Locked { .. }), "{locked}");
    let key = AgeKey::identity_file(&files.key).with_passphrase(|| Ok("secret words".into()));
    let store = AgeFileStore::new(&files.data, key);
    let found = store.load().await.unwrap().unwrap();
    assert_eq!(found.record.tokens.access_token.expose_secret(), "from-age");
    store.save(&found.record, Precondition::Unchanged(found.revision)).await.unwrap();
    assert_eq!(files.store().load().await.unwrap().unwrap().record.tokens, found.record.tokens);
}

#[tokio::test]
async fn age_opens_a_protected_identity_file_of_this_crate() {
    let test = "age_tool::age_opens_a_protected_identity_file_of_this_crate";
    if !available(test, "age") || !available(test, "python3") {
        return;
    }
    let files = Files::new();
    let key = AgeKey::create_protected_identity_file(&files.key, "secret words".into()).await;
    let store = AgeFileStore::new(&files.data, key.unwrap());
    store.save(&AuthTokens::new("to age").into(), Precondition::Absent).await.unwrap();
    with_passphrase(files.dir.path(), "age -d -i key.txt -o plain tokens.age", "secret words");
    let plain = fs::read_to_string(files.dir.path().join("plain")).unwrap();
    assert!(plain.contains("\"access_token\": \"to age\""), "{plain}");
}
