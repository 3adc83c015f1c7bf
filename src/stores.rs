//! The stores of this crate.
//! `keychain` and `age` are default features. For a fleet, `PostgresStore` needs the feature `postgres`
//! (`cargo add tokenkeep --features postgres`), and `BucketStore` needs `object-store`
//! (`cargo add tokenkeep --features object-store`). [Fleets](crate::docs::fleets) shows how to set them up.
// No store imports another.

#[cfg(feature = "age")]
mod age_file;
#[cfg(feature = "object-store")]
pub(crate) mod bucket;
mod env;
#[cfg(feature = "import")]
mod import;
#[cfg(feature = "keychain")]
mod keychain;
#[cfg(feature = "keychain")]
pub(crate) mod keychain_item;
mod memory;
mod plaintext;
#[cfg(feature = "postgres")]
mod postgres;
mod record_file;
#[cfg(any(feature = "object-store", feature = "postgres"))]
mod shared_slot;

#[cfg(feature = "age")]
pub use self::age_file::AgeFileStore;
#[cfg(feature = "object-store")]
pub use self::bucket::BucketStore;
pub use self::env::EnvStore;
#[cfg(feature = "import")]
pub use self::import::ImportStore;
#[cfg(feature = "keychain")]
pub use self::keychain::KeychainStore;
#[cfg(feature = "keychain")]
pub use self::keychain_item::KeychainItemStore;
pub use self::memory::MemoryStore;
pub use self::plaintext::PlaintextStore;
#[cfg(feature = "postgres")]
pub use self::postgres::PostgresStore;
