use std::fmt::{self, Write as _};
use std::path::Path;

use crate::key::AgeKey;
use crate::printable::OneLine;
use crate::stores::record_file::Sealed;
use crate::stores::record_file::{RecordFile, keep_in_record_file};

/// Keeps tokens in a file sealed with [age](https://age-encryption.org).
///
/// `age -d -i KEY FILE` opens the file. The store also reads files that `age` wrote: binary, armored, or
/// sealed to a passphrase. It always writes binary files, sealed to X25519 recipients.
///
/// # Security
///
/// The file protects the tokens only if the key is kept apart from it. Keep the [`AgeKey`] in another
/// directory, better on another medium, and not in the same backup. age hides the content and detects damage.
/// It does not detect who wrote a file, or that an older copy was put back.
///
/// The file has the same permissions as that of a [`PlaintextStore`](crate::stores::PlaintextStore). It is
/// refused if other users can read or replace it.
#[derive(Debug)]
pub struct AgeFileStore {
    file: RecordFile<Sealed>,
    key: AgeKey,
}

impl AgeFileStore {
    /// Makes a store for a file and its key. Nothing is read or created yet.
    ///
    /// A relative path is resolved now. A later change of the working directory does not change it.
    #[must_use]
    pub fn new(path: impl AsRef<Path>, key: AgeKey) -> Self {
        Self { file: RecordFile::new(path.as_ref(), Sealed::new(key.clone())), key }
    }

    /// Trusts all members of a group, by its number: they may write to the directories that lead to the file.
    /// Some set-ups need this, such as a volume with an `fsGroup` in Kubernetes. It has no effect on Windows.
    ///
    /// # Security
    ///
    /// Each member of the group can replace the file. The key has a setting of its own,
    /// [`AgeKey::with_trusted_group`].
    #[must_use]
    pub fn with_trusted_group(self, group: u32) -> Self {
        Self { file: self.file.with_trusted_group(group), key: self.key }
    }
}

impl fmt::Display for AgeFileStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(OneLine(f), "age file {} (key: {})", self.file.place(), self.key)
    }
}

keep_in_record_file!(AgeFileStore, file);
