use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

#[cfg(feature = "keychain")]
use super::item;
use crate::error::StoreError;
#[cfg(feature = "keychain")]
use crate::keychain::Item;
use crate::printable::{OneLine, one_line};
use crate::private_file::{self, Exposure};
use crate::sys::wipe::Bytes;

/// The source of the text of an identity file.
pub(super) enum Source {
    /// The name of a file in `$CREDENTIALS_DIRECTORY`.
    Credential(String),
    Custom(String, Box<dyn Fn() -> Result<SecretString, StoreError> + Send + Sync>),
    File(PathBuf),
    #[cfg(feature = "keychain")]
    Keychain(Item),
    /// There is no identity file: a passphrase seals and opens.
    Passphrase,
}

impl Source {
    /// Reads the text. Returns `None` if there is none. Members of `group` may write to the directories of a
    /// file, and read it.
    pub(super) fn read(&self, group: Option<u32>) -> Result<Option<Bytes>, StoreError> {
        match self {
            Self::Credential(name) => match std::env::var_os("CREDENTIALS_DIRECTORY") {
                Some(directory) => private_file::read_key_file(
                    &Path::new(&directory).join(name),
                    Exposure::Refused,
                    group,
                ),
                None => Ok(None),
            },
            Self::Custom(_, read) => read().map(|text| {
                #[expect(clippy::disallowed_methods, reason = "copied into a wiped buffer")]
                let text = text.expose_secret();
                Some(Zeroizing::new(text.as_bytes().to_vec()))
            }),
            Self::File(path) => private_file::read_key_file(path, Exposure::Refused, group),
            #[cfg(feature = "keychain")]
            Self::Keychain(item) => item.read(),
            Self::Passphrase => Ok(None),
        }
    }

    /// Returns whether the source is a file, which can be read often and raises no prompt.
    pub(super) fn is_a_file(&self) -> bool {
        matches!(self, Self::Credential(_) | Self::File(_))
    }

    /// Returns whether a key is made if there is none.
    pub(super) fn can_be_made(&self) -> bool {
        match self {
            Self::Credential(_) | Self::Custom(..) | Self::File(_) | Self::Passphrase => false,
            #[cfg(feature = "keychain")]
            Self::Keychain(_) => true,
        }
    }

    /// Reads the text. Makes a key first if there is none and one can be made.
    pub(super) fn ensure(&self, group: Option<u32>) -> Result<Bytes, StoreError> {
        match self {
            #[cfg(feature = "keychain")]
            Self::Keychain(item) => item::ensure(item),
            _ => self.read(group)?.ok_or_else(|| self.missing(&self.to_string())),
        }
    }

    /// Removes a key that was made.
    pub(super) fn forget(&self) -> Result<(), StoreError> {
        match self {
            #[cfg(feature = "keychain")]
            Self::Keychain(item) => item::delete(item),
            _ => Ok(()),
        }
    }

    /// Returns the error for a record at `place` whose key is missing.
    pub(super) fn missing(&self, place: &str) -> StoreError {
        let (reason, advice) = match self {
            Self::Credential(name) => (
                format!("there is no credential {name} in $CREDENTIALS_DIRECTORY"),
                format!("add `LoadCredential={name}:/path/to/key.txt` to the service"),
            ),
            Self::Custom(name, _) => {
                (format!("{name} returned no key"), "check where that key comes from".into())
            }
            Self::File(path) => (
                format!("there is no file {}", path.display()),
                "put it back; if it never existed, create one with `age-keygen -o`".into(),
            ),
            #[cfg(feature = "keychain")]
            Self::Keychain(item) => (
                format!("there is no {item}"),
                "restore the item or a backup of the tokens, or clear them and sign in again"
                    .into(),
            ),
            Self::Passphrase => (
                "it is not sealed to a passphrase".into(),
                "give the identity file that it is sealed to".into(),
            ),
        };
        StoreError::KeyMissing { place: place.to_owned(), reason, advice }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Credential(name) => write!(OneLine(f), "credential {name}"),
            Self::Custom(name, _) => f.write_str(&one_line(name)),
            Self::File(path) => write!(OneLine(f), "identity file {}", path.display()),
            #[cfg(feature = "keychain")]
            Self::Keychain(item) => item.fmt(f),
            Self::Passphrase => f.write_str("passphrase"),
        }
    }
}
