use std::fmt;
use std::path::Path;

use crate::key::AgeKey;
use crate::stores::record_file::Sealed;
use crate::stores::record_file::{RecordFile, keep_in_record_file};

/// Keeps tokens in a file sealed with [age](https://age-encryption.org).
///
/// `age -d -i KEY FILE` opens it, and what `age` wrote, binary, armored or sealed to a passphrase,
/// is read. Writing is always binary, and to X25519 recipients.
///
/// # Security
///
/// The file is worth as much as its key is out of reach: keep the [`AgeKey`] in another directory,
/// better on another medium, and out of the same backup. age hides what is written and shows
/// damage; it does not show who wrote a file, nor that an older copy was put back.
///
/// The file is also as private as a [`PlaintextStore`](crate::stores::PlaintextStore)'s, and refused if it
/// is not.
#[derive(Debug)]
pub struct AgeFileStore {
    file: RecordFile<Sealed>,
    key: AgeKey,
}

impl AgeFileStore {
    /// Names the file and its key. Nothing is read or created yet.
    ///
    /// A relative path is resolved now and stays what it is if the process changes its directory.
    #[must_use]
    pub fn new(path: impl AsRef<Path>, key: AgeKey) -> Self {
        let format = Sealed { key: key.clone(), own_key: false };
        Self { file: RecordFile::new(path.as_ref(), format), key }
    }
}

impl fmt::Display for AgeFileStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "age file {} (key: {})", self.file.place(), self.key)
    }
}

keep_in_record_file!(AgeFileStore, file);
