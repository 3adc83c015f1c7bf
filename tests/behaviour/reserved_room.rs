//! The room that a refresh reserves on the disk, and how it is used.
#![cfg(unix)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tokenkeep::{AgeKey, AuthTokens, StoreError, TokenStore};

use tokenkeep::refresh::check_replaceable;

use tokenkeep::store::{Intent, Lease, Precondition, Record};

use tokenkeep::stores::{AgeFileStore, PlaintextStore};

use crate::support::scratch;

fn tokens(name: &str) -> Record {
    AuthTokens::new(name).with_refresh_token(name).into()
}

/// Does the steps of a refresh before the token is sent.
async fn begin(store: &dyn TokenStore) -> (Box<dyn Lease>, Precondition) {
    store.save(&tokens("old"), Precondition::Anything).await.unwrap();
    let mut lease = store.try_lease().await.unwrap().unwrap();
    lease.reserve().await.unwrap();
    let stored = store.load().await.unwrap().unwrap();
    let mut record = stored.record;
    let token = record.tokens.refresh_token.as_ref().unwrap();
    record.refresh.intent = Some(Intent::new(token, tokenkeep::chrono::Utc::now()));
    let noted = store.save(&record, Precondition::Unchanged(stored.revision)).await.unwrap();
    (lease, Precondition::Unchanged(noted))
}

fn reserved(dir: &Path) -> Option<PathBuf> {
    let mut paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    paths.find(|path| path.extension().is_some_and(|extension| extension == "next"))
}

#[tokio::test]
async fn new_tokens_are_saved_even_if_the_reserved_file_was_removed() {
    let changes: [fn(&Path); 2] = [
        |next| fs::remove_file(next).unwrap(),
        |next| {
            fs::remove_file(next).unwrap();
            fs::create_dir(next).unwrap();
        },
    ];
    for change in changes {
        let dir = scratch();
        let store = PlaintextStore::new(dir.path().join("tokens.json"));
        let (lease, precondition) = begin(&store).await;
        change(&reserved(dir.path()).unwrap());
        store.save(&tokens("new"), precondition).await.unwrap();
        assert_eq!(store.load().await.unwrap().unwrap().record, tokens("new"));
        lease.release().await.unwrap();
    }
}

#[tokio::test]
async fn a_login_does_not_use_the_room_that_a_refresh_reserved() {
    let dir = scratch();
    let store = PlaintextStore::new(dir.path().join("tokens.json"));
    let (lease, precondition) = begin(&store).await;
    // The directory becomes writable for others. A login is then refused, but the new tokens are saved.
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let refused = store.save(&tokens("login"), Precondition::Anything).await.unwrap_err();
    assert!(matches!(refused, StoreError::Exposed { .. }), "{refused}");
    assert!(reserved(dir.path()).is_some());
    store.save(&tokens("new"), precondition).await.unwrap();
    assert_eq!(reserved(dir.path()), None);
    lease.release().await.unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(store.load().await.unwrap().unwrap().record, tokens("new"));
}

#[tokio::test]
async fn too_many_recipients_for_the_largest_record_are_detected_before_a_refresh() {
    let dir = scratch();
    let list = dir.path().join("recovery.txt");
    let recipient = age::x25519::Identity::generate().to_public();
    for (count, fits) in [(62, true), (63, false)] {
        fs::write(&list, format!("{recipient}\n")).unwrap();
        let identity = dir.path().join(format!("{count}.txt"));
        let key = AgeKey::create_identity_file(identity).await.unwrap();
        let key = key.with_recovery_recipients_file(&list);
        let store = AgeFileStore::new(dir.path().join(format!("{count}.age")), key);
        store.save(&tokens("small"), Precondition::Absent).await.unwrap();
        fs::write(&list, format!("{recipient}\n").repeat(count)).unwrap();
        let checked = check_replaceable(&store).await;
        assert_eq!(checked.is_ok(), fits, "{count}: {checked:?}");
        if let Err(error) = checked {
            assert!(error.to_string().contains("too many recovery recipients"), "{error}");
        }
        assert_eq!(reserved(dir.path()), None);
    }
}
