//! Keeps auth tokens where they belong, and hands out one that is valid now.
//!
//! # Which store?
//!
//! | your program is | use | what a thief of the disk gets |
//! |---|---|---|
//! | a desktop app or CLI | [`KeychainStore`](stores::KeychainStore) | nothing without the user's keychain |
//! | a server | [`AgeFileStore`](stores::AgeFileStore) with an [`AgeKey`] from elsewhere | nothing without that key |
//! | on many machines that share one login | `PostgresStore` or `BucketStore` (features), with a key from elsewhere | nothing without that key |
//! | given its tokens by its environment | [`EnvStore`](stores::EnvStore) (read-only) | nothing |
//! | a test, or happy to forget | [`MemoryStore`](stores::MemoryStore) | nothing |
//! | bound to plaintext JSON | [`PlaintextStore`](stores::PlaintextStore) (its name is the warning) | everything |
//!
//! Nothing here ever falls back from one to another by itself: a keychain that is locked is an
//! error, not a reason to write plaintext.
//!
//! # Which function?
//!
//! - [`TokenManager`] is what most programs need: it caches, knows about expiry, and can be shared
//!   by all tasks.
//! - [`TokenStore`] is one slot: load, save by compare-and-swap, clear, lease. Implement it for a
//!   store of your own and run `conformance` (feature) against it.
//! - [`migrate`] moves tokens, [`backup`](transfer::backup) and [`restore`](transfer::restore) copy them; killed at any point, no token
//!   is lost.
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
//! # Where to read on
//!
//! [The guide](docs::guide), [OAuth 2.0 providers](docs::providers), [fleets](docs::fleets) and the other pages
//! of [`docs`] are part of this documentation.
//!
//! # Features
//!
//! `keychain` and `age` are on by default; without them plaintext, memory and the environment
//! remain. `oauth2` adds a refresher and a sign-in for any OAuth 2.0 provider, `tower` a layer that
//! puts the token into requests, `postgres` and `object-store` stores for many machines, `tracing` spans
//! and counters of refreshes, and `conformance` the store contract as tests. The command is a package of its own,
//! `tokenkeep-cli`.
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "conformance")]
pub mod conformance;
pub mod error;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(feature = "age")]
mod key;
#[cfg(feature = "keychain")]
pub mod keychain;
pub mod manager;
mod net;
#[cfg(feature = "oauth2")]
pub mod oauth2;
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

// The pages of docs/, for readers and for doctests. Their code needs these features.
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

/// The code in README.md compiles and runs.
#[cfg(all(doctest, feature = "keychain", feature = "oauth2"))]
#[doc = include_str!("../README.md")]
mod readme {}
