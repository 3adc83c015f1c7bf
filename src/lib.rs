//! Keeps auth tokens where they belong, and hands out one that is valid now.
//!
//! # Which store?
//!
//! | your program is | use | what a thief of the disk gets |
//! |---|---|---|
//! | a desktop app or CLI | [`KeychainStore`] | nothing without the user's keychain |
//! | a server | [`AgeFileStore`] with an [`AgeKey`] from elsewhere | nothing without that key |
//! | on many machines that share one login | `PostgresStore` or `BucketStore` (features), with a key from elsewhere | nothing without that key |
//! | given its tokens by its environment | [`EnvStore`] (read-only) | nothing |
//! | a test, or happy to forget | [`MemoryStore`] | nothing |
//! | bound to plaintext JSON | [`PlaintextStore`] (its name is the warning) | everything |
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
//! - [`migrate`] moves tokens, [`backup`] and [`restore`] copy them; killed at any point, no token
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
//! # Features
//!
//! `keychain` and `age` are on by default; without them plaintext, memory and the environment
//! remain. `oauth2` adds a refresher and a sign-in for any OAuth 2.0 provider, `tower` a layer that
//! puts the token into requests, `postgres` and `object-store` stores for many machines, `tracing` spans
//! and counters of refreshes, `conformance` the store contract as tests, and `cli` the command.
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "conformance")]
pub mod conformance;
mod error;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(feature = "age")]
mod key;
#[cfg(feature = "keychain")]
mod keychain;
mod manager;
mod net;
#[cfg(feature = "oauth2")]
mod oauth2;
mod private_file;
mod record;
mod refresh;
mod store;
mod store_url;
mod stores;
mod sys;
mod tokens;
#[cfg(feature = "tower")]
mod tower;
mod transfer;

pub use async_trait::async_trait;
pub use chrono;
pub use error::{AuthError, RefreshFailure, SpentBy, StoreError};
#[cfg(feature = "age")]
pub use key::AgeKey;
#[cfg(feature = "keychain")]
pub use keychain::{KeychainState, probe_keychain};
pub use manager::{Event, Events, Logout, TokenManager, TokenManagerBuilder};
#[cfg(feature = "oauth2")]
pub use oauth2::{BrowserSignIn, DeviceSignIn, OAuth2Client, OAuth2Error};
pub use record::{Intent, InvalidIntent, MAX_RECORD, Record, RefreshState, Rejection, Throttle};
pub use refresh::{
    RefreshPermit, RefreshPolicy, TokenRefresher, check_replaceable, interrupted_refresh,
};
pub use secrecy;
pub use store::{Expect, Lease, Revision, Stored, TokenStore};
#[cfg(feature = "keychain")]
pub use store_url::{Allow, Chosen, Opened, open_default};
pub use store_url::{InvalidStoreUrl, StoreUrl};
#[cfg(feature = "age")]
pub use stores::AgeFileStore;
#[cfg(feature = "object-store")]
pub use stores::BucketStore;
pub use stores::EnvStore;
#[cfg(feature = "keychain")]
pub use stores::KeychainItemStore;
#[cfg(feature = "keychain")]
pub use stores::KeychainStore;
pub use stores::MemoryStore;
pub use stores::PlaintextStore;
#[cfg(feature = "postgres")]
pub use stores::PostgresStore;
pub use tokens::{AccessToken, AuthTokens, EXPIRY_BUFFER, Freshness, REFRESH_BUFFER, RefreshToken};
#[cfg(feature = "tower")]
pub use tower::{Bearer, BearerLayer, InvalidOrigin};
pub use transfer::{
    Backup, Migration, Overwrite, TransferError, backup, migrate, restore, wait_for_lease,
};

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
