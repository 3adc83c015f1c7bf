use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::error::StoreError;
use crate::key::AgeKey;
use crate::keychain::{Item, Kind};
use crate::printable::OneLine;
use crate::stores::record_file::Sealed;
use crate::stores::record_file::{RecordFile, keep_in_record_file};

/// Keeps tokens in a file whose key is in the OS keychain: Keychain on macOS, Credential Manager on
/// Windows, the Secret Service on Linux and the BSDs. On other systems, such as iOS, each call that needs the
/// key fails with [`StoreError::Unavailable`].
///
/// For each slot, the keychain holds one age identity, under the service `tokenkeep:SERVICE`. It is written
/// once. The record is a file in this user's state directory, sealed to that identity. This has advantages
/// over a record in the keychain:
///
/// - A record may have any size up to [`MAX_RECORD`](crate::store::MAX_RECORD). Credential Manager accepts
///   2560 bytes.
/// - A save compares and replaces in one step. No keychain can do that.
/// - After the key was read, a keychain that locks or hangs does not keep new tokens from being saved.
///
/// The key is read from the keychain once per process, and again after the slot was emptied.
///
/// A call to the keychain takes at most 3 seconds, and raises no prompt on Linux. If the keychain is
/// locked, the call fails with [`StoreError::Locked`]. [`allow_prompts`](Self::allow_prompts) changes both.
/// On Linux, a call first waits while other processes of this user call the keychain, for 60 seconds at most.
///
/// # Security
///
/// A program that can read the keychain item and the file has the tokens. On Linux and Windows, that is every
/// program of this user while the keychain is unlocked. On macOS, that is only a program on the item's access
/// list, which contains this one.
///
/// Like an [`AgeFileStore`](crate::stores::AgeFileStore), the store keeps the record that it opened last in memory.
#[derive(Debug)]
pub struct KeychainStore {
    file: RecordFile<Sealed>,
    item: Item,
}

impl KeychainStore {
    /// Makes a store for the tokens of an account in a program.
    ///
    /// The record is in `tokenkeep/SERVICE/ACCOUNT.age`, in the platform's directory for the state of
    /// programs (`$XDG_STATE_HOME`, `~/.local/state`). Nothing is read or created yet.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`] if a name is empty or begins with `tokenkeep:`, or if this user
    /// has no home directory.
    pub fn new(service: &str, account: &str) -> Result<Self, StoreError> {
        let path = Self::record_path(service, account)?;
        Ok(Self::of(&path, Item::new(service, account, Kind::OwnKey)?))
    }

    /// Lets the keychain ask the user to unlock it, or on macOS to give this program access to the item.
    ///
    /// A call then takes up to 120 seconds, and a runtime that is dropped meanwhile waits for it. Use this
    /// only in a program with a person at the screen: anywhere else, a prompt makes the program hang. On
    /// macOS, a prompt may appear without this too. The call then fails after 3 seconds.
    #[must_use]
    pub fn allow_prompts(self) -> Self {
        Self::of(self.file.path(), self.item.with_prompts())
    }

    fn of(path: &Path, item: Item) -> Self {
        let format = Sealed::with_own_key(AgeKey::keychain_item(item.clone()));
        Self { file: RecordFile::new(path, format), item }
    }

    /// Returns the path of the record's file for a store made by [`new`](Self::new).
    pub(crate) fn record_path(service: &str, account: &str) -> Result<PathBuf, StoreError> {
        Item::new(service, account, Kind::OwnKey)?.state_file("age")
    }
}

impl fmt::Display for KeychainStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(OneLine(f), "{} (record: {})", self.item, self.file.place())
    }
}

keep_in_record_file!(KeychainStore, file);
