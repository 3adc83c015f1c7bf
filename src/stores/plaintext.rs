use std::fmt;
use std::path::Path;

use crate::stores::record_file::Plain;
use crate::stores::record_file::{RecordFile, keep_in_record_file};

/// Keeps tokens as **plaintext** JSON in a file that only this user can read.
///
/// The JSON is what axiomtrade-rs reads and writes, with further fields beside its three.
///
/// # Security
///
/// Whoever reads the file has the tokens: any program of this user, root, every backup, whoever
/// gets the disk. Prefer [`AgeFileStore`](crate::stores::AgeFileStore) or
/// [`KeychainStore`](crate::stores::KeychainStore), and [`migrate`](crate::migrate) to it.
///
/// On Unix the file has mode 0600 from its first byte on, missing directories are made with mode
/// 0700, and a file is refused ([`StoreError::Exposed`](crate::StoreError::Exposed)) that others can read or own, that is a
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

keep_in_record_file!(PlaintextStore, 0);
