//! Functions for the targets in `fuzz/`. A public function reaches this code only through a keychain or the
//! network. They exist only in a build with `--cfg fuzzing`.
#![allow(missing_docs, clippy::missing_errors_doc, clippy::must_use_candidate)]

#[cfg(feature = "oauth2")]
pub use crate::oauth2::fuzzing::{Answer, callback, refresh, retry_after, sign_in_by_device};

/// Decodes the content of another program's keychain item.
#[cfg(feature = "keychain")]
pub fn keychain_item(bytes: &[u8]) -> Result<crate::AuthTokens, crate::StoreError> {
    crate::stores::keychain_item::decode(bytes, "the item")
}

/// Decodes the object of a slot, and encodes it again.
#[cfg(feature = "object-store")]
pub fn bucket_object(bytes: &[u8]) -> Result<Vec<u8>, &'static str> {
    crate::stores::bucket::rewritten(bytes)
}
