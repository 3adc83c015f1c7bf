//! Authenticates what is sealed. docs/authentication.md describes the construction.

use std::sync::Arc;

use age::x25519::Identity;
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use secrecy::ExposeSecret;
use sha2::Sha256;
use subtle::{Choice, ConstantTimeEq};
use zeroize::Zeroizing;

use super::AgeKey;
use super::seal::OpenError;
use super::source::Source;
use super::unlock::{Opened, Read, Sealer, Unlocked, explain};
use crate::error::StoreError;

/// What the key is for, as `info` of HKDF. Another use of the same identity has another key.
const INFO: &[u8] = b"tokenkeep-slot/2 MAC key";

/// The most identities that authenticate one record, and the most MACs of a record. A rekey needs two.
pub(crate) const MOST: usize = 16;

/// A message authentication code.
pub(crate) type Tag = [u8; 32];

/// The MAC key of one identity. It is wiped on drop.
pub(crate) struct MacKey(Zeroizing<Tag>);

impl MacKey {
    pub(crate) fn new(identity: &Identity) -> Self {
        let secret = identity.to_string();
        #[expect(clippy::disallowed_methods, reason = "the key is derived from it")]
        let secret = secret.expose_secret();
        let mut key = Zeroizing::new(Tag::default());
        Hkdf::<Sha256>::new(None, secret.as_bytes())
            .expand(INFO, &mut *key)
            .expect("HKDF-SHA256 makes up to 8160 bytes");
        Self(key)
    }

    /// Returns the MAC of these parts, one after the other.
    pub(crate) fn tag(&self, parts: &[&[u8]]) -> Tag {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&*self.0).expect("HMAC takes keys of any length");
        for part in parts {
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }

    /// Returns whether one of these MACs is that of the parts. The time does not depend on which one.
    pub(crate) fn has_made_one_of(&self, tags: &[Tag], parts: &[&[u8]]) -> bool {
        let own = self.tag(parts);
        tags.iter().fold(Choice::from(0), |found, tag| found | tag.ct_eq(&own)).into()
    }
}

/// All that is needed to seal a record and to authenticate it.
pub(crate) struct Writer {
    pub(crate) sealer: Sealer,
    /// One for each identity.
    pub(crate) mac_keys: Vec<MacKey>,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Writer({:?})", self.sealer)
    }
}

impl AgeKey {
    /// Checks that this key has identities, which authenticate.
    pub(crate) fn check_can_authenticate(&self) -> Result<(), StoreError> {
        if !matches!(self.0.source, Source::Passphrase) {
            return Ok(());
        }
        let reason = "a record on a server is authenticated, which needs an age identity; use an identity file, \
                      which a passphrase may protect";
        Err(StoreError::InvalidKey { place: self.to_string(), reason: reason.into() })
    }

    /// Returns what is needed to write a record now. `first` says that the slot is empty.
    pub(crate) fn writer(&self, place: &str, first: bool) -> Result<Writer, StoreError> {
        let unlocked = self.unlock_to_seal(place, first)?;
        if unlocked.identities.len() > MOST {
            let reason = format!(
                "it has {} identities; at most {MOST} can authenticate a record on a server",
                unlocked.identities.len()
            );
            return Err(StoreError::InvalidKey { place: self.to_string(), reason });
        }
        let mac_keys = unlocked.identities.iter().map(MacKey::new).collect();
        Ok(Writer { sealer: Sealer::Recipients(self.recipients_with(&unlocked)?), mac_keys })
    }

    /// Opens sealed bytes if `is_by` accepts the MAC key of one of the identities. Otherwise nothing is
    /// decrypted, and the result is `None`.
    pub(crate) fn open_authentic(
        &self,
        sealed: &[u8],
        place: &str,
        is_by: impl Fn(&MacKey) -> bool,
    ) -> Result<Option<Opened>, StoreError> {
        let open = |unlocked: &Unlocked| {
            let is_authentic = unlocked.identities.iter().map(MacKey::new).any(|key| is_by(&key));
            if is_authentic { unlocked.open(sealed).map(Some) } else { Ok(None) }
        };
        match open(&*self.unlock_current(place)?) {
            // The key may have been changed while this process was running.
            Ok(None) | Err(OpenError::NoMatchingKeys) => open(&*self.unlock(place, Read::Again)?),
            opened => opened,
        }
        .map_err(|error| explain(error, place, self))
    }

    /// Returns the identities that a record must be authenticated with. A file is read again, so that a running
    /// process no longer accepts an identity that was taken out of it. If that fails, the identities in memory
    /// are used: they opened the records before.
    fn unlock_current(&self, place: &str) -> Result<Arc<Unlocked>, StoreError> {
        let read = if self.0.source.is_a_file() { Read::Again } else { Read::Once };
        self.unlock(place, read).or_else(|error| {
            if self.stamp().is_some() { self.unlock(place, Read::Once) } else { Err(error) }
        })
    }
}
