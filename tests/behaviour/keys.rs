//! The sources of keys, and the errors for bad keys.

use std::fs;
use std::io;
use std::path::Path;
#[cfg(unix)]
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokenkeep::secrecy::SecretString;
use tokenkeep::store::Precondition;
use tokenkeep::stores::AgeFileStore;
use tokenkeep::{AgeKey, AuthTokens, StoreError, TokenStore};

#[cfg(unix)]
use crate::support::available;
#[cfg(unix)]
use crate::support::make_pipe;
use crate::support::scratch;

const IDENTITY: &str = "AGE-SECRET-KEY-1GQ9778VQXMMJVE8SK7J6VT8UJ4HDQAJUVSFCWCM02D8GEWQ72PVQ2Y5J33";
const OTHER_IDENTITY: &str =
    "AGE-SECRET-KEY-1LF49QHXPGUTZNPD4MG7T8AH8KPPXCT7RV6W44NATM0X0LELGP2AQEF7XE0";
const RECIPIENT: &str = "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa";

/// Returns the key of [`RECIPIENT`].
fn escrow() -> AgeKey {
    AgeKey::custom("escrow", || Ok(SecretString::from(IDENTITY)))
}

fn write_private(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }
}

async fn load_error(key: AgeKey) -> StoreError {
    let dir = scratch();
    let path = dir.path().join("tokens.age");
    AgeFileStore::new(&path, escrow())
        .save(&AuthTokens::new("a").into(), Precondition::Absent)
        .await
        .unwrap();
    let before = fs::read(&path).unwrap();
    let store = AgeFileStore::new(&path, key);
    let error = store.load().await.unwrap_err();
    store.save(&AuthTokens::new("b").into(), Precondition::Anything).await.unwrap_err();
    assert_eq!(fs::read(&path).unwrap(), before);
    error
}

#[tokio::test]
async fn an_identity_file_in_the_form_of_age_keygen_is_accepted() {
    let dir = scratch();
    let path = dir.path().join("key.txt");
    write_private(
        &path,
        &format!("# created: today\n\n# public key: {RECIPIENT}\n  {IDENTITY}  \r\n"),
    );
    assert_eq!(AgeKey::identity_file(&path).recipients().await.unwrap(), [RECIPIENT]);
}

#[tokio::test]
async fn a_missing_key_file_is_key_missing_and_not_logged_out() {
    let dir = scratch();
    let path = dir.path().join("key.txt");
    let error = load_error(AgeKey::identity_file(&path)).await;
    assert!(matches!(error, StoreError::KeyMissing { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains(path.to_str().unwrap()) && text.contains("tokens.age"), "{text}");
}

#[tokio::test]
async fn the_error_for_a_bad_identity_file_names_the_line_and_does_not_quote_it() {
    let dir = scratch();
    let path = dir.path().join("key.txt");
    for (text, expected) in [
        (String::new(), "it contains no identity"),
        ("# only a comment\n".into(), "it contains no identity"),
        (format!("# one\n{IDENTITY}\ncanary\n"), "line 3 is not an X25519 identity"),
        (format!("{}\n", &IDENTITY[..70]), "line 1 is not an X25519 identity"),
        (RECIPIENT.into(), "line 1 is not an X25519 identity"),
        ("AGE-PLUGIN-YUBIKEY-1CANARY".into(), "line 1 is not an X25519 identity"),
    ] {
        write_private(&path, &text);
        let error = load_error(AgeKey::identity_file(&path)).await;
        assert!(matches!(error, StoreError::InvalidKey { .. }), "{error}");
        let shown = format!("{error} {error:?}");
        assert!(shown.contains(expected) && shown.contains("key.txt"), "{shown}");
        assert!(!shown.to_lowercase().contains("canary") && !shown.contains("GQ9778"), "{shown}");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_key_file_that_others_can_read_is_refused_and_a_link_to_a_private_one_is_accepted() {
    use std::os::unix::fs::{PermissionsExt, symlink};

    let dir = scratch();
    let (path, link) = (dir.path().join("key.txt"), dir.path().join("link.txt"));
    write_private(&path, IDENTITY);
    symlink(&path, &link).unwrap();
    assert_eq!(AgeKey::identity_file(&link).recipients().await.unwrap(), [RECIPIENT]);
    for bits in [0o644, 0o604, 0o620, 0o602] {
        fs::set_permissions(&path, fs::Permissions::from_mode(bits)).unwrap();
        for path in [&path, &link] {
            let error = AgeKey::identity_file(path).recipients().await.unwrap_err();
            assert!(matches!(error, StoreError::Exposed { .. }), "{error}");
        }
    }
}

#[tokio::test]
async fn a_passphrase_is_asked_for_once_for_many_tasks() {
    let dir = scratch();
    let path = dir.path().join("key.txt");
    let passphrase = || SecretString::from("correct horse");
    let made = AgeKey::create_protected_identity_file(&path, passphrase()).await.unwrap();
    let recipients = made.recipients().await.unwrap();
    assert!(fs::read(&path).unwrap().starts_with(b"age-encryption.org/v1\n-> scrypt "));

    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let key = AgeKey::identity_file(&path).with_passphrase(move || {
        count.fetch_add(1, Ordering::SeqCst);
        Ok(SecretString::from("correct horse"))
    });
    let store = Arc::new(AgeFileStore::new(dir.path().join("tokens.age"), key.clone()));
    let tasks: Vec<_> = (0..8)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move {
                store
                    .save(&AuthTokens::new(n.to_string()).into(), Precondition::Anything)
                    .await
                    .unwrap();
                store.load().await.unwrap().unwrap();
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(key.recipients().await.unwrap(), recipients);
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_wrong_or_missing_passphrase_says_so_and_the_right_one_still_works() {
    let dir = scratch();
    let path = dir.path().join("key.txt");
    AgeKey::create_protected_identity_file(&path, "right".into()).await.unwrap();

    let error = load_error(AgeKey::identity_file(&path)).await;
    assert!(matches!(error, StoreError::Locked { .. }), "{error}");
    let denied =
        AgeKey::identity_file(&path).with_passphrase(|| Err(io::Error::other("cancelled")));
    let error = denied.recipients().await.unwrap_err();
    assert!(matches!(error, StoreError::Locked { .. }), "{error}");
    assert!(error.to_string().contains("cancelled"), "{error}");

    let tries = AtomicUsize::new(0);
    let key = AgeKey::identity_file(&path).with_passphrase(move || {
        let first = tries.fetch_add(1, Ordering::SeqCst) == 0;
        Ok(SecretString::from(if first { "canary-wrong" } else { "right" }))
    });
    let error = key.recipients().await.unwrap_err();
    assert!(matches!(error, StoreError::Undecryptable { .. }), "{error}");
    assert!(error.to_string().contains("the passphrase is wrong"), "{error}");
    assert!(!format!("{error:?}").contains("canary"));
    key.recipients().await.unwrap();
}

#[tokio::test]
async fn a_work_factor_that_is_too_high_is_refused_before_the_key_is_derived() {
    let dir = scratch();
    let path = dir.path().join("key.txt");
    let mut recipient = age::scrypt::Recipient::new("right".into());
    recipient.set_work_factor(2);
    let sealed = age::encrypt(&recipient, IDENTITY.as_bytes()).unwrap();
    // The header says 2. The test raises it to 30.
    let text = String::from_utf8_lossy(&sealed).into_owned();
    let line = text.lines().nth(1).unwrap().to_owned();
    let raised = format!("{} 30", line.rsplit_once(' ').unwrap().0);
    let position = sealed.windows(line.len()).position(|bytes| bytes == line.as_bytes()).unwrap();
    let sealed =
        [&sealed[..position], raised.as_bytes(), &sealed[position + line.len()..]].concat();
    fs::write(&path, sealed).unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    let key = AgeKey::identity_file(&path).with_passphrase(|| Ok("right".into()));
    let error = key.recipients().await.unwrap_err();
    assert!(error.to_string().contains("work factor of 30"), "{error}");
}

#[tokio::test]
async fn an_identity_file_is_never_overwritten() {
    let dir = scratch();
    let path = dir.path().join("key.txt");
    write_private(&path, IDENTITY);
    for result in [
        AgeKey::create_identity_file(&path).await,
        AgeKey::create_protected_identity_file(&path, "p".into()).await,
    ] {
        let error = result.unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains("it exists"), "{error}: {source}");
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), IDENTITY);
}

#[tokio::test]
async fn a_running_process_follows_a_change_of_keys() {
    let dir = scratch();
    let (key, path) = (dir.path().join("key.txt"), dir.path().join("tokens.age"));
    AgeKey::create_identity_file(&key).await.unwrap();
    let old_line = fs::read_to_string(&key).unwrap();
    let store = AgeFileStore::new(&path, AgeKey::identity_file(&key));
    store.save(&AuthTokens::new("a").into(), Precondition::Absent).await.unwrap();

    // The user adds a new identity. The next save seals to both.
    let new = dir.path().join("new.txt");
    AgeKey::create_identity_file(&new).await.unwrap();
    let new_line = fs::read_to_string(&new).unwrap();
    fs::write(&key, format!("{new_line}{old_line}")).unwrap();
    store.save(&AuthTokens::new("b").into(), Precondition::Anything).await.unwrap();
    let with_new = AgeFileStore::new(&path, AgeKey::identity_file(&new));
    assert_eq!(with_new.load().await.unwrap().unwrap().record.tokens, AuthTokens::new("b"));

    // The user replaces all identities. A process with only old ones in memory reads the file again.
    let newest = dir.path().join("newest.txt");
    AgeKey::create_identity_file(&newest).await.unwrap();
    fs::write(&key, fs::read_to_string(&newest).unwrap()).unwrap();
    fs::remove_file(&path).unwrap();
    let with_newest = AgeFileStore::new(&path, AgeKey::identity_file(&newest));
    with_newest.save(&AuthTokens::new("c").into(), Precondition::Absent).await.unwrap();
    assert_eq!(store.load().await.unwrap().unwrap().record.tokens, AuthTokens::new("c"));
}

#[tokio::test]
async fn a_running_process_can_still_save_after_its_key_file_was_removed() {
    let dir = scratch();
    let (key, path) = (dir.path().join("key.txt"), dir.path().join("tokens.age"));
    AgeKey::create_identity_file(&key).await.unwrap();
    let store = AgeFileStore::new(&path, AgeKey::identity_file(&key));
    store.save(&AuthTokens::new("old").into(), Precondition::Absent).await.unwrap();
    fs::rename(&key, dir.path().join("elsewhere")).unwrap();
    store.save(&AuthTokens::new("rotated").into(), Precondition::Anything).await.unwrap();

    let fresh = || AgeFileStore::new(&path, AgeKey::identity_file(&key));
    assert!(matches!(fresh().load().await, Err(StoreError::KeyMissing { .. })));
    fs::rename(dir.path().join("elsewhere"), &key).unwrap();
    assert_eq!(fresh().load().await.unwrap().unwrap().record.tokens, AuthTokens::new("rotated"));
}

#[tokio::test]
async fn a_key_file_that_was_replaced_by_a_bad_one_stops_a_running_process_from_saving() {
    let dir = scratch();
    let (key, path) = (dir.path().join("key.txt"), dir.path().join("tokens.age"));
    AgeKey::create_identity_file(&key).await.unwrap();
    let store = AgeFileStore::new(&path, AgeKey::identity_file(&key));
    store.save(&AuthTokens::new("old").into(), Precondition::Absent).await.unwrap();
    let before = fs::read(&path).unwrap();
    write_private(&key, "garbled");
    let error =
        store.save(&AuthTokens::new("new").into(), Precondition::Anything).await.unwrap_err();
    assert!(matches!(error, StoreError::InvalidKey { .. }), "{error}");
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[cfg(unix)]
#[tokio::test]
async fn a_list_of_recipients_that_others_can_write_to_or_that_is_no_file_is_refused() {
    use std::os::unix::fs::PermissionsExt;

    let dir = scratch();
    let list = dir.path().join("list.txt");
    let store = || {
        let key = escrow().with_recovery_recipients_file(&list);
        AgeFileStore::new(dir.path().join("tokens.age"), key)
    };
    fs::write(&list, RECIPIENT).unwrap();
    for mode in [0o646, 0o666] {
        fs::set_permissions(&list, fs::Permissions::from_mode(mode)).unwrap();
        let error =
            store().save(&AuthTokens::new("a").into(), Precondition::Absent).await.unwrap_err();
        assert!(matches!(error, StoreError::Exposed { .. }), "{error}");
        assert!(error.to_string().contains("others can write to it"), "{error}");
    }
    fs::set_permissions(&list, fs::Permissions::from_mode(0o644)).unwrap();
    store().save(&AuthTokens::new("a").into(), Precondition::Absent).await.unwrap();

    fs::remove_file(&list).unwrap();
    make_pipe(&list);
    let error =
        store().save(&AuthTokens::new("a").into(), Precondition::Anything).await.unwrap_err();
    assert!(matches!(error, StoreError::NotAFile { .. }), "{error}");
}

#[tokio::test]
async fn more_recipients_than_a_reader_tries_are_refused_before_anything_is_saved() {
    let dir = scratch();
    let store = |recovery: usize| {
        let key =
            (0..recovery).fold(escrow(), |key, _| key.with_recovery_recipient(RECIPIENT).unwrap());
        AgeFileStore::new(dir.path().join("tokens.age"), key)
    };
    let tokens = || AuthTokens::new("a").into();
    let error = store(63).save(&tokens(), Precondition::Absent).await.unwrap_err();
    assert!(matches!(error, StoreError::InvalidKey { .. }), "{error}");
    assert!(error.to_string().contains("too many recovery recipients"), "{error}");
    assert!(store(63).load().await.unwrap().is_none());
    store(62).save(&tokens(), Precondition::Absent).await.unwrap();
    assert!(store(0).load().await.unwrap().is_some());
    // A refresh that could not be saved does not begin.
    let mut lease = store(63).try_lease().await.unwrap().unwrap();
    assert!(matches!(lease.reserve().await, Err(StoreError::InvalidKey { .. })));
}

#[cfg(unix)]
#[tokio::test]
async fn a_file_with_more_stanzas_than_a_reader_tries_is_refused() {
    let dir = scratch();
    let (path, list) = (dir.path().join("tokens.age"), dir.path().join("list.txt"));
    if !available("keys::a_file_with_more_stanzas_than_a_reader_tries_is_refused", "age") {
        return;
    }
    write_private(&list, &format!("{RECIPIENT}\n").repeat(1300));
    let record = dir.path().join("record");
    write_private(&record, r#"{"access_token":"a"}"#);
    let done = Command::new("age").arg("-R").arg(&list).arg("-o").arg(&path).arg(&record).status();
    assert!(done.unwrap().success());
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let error = AgeFileStore::new(&path, escrow()).load().await.unwrap_err();
    assert!(matches!(error, StoreError::Undecryptable { .. }), "{error}");
    assert!(error.to_string().contains("seal it again"), "{error}");
}

#[tokio::test]
async fn recovery_recipients_can_open_the_record() {
    let dir = scratch();
    let (key, recovery, list) =
        (dir.path().join("key.txt"), dir.path().join("recovery.txt"), dir.path().join("list.txt"));
    AgeKey::create_identity_file(&key).await.unwrap();
    let second = AgeKey::create_identity_file(&recovery).await.unwrap();
    let second = second.recipients().await.unwrap().remove(0);
    write_private(&list, &format!("# escrow\n{second}\n"));

    let key = AgeKey::identity_file(&key)
        .with_recovery_recipient(RECIPIENT)
        .unwrap()
        .with_recovery_recipients_file(&list);
    let recipients = key.recipients().await.unwrap();
    assert_eq!(recipients[1..], [RECIPIENT.to_owned(), second]);
    let path = dir.path().join("tokens.age");
    AgeFileStore::new(&path, key)
        .save(&AuthTokens::new("a").into(), Precondition::Absent)
        .await
        .unwrap();
    for key in [escrow(), AgeKey::identity_file(&recovery)] {
        let found = AgeFileStore::new(&path, key).load().await.unwrap().unwrap();
        assert_eq!(found.record.tokens, AuthTokens::new("a"));
    }
}

#[tokio::test]
async fn a_bad_recovery_recipient_is_refused_and_not_quoted() {
    let own = || AgeKey::custom("own key", || Ok(SecretString::from(OTHER_IDENTITY)));
    // A secret key that was pasted in the wrong place.
    let error = own().with_recovery_recipient(IDENTITY).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("GQ9778"), "{error}");

    let dir = scratch();
    let list = dir.path().join("list.txt");
    for (text, expected) in
        [("", "contains no recipient"), ("# x\nnobody\n", "line 2 is not an X25519 recipient")]
    {
        write_private(&list, text);
        let key = own().with_recovery_recipients_file(&list);
        let store = AgeFileStore::new(dir.path().join("tokens.age"), key);
        let error =
            store.save(&AuthTokens::new("a").into(), Precondition::Absent).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert!(store.load().await.unwrap().is_none());
        // While the list cannot be read, the recipients that were read before are used.
        write_private(&list, RECIPIENT);
        store.save(&AuthTokens::new("a").into(), Precondition::Absent).await.unwrap();
        fs::remove_file(&list).unwrap();
        store.save(&AuthTokens::new("b").into(), Precondition::Anything).await.unwrap();
        let recovered = AgeFileStore::new(dir.path().join("tokens.age"), escrow());
        assert_eq!(recovered.load().await.unwrap().unwrap().record.tokens, AuthTokens::new("b"));
        recovered.clear(Precondition::Anything).await.unwrap();
    }
}

#[tokio::test]
async fn the_error_of_a_custom_key_is_returned_unchanged() {
    let key = AgeKey::custom("vault", || {
        Err(StoreError::Unavailable {
            place: "vault".into(),
            reason: "it is sealed".into(),
            advice: "unseal it".into(),
        })
    });
    let error = load_error(key).await;
    assert_eq!(error.to_string(), "vault is unavailable: it is sealed; unseal it");
}
