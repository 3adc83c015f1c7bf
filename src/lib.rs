//! Stores auth tokens safely, and returns an access token that is valid now.
//!
//! # Which store?
//!
//! | your program is | use | what a person who steals the disk can read |
//! |---|---|---|
//! | a desktop app or CLI | [`KeychainStore`](stores::KeychainStore) | nothing without the user's keychain |
//! | a server | [`AgeFileStore`](stores::AgeFileStore) with an [`AgeKey`] that is not on that disk | nothing without that key |
//! | on many machines that share one login | `PostgresStore` or `BucketStore` (features), with a key that is not on that disk | nothing without that key |
//! | given its tokens in environment variables | [`EnvStore`](stores::EnvStore) (read-only) | nothing |
//! | a test, or in need of its tokens only while it runs | [`MemoryStore`](stores::MemoryStore) | nothing |
//! | required to use plaintext JSON | [`PlaintextStore`](stores::PlaintextStore) (not encrypted) | everything |
//!
//! The crate never falls back to another store. A locked keychain is an error: the tokens are not written
//! as plaintext instead.
//!
//! # Which function?
//!
//! - [`TokenManager`] is what most programs need. It caches tokens, refreshes them before they expire, and
//!   can be shared by all tasks.
//! - [`TokenStore`] is one slot: load, save by compare-and-swap, clear, lease. To write a store of your own,
//!   implement this trait and test the store with `conformance` (feature).
//! - [`migrate`] moves tokens. [`backup`](transfer::backup) and [`restore`](transfer::restore) copy them. No
//!   token is lost if the program is killed meanwhile, at any point.
//!
//! ```
//! use tokenkeep::{StoreUrl, TokenManager};
//!
//! async fn authorization() -> Result<String, Box<dyn std::error::Error>> {
//!     let url: StoreUrl = "age:/var/lib/app/tokens.age?identity=/etc/app/key.txt".parse()?;
//!     let manager = TokenManager::builder().store(url.open()?).build();
//!     let token = manager.get_access_token().await?;
//!     Ok(format!("Bearer {}", token.expose_secret()))
//! }
//! ```
//!
//! # More documentation
//!
//! This documentation contains the pages of [`docs`]: [the guide](docs::guide),
//! [OAuth 2.0 providers](docs::providers), [fleets](docs::fleets) and others.
//!
//! # Features
//!
//! - `keychain` and `age` are on by default. They add [`KeychainStore`](stores::KeychainStore) and
//!   [`AgeFileStore`](stores::AgeFileStore). The stores for plaintext, memory and the environment are always
//!   there.
//! - `import` reads the tokens in the files and keychain items of other programs.
//! - `oauth2` adds a refresher and a sign-in for any OAuth 2.0 provider.
//! - `tower` adds a layer that puts the token into requests.
//! - `postgres` and `object-store` add stores for many machines.
//! - `tracing` adds spans and counters of refreshes.
//! - `conformance` adds tests of the store contract.
//!
//! The command is a separate package, `tokenkeep-cli`.
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "conformance")]
pub mod conformance;
pub mod error;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(feature = "import")]
pub mod import;
#[cfg(feature = "age")]
mod key;
#[cfg(feature = "keychain")]
pub mod keychain;
pub mod manager;
mod net;
#[cfg(feature = "oauth2")]
pub mod oauth2;
mod printable;
pub mod private_file;
mod record;
pub mod refresh;
pub mod store;
pub mod store_url;
pub mod stores;
mod sys;
pub mod tokens;
#[cfg(feature = "tower")]
pub mod tower;
pub mod transfer;

pub use async_trait::async_trait;
pub use chrono;
pub use secrecy;

pub use self::error::{AuthError, RefreshFailure, StoreError};
#[cfg(feature = "age")]
pub use self::key::AgeKey;
pub use self::manager::TokenManager;
pub use self::refresh::TokenRefresher;
pub use self::store::TokenStore;
pub use self::store_url::StoreUrl;
#[cfg(feature = "keychain")]
pub use self::store_url::open_default;
pub use self::tokens::{AccessToken, AuthTokens, RefreshToken};
pub use self::transfer::migrate;

// The pages of docs/, for readers and for doctests. Their examples need these features.
#[cfg(any(
    all(doc, not(doctest)),
    all(
        doctest,
        feature = "keychain",
        feature = "oauth2",
        feature = "object-store",
        feature = "postgres",
        feature = "tower"
    )
))]
pub mod docs;

/// Tests that the code in README.md compiles and runs.
#[cfg(all(doctest, feature = "keychain", feature = "oauth2"))]
#[doc = include_str!("../README.md")]
mod readme {}
