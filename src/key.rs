//! Sources of the key of a sealed record.

mod identity_file;
#[cfg(feature = "keychain")]
mod item;
mod last_opened;
#[cfg(any(feature = "object-store", feature = "postgres"))]
pub(crate) mod mac;
pub(crate) mod seal;
mod source;
mod unlock;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use age::x25519::Recipient;
use secrecy::SecretString;

pub(crate) use self::last_opened::LastOpened;
use self::source::Source;
#[cfg(any(feature = "object-store", feature = "postgres"))]
pub(crate) use self::unlock::Opened;
pub(crate) use self::unlock::Sealer;
use self::unlock::{Read, Unlocked};
use crate::error::StoreError;
#[cfg(feature = "keychain")]
use crate::keychain::{Item, Kind};
use crate::sys::blocking;

/// The key of a sealed record: the source of its age identities, and the recipients that can also open it.
///
/// Records are sealed to the X25519 recipients of these identities, and to the recovery recipients. So a save
/// needs no passphrase. Clones share the unlocked identities.
///
/// | the key is | for |
/// |---|---|
/// | [`identity_file`](Self::identity_file) | servers; keep it away from the data, and from its backups |
/// | the same, [`with_passphrase`](Self::with_passphrase) | people who type one; asked for once per process |
/// | [`keychain`](Self::keychain) | desktops, where the file should lie in a place of your choice |
/// | [`credential`](Self::credential) | systemd services: `LoadCredential=` and `$CREDENTIALS_DIRECTORY` |
/// | [`passphrase`](Self::passphrase) | backups |
/// | [`custom`](Self::custom) | a key management service, a mounted secret, a hardware token |
///
/// # Security
///
/// Unlocked identities stay in memory while any clone lives. They are wiped on drop.
///
/// The stores of a fleet authenticate each record with these identities
/// ([how](crate::docs::authentication)). So they accept every key here except a
/// [`passphrase`](Self::passphrase). A recovery recipient opens the records of a fleet, and cannot write any.
#[derive(Clone)]
pub struct AgeKey(Arc<Inner>);

struct Inner {
    source: Source,
    passphrase: Option<Box<Passphrase>>,
    /// Its identities seal and open too.
    other: Option<AgeKey>,
    recovery: Vec<Recipient>,
    recovery_file: Option<PathBuf>,
    /// A group whose members may write to the directories of the files.
    trusted_group: Option<u32>,
    /// The recipients that `recovery_file` held when it was last read.
    recovery_from_file: Mutex<Vec<Recipient>>,
    unlocked: Mutex<Option<Arc<Unlocked>>>,
}

type Passphrase = dyn Fn() -> io::Result<SecretString> + Send + Sync;

impl AgeKey {
    /// Uses an age identity file, as `age-keygen` writes it.
    ///
    /// It may hold several identities. Records are sealed to all of them, and any of them opens a record. The
    /// file is read again at each save, so a running process follows a change of keys. If the file itself is
    /// sealed to a passphrase, add [`with_passphrase`](Self::with_passphrase).
    ///
    /// On Unix the file must not be accessible to others. It may be a link. If it belongs to root, its group
    /// may read it: mounted secrets are like that.
    #[must_use]
    pub fn identity_file(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref();
        Self::new(Source::File(std::path::absolute(path).unwrap_or_else(|_| path.to_owned())))
    }

    /// Uses the identity file of that name in `$CREDENTIALS_DIRECTORY`. systemd puts the credentials there
    /// that a service requests with `LoadCredential=` or `LoadCredentialEncrypted=`.
    #[must_use]
    pub fn credential(name: impl Into<String>) -> Self {
        Self::new(Source::Credential(name.into()))
    }

    /// Calls `read` for the text of an identity file: one or more `AGE-SECRET-KEY-1…` lines.
    ///
    /// `read` is called off the runtime's threads, so it may block. It is called once per process, and once
    /// more when a record does not open with the text that it returned. `name` names this source in messages.
    #[must_use]
    pub fn custom(
        name: impl Into<String>,
        read: impl Fn() -> Result<SecretString, StoreError> + Send + Sync + 'static,
    ) -> Self {
        Self::new(Source::Custom(name.into(), Box::new(read)))
    }

    /// Uses only a passphrase, without any identity. Records are sealed to it as with `age -p`.
    ///
    /// Each save and each load takes a third of a second and calls `ask`, so this is for backups. Recovery
    /// recipients cannot be added.
    #[must_use]
    pub fn passphrase(ask: impl Fn() -> io::Result<SecretString> + Send + Sync + 'static) -> Self {
        Self::new(Source::Passphrase).with_passphrase(ask)
    }

    /// Generates an identity that exists only in this key. Records sealed to it are lost with the key. For
    /// tests, and for data that need not outlive the process.
    #[must_use]
    pub fn generate() -> Self {
        let identity = Self::generate_identity();
        Self::custom("a key of this process", move || Ok(identity.clone()))
    }

    /// Generates an identity and returns its secret key, `AGE-SECRET-KEY-1…`. An identity file needs nothing
    /// else. For programs that store keys themselves and pass them to [`custom`](Self::custom).
    #[must_use]
    pub fn generate_identity() -> SecretString {
        age::x25519::Identity::generate().to_string()
    }

    /// Uses the identity that the OS keychain holds under this service and name. It is created when the first
    /// record is sealed to it.
    ///
    /// The item stays when a record is cleared. A [`KeychainStore`](crate::stores::KeychainStore) has its own
    /// item, which is removed with the record.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`] if a name is empty or begins with `tokenkeep:`.
    #[cfg(feature = "keychain")]
    pub fn keychain(service: &str, name: &str) -> Result<Self, StoreError> {
        Item::new(service, name, Kind::SharedKey).map(Self::keychain_item)
    }

    /// Allows the keychain to prompt the user, as
    /// [`KeychainStore::allow_prompts`](crate::stores::KeychainStore::allow_prompts) does. Has no effect on
    /// keys that are not in the keychain.
    ///
    /// # Panics
    ///
    /// If this key has been cloned.
    #[cfg(feature = "keychain")]
    #[must_use]
    pub fn allow_prompts(mut self) -> Self {
        if let Source::Keychain(item) = &mut self.configure().source {
            *item = item.clone().with_prompts();
        }
        self
    }

    #[cfg(feature = "keychain")]
    pub(crate) fn keychain_item(item: Item) -> Self {
        Self::new(Source::Keychain(item))
    }

    /// Calls `ask` for the passphrase of a protected identity file, and for the passphrase of a data file
    /// that was sealed with `age -p`.
    ///
    /// `ask` is called off the runtime's threads, when the passphrase is first needed. A wrong answer is not
    /// kept.
    ///
    /// # Panics
    ///
    /// If this key has been cloned.
    #[must_use]
    pub fn with_passphrase(
        mut self,
        ask: impl Fn() -> io::Result<SecretString> + Send + Sync + 'static,
    ) -> Self {
        self.configure().passphrase = Some(Box::new(ask));
        self
    }

    /// Adds the identities of another key: records are sealed to both keys, and either opens them. A
    /// [`rekey`](crate::transfer::rekey) needs this between the old key and the new one.
    ///
    /// The recovery recipients of the other key are not added.
    ///
    /// # Panics
    ///
    /// If this key has been cloned.
    #[must_use]
    pub fn with_identities_of(mut self, other: Self) -> Self {
        self.configure().other = Some(other);
        self
    }

    /// Adds a recovery recipient, `age1…`: its key can open the records too. Keep that key off this machine,
    /// in case this key is lost.
    ///
    /// # Errors
    ///
    /// [`StoreError::InvalidKey`] if this is not an X25519 recipient.
    ///
    /// # Panics
    ///
    /// If this key has been cloned.
    pub fn with_recovery_recipient(mut self, recipient: &str) -> Result<Self, StoreError> {
        let recipient = recipient.trim().parse().map_err(|_| StoreError::InvalidKey {
            // Not quoted: it may be a secret key that was pasted by mistake.
            place: "the recovery recipient".into(),
            reason: "an X25519 recipient is \"age1\" and 58 more characters".into(),
        })?;
        self.configure().recovery.push(recipient);
        Ok(self)
    }

    /// Adds the recovery recipients in a file: their keys can open the records too. The file has one `age1…`
    /// per line, and `#` for comments, as for `age -R`. It is read again at each save.
    ///
    /// # Panics
    ///
    /// If this key has been cloned.
    #[must_use]
    pub fn with_recovery_recipients_file(mut self, path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        self.configure().recovery_file = Some(std::path::absolute(&path).unwrap_or(path));
        self
    }

    /// Trusts all members of a group, by its number: they may read the identity file, and write to the
    /// directories that lead to it and to the file of recovery recipients. It has no effect on Windows.
    ///
    /// # Security
    ///
    /// Each member of the group can read or replace the key.
    ///
    /// # Panics
    ///
    /// If this key has been cloned.
    #[must_use]
    pub fn with_trusted_group(mut self, group: impl Into<Option<u32>>) -> Self {
        self.configure().trusted_group = group.into();
        self
    }

    /// Generates an identity and writes it to a new file, durably. The file has mode 0600. New directories
    /// have mode 0700.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`] if the file exists, and other errors of writing it.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the work continues. The file may still be created, and is then complete.
    pub async fn create_identity_file(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        let key = Self::identity_file(path);
        key.run(|key| identity_file::create(key.path(), None)).await?;
        Ok(key)
    }

    /// Generates an identity and writes it to a new file, sealed to a passphrase.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`] if the file exists, and other errors of writing it.
    ///
    /// # Security
    ///
    /// The returned key keeps the passphrase in memory. It is wiped on drop.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the work continues. The file may still be created, and is then complete.
    pub async fn create_protected_identity_file(
        path: impl AsRef<Path>,
        passphrase: SecretString,
    ) -> Result<Self, StoreError> {
        let key = Self::identity_file(path);
        let given = passphrase.clone();
        key.run(|key| identity_file::create(key.path(), Some(given))).await?;
        Ok(key.with_passphrase(move || Ok(passphrase.clone())))
    }

    /// Returns the recipients that records are sealed to now, `age1…`. The key's own recipients come first.
    /// Recipients are not secret.
    ///
    /// # Errors
    ///
    /// Errors of reading or unlocking the key.
    pub async fn recipients(&self) -> Result<Vec<String>, StoreError> {
        self.run(|key| {
            let place = key.to_string();
            key.unlock(&place, Read::Again)?;
            Ok(key.seal_to(&place, false)?.iter().map(ToString::to_string).collect())
        })
        .await
    }

    fn new(source: Source) -> Self {
        Self(Arc::new(Inner {
            source,
            passphrase: None,
            other: None,
            recovery: Vec::new(),
            recovery_file: None,
            trusted_group: None,
            recovery_from_file: Mutex::default(),
            unlocked: Mutex::default(),
        }))
    }

    fn configure(&mut self) -> &mut Inner {
        Arc::get_mut(&mut self.0).expect("a key is set up before it is cloned")
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let key = self.clone();
        blocking::run(&self.to_string(), move || work(&key)).await
    }

    fn path(&self) -> &Path {
        match &self.0.source {
            Source::File(path) => path,
            _ => unreachable!("only called on identity files"),
        }
    }
}

impl fmt::Debug for AgeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AgeKey({self})")
    }
}

impl fmt::Display for AgeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.source.fmt(f)?;
        self.0.other.as_ref().map_or(Ok(()), |other| write!(f, " with {other}"))
    }
}
