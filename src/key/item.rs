//! An age identity as an item of the OS keychain.

use age::x25519::Identity;
use secrecy::ExposeSecret;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::identity_file;
use crate::error::StoreError;
use crate::keychain::Item;
use crate::sys::wipe::Bytes;

/// Reads the identity, and makes one first if there is none.
///
/// A lock keeps others from making another one at the same time. What was written is read back, so
/// nothing is ever sealed to a key that the keychain did not keep.
pub(super) fn ensure(item: &Item) -> Result<Bytes, StoreError> {
    let held = item.lock()?;
    if let Some(identity) = item.read_under(&held)? {
        return Ok(identity);
    }
    let identity = Identity::generate().to_string();
    #[expect(clippy::disallowed_methods, reason = "this is where the keychain gets its key")]
    let written = Zeroizing::new(identity.expose_secret().as_bytes().to_vec());
    item.write_under(&held, written.clone())?;
    match item.read_under(&held)? {
        Some(read) if bool::from(read.ct_eq(&written)) => Ok(read),
        _ => Err(StoreError::Unavailable {
            place: item.to_string(),
            reason: "the keychain did not keep the key that was just put into it".into(),
            advice: "nothing was sealed to it; check the keychain, or use an age file".into(),
        }),
    }
}

/// Removes the item. Removing none succeeds, and if none was ever made, that takes no keychain.
/// What is no key is left alone: somebody else put it there.
pub(super) fn delete(item: &Item) -> Result<(), StoreError> {
    if !item.was_locked()? {
        return Ok(());
    }
    let deleted = item.delete_under(&item.lock()?, |secret| match secret {
        Some(identity) => identity_file::parse(identity).map(drop),
        None => Ok(()),
    })?;
    deleted.map_err(|reason| StoreError::InvalidKey { place: item.to_string(), reason })
}
