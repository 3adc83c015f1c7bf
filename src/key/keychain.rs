//! An age identity as an item of the OS keychain.

mod probe;
mod worker;

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use age::x25519::Identity;
use etcetera::BaseStrategy;
use keyring_core::{CredentialStore, Entry, Error};
use secrecy::ExposeSecret;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

pub use self::probe::{KeychainState, probe_keychain};
use self::worker::Failure;
use super::identity_file;
use crate::codec::Bytes;
use crate::error::StoreError;
use crate::file::{self, Locked};

/// Marks the items that are a [`KeychainStore`](crate::KeychainStore)'s own. They go when the store
/// is cleared, so nothing else may be kept under such a name.
const OWN: &str = "tokenkeep:";

/// An item of the keychain that holds an age identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    service: String,
    account: String,
    own: bool,
}

impl Item {
    /// An item that any number of records may be sealed to.
    pub(crate) fn shared(service: &str, account: &str) -> Result<Self, StoreError> {
        Self::new(service, account, false)
    }

    /// The item of one slot, that nobody else's records are sealed to.
    pub(crate) fn own(service: &str, account: &str) -> Result<Self, StoreError> {
        Self::new(service, account, true)
    }

    fn new(service: &str, account: &str, own: bool) -> Result<Self, StoreError> {
        let reason = if service.is_empty() || account.is_empty() {
            "a keychain item needs a service and an account"
        } else if service.starts_with(OWN) {
            "names that begin with \"tokenkeep:\" are for the keys of keychain stores"
        } else {
            return Ok(Self { service: service.to_owned(), account: account.to_owned(), own });
        };
        let (place, advice) = ("keychain".into(), "choose other names".into());
        Err(StoreError::Unavailable { place, reason: reason.into(), advice })
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
        self.read_holding(None)
    }

    /// Reads the identity, and makes one first if there is none.
    ///
    /// A lock keeps others from making another one at the same time. What was written is read
    /// back, so nothing is ever sealed to a key that the keychain did not keep.
    pub(crate) fn ensure(&self) -> Result<Bytes, StoreError> {
        let held = self.lock()?;
        if let Some(identity) = self.read_holding(Some(&held))? {
            return Ok(identity);
        }
        let identity = Identity::generate().to_string();
        #[expect(clippy::disallowed_methods, reason = "this is where the keychain gets its key")]
        let written = Zeroizing::new(identity.expose_secret().as_bytes().to_vec());
        let secret = written.clone();
        self.call(Some(&held), true, move |entry| entry.set_secret(&secret))?;
        match self.read_holding(Some(&held))? {
            Some(read) if bool::from(read.ct_eq(&written)) => Ok(read),
            _ => Err(StoreError::Unavailable {
                place: self.to_string(),
                reason: "the keychain did not keep the key that was just put into it".into(),
                advice: "nothing was sealed to it; check the keychain, or use an age file".into(),
            }),
        }
    }

    /// Removes the item. Removing none succeeds, and if none was ever made, that takes no keychain.
    /// What is no key is left alone: somebody else put it there.
    pub(crate) fn delete(&self) -> Result<(), StoreError> {
        if !self.lock_file()?.exists() {
            return Ok(());
        }
        let held = self.lock()?;
        let Some(identity) = self.read_holding(Some(&held))? else { return Ok(()) };
        identity_file::parse(&identity)
            .map_err(|reason| StoreError::InvalidKey { place: self.to_string(), reason })?;
        self.call(Some(&held), false, Entry::delete_credential).map(drop)
    }

    fn read_holding(&self, held: Option<&Arc<Locked>>) -> Result<Option<Bytes>, StoreError> {
        self.call(held, false, |entry| entry.get_secret().map(Zeroizing::new))
    }

    fn lock(&self) -> Result<Arc<Locked>, StoreError> {
        file::exclusive(&self.lock_file()?).map(Arc::new)
    }

    fn lock_file(&self) -> Result<PathBuf, StoreError> {
        self.state_file(if self.own { "key.lock" } else { "shared-key.lock" })
    }

    /// Does something with the item on the keychain's own thread; `None` if there is none. What
    /// would raise a prompt is not done: `making` says that the item is to be there afterwards.
    ///
    /// A call that nobody waits for any more may still take effect. So it keeps hold of the lock
    /// that it was made under until it is over.
    fn call<T: Send + 'static>(
        &self,
        held: Option<&Arc<Locked>>,
        making: bool,
        work: impl Fn(&Entry) -> keyring_core::Result<T> + Send + 'static,
    ) -> Result<Option<T>, StoreError> {
        let (item, held) = (self.clone(), held.cloned());
        let work = move |keychain: &CredentialStore| {
            let _held = &held;
            if probe::would_prompt(&item.service_name(), &item.account, making) {
                return Err(Error::NoStorageAccess("it is locked".into()));
            }
            work(&item.entry(keychain)?)
        };
        match worker::call(work) {
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
        keychain.build(&self.service_name(), &self.account, Some(&modifiers))
    }

    /// The service, as the keychain knows it.
    fn service_name(&self) -> String {
        format!("{}{}", if self.own { OWN } else { "" }, self.service)
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
            Failure::Keychain(Error::Ambiguous(entries)) => StoreError::Unavailable {
                place,
                reason: format!("the keychain holds {} items of this name", entries.len()),
                advice: format!(
                    "delete all of them but the one with the label \"{}\"",
                    self.label()
                ),
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
        write!(f, "keychain item {}/{}", self.service_name(), self.account)
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
        assert!(Item::own("", "a").is_err());
        assert!(Item::own("a", "").is_err());
    }

    #[test]
    fn no_other_item_can_have_the_name_of_a_stores_own_key() {
        let own = Item::own("service", "account").unwrap();
        assert!(Item::shared(&own.service_name(), "account").is_err());
        let shared = Item::shared("service", "account").unwrap();
        assert_ne!(own.service_name(), shared.service_name());
        assert_ne!(own.lock_file().unwrap(), shared.lock_file().unwrap());
    }

    #[test]
    fn no_failure_of_the_keychain_shows_what_it_held() {
        let item = Item::own("service", "account").unwrap();
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
