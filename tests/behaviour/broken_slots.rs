//! Broken slots: each fault has its own error, which shows no secret, and the slot is not changed.

use std::fs;
use std::path::{Path, PathBuf};

use tokenkeep::{AgeKey, AuthError, AuthTokens, StoreError, TokenManager, TokenStore};

use tokenkeep::store::Precondition;

use tokenkeep::stores::{AgeFileStore, PlaintextStore};

#[cfg(unix)]
use crate::support::make_pipe;
use crate::support::scratch;

const SOUND: &str =
    r#"{"access_token":"canary-a","refresh_token":"canary-r","expires_at":"2030-01-01T00:00:00Z"}"#;

/// Returns the faults of a plaintext file: its content, and a part of the error.
fn plaintext_faults() -> Vec<(Vec<u8>, &'static str)> {
    vec![
        (Vec::new(), "is damaged: it is empty"),
        (SOUND.as_bytes()[..40].to_vec(), "is damaged: it ends too early, at line 1, column 40"),
        (
            SOUND.replacen(':', ";", 1).into_bytes(),
            "is damaged: it is not valid JSON at line 1, column 16",
        ),
        (
            br#"{"access_token":["canary-a"]}"#.to_vec(),
            "holds no record of tokenkeep: its access_token is not a string",
        ),
        (br#"["canary-a"]"#.to_vec(), "holds no record of tokenkeep: it is not a JSON object"),
        (
            [b"{\"access_token\":", "[".repeat(30_000).as_bytes()].concat(),
            "is damaged: it ends too early",
        ),
        (
            br#"{"access_token":"canary-a","access_token":"canary-b"}"#.to_vec(),
            "is damaged: it has the same field twice",
        ),
        (
            b"{\"access_token\":\"canary-\xe9\"}".to_vec(),
            "is damaged: it is not UTF-8 text (byte 24)",
        ),
        (
            br#"{"access_token":"canary-a","version":7}"#.to_vec(),
            "was written by a newer tokenkeep (record version 7, this one knows 2)",
        ),
        (vec![b' '; 70_000], "is too large: it may have at most 69632 bytes"),
    ]
}

/// Tries each way to read and write a broken slot. Checks that each fails and that the slot is not changed.
async fn stays_broken(store: impl TokenStore, path: &Path, expected: &str) {
    let before = fs::read(path).unwrap();
    let manager = TokenManager::builder().store(store).build();
    let store = manager.store();
    let errors = [
        store.load().await.unwrap_err(),
        store.save(&AuthTokens::new("new").into(), Precondition::Anything).await.unwrap_err(),
        store.save(&AuthTokens::new("new").into(), Precondition::Absent).await.unwrap_err(),
    ];
    for error in errors {
        check_error(&error, path, expected);
    }
    for error in [
        manager.get_tokens().await.map(drop).unwrap_err(),
        manager.get_access_token().await.map(drop).unwrap_err(),
        manager.is_expired().await.map(drop).unwrap_err(),
        manager.set_tokens(AuthTokens::new("new")).await.unwrap_err(),
    ] {
        let AuthError::Store(error) = error else {
            panic!("{error} hides that the slot is broken")
        };
        check_error(&error, path, expected);
    }
    assert_eq!(fs::read(path).unwrap(), before, "a broken slot is not changed");
    let beside = fs::read_dir(path.parent().unwrap()).unwrap();
    let mut names = beside.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(names.find(|name| name.ends_with(".tmp")), None, "a temporary file is left");

    if expected.contains("no record of tokenkeep") {
        // It is another program's, so a logout does not remove it.
        let error = store.clear(Precondition::Anything).await.unwrap_err();
        check_error(&error, path, expected);
        assert!(manager.clear().await.is_err());
        assert_eq!(fs::read(path).unwrap(), before);
        assert!(!error.to_string().contains("clear it"), "{error}");
        return;
    }
    // A logout and a login fix it.
    manager.clear().await.unwrap();
    assert_eq!(manager.get_tokens().await.unwrap(), None);
    manager.set_tokens(AuthTokens::new("new")).await.unwrap();
}

fn check_error(error: &StoreError, path: &Path, expected: &str) {
    let text = error.to_string();
    assert!(text.contains(expected), "expected {expected:?} in {text:?}");
    assert!(text.contains(path.to_str().unwrap()), "the path is missing: {text}");
    let mut shown = format!("{text} {error:?}");
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        shown += &format!(" {error} {error:?}");
        source = error.source();
    }
    assert!(!shown.contains("canary"), "a secret is shown: {shown}");
}

fn write_private(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap();
    make_private(path);
}

#[cfg(unix)]
fn make_private(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

#[cfg(not(unix))]
fn make_private(_path: &Path) {}

#[tokio::test]
async fn each_broken_plaintext_file_has_its_own_error_and_is_not_changed() {
    for (bytes, expected) in plaintext_faults() {
        let dir = scratch();
        let path = dir.path().join("tokens.json");
        write_private(&path, &bytes);
        stays_broken(PlaintextStore::new(&path), &path, expected).await;
    }
}

struct AgeSlot {
    _dir: tempfile::TempDir,
    path: PathBuf,
    key: AgeKey,
    sealed: Vec<u8>,
}

impl AgeSlot {
    async fn new() -> Self {
        let dir = scratch();
        let path = dir.path().join("tokens.age");
        let key = AgeKey::create_identity_file(dir.path().join("keys/key.txt")).await.unwrap();
        let store = AgeFileStore::new(&path, key.clone());
        store.save(&AuthTokens::new("canary-a").into(), Precondition::Absent).await.unwrap();
        let sealed = fs::read(&path).unwrap();
        Self { _dir: dir, path, key, sealed }
    }

    async fn stays_broken(&self, bytes: &[u8], expected: &str) {
        write_private(&self.path, bytes);
        stays_broken(AgeFileStore::new(&self.path, self.key.clone()), &self.path, expected).await;
    }
}

#[tokio::test]
async fn each_broken_age_file_has_its_own_error_and_is_not_changed() {
    let slot = AgeSlot::new().await;
    let sealed = &slot.sealed;
    slot.stays_broken(b"", "is damaged: it is empty").await;
    slot.stays_broken(SOUND.as_bytes(), "holds no record of tokenkeep: it is not sealed with age")
        .await;
    slot.stays_broken(&vec![b'x'; 140_000], "is too large").await;
    slot.stays_broken(&sealed[..30], "is damaged: it ends too early").await;
    slot.stays_broken(
        &sealed[..sealed.len() - 1],
        "is damaged: its content was changed or cut off",
    )
    .await;
    let longer = [sealed.as_slice(), b"x"].concat();
    slot.stays_broken(&longer, "is damaged: its content was changed or cut off").await;
}

#[tokio::test]
async fn each_flipped_bit_in_an_age_file_is_detected() {
    let slot = AgeSlot::new().await;
    for position in 0..slot.sealed.len() {
        let mut bytes = slot.sealed.clone();
        bytes[position] ^= 1 << (position % 8);
        write_private(&slot.path, &bytes);
        let store = AgeFileStore::new(&slot.path, slot.key.clone());
        let error = store.load().await.expect_err("a flipped bit is detected");
        let expected = match error {
            // The stanza for our key is no longer recognised.
            StoreError::Undecryptable { .. } => "cannot be decrypted",
            _ => "is damaged",
        };
        check_error(&error, &slot.path, expected);
    }
}

#[tokio::test]
async fn a_file_sealed_to_another_key_is_undecryptable_and_is_not_overwritten() {
    let (ours, theirs) = (AgeSlot::new().await, AgeSlot::new().await);
    ours.stays_broken(&theirs.sealed, "cannot be decrypted: it is sealed to other keys than").await;
}

#[tokio::test]
async fn a_sealed_record_of_a_newer_version_is_not_overwritten() {
    let slot = AgeSlot::new().await;
    let recipients = slot.key.recipients().await.unwrap();
    let recipient: age::x25519::Recipient = recipients[0].parse().unwrap();
    let sealed = age::encrypt(&recipient, br#"{"access_token":"canary-a","version":3}"#).unwrap();
    slot.stays_broken(&sealed, "was written by a newer tokenkeep").await;
    let sealed = age::encrypt(&recipient, br#"{"access_token":"canary-a"#).unwrap();
    slot.stays_broken(&sealed, "is damaged: it ends too early").await;
}

#[tokio::test]
async fn a_file_of_two_gigabytes_is_refused() {
    let dir = scratch();
    let path = dir.path().join("tokens.json");
    write_private(&path, b"");
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(2 << 30).unwrap();
    let error = PlaintextStore::new(&path).load().await.unwrap_err();
    assert!(matches!(error, StoreError::TooLarge { limit: 69_632, .. }), "{error}");
    assert_eq!(fs::metadata(&path).unwrap().len(), 2 << 30);
}

#[cfg(unix)]
#[tokio::test]
async fn a_path_that_is_not_a_regular_file_is_an_error_that_names_its_kind() {
    let dir = scratch();
    let directory = dir.path().join("directory");
    fs::create_dir(&directory).unwrap();
    let pipe = dir.path().join("pipe");
    make_pipe(&pipe);
    let socket = dir.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();

    for (path, found) in [
        (directory.as_path(), "directory"),
        (&pipe, "named pipe"),
        (&socket, "socket"),
        (Path::new("/dev/zero"), "device"),
    ] {
        let store = PlaintextStore::new(path);
        let mut errors = vec![store.load().await.unwrap_err()];
        if !path.starts_with("/dev") {
            errors.push(
                store.save(&AuthTokens::new("a").into(), Precondition::Anything).await.unwrap_err(),
            );
            errors.push(store.clear(Precondition::Anything).await.unwrap_err());
        }
        for error in errors {
            let text = error.to_string();
            assert!(matches!(error, StoreError::NotAFile { .. }), "{text}");
            assert!(text.contains(&format!("is a {found}")), "{text}");
        }
        assert!(path.exists());
    }
}

#[tokio::test]
async fn a_path_without_a_file_name_is_refused() {
    for path in ["", "/", "/tmp/.."] {
        let error = PlaintextStore::new(path).load().await.unwrap_err();
        assert!(matches!(error, StoreError::Io { .. }), "{path}: {error}");
    }
}

#[tokio::test]
async fn a_file_in_the_place_of_a_directory_is_an_error_and_not_an_empty_slot() {
    let dir = scratch();
    write_private(&dir.path().join("file"), b"x");
    let store = PlaintextStore::new(dir.path().join("file/tokens.json"));
    for error in [
        store.load().await.map(drop).unwrap_err(),
        store.clear(Precondition::Anything).await.unwrap_err(),
        store.clear(Precondition::Absent).await.unwrap_err(),
    ] {
        assert!(matches!(error, StoreError::Io { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_record_that_cannot_be_decrypted_is_not_overwritten_even_with_its_revision() {
    let (ours, theirs) = (AgeSlot::new().await, AgeSlot::new().await);
    write_private(&ours.path, &theirs.sealed);
    let reader = AgeFileStore::new(&ours.path, theirs.key.clone());
    let revision = reader.load().await.unwrap().unwrap().revision;
    let writer = AgeFileStore::new(&ours.path, ours.key.clone());
    let error = writer
        .save(&AuthTokens::new("new").into(), Precondition::Unchanged(revision))
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::Undecryptable { .. }), "{error}");
    assert_eq!(fs::read(&ours.path).unwrap(), theirs.sealed);
}
