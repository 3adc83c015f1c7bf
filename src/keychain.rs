//! The OS keychain, and whether it can be used.
//! This module needs the feature `keychain`, which is on by default. After `--no-default-features`, turn it
//! on with `cargo add tokenkeep --features keychain`. The store is
//! [`KeychainStore`](crate::stores::KeychainStore). Its states are explained in
//! [the guide](crate::docs::guide#when-the-keychain-cannot-be-used).

mod connection;
mod failure;
mod probe;
mod state;
mod trial;
mod turn;
mod worker;

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use keyring_core::{CredentialStore, Entry, Error};
use zeroize::Zeroizing;

use self::failure::Failure;
pub use self::probe::probe_keychain;
pub use self::state::KeychainState;
pub(crate) use self::trial::try_item;
use crate::error::StoreError;
use crate::printable::OneLine;
use crate::private_file::{self, FileLock};
use crate::sys::directories::state_directory;
use crate::sys::wipe::Bytes;

/// The prefix of the items of a [`KeychainStore`](crate::stores::KeychainStore). They are removed when the
/// store is cleared, so no other item may have such a name.
const OWN: &str = "tokenkeep:";

/// How long a call without a prompt may take. A keychain answers within milliseconds.
const DEADLINE: Duration = Duration::from_secs(3);

/// How long to wait for other processes that use the keychain, or the same item. 64 processes that start at
/// once on 2 cores need a few seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a call with a prompt may take: the time for a person to answer.
const DEADLINE_WITH_PROMPT: Duration = Duration::from_secs(120);

/// An item of the keychain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    service: String,
    account: String,
    kind: Kind,
    prompts: bool,
}

/// The content of an item, and which program made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An item of another program.
    Foreign,
    /// The key of one slot. No other records are sealed to it.
    OwnKey,
    /// A key to which any number of records may be sealed.
    SharedKey,
    /// An item that is removed as soon as it was read.
    Trial,
}

impl Item {
    pub(crate) fn new(service: &str, account: &str, kind: Kind) -> Result<Self, StoreError> {
        let reason = if service.is_empty() || account.is_empty() {
            "a keychain item needs a service and an account"
        } else if service.starts_with(OWN) {
            "names that begin with \"tokenkeep:\" are reserved for the keys of keychain stores"
        } else {
            let (service, account) = (service.to_owned(), account.to_owned());
            return Ok(Self { service, account, kind, prompts: false });
        };
        let (place, advice) = ("keychain".into(), "choose other names".into());
        Err(StoreError::Unavailable { place, reason: reason.into(), advice })
    }

    /// Returns the same item with prompts allowed, for a program with a person at the screen.
    pub(crate) fn with_prompts(mut self) -> Self {
        self.prompts = true;
        self
    }

    /// Returns the path of this item's file with that extension, in this user's state directory.
    pub(crate) fn state_file(&self, extension: &str) -> Result<PathBuf, StoreError> {
        Ok(state_directory()?.join(relative(&self.service, &self.account, extension)))
    }

    /// Reads the content. Returns `None` if there is no such item.
    pub(crate) fn read(&self) -> Result<Option<Bytes>, StoreError> {
        self.read_holding(None)
    }

    /// Reads the content, under the lock of the item.
    pub(crate) fn read_under(&self, held: &Arc<FileLock>) -> Result<Option<Bytes>, StoreError> {
        self.read_holding(Some(held))
    }

    /// Writes the content. Creates the item if it does not exist.
    ///
    /// Some keychains ask the user before a program may read an item, but let the connection that made it read
    /// it. If prompts are not allowed, no later process could read such an item, so it is removed again.
    pub(crate) fn write_under(
        &self,
        held: &Arc<FileLock>,
        secret: Bytes,
    ) -> Result<(), StoreError> {
        let item = self.clone();
        let confirms = self.call(Some(held), move |entry| {
            entry.set_secret(&secret)?;
            let confirms = item.state() == KeychainState::ConfirmsAccess;
            if confirms {
                entry.delete_credential()?;
            }
            Ok(confirms)
        })?;
        match confirms {
            Some(true) => Err(KeychainState::ConfirmsAccess.explain(self.to_string())),
            _ => Ok(()),
        }
    }

    /// Removes the item if its content passes a check. Succeeds if there is no item.
    ///
    /// The check is done right before the removal, because an abandoned call must not remove a later content.
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

    /// Returns the error of a keychain that did not keep what was just put into it.
    pub(crate) fn lost(&self, harm: &str) -> StoreError {
        StoreError::Unavailable {
            place: self.to_string(),
            reason: "the keychain did not keep what was just put into it".into(),
            advice: format!("check the keychain, or use an age file; {harm}"),
        }
    }

    /// Locks the item for other processes that use this crate.
    pub(crate) fn lock(&self) -> Result<Arc<FileLock>, StoreError> {
        private_file::exclusive(&self.lock_file()?, PATIENCE).map(Arc::new)
    }

    /// Returns whether the item was ever locked. If it was not, this crate never made it.
    pub(crate) fn was_locked(&self) -> Result<bool, StoreError> {
        Ok(self.lock_file()?.exists())
    }

    fn lock_file(&self) -> Result<PathBuf, StoreError> {
        match self.kind {
            Kind::Foreign => self.state_file("item.lock"),
            Kind::OwnKey => self.state_file("key.lock"),
            Kind::SharedKey => self.state_file("shared-key.lock"),
            Kind::Trial => Ok(state_directory()?.join(trial::LOCK)),
        }
    }

    fn state(&self) -> KeychainState {
        probe::state_of(&self.service_name(), &self.account, self.prompts)
    }

    fn read_holding(&self, held: Option<&Arc<FileLock>>) -> Result<Option<Bytes>, StoreError> {
        self.call(held, |entry| entry.get_secret().map(Zeroizing::new))
    }

    /// Does something with the item, on the thread for the keychain. Returns `None` if there is no item. If
    /// prompts are not allowed, a call that would raise one fails.
    ///
    /// An abandoned call may still take effect. So it holds its lock until it is finished.
    fn call<T: Send + 'static>(
        &self,
        held: Option<&Arc<FileLock>>,
        work: impl Fn(&Entry) -> keyring_core::Result<T> + Send + 'static,
    ) -> Result<Option<T>, StoreError> {
        let checked = self.clone();
        let check = move || match checked.state() {
            KeychainState::Available => Ok(()),
            state => Err(Failure::State(state)),
        };
        let (item, held) = (self.clone(), held.cloned());
        let work = move |keychain: &CredentialStore| {
            let _held = &held;
            work(&item.entry(keychain)?)
        };
        let called = if self.prompts {
            // A prompt may wait for minutes. Others do not wait for it.
            worker::call(DEADLINE_WITH_PROMPT, check, work)
        } else {
            turn::wait(PATIENCE).and_then(|_turn| worker::call(DEADLINE, check, work))
        };
        match called {
            Ok(done) => Ok(Some(done)),
            Err(Failure::Keychain(Error::NoEntry)) => Ok(None),
            Err(failure) => Err(failure.explain(self.to_string(), &self.keep(), self.prompts)),
        }
    }

    fn entry(&self, keychain: &CredentialStore) -> keyring_core::Result<Entry> {
        let (label, target) = (self.label(), self.target());
        let modifiers: HashMap<&str, &str> = if self.kind == Kind::Foreign {
            // The item is found by the names that the `keyring` crate and other programs give it.
            HashMap::new()
        } else if cfg!(windows) {
            // The persistence is local. With the default, the item would roam to other machines.
            HashMap::from([("target", target.as_str()), ("persistence", "Local")])
        } else if cfg!(target_os = "macos") {
            HashMap::new()
        } else {
            HashMap::from([("label", label.as_str())])
        };
        keychain.build(&self.service_name(), &self.account, Some(&modifiers))
    }

    /// Returns the name of the service in the keychain.
    fn service_name(&self) -> String {
        let is_own = matches!(self.kind, Kind::OwnKey | Kind::Trial);
        format!("{}{}", if is_own { OWN } else { "" }, self.service)
    }

    /// Returns the label that people see in the system's own tool.
    fn label(&self) -> String {
        format!("tokenkeep: {} of {}/{}", self.what(), self.service, self.account)
    }

    /// Returns the name of a Windows credential. Credentials are distinguished only by this name, which is
    /// not case-sensitive. The default name would be the user and the service, joined by a dot.
    fn target(&self) -> String {
        let (service, account) = (file_name(&self.service), file_name(&self.account));
        format!("tokenkeep: {} of {service}/{account}", self.what())
    }

    fn what(&self) -> &'static str {
        match self.kind {
            Kind::OwnKey => "key",
            Kind::Trial => "trial",
            Kind::Foreign | Kind::SharedKey => "shared key",
        }
    }

    /// Describes the item to keep, if there are several of this name.
    fn keep(&self) -> String {
        match self.kind {
            Kind::Foreign => "the one that holds the tokens".into(),
            Kind::OwnKey | Kind::SharedKey | Kind::Trial => {
                format!("the one with the label \"{}\"", self.label())
            }
        }
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(OneLine(f), "keychain item {}/{}", self.service_name(), self.account)
    }
}

/// Returns a path that is unique for these names.
pub(crate) fn relative(service: &str, account: &str, extension: &str) -> PathBuf {
    PathBuf::from(file_name(service)).join(format!("{}.{extension}", file_name(account)))
}

/// Returns a file name that is unique for this text, also on file systems that are not case-sensitive.
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
