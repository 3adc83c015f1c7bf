use std::fmt;
use std::path::{Path, PathBuf};

use crate::error::StoreError;
use crate::key::AgeKey;
use crate::keychain::{Item, Kind};
use crate::stores::record_file::Sealed;
use crate::stores::record_file::{RecordFile, keep_in_record_file};

/// Keeps tokens behind the OS keychain: Keychain on macOS, Credential Manager on Windows, the
/// Secret Service elsewhere.
///
/// The keychain holds one age identity per slot, written once, under the service
/// `tokenkeep:SERVICE`; the record is a file sealed to it
/// in this user's state directory. So a record may have any size up to the limit of all stores,
/// where Credential Manager stops at 2560 bytes; a save compares and replaces in one step, which
/// no keychain can; and once the key was read, a keychain that locks or hangs costs nobody a
/// rotated token. The keychain is asked once per process, and again when the slot was emptied.
///
/// No call to the keychain takes longer than 3 seconds, and none raises a prompt on Linux: a
/// keychain that is locked is [`StoreError::Locked`]. [`allow_prompts`](Self::allow_prompts)
/// changes both.
///
/// # Security
///
/// Who can read the keychain item and the file has the tokens. On Linux and Windows that is every
/// program of this user while the keychain is unlocked; on macOS it is the programs on the item's
/// access list, which is this one.
#[derive(Debug)]
pub struct KeychainStore {
    file: RecordFile<Sealed>,
    item: Item,
}

impl KeychainStore {
    /// Names the slot by the program and the account whose tokens it holds.
    ///
    /// The record lies in `tokenkeep/SERVICE/ACCOUNT.age` under the platform's directory for a
    /// program's state (`$XDG_STATE_HOME`, `~/.local/state`). Nothing is read or created yet.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`] if a name is empty or begins with `tokenkeep:`, or if this user
    /// has no home directory.
    pub fn new(service: &str, account: &str) -> Result<Self, StoreError> {
        let path = Self::record_path(service, account)?;
        Ok(Self::of(&path, Item::new(service, account, Kind::OwnKey)?))
    }

    /// Lets the keychain ask the user: to unlock it, or on macOS to let this program at the item.
    ///
    /// A call then takes up to 120 seconds, the time that a person may take, and a runtime that is
    /// dropped meanwhile waits for it. For programs with a person in front of them; anywhere else a
    /// prompt is a hang. On macOS a prompt may appear without this too, and is given up after 3
    /// seconds.
    #[must_use]
    pub fn allow_prompts(self) -> Self {
        Self::of(self.file.path(), self.item.with_prompts())
    }

    fn of(path: &Path, item: Item) -> Self {
        let format = Sealed { key: AgeKey::keychain_item(item.clone()), own_key: true };
        Self { file: RecordFile::new(path, format), item }
    }

    /// The file that [`new`](Self::new) keeps the record in.
    pub(crate) fn record_path(service: &str, account: &str) -> Result<PathBuf, StoreError> {
        Item::new(service, account, Kind::OwnKey)?.state_file("age")
    }
}

impl fmt::Display for KeychainStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (record: {})", self.item, self.file.place())
    }
}

keep_in_record_file!(KeychainStore, file);
