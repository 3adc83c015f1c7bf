use std::fmt::{self, Write as _};
use std::path::Path;

use crate::printable::OneLine;
use crate::stores::record_file::Plain;
use crate::stores::record_file::{RecordFile, keep_in_record_file};

/// Keeps tokens as **plaintext** JSON in a file that only this user can read.
///
/// The JSON is the format that axiomtrade-rs reads and writes, with more fields.
///
/// # Security
///
/// Anyone who can read the file has the tokens: any program of this user, root, a reader of a backup, a
/// thief of the disk. Prefer [`AgeFileStore`](crate::stores::AgeFileStore) or
/// [`KeychainStore`](crate::stores::KeychainStore), and [`migrate`](crate::migrate) to it.
///
/// On Unix, the file is created with mode 0600, and missing directories with mode 0700. A file is refused
/// with [`StoreError::Exposed`](crate::StoreError::Exposed) if other users can read or own it, if it is a
/// link, or if other users can replace it in its directory.
#[derive(Debug)]
pub struct PlaintextStore(RecordFile<Plain>);

impl PlaintextStore {
    /// Makes a store for a file. Nothing is read or created yet.
    ///
    /// A relative path is resolved now. A later change of the working directory does not change it.
    #[must_use]
    pub fn new(path: impl AsRef<Path>) -> Self {
        Self(RecordFile::new(path.as_ref(), Plain))
    }

    /// Trusts all members of a group, by its number: they may write to the directories that lead to the file.
    /// Some set-ups need this, such as a volume with an `fsGroup` in Kubernetes. It has no effect on Windows.
    ///
    /// # Security
    ///
    /// Each member of the group can replace the file.
    #[must_use]
    pub fn with_trusted_group(self, group: impl Into<Option<u32>>) -> Self {
        Self(self.0.with_trusted_group(group.into()))
    }
}

impl fmt::Display for PlaintextStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(OneLine(f), "plaintext file {}", self.0.place())
    }
}

keep_in_record_file!(PlaintextStore, 0);
