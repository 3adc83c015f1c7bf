//! The OS keychain, and items in it.

mod connection;
mod failure;
mod probe;
mod state;
mod worker;

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use keyring_core::{CredentialStore, Entry, Error};
use zeroize::Zeroizing;

use self::failure::Failure;
pub use self::probe::probe_keychain;
pub use self::state::KeychainState;
use crate::error::StoreError;
use crate::private_file::{self, FileLock};
use crate::sys::directories::state_directory;
use crate::sys::wipe::Bytes;

/// Marks the items that are a [`KeychainStore`](crate::stores::KeychainStore)'s own. They go when the store
/// is cleared, so nothing else may be kept under such a name.
const OWN: &str = "tokenkeep:";

/// Without a prompt a keychain answers within milliseconds.
const DEADLINE: Duration = Duration::from_secs(3);

/// How long a person may take for a prompt.
const DEADLINE_WITH_PROMPT: Duration = Duration::from_secs(120);

/// An item of the keychain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    service: String,
    account: String,
    kind: Kind,
    prompts: bool,
}

/// What an item holds, and who put it there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Something that another program keeps there.
    Foreign,
    /// The key of one slot, that nobody else's records are sealed to.
    OwnKey,
    /// A key that any number of records may be sealed to.
    SharedKey,
}

impl Item {
    pub(crate) fn new(service: &str, account: &str, kind: Kind) -> Result<Self, StoreError> {
        let reason = if service.is_empty() || account.is_empty() {
            "a keychain item needs a service and an account"
        } else if service.starts_with(OWN) {
            "names that begin with \"tokenkeep:\" are for the keys of keychain stores"
        } else {
            let (service, account) = (service.to_owned(), account.to_owned());
            return Ok(Self { service, account, kind, prompts: false });
        };
        let (place, advice) = ("keychain".into(), "choose other names".into());
        Err(StoreError::Unavailable { place, reason: reason.into(), advice })
    }

    /// The same item, for a program with a person in front of it.
    pub(crate) fn with_prompts(mut self) -> Self {
        self.prompts = true;
        self
    }

    /// The file of that extension in this user's state directory that goes with this item.
    pub(crate) fn state_file(&self, extension: &str) -> Result<PathBuf, StoreError> {
        Ok(state_directory()?.join(relative(&self.service, &self.account, extension)))
    }

    /// Reads what it holds: `None` if there is no such item.
    pub(crate) fn read(&self) -> Result<Option<Bytes>, StoreError> {
        self.read_holding(None)
    }

    /// Reads what it holds under its lock.
    pub(crate) fn read_under(&self, held: &Arc<FileLock>) -> Result<Option<Bytes>, StoreError> {
        self.read_holding(Some(held))
    }

    /// Fills it, making it if need be.
    pub(crate) fn write_under(
        &self,
        held: &Arc<FileLock>,
        secret: Bytes,
    ) -> Result<(), StoreError> {
        self.call(Some(held), move |entry| entry.set_secret(&secret)).map(drop)
    }

    /// Removes it if what it holds passes a check, which is made in the same breath: a call that
    /// nobody waits for any more must not remove what was put there since. Removing none succeeds.
    pub(crate) fn delete_under<E: Send + 'static>(
        &self,
        held: &Arc<FileLock>,
        check: impl Fn(Option<&[u8]>) -> Result<(), E> + Send + 'static,
    ) -> Result<Result<(), E>, StoreError> {
        let deleted = self.call(Some(held), move |entry| {
            let secret = match entry.get_secret().map(Zeroizing::new) {
                Err(Error::NoEntry) => return Ok(check(None)),
                secret => secret?,
            };
            match check(Some(&secret)) {
                Ok(()) => entry.delete_credential().map(Ok),
                refused => Ok(refused),
            }
        })?;
        Ok(deleted.unwrap_or(Ok(())))
    }

    /// Keeps other processes of ours away from the item.
    pub(crate) fn lock(&self) -> Result<Arc<FileLock>, StoreError> {
        private_file::exclusive(&self.lock_file()?).map(Arc::new)
    }

    /// Tells whether the item was ever locked, and so whether it was ever made by us.
    pub(crate) fn was_locked(&self) -> Result<bool, StoreError> {
        Ok(self.lock_file()?.exists())
    }

    fn lock_file(&self) -> Result<PathBuf, StoreError> {
        self.state_file(match self.kind {
            Kind::Foreign => "item.lock",
            Kind::OwnKey => "key.lock",
            Kind::SharedKey => "shared-key.lock",
        })
    }

    fn read_holding(&self, held: Option<&Arc<FileLock>>) -> Result<Option<Bytes>, StoreError> {
        self.call(held, |entry| entry.get_secret().map(Zeroizing::new))
    }

    /// Does something with the item on the keychain's own thread; `None` if there is none. Unless
    /// prompts are allowed, what would raise one is not done.
    ///
    /// A call that nobody waits for any more may still take effect. So it keeps hold of the lock
    /// that it was made under until it is over.
    fn call<T: Send + 'static>(
        &self,
        held: Option<&Arc<FileLock>>,
        work: impl Fn(&Entry) -> keyring_core::Result<T> + Send + 'static,
    ) -> Result<Option<T>, StoreError> {
        let checked = self.clone();
        let check = move || match probe::state_of(
            &checked.service_name(),
            &checked.account,
            checked.prompts,
        ) {
            KeychainState::Available => Ok(()),
            state => Err(Failure::State(state)),
        };
        let (item, held) = (self.clone(), held.cloned());
        let work = move |keychain: &CredentialStore| {
            let _held = &held;
            work(&item.entry(keychain)?)
        };
        let deadline = if self.prompts { DEADLINE_WITH_PROMPT } else { DEADLINE };
        match worker::call(deadline, check, work) {
            Ok(done) => Ok(Some(done)),
            Err(Failure::Keychain(Error::NoEntry)) => Ok(None),
            Err(failure) => Err(failure.explain(self.to_string(), &self.keep(), self.prompts)),
        }
    }

    fn entry(&self, keychain: &CredentialStore) -> keyring_core::Result<Entry> {
        let (label, target) = (self.label(), self.target());
        let modifiers: HashMap<&str, &str> = if self.kind == Kind::Foreign {
            // Found under the names that the `keyring` crate and others give it.
            HashMap::new()
        } else if cfg!(windows) {
            // Persistence is local, because the default one roams.
            HashMap::from([("target", target.as_str()), ("persistence", "Local")])
        } else if cfg!(target_os = "macos") {
            HashMap::new()
        } else {
            HashMap::from([("label", label.as_str())])
        };
        keychain.build(&self.service_name(), &self.account, Some(&modifiers))
    }

    /// The service, as the keychain knows it.
    fn service_name(&self) -> String {
        format!("{}{}", if self.kind == Kind::OwnKey { OWN } else { "" }, self.service)
    }

    /// What people see in the system's own tool.
    fn label(&self) -> String {
        format!("tokenkeep: {} of {}/{}", self.what(), self.service, self.account)
    }

    /// The name of a Windows credential. It is all that tells credentials apart, and knows no case;
    /// the default one joins user and service with a dot.
    fn target(&self) -> String {
        let (service, account) = (file_name(&self.service), file_name(&self.account));
        format!("tokenkeep: {} of {service}/{account}", self.what())
    }

    fn what(&self) -> &'static str {
        if self.kind == Kind::OwnKey { "key" } else { "shared key" }
    }

    /// Which of several items of this name is to be kept.
    fn keep(&self) -> String {
        match self.kind {
            Kind::Foreign => "the one that holds the tokens".into(),
            Kind::OwnKey | Kind::SharedKey => {
                format!("the one with the label \"{}\"", self.label())
            }
        }
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "keychain item {}/{}", self.service_name(), self.account)
    }
}

/// A path for what belongs to these names and to no others.
pub(crate) fn relative(service: &str, account: &str, extension: &str) -> PathBuf {
    PathBuf::from(file_name(service)).join(format!("{}.{extension}", file_name(account)))
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
        assert!(Item::new("", "a", Kind::OwnKey).is_err());
        assert!(Item::new("a", "", Kind::OwnKey).is_err());
    }

    #[test]
    fn no_other_item_can_have_the_name_of_a_stores_own_key() {
        let own = Item::new("service", "account", Kind::OwnKey).unwrap();
        for kind in [Kind::Foreign, Kind::SharedKey] {
            assert!(Item::new(&own.service_name(), "account", kind).is_err());
            let other = Item::new("service", "account", kind).unwrap();
            assert_ne!(own.service_name(), other.service_name());
            assert_ne!(own.lock_file().unwrap(), other.lock_file().unwrap());
        }
    }

    #[test]
    fn no_two_items_have_the_same_windows_credential() {
        let names = [("a/b", "c"), ("a", "b/c"), ("a%2fb", "c"), ("A", "b/c")];
        let targets: std::collections::HashSet<String> = names
            .into_iter()
            .flat_map(|(service, account)| {
                [Kind::OwnKey, Kind::SharedKey]
                    .map(|kind| Item::new(service, account, kind).unwrap().target().to_lowercase())
            })
            .collect();
        assert_eq!(targets.len(), 2 * names.len(), "{targets:?}");
    }
}
