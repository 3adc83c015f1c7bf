//! An age identity as an item of the OS keychain.

mod worker;

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;

use age::x25519::Identity;
use etcetera::BaseStrategy;
use keyring_core::{CredentialStore, Entry, Error};
use secrecy::ExposeSecret;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use self::worker::Failure;
use crate::codec::Bytes;
use crate::error::StoreError;
use crate::file;

/// An item, named as the keychain names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    service: String,
    account: String,
}

impl Item {
    pub(crate) fn new(service: &str, account: &str) -> Result<Self, StoreError> {
        if service.is_empty() || account.is_empty() {
            return Err(StoreError::Unavailable {
                place: "keychain".into(),
                reason: "a keychain item needs a service and an account".into(),
                advice: "give both".into(),
            });
        }
        Ok(Self { service: service.to_owned(), account: account.to_owned() })
    }

    /// The file of that extension in this user's state directory that goes with this item.
    pub(crate) fn state_file(&self, extension: &str) -> Result<PathBuf, StoreError> {
        let strategy = etcetera::base_strategy::choose_native_strategy().map_err(|_| {
            StoreError::Unavailable {
                place: self.to_string(),
                reason: "this user has no home directory to keep the sealed record in".into(),
                advice: "set HOME, or give the record a path".into(),
            }
        })?;
        let directory = strategy.state_dir().unwrap_or_else(|| {
            // On Windows this is the part of the profile that does not roam.
            if cfg!(windows) { strategy.cache_dir() } else { strategy.data_dir() }
        });
        let name = format!("{}.{extension}", file_name(&self.account));
        Ok(directory.join("tokenkeep").join(file_name(&self.service)).join(name))
    }

    /// Reads the identity: `None` if there is no such item.
    pub(crate) fn read(&self) -> Result<Option<Bytes>, StoreError> {
        self.call(|entry| entry.get_secret().map(Zeroizing::new))
    }

    /// Reads the identity, and makes one first if there is none.
    ///
    /// A lock keeps others from making another one at the same time. What was written is read
    /// back, so nothing is ever sealed to a key that the keychain did not keep.
    pub(crate) fn ensure(&self) -> Result<Bytes, StoreError> {
        let _lock = file::exclusive(&self.state_file("key.lock")?)?;
        if let Some(identity) = self.read()? {
            return Ok(identity);
        }
        let identity = Identity::generate().to_string();
        #[expect(clippy::disallowed_methods, reason = "this is where the keychain gets its key")]
        let written = Zeroizing::new(identity.expose_secret().as_bytes().to_vec());
        let secret = written.clone();
        self.call(move |entry| entry.set_secret(&secret))?;
        match self.read()? {
            Some(read) if bool::from(read.ct_eq(&written)) => Ok(read),
            _ => Err(StoreError::Unavailable {
                place: self.to_string(),
                reason: "the keychain did not keep the key that was just put into it".into(),
                advice: "nothing was sealed to it; check the keychain, or use an age file".into(),
            }),
        }
    }

    /// Removes the item. Removing none succeeds, and if none was ever made, that takes no keychain.
    pub(crate) fn delete(&self) -> Result<(), StoreError> {
        if !self.state_file("key.lock")?.exists() {
            return Ok(());
        }
        let _lock = file::exclusive(&self.state_file("key.lock")?)?;
        self.call(Entry::delete_credential).map(drop)
    }

    /// Does something with the item on the keychain's own thread; `None` if there is none.
    fn call<T: Send + 'static>(
        &self,
        work: impl Fn(&Entry) -> keyring_core::Result<T> + Send + 'static,
    ) -> Result<Option<T>, StoreError> {
        let item = self.clone();
        match worker::call(move |keychain| work(&item.entry(keychain)?)) {
            Ok(done) => Ok(Some(done)),
            Err(Failure::Keychain(Error::NoEntry)) => Ok(None),
            Err(failure) => Err(self.explain(failure)),
        }
    }

    fn entry(&self, keychain: &CredentialStore) -> keyring_core::Result<Entry> {
        let label = self.label();
        let modifiers: HashMap<&str, &str> = if cfg!(windows) {
            // The target is named, because the default one joins user and service with a dot;
            // persistence is local, because the default one roams.
            HashMap::from([("target", label.as_str()), ("persistence", "Local")])
        } else if cfg!(target_os = "macos") {
            HashMap::new()
        } else {
            HashMap::from([("label", label.as_str())])
        };
        keychain.build(&self.service, &self.account, Some(&modifiers))
    }

    /// What people see in the system's own tool.
    fn label(&self) -> String {
        format!("tokenkeep: key of {}/{}", self.service, self.account)
    }

    /// Sorts the failures. The text of a `keyring_core::Error` can hold secret bytes, so only that
    /// of the platform's own error is ever taken over.
    fn explain(&self, failure: Failure) -> StoreError {
        let place = self.to_string();
        match failure {
            Failure::Busy => StoreError::Timeout {
                place,
                reason: "the keychain has not answered an earlier call yet".into(),
                advice: "see whether it waits for you to unlock it, or restart it".into(),
            },
            Failure::Deadline(deadline) => StoreError::Timeout {
                place,
                reason: format!("the keychain did not answer within {deadline:?}"),
                advice: "see whether it waits for you to unlock it, or restart it".into(),
            },
            Failure::Keychain(Error::Ambiguous(entries)) => StoreError::Corrupt {
                place,
                reason: format!("the keychain holds {} items of this name", entries.len()),
            },
            Failure::Keychain(Error::NoStorageAccess(_)) => {
                StoreError::Locked { place, advice: "unlock the keychain, and try again".into() }
            }
            Failure::Keychain(Error::PlatformFailure(error)) => StoreError::Unavailable {
                place,
                reason: format!("the keychain failed ({error})"),
                advice: "see that a keychain runs in this session, or use an age file".into(),
            },
            Failure::Keychain(Error::TooLong(_, limit)) => {
                StoreError::TooLarge { place, limit: limit as usize }
            }
            Failure::Keychain(_) => StoreError::Unavailable {
                place,
                reason: "the keychain holds something under this name that it cannot hand out"
                    .into(),
                advice: "look at the item in the system's own tool".into(),
            },
            Failure::Thread => StoreError::Unavailable {
                place,
                reason: "no thread could be started to talk to the keychain".into(),
                advice: "raise the limit on threads".into(),
            },
        }
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "keychain item {}/{}", self.service, self.account)
    }
}

/// A file name that stands for this text and for no other, on file systems that know no case too.
fn file_name(text: &str) -> String {
    use std::fmt::Write as _;

    let mut name = String::new();
    for (index, byte) in text.bytes().enumerate() {
        let plain = byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_@".contains(&byte);
        if plain || (byte == b'.' && index > 0) {
            name.push(char::from(byte));
        } else {
            write!(name, "%{byte:02x}").expect("a String takes everything");
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_file_names_one_to_one() {
        for (text, expected) in [
            ("axiomtrade", "axiomtrade"),
            ("alice@example.com", "alice@example.com"),
            ("Alice", "%41lice"),
            ("..", "%2e."),
            ("a/b", "a%2fb"),
            ("a%2fb", "a%252fb"),
            ("ü", "%c3%bc"),
        ] {
            assert_eq!(file_name(text), expected);
        }
    }

    #[test]
    fn an_item_needs_both_names() {
        assert!(Item::new("", "a").is_err());
        assert!(Item::new("a", "").is_err());
    }

    #[test]
    fn no_failure_of_the_keychain_shows_what_it_held() {
        let item = Item::new("service", "account").unwrap();
        for error in [
            Error::BadEncoding(b"canary".to_vec()),
            Error::BadDataFormat(b"canary".to_vec(), "canary".into()),
            Error::BadStoreFormat("canary".into()),
            Error::Invalid("canary".into(), "canary".into()),
        ] {
            let error = item.explain(Failure::Keychain(error));
            assert!(!format!("{error} {error:?}").contains("canary"), "{error:?}");
        }
    }
}
