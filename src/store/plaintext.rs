use std::fmt;
use std::path::Path;

use async_trait::async_trait;

use super::{Expect, Lease, Revision, Stored, TokenStore};
use crate::codec::Plain;
use crate::error::StoreError;
use crate::file::Exposure;
use crate::record_file::RecordFile;
use crate::tokens::AuthTokens;

/// Keeps tokens as **plaintext** JSON in a file that only this user can read.
///
/// The JSON is what axiomtrade-rs reads and writes, with further fields beside its three.
///
/// # Security
///
/// Whoever reads the file has the tokens: any program of this user, root, every backup, whoever
/// gets the disk. Prefer [`AgeFileStore`](crate::AgeFileStore) or
/// [`KeychainStore`](crate::KeychainStore), and [`migrate`](crate::migrate) to it.
///
/// On Unix the file has mode 0600 from its first byte on, missing directories are made with mode
/// 0700, and a file is refused ([`StoreError::Exposed`]) that others can read or own, that is a
/// link, or that lies in a directory where others can replace it.
#[derive(Debug)]
pub struct PlaintextStore(RecordFile<Plain>);

impl PlaintextStore {
    /// Names the file. Nothing is read or created yet.
    ///
    /// A relative path is resolved now and stays what it is if the process changes its directory.
    #[must_use]
    pub fn new(path: impl AsRef<Path>) -> Self {
        Self(RecordFile::new(path.as_ref(), Plain))
    }
}

impl fmt::Display for PlaintextStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "plaintext file {}", self.0.place())
    }
}

#[async_trait]
impl TokenStore for PlaintextStore {
    async fn load(&self) -> Result<Option<Stored>, StoreError> {
        self.0.load(Exposure::Refused).await
    }

    async fn save(&self, tokens: &AuthTokens, expect: Expect) -> Result<Revision, StoreError> {
        self.0.save(tokens, expect).await
    }

    async fn clear(&self, expect: Expect) -> Result<(), StoreError> {
        self.0.clear(expect).await
    }

    async fn try_lease(&self) -> Result<Option<Box<dyn Lease>>, StoreError> {
        self.0.try_lease().await
    }

    async fn load_exposed(&self) -> Result<Option<Stored>, StoreError> {
        self.0.load(Exposure::Accepted).await
    }

    fn slot(&self) -> String {
        self.0.slot()
    }
}
