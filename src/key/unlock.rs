//! Unlocks a key, and seals and opens with it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use age::x25519::{Identity, Recipient};
use secrecy::SecretString;
use sha2::{Digest, Sha256};

use super::source::Source;
use super::{AgeKey, identity_file};
use crate::error::StoreError;
use crate::key::seal::{self, MAX_RECIPIENTS, OpenError};
use crate::sys::wipe::Bytes;

/// Identities in memory, and the digest of the text that they were read from.
pub(super) struct Unlocked {
    /// `None` for the identities of two keys.
    stamp: Option<Stamp>,
    pub(super) identities: Vec<Identity>,
    recipients: Vec<Recipient>,
}

impl Unlocked {
    fn new(stamp: Option<Stamp>, identities: Vec<Identity>) -> Self {
        let recipients = identities.iter().map(Identity::to_public).collect();
        Self { stamp, identities, recipients }
    }

    pub(super) fn open(&self, sealed: &[u8]) -> Result<Opened, OpenError> {
        let identities = self.identities.iter().map(|it| it as &dyn age::Identity);
        Ok(Opened { plain: seal::open(identities, sealed)?, by: self.stamp })
    }

    /// Returns the identities of both, each once.
    fn joined(&self, other: &Self) -> Self {
        let is_new = |identity: &&Identity| !self.recipients.contains(&identity.to_public());
        let others = other.identities.iter().filter(is_new);
        let identities = self.identities.iter().chain(others).cloned().collect();
        Self::new(None, identities)
    }
}

/// The digest of the text that identities were read from.
#[derive(Clone, Copy, PartialEq)]
pub(crate) struct Stamp([u8; 32]);

/// The content of a sealed record.
pub(crate) struct Opened {
    pub(crate) plain: Bytes,
    /// The key that opened it. `None` for a passphrase and for the identities of two keys.
    pub(crate) by: Option<Stamp>,
}

/// All that is needed to seal a record.
pub(crate) enum Sealer {
    Recipients(Vec<Recipient>),
    Passphrase(SecretString),
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sealer({})", self.recipients())
    }
}

impl Sealer {
    pub(crate) fn seal(&self, plain: &[u8], place: &str) -> Result<Bytes, StoreError> {
        match self {
            Self::Passphrase(passphrase) => {
                seal::seal_to_passphrase(passphrase.clone(), plain, place)
            }
            Self::Recipients(recipients) => {
                let recipients = recipients.iter().map(|it| it as &dyn age::Recipient);
                seal::seal(recipients, plain, place)
            }
        }
    }

    /// Returns the number of recipients.
    pub(crate) fn recipients(&self) -> usize {
        match self {
            Self::Passphrase(_) => 1,
            Self::Recipients(recipients) => recipients.len(),
        }
    }
}

/// Whether to read the source again if a key is unlocked already.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Read {
    Again,
    Once,
}

impl AgeKey {
    /// Reads and unlocks the key for a save, before the save takes a lock.
    ///
    /// A file is read again each time, to notice a change of keys. Any other source may be slow or raise a
    /// prompt, so it is read once.
    pub(crate) fn prepare(&self) -> Result<(), StoreError> {
        if matches!(self.0.source, Source::Passphrase) {
            return Ok(());
        }
        let read = if self.0.source.is_a_file() { Read::Again } else { Read::Once };
        match self.unlock(&self.to_string(), read) {
            // The file of the key cannot be read now, so the key in memory is used. That is better than
            // losing a rotated token.
            Err(error) if cannot_be_read_now(&error) && self.stamp().is_some() => Ok(()),
            // The key may be made by this save.
            Err(StoreError::KeyMissing { .. }) if self.0.source.can_be_made() => Ok(()),
            unlocked => unlocked.map(drop),
        }
    }

    /// Returns which identities are unlocked now. They still open what they opened before.
    pub(crate) fn stamp(&self) -> Option<Stamp> {
        lock(&self.0.unlocked).as_ref().and_then(|unlocked| unlocked.stamp)
    }

    /// Returns what is needed to seal a record now. `first` says that the slot is empty.
    pub(crate) fn sealer(&self, place: &str, first: bool) -> Result<Sealer, StoreError> {
        Ok(if matches!(self.0.source, Source::Passphrase) {
            Sealer::Passphrase(self.ask(place)?)
        } else {
            Sealer::Recipients(self.seal_to(place, first)?)
        })
    }

    /// Returns the recipients of a record. `first` says that the slot is empty.
    pub(super) fn seal_to(&self, place: &str, first: bool) -> Result<Vec<Recipient>, StoreError> {
        self.recipients_with(&*self.unlock_to_seal(place, first)?)
    }

    /// Returns the identities that seal a record. `first` says that the slot is empty.
    pub(super) fn unlock_to_seal(
        &self,
        place: &str,
        first: bool,
    ) -> Result<Arc<Unlocked>, StoreError> {
        if first { self.unlock_for_first_use(place) } else { self.unlock(place, Read::Once) }
    }

    /// Returns the recipients of these identities, and the recovery recipients.
    pub(super) fn recipients_with(
        &self,
        unlocked: &Unlocked,
    ) -> Result<Vec<Recipient>, StoreError> {
        let mut recipients = unlocked.recipients.clone();
        recipients.extend(self.recovery()?);
        if recipients.len() > MAX_RECIPIENTS {
            let reason = format!(
                "it has too many recovery recipients; a record has room for {MAX_RECIPIENTS} \
                 recipients in all"
            );
            return Err(StoreError::InvalidKey { place: self.to_string(), reason });
        }
        Ok(recipients)
    }

    /// Opens a record that is sealed to this key or to its passphrase.
    pub(crate) fn open(&self, sealed: &[u8], place: &str) -> Result<Opened, StoreError> {
        let failed = |error| explain(error, place, self);
        if seal::is_sealed_to_a_passphrase(sealed).map_err(failed)? {
            let plain = self.open_with_passphrase(sealed, place)?;
            return Ok(Opened { plain, by: None });
        }
        let opened = self.unlock(place, Read::Once)?.open(sealed);
        match opened {
            // The key may have been changed while this process was running.
            Err(OpenError::NoMatchingKeys) => self.unlock(place, Read::Again)?.open(sealed),
            opened => opened,
        }
        .map_err(failed)
    }

    /// Checks whether [`forget`](Self::forget) would succeed now.
    pub(crate) fn can_forget(&self) -> Result<(), StoreError> {
        self.0.source.read(self.0.trusted_group).map(drop)
    }

    /// Removes a key that belongs to one slot only.
    pub(crate) fn forget(&self) -> Result<(), StoreError> {
        *lock(&self.0.unlocked) = None;
        self.0.source.forget()
    }

    /// Returns the identities. Reads and unlocks them if needed. Other callers wait meanwhile, so a
    /// passphrase is asked for once.
    pub(super) fn unlock(&self, place: &str, read: Read) -> Result<Arc<Unlocked>, StoreError> {
        let own = self.unlock_own(place, read)?;
        self.with_other(own, place, read)
    }

    fn unlock_own(&self, place: &str, read: Read) -> Result<Arc<Unlocked>, StoreError> {
        let mut unlocked = lock(&self.0.unlocked);
        if let Some(unlocked) = unlocked.as_ref().filter(|_| read == Read::Once) {
            return Ok(unlocked.clone());
        }
        let material = self
            .0
            .source
            .read(self.0.trusted_group)?
            .ok_or_else(|| self.0.source.missing(place))?;
        self.accept(&mut unlocked, &material)
    }

    /// Like [`unlock`](Self::unlock), for an empty slot. A keychain item is made if there is none. It is read
    /// again, because another process may have emptied the slot and removed the item.
    fn unlock_for_first_use(&self, place: &str) -> Result<Arc<Unlocked>, StoreError> {
        if !self.0.source.can_be_made() {
            return self.unlock(place, Read::Once);
        }
        let own = {
            let mut unlocked = lock(&self.0.unlocked);
            let material = self.0.source.ensure(self.0.trusted_group)?;
            self.accept(&mut unlocked, &material)?
        };
        self.with_other(own, place, Read::Once)
    }

    /// Adds the identities of the other key, if there is one.
    fn with_other(
        &self,
        own: Arc<Unlocked>,
        place: &str,
        read: Read,
    ) -> Result<Arc<Unlocked>, StoreError> {
        match &self.0.other {
            Some(other) => Ok(Arc::new(own.joined(&*other.unlock(place, read)?))),
            None => Ok(own),
        }
    }

    fn accept(
        &self,
        unlocked: &mut Option<Arc<Unlocked>>,
        material: &[u8],
    ) -> Result<Arc<Unlocked>, StoreError> {
        let stamp = Some(Stamp(Sha256::digest(material).into()));
        if let Some(unlocked) = unlocked.as_ref().filter(|unlocked| unlocked.stamp == stamp) {
            return Ok(unlocked.clone());
        }
        let identities = if seal::is_sealed(material) {
            if let Ok(false) = seal::is_sealed_to_a_passphrase(material) {
                let reason = "it is sealed to a key, so it is not an identity file".into();
                return Err(StoreError::InvalidKey { place: self.to_string(), reason });
            }
            identity_file::parse(&self.open_with_passphrase(material, &self.to_string())?)
        } else {
            identity_file::parse(material)
        };
        let identities = identities
            .map_err(|reason| StoreError::InvalidKey { place: self.to_string(), reason })?;
        let fresh = Arc::new(Unlocked::new(stamp, identities));
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
            locked("it is protected by a passphrase, and none was given to this program".into())
        })?;
        ask().map_err(|error| locked(format!("its passphrase was not given ({error})")))
    }

    /// Returns the recovery recipients. If their file cannot be read now, the recipients in memory are
    /// used, for the same reason as in [`prepare`](Self::prepare).
    pub(crate) fn recovery(&self) -> Result<Vec<Recipient>, StoreError> {
        let mut recovery = self.0.recovery.clone();
        if let Some(path) = &self.0.recovery_file {
            let mut known = lock(&self.0.recovery_from_file);
            match identity_file::read_recipients(path, self.0.trusted_group) {
                Ok(read) => *known = read,
                Err(error) if cannot_be_read_now(&error) && !known.is_empty() => {}
                Err(error) => return Err(error),
            }
            recovery.extend(known.iter().cloned());
        }
        Ok(recovery)
    }
}

/// Returns whether a key cannot be read now. A key that was replaced by a bad one is another error.
fn cannot_be_read_now(error: &StoreError) -> bool {
    error.is_transient()
        || matches!(error, StoreError::Denied { .. } | StoreError::KeyMissing { .. })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn explain(error: OpenError, place: &str, key: &AgeKey) -> StoreError {
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
        OpenError::TooManyStanzas => undecryptable(
            place,
            "its header is larger than that of 63 recipients, which takes too long".into(),
            "seal it again with `age`, to fewer recipients",
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
