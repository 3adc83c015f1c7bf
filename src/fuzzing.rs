//! Ways in for the targets in `fuzz/`, to what a public function reaches only through a keychain or
//! the network. Only a build with `--cfg fuzzing` has them.
#![allow(missing_docs, clippy::missing_errors_doc, clippy::must_use_candidate)]

#[cfg(feature = "oauth2")]
pub use crate::oauth2::fuzzing::{Answer, callback, refresh, retry_after, sign_in_by_device};

/// Decodes what a keychain item of another program holds.
#[cfg(feature = "keychain")]
pub fn keychain_item(bytes: &[u8]) -> Result<crate::AuthTokens, crate::StoreError> {
    crate::stores::keychain_item::decode(bytes, "the item")
}

/// Reads the object of a slot, and writes it again.
#[cfg(feature = "object-store")]
pub fn bucket_object(bytes: &[u8]) -> Result<Vec<u8>, &'static str> {
    crate::stores::bucket::rewritten(bytes)
}
