use std::fmt::{self, Write as _};
use std::path::Path;

use crate::key::AgeKey;
use crate::printable::OneLine;
use crate::stores::record_file::Sealed;
use crate::stores::record_file::{RecordFile, keep_in_record_file};

/// Keeps tokens in a file sealed with [age](https://age-encryption.org).
///
/// `age -d -i KEY FILE` opens the file. The store also reads files that `age` wrote: binary, armored, or
/// sealed to a passphrase. It always writes binary files, sealed to X25519 recipients.
///
/// # Security
///
/// The file protects the tokens only if the key is kept apart from it. Keep the [`AgeKey`] in another
/// directory, better on another medium, and not in the same backup. age hides the content and detects damage.
/// It does not detect who wrote a file, or that an older copy was put back.
///
/// The store keeps the record that it opened last in memory. A file that did not change is not decrypted again.
/// The record is wiped when the file has another one or none, and with the store.
///
/// The file has the same permissions as that of a [`PlaintextStore`](crate::stores::PlaintextStore). It is
/// refused if other users can read or replace it.
#[derive(Debug)]
pub struct AgeFileStore {
    file: RecordFile<Sealed>,
    key: AgeKey,
}

impl AgeFileStore {
    /// Makes a store for a file and its key. Nothing is read or created yet.
    ///
    /// A relative path is resolved now. A later change of the working directory does not change it.
    #[must_use]
    pub fn new(path: impl AsRef<Path>, key: AgeKey) -> Self {
        Self { file: RecordFile::new(path.as_ref(), Sealed::new(key.clone())), key }
    }

    /// Trusts all members of a group, by its number: they may write to the directories that lead to the file.
    /// Some set-ups need this, such as a volume with an `fsGroup` in Kubernetes. It has no effect on Windows.
    ///
    /// # Security
    ///
    /// Each member of the group can replace the file. The key has a setting of its own,
    /// [`AgeKey::with_trusted_group`].
    #[must_use]
    pub fn with_trusted_group(self, group: impl Into<Option<u32>>) -> Self {
        Self { file: self.file.with_trusted_group(group.into()), key: self.key }
    }
}

impl fmt::Display for AgeFileStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(OneLine(f), "age file {} (key: {})", self.file.place(), self.key)
    }
}

keep_in_record_file!(AgeFileStore, file);

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use secrecy::SecretString;

    use super::*;
    use crate::error::StoreError;
    use crate::store::{Precondition, TokenStore};
    use crate::tokens::AuthTokens;

    async fn save(store: &AgeFileStore, name: &str) {
        store.save(&AuthTokens::new(name).into(), Precondition::Anything).await.unwrap();
    }

    async fn load(store: &AgeFileStore) -> Option<AuthTokens> {
        store.load().await.unwrap().map(|stored| stored.record.tokens)
    }

    fn is_opened(store: &AgeFileStore, times: usize) -> bool {
        format!("{store:?}").contains(&format!("opened {times} times"))
    }

    #[tokio::test]
    async fn a_file_that_did_not_change_is_not_opened_again_but_checked_each_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens.age");
        let [key, writer] = [(); 2].map(|()| AgeKey::generate());
        let recipient = key.recipients().await.unwrap().remove(0);
        let writer = AgeFileStore::new(&path, writer.with_recovery_recipient(&recipient).unwrap());
        let reader = AgeFileStore::new(&path, key);
        for (round, name) in ["one", "two"].into_iter().enumerate() {
            save(&writer, name).await;
            for _ in 0..3 {
                assert_eq!(load(&reader).await, Some(AuthTokens::new(name)));
            }
            assert!(is_opened(&reader, round + 1));
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let exposed = reader.load().await.unwrap_err();
        assert!(matches!(exposed, StoreError::Exposed { .. }), "{exposed}");
        assert!(reader.load_exposed().await.unwrap().is_some());
        assert!(is_opened(&reader, 2));

        // What is damaged is opened, and so is what was there before it.
        let (whole, mut damaged) = (fs::read(&path).unwrap(), fs::read(&path).unwrap());
        *damaged.last_mut().unwrap() ^= 1;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, damaged).unwrap();
        reader.load().await.unwrap_err();
        fs::write(&path, whole).unwrap();
        assert_eq!(load(&reader).await, Some(AuthTokens::new("two")));
    }

    #[tokio::test]
    async fn a_file_that_was_removed_and_put_back_is_opened_again() {
        let dir = tempfile::tempdir().unwrap();
        let (path, elsewhere) = (dir.path().join("tokens.age"), dir.path().join("elsewhere"));
        let store = AgeFileStore::new(&path, AgeKey::generate());
        save(&store, "one").await;
        load(&store).await;
        fs::rename(&path, &elsewhere).unwrap();
        assert_eq!(load(&store).await, None);
        fs::rename(&elsewhere, &path).unwrap();
        load(&store).await;
        assert!(is_opened(&store, 2));
        fs::copy(&path, &elsewhere).unwrap();
        save(&store, "two").await;
        fs::copy(&elsewhere, &path).unwrap();
        load(&store).await;
        assert!(is_opened(&store, 3));
        store.clear(Precondition::Anything).await.unwrap();
        fs::rename(&elsewhere, &path).unwrap();
        load(&store).await;
        assert!(is_opened(&store, 4));
    }

    #[tokio::test]
    async fn a_record_that_the_present_key_does_not_open_is_not_served_from_memory() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        AgeKey::create_identity_file(path("new.txt")).await.unwrap();
        let key = AgeKey::create_identity_file(path("key.txt")).await.unwrap();
        let [store, other] =
            ["tokens.age", "other.age"].map(|name| AgeFileStore::new(path(name), key.clone()));
        save(&store, "one").await;
        assert!(load(&store).await.is_some());
        fs::rename(path("new.txt"), path("key.txt")).unwrap();
        assert!(load(&store).await.is_some(), "the unlocked key still opens it");
        // A save reads the identity file again.
        save(&other, "other").await;
        let refused = store.load().await.unwrap_err();
        assert!(matches!(refused, StoreError::Undecryptable { .. }), "{refused}");
    }

    #[tokio::test]
    async fn a_passphrase_is_asked_for_at_each_load() {
        let dir = tempfile::tempdir().unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let key = AgeKey::passphrase(move || {
            count.fetch_add(1, Ordering::SeqCst);
            Ok(SecretString::from("a passphrase for this test"))
        });
        let store = AgeFileStore::new(dir.path().join("tokens.age"), key);
        save(&store, "one").await;
        for times in 2..4 {
            assert!(load(&store).await.is_some());
            assert_eq!(asked.load(Ordering::SeqCst), times);
        }
    }
}
