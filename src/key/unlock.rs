//! Sealing and opening with a key, and unlocking it first.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use age::x25519::{Identity, Recipient};
use secrecy::SecretString;
use sha2::{Digest, Sha256};

use super::source::Source;
use super::{AgeKey, identity_file};
use crate::error::StoreError;
use crate::key::seal::{self, OpenError};
use crate::sys::wipe::Bytes;

/// Identities in memory, and what they were read from.
pub(super) struct Unlocked {
    stamp: [u8; 32],
    identities: Vec<Identity>,
    recipients: Vec<Recipient>,
}

/// What a record is sealed to: all that sealing takes.
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

    /// Counts those who can open what it seals.
    pub(crate) fn recipients(&self) -> usize {
        match self {
            Self::Passphrase(_) => 1,
            Self::Recipients(recipients) => recipients.len(),
        }
    }
}

/// Whether the source is read again although something was unlocked already.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Read {
    Again,
    Once,
}

impl AgeKey {
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
            Err(error) if cannot_be_read_now(&error) && lock(&self.0.unlocked).is_some() => Ok(()),
            // It may be about to be made.
            Err(StoreError::KeyMissing { .. }) if self.0.source.can_be_made() => Ok(()),
            unlocked => unlocked.map(drop),
        }
    }

    /// Gets what records are sealed to now. `first` says that the slot is empty.
    pub(crate) fn sealer(&self, place: &str, first: bool) -> Result<Sealer, StoreError> {
        Ok(if matches!(self.0.source, Source::Passphrase) {
            Sealer::Passphrase(self.ask(place)?)
        } else {
            Sealer::Recipients(self.seal_to(place, first)?)
        })
    }

    /// Returns whom a record is sealed to. `first` says that the slot is empty.
    pub(super) fn seal_to(&self, place: &str, first: bool) -> Result<Vec<Recipient>, StoreError> {
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
    pub(super) fn unlock(&self, place: &str, read: Read) -> Result<Arc<Unlocked>, StoreError> {
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
            if let Ok(false) = seal::is_sealed_to_a_passphrase(material) {
                let reason = "it is sealed to a key, as tokens are, and is no identity file".into();
                return Err(StoreError::InvalidKey { place: self.to_string(), reason });
            }
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
    pub(crate) fn recovery(&self) -> Result<Vec<Recipient>, StoreError> {
        let mut recovery = self.0.recovery.clone();
        if let Some(path) = &self.0.recovery_file {
            let mut known = lock(&self.0.recovery_from_file);
            match identity_file::read_recipients(path) {
                Ok(read) => *known = read,
                Err(error) if cannot_be_read_now(&error) && !known.is_empty() => {}
                Err(error) => return Err(error),
            }
            recovery.extend(known.iter().cloned());
        }
        Ok(recovery)
    }
}

/// Returns whether a key could not be read just now, as opposed to having been replaced by a bad one.
fn cannot_be_read_now(error: &StoreError) -> bool {
    error.is_transient()
        || matches!(error, StoreError::Denied { .. } | StoreError::KeyMissing { .. })
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
