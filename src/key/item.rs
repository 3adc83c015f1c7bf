//! An age identity as an item of the OS keychain.

use age::x25519::Identity;
use secrecy::ExposeSecret;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::identity_file;
use crate::error::StoreError;
use crate::keychain::Item;
use crate::sys::wipe::Bytes;

/// Reads the identity. Makes one first if there is none.
///
/// A lock keeps other processes from making another identity at the same time. A new identity is read back,
/// so nothing is sealed to a key that the keychain did not keep. Such an item is removed.
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
        _ => {
            // There was no item before. If it cannot be removed, the error is still the same.
            let _ = item.delete_under(&held, |_| Ok::<_, StoreError>(()));
            Err(item.lost("nothing was sealed to the key that was put into it"))
        }
    }
}

/// Removes the item. Succeeds if there is no item. If this crate never made one, the keychain is not called.
/// An item that is not a key is not removed, because another program made it.
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
