//! Where the key of a sealed record comes from.

mod identity_file;
#[cfg(feature = "keychain")]
mod item;
mod source;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use age::x25519::{Identity, Recipient};
use secrecy::SecretString;
use sha2::{Digest, Sha256};

use self::source::Source;
use crate::blocking;
use crate::codec::Bytes;
use crate::error::StoreError;
#[cfg(feature = "keychain")]
use crate::keychain::{Item, Kind};
use crate::seal::{self, OpenError};

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

/// Identities in memory, and what they were read from.
struct Unlocked {
    stamp: [u8; 32],
    identities: Vec<Identity>,
    recipients: Vec<Recipient>,
}

/// Whether the source is read again although something was unlocked already.
#[derive(Clone, Copy, PartialEq)]
enum Read {
    Again,
    Once,
}

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

    /// Uses the identity that the OS keychain holds under this service and name; it is made when
    /// the first record is sealed to it.
    ///
    /// The item stays when a record is cleared. A [`KeychainStore`](crate::KeychainStore) has an item
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
    /// [`KeychainStore::allow_prompts`](crate::KeychainStore::allow_prompts) does. Changes nothing
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

    /// Reads and unlocks what a save will need, before it takes a lock.
    ///
    /// Files are read again, to follow a change of keys. Asking anyone else may be slow or raise a
    /// prompt, so that is done once.
    pub(crate) fn prepare(&self) -> Result<(), StoreError> {
        if matches!(self.0.source, Source::Passphrase) {
            return Ok(());
        }
        let read = if self.0.source.is_a_file() { Read::Again } else { Read::Once };
        match self.unlock(&self.to_string(), read) {
            // It is sealed to a key that was good when it was read: better than to lose a rotated
            // token because the key's file is away just now.
            Err(error) if is_away(&error) && lock(&self.0.unlocked).is_some() => Ok(()),
            // It may be about to be made.
            Err(StoreError::KeyMissing { .. }) if self.0.source.can_be_made() => Ok(()),
            unlocked => unlocked.map(drop),
        }
    }

    /// Seals a record. `first` says that the slot is empty.
    pub(crate) fn seal(&self, plain: &[u8], place: &str, first: bool) -> Result<Bytes, StoreError> {
        if matches!(self.0.source, Source::Passphrase) {
            return seal::seal_to_passphrase(self.ask(place)?, plain, place);
        }
        let recipients = self.seal_to(place, first)?;
        let recipients = recipients.iter().map(|recipient| recipient as &dyn age::Recipient);
        seal::seal(recipients, plain, place)
    }

    /// Returns whom a record is sealed to. `first` says that the slot is empty.
    fn seal_to(&self, place: &str, first: bool) -> Result<Vec<Recipient>, StoreError> {
        let unlocked =
            if first { self.unlock_for_first_use(place)? } else { self.unlock(place, Read::Once)? };
        let mut recipients = unlocked.recipients.clone();
        recipients.extend(self.recovery()?);
        Ok(recipients)
    }

    /// Opens what was sealed to this key, or by somebody to its passphrase.
    pub(crate) fn open(&self, sealed: &[u8], place: &str) -> Result<Bytes, StoreError> {
        let failed = |error| explain(error, place, self);
        if seal::is_sealed_to_a_passphrase(sealed).map_err(failed)? {
            return self.open_with_passphrase(sealed, place);
        }
        let open = |unlocked: &Unlocked| {
            let identities = unlocked.identities.iter();
            seal::open(identities.map(|identity| identity as &dyn age::Identity), sealed)
        };
        match open(&*self.unlock(place, Read::Once)?) {
            // Somebody may have changed the key while this process ran.
            Err(OpenError::NoMatchingKeys) => open(&*self.unlock(place, Read::Again)?),
            opened => opened,
        }
        .map_err(failed)
    }

    /// Finds out whether [`forget`](Self::forget) would work now.
    pub(crate) fn can_forget(&self) -> Result<(), StoreError> {
        self.0.source.read().map(drop)
    }

    /// Removes a key that is kept for one slot alone.
    pub(crate) fn forget(&self) -> Result<(), StoreError> {
        *lock(&self.0.unlocked) = None;
        self.0.source.forget()
    }

    /// Returns the identities, reading and unlocking them if need be. Who asks meanwhile waits, so
    /// that a passphrase is asked for once.
    fn unlock(&self, place: &str, read: Read) -> Result<Arc<Unlocked>, StoreError> {
        let mut unlocked = lock(&self.0.unlocked);
        if let Some(unlocked) = unlocked.as_ref().filter(|_| read == Read::Once) {
            return Ok(unlocked.clone());
        }
        let material = self.0.source.read()?.ok_or_else(|| self.0.source.missing(place))?;
        self.accept(&mut unlocked, &material)
    }

    /// Like [`unlock`](Self::unlock), for a slot that is empty: a keychain item is made if there
    /// is none, and read anew, because the slot may have been emptied by somebody who removed it.
    fn unlock_for_first_use(&self, place: &str) -> Result<Arc<Unlocked>, StoreError> {
        if !self.0.source.can_be_made() {
            return self.unlock(place, Read::Once);
        }
        let mut unlocked = lock(&self.0.unlocked);
        let material = self.0.source.ensure()?;
        self.accept(&mut unlocked, &material)
    }

    fn accept(
        &self,
        unlocked: &mut Option<Arc<Unlocked>>,
        material: &[u8],
    ) -> Result<Arc<Unlocked>, StoreError> {
        let stamp = Sha256::digest(material).into();
        if let Some(unlocked) = unlocked.as_ref().filter(|unlocked| unlocked.stamp == stamp) {
            return Ok(unlocked.clone());
        }
        let identities = if seal::is_sealed(material) {
            identity_file::parse(&self.open_with_passphrase(material, &self.to_string())?)
        } else {
            identity_file::parse(material)
        };
        let identities = identities
            .map_err(|reason| StoreError::InvalidKey { place: self.to_string(), reason })?;
        let recipients = identities.iter().map(Identity::to_public).collect();
        let fresh = Arc::new(Unlocked { stamp, identities, recipients });
        *unlocked = Some(fresh.clone());
        Ok(fresh)
    }

    fn open_with_passphrase(&self, sealed: &[u8], place: &str) -> Result<Bytes, StoreError> {
        let passphrase = self.ask(place)?;
        seal::open_with_passphrase(passphrase, sealed).map_err(|error| explain(error, place, self))
    }

    fn ask(&self, place: &str) -> Result<SecretString, StoreError> {
        let locked = |advice: String| StoreError::Locked { place: place.to_owned(), advice };
        let ask = self.0.passphrase.as_ref().ok_or_else(|| {
            locked("it is protected by a passphrase, and this program was given none".into())
        })?;
        ask().map_err(|error| locked(format!("its passphrase was not given ({error})")))
    }

    /// Returns the recovery recipients. A file that is away just now counts as unchanged, for the
    /// same reason as in [`prepare`](Self::prepare).
    fn recovery(&self) -> Result<Vec<Recipient>, StoreError> {
        let mut recovery = self.0.recovery.clone();
        if let Some(path) = &self.0.recovery_file {
            let mut known = lock(&self.0.recovery_from_file);
            match identity_file::read_recipients(path) {
                Ok(read) => *known = read,
                Err(error) if is_away(&error) && !known.is_empty() => {}
                Err(error) => return Err(error),
            }
            recovery.extend(known.iter().cloned());
        }
        Ok(recovery)
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

/// Tells whether a key could not be read just now, as opposed to having been replaced by a bad one.
fn is_away(error: &StoreError) -> bool {
    error.is_passing() || matches!(error, StoreError::Denied { .. } | StoreError::KeyMissing { .. })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn explain(error: OpenError, place: &str, key: &AgeKey) -> StoreError {
    let place = place.to_owned();
    let undecryptable = |place, reason, advice: &str| StoreError::Undecryptable {
        place,
        reason,
        advice: advice.into(),
    };
    match error {
        OpenError::Corrupt(reason) => StoreError::Corrupt { place, reason },
        OpenError::NoMatchingKeys => undecryptable(
            place,
            format!("it is sealed to other keys than {key}"),
            "use the key that it was sealed to, or a recovery key with `age -d -i`",
        ),
        OpenError::WrongPassphrase => {
            undecryptable(place, "the passphrase is wrong".into(), "try again")
        }
        OpenError::WorkFactor(factor) => undecryptable(
            place,
            format!("its passphrase has a work factor of {factor}, which takes too long"),
            "seal it again with the passphrase and a factor of at most 20",
        ),
    }
}
