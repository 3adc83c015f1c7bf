//! Where the key of a sealed record comes from.

mod identity_file;
#[cfg(feature = "keychain")]
mod item;
pub(crate) mod seal;
mod source;
mod unlock;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use age::x25519::Recipient;
use secrecy::SecretString;

use self::source::Source;
pub(crate) use self::unlock::Sealer;
use self::unlock::{Read, Unlocked};
use crate::error::StoreError;
#[cfg(feature = "keychain")]
use crate::keychain::{Item, Kind};
use crate::sys::blocking;

/// The key of a sealed record: where its age identities come from, and who else can open it.
///
/// Records are sealed to the X25519 recipients of these identities, and to the recovery
/// recipients. A save therefore never pays for a passphrase. Clones share what was unlocked.
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
/// Unlocked identities stay in memory, wiped on drop, as long as any clone lives.
#[derive(Clone)]
pub struct AgeKey(Arc<Inner>);

struct Inner {
    source: Source,
    passphrase: Option<Box<Passphrase>>,
    recovery: Vec<Recipient>,
    recovery_file: Option<PathBuf>,
    /// What that file held when it was last read.
    recovery_from_file: Mutex<Vec<Recipient>>,
    unlocked: Mutex<Option<Arc<Unlocked>>>,
}

type Passphrase = dyn Fn() -> io::Result<SecretString> + Send + Sync;

impl AgeKey {
    /// Uses an age identity file, as `age-keygen` writes it.
    ///
    /// It may hold several identities: records are sealed to all of them and open with any. It is
    /// read again at each save, so a running process follows a change of keys. If the file is
    /// itself sealed to a passphrase, add [`with_passphrase`](Self::with_passphrase).
    ///
    /// On Unix it must not be accessible to others, but may be a link, and if it is root's it may
    /// be readable through the group: mounted secrets are like that.
    #[must_use]
    pub fn identity_file(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref();
        Self::new(Source::File(std::path::absolute(path).unwrap_or_else(|_| path.to_owned())))
    }

    /// Uses the identity file of that name in `$CREDENTIALS_DIRECTORY`, where systemd puts what a
    /// service asks for with `LoadCredential=` or `LoadCredentialEncrypted=`.
    #[must_use]
    pub fn credential(name: impl Into<String>) -> Self {
        Self::new(Source::Credential(name.into()))
    }

    /// Asks `read` for the text of an identity file: one or more `AGE-SECRET-KEY-1…` lines.
    ///
    /// It is called off the runtime's threads, so it may block; once per process, and once more
    /// when a record does not open with what it gave. `name` stands for it in messages.
    #[must_use]
    pub fn custom(
        name: impl Into<String>,
        read: impl Fn() -> Result<SecretString, StoreError> + Send + Sync + 'static,
    ) -> Self {
        Self::new(Source::Custom(name.into(), Box::new(read)))
    }

    /// Uses a passphrase alone, without any identity: records are sealed to it as with `age -p`.
    ///
    /// Each save and each load takes a third of a second, and `ask` is called for each, so this is
    /// for backups. Recovery recipients cannot be added.
    #[must_use]
    pub fn passphrase(ask: impl Fn() -> io::Result<SecretString> + Send + Sync + 'static) -> Self {
        Self::new(Source::Passphrase).with_passphrase(ask)
    }

    /// Generates an identity that lives in this key alone: what is sealed to it is lost with the key. For tests,
    /// and for what need not outlive the process.
    #[must_use]
    pub fn generate() -> Self {
        let identity = Self::generate_identity();
        Self::custom("a key of this process", move || Ok(identity.clone()))
    }

    /// Generates an identity and returns its secret key, `AGE-SECRET-KEY-1…`, which is all that an identity file
    /// needs. For a program that keeps keys in a place of its own, and gives them to [`custom`](Self::custom).
    #[must_use]
    pub fn generate_identity() -> SecretString {
        age::x25519::Identity::generate().to_string()
    }

    /// Uses the identity that the OS keychain holds under this service and name; it is made when
    /// the first record is sealed to it.
    ///
    /// The item stays when a record is cleared. A [`KeychainStore`](crate::stores::KeychainStore) has an item
    /// of its own, which goes with the record.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`] if a name is empty, or begins with `tokenkeep:`.
    #[cfg(feature = "keychain")]
    pub fn keychain(service: &str, name: &str) -> Result<Self, StoreError> {
        Item::new(service, name, Kind::SharedKey).map(Self::keychain_item)
    }

    /// Lets the keychain ask the user, as
    /// [`KeychainStore::allow_prompts`](crate::stores::KeychainStore::allow_prompts) does. Changes nothing
    /// for keys that are not in it.
    ///
    /// # Panics
    ///
    /// If this key was cloned before.
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

    /// Asks `ask` for the passphrase of a protected identity file, and for that of a data file
    /// that somebody sealed with `age -p`.
    ///
    /// It is called off the runtime's threads, when first needed. A wrong answer is not kept.
    ///
    /// # Panics
    ///
    /// If this key was cloned before.
    #[must_use]
    pub fn with_passphrase(
        mut self,
        ask: impl Fn() -> io::Result<SecretString> + Send + Sync + 'static,
    ) -> Self {
        self.configure().passphrase = Some(Box::new(ask));
        self
    }

    /// Lets somebody else's key open the records too: `age1…`, kept off this machine, for the day
    /// when the own key is lost.
    ///
    /// # Errors
    ///
    /// [`StoreError::InvalidKey`] if this is no X25519 recipient.
    ///
    /// # Panics
    ///
    /// If this key was cloned before.
    pub fn with_recovery_recipient(mut self, recipient: &str) -> Result<Self, StoreError> {
        let recipient = recipient.trim().parse().map_err(|_| StoreError::InvalidKey {
            // Not quoted: it may be a secret key that was pasted in the wrong place.
            place: "the recovery recipient".into(),
            reason: "an X25519 recipient is \"age1\" and 58 more characters".into(),
        })?;
        self.configure().recovery.push(recipient);
        Ok(self)
    }

    /// Lets the recipients in a file open the records too: one `age1…` a line, `#` for comments,
    /// as for `age -R`. The file is read again at each save.
    ///
    /// # Panics
    ///
    /// If this key was cloned before.
    #[must_use]
    pub fn with_recovery_recipients_file(mut self, path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        self.configure().recovery_file = Some(std::path::absolute(&path).unwrap_or(path));
        self
    }

    /// Makes a new identity and writes it to a file that must not exist yet, durably, with mode
    /// 0600, in directories of mode 0700.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`] if the file exists, and what else keeps it from being written.
    ///
    /// # Cancel safety
    ///
    /// What was begun goes on: the file may be there all the same, and whole.
    pub async fn create_identity_file(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        let key = Self::identity_file(path);
        key.run(|key| identity_file::create(key.path(), None)).await?;
        Ok(key)
    }

    /// Makes a new identity and writes it to a file that must not exist yet, sealed to a
    /// passphrase.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`] if the file exists, and what else keeps it from being written.
    ///
    /// # Security
    ///
    /// The key that is returned keeps the passphrase in memory, wiped on drop.
    ///
    /// # Cancel safety
    ///
    /// What was begun goes on: the file may be there all the same, and whole.
    pub async fn create_protected_identity_file(
        path: impl AsRef<Path>,
        passphrase: SecretString,
    ) -> Result<Self, StoreError> {
        let key = Self::identity_file(path);
        let given = passphrase.clone();
        key.run(|key| identity_file::create(key.path(), Some(given))).await?;
        Ok(key.with_passphrase(move || Ok(passphrase.clone())))
    }

    /// Returns the recipients that records are sealed to now, own ones first: `age1…`. They are
    /// no secrets.
    ///
    /// # Errors
    ///
    /// What keeps the key from being read or unlocked.
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
            recovery: Vec::new(),
            recovery_file: None,
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
        self.0.source.fmt(f)
    }
}
