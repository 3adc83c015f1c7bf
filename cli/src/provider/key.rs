//! Where the private key of a client is: in a file, or in an item of the keychain.

use std::fmt;
use std::path::PathBuf;

use tokenkeep::private_file::PrivateFile;
use tokenkeep::secrecy::{ExposeSecret, SecretString};
use tokenkeep::stores::KeychainItemStore;

use crate::failure::{Code, Failure};

/// The most bytes of a file with a key. A key of RSA with 8192 bits has 6 KB.
const LONGEST: usize = 64 << 10;

#[derive(Clone, Debug)]
pub(super) enum Key {
    File(PathBuf),
    Keychain { service: String, account: String },
}

impl Key {
    /// Reads the setting: a whole path, or `keychain:SERVICE/ACCOUNT`. An error repeats nothing of it.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        if let Some(item) = text.strip_prefix("keychain:") {
            let form = "this is not keychain:SERVICE/ACCOUNT";
            let (service, account) = item.split_once('/').ok_or(form)?;
            if service.is_empty() || account.is_empty() {
                return Err(form);
            }
            return Ok(Self::Keychain { service: service.to_owned(), account: account.to_owned() });
        }
        path_of(text).map(Self::File).ok_or(
            "this is not a whole path, or one that begins with ~/, or keychain:SERVICE/ACCOUNT",
        )
    }

    pub(super) async fn read(&self, allow_prompt: bool) -> Result<SecretString, Failure> {
        let text = match self {
            Self::File(path) => {
                let bytes = PrivateFile::new(path, LONGEST).read()?;
                #[expect(clippy::disallowed_methods, reason = "the key is read from it")]
                let text = bytes.map(|bytes| self.text_of(bytes.expose_secret()));
                text.transpose()?
            }
            Self::Keychain { service, account } => {
                let mut item = KeychainItemStore::new(service, account)?;
                if allow_prompt {
                    item = item.allow_prompts();
                }
                item.read_text().await?
            }
        };
        let missing = || {
            let message =
                format!("{self} does not exist; put the key there, or correct the profile");
            Failure::new(Code::Inaccessible, message)
        };
        text.ok_or_else(missing)
    }

    fn text_of(&self, bytes: &[u8]) -> Result<SecretString, Failure> {
        let text = str::from_utf8(bytes).map_err(|_| {
            Failure::new(Code::Unreadable, format!("{self} is not text; a key in PEM is needed"))
        })?;
        Ok(SecretString::from(text))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "the key file {}", path.display()),
            Self::Keychain { service, account } => {
                write!(f, "the key keychain:{service}/{account}")
            }
        }
    }
}

/// Returns a whole path, or one below the home directory that begins with `~/`.
pub(super) fn path_of(text: &str) -> Option<PathBuf> {
    let path = match text.strip_prefix("~/") {
        Some(rest) => std::env::home_dir().map(|home| home.join(rest)),
        None => Some(PathBuf::from(text)),
    };
    path.filter(|path| path.is_absolute())
}
