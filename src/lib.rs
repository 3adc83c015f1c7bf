//! draft
mod blocking;
mod codec;
#[cfg(feature = "conformance")]
pub mod conformance;
mod error;
mod file;
mod json;
#[cfg(feature = "age")]
mod key;
mod record_file;
#[cfg(feature = "age")]
mod seal;
mod store;
mod tokens;

pub use error::{AuthError, StoreError};
#[cfg(feature = "age")]
pub use key::AgeKey;
#[cfg(feature = "age")]
pub use store::age_file::AgeFileStore;
pub use store::env::EnvStore;
#[cfg(feature = "keychain")]
pub use store::keychain::KeychainStore;
pub use store::memory::MemoryStore;
pub use store::plaintext::PlaintextStore;
pub use store::{Expect, Intent, InvalidIntent, Lease, MAX_RECORD, Revision, Stored, TokenStore};
pub use tokens::*;
