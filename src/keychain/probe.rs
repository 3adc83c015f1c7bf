//! Whether the keychain can be used, found out without raising a prompt.

#[cfg(all(unix, not(target_vendor = "apple")))]
mod secret_service;

use std::fmt;
#[cfg(all(unix, not(target_vendor = "apple")))]
use std::time::Duration;

use crate::blocking;

/// Whether the OS keychain can be used now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeychainState {
    /// It is there and unlocked.
    Available,
    /// It is there and locked; using it would raise a prompt.
    Locked,
    /// There is no session bus to reach a Secret Service on: ssh, a container, a service.
    NoBus,
    /// There is a Secret Service without a default collection to keep anything in.
    NoDefaultCollection,
    /// There is a session bus, and nothing on it offers a Secret Service.
    NoProvider,
    /// It did not answer in time.
    NotAnswering,
}

impl KeychainState {
    /// Says how to get to a keychain that can be used; nothing to do if it can be.
    #[must_use]
    pub fn advice(self) -> Option<&'static str> {
        match self {
            Self::Available => None,
            Self::Locked => Some("unlock the keychain, for instance by signing in to the desktop"),
            Self::NoBus => {
                Some("run in a desktop session, or use `dbus-run-session`, or an age file")
            }
            Self::NoDefaultCollection => {
                Some("make a default keyring, for instance with seahorse, or use an age file")
            }
            Self::NoProvider => {
                Some("install and start gnome-keyring or KWallet, or use an age file")
            }
            Self::NotAnswering => Some("restart the keychain's service, or sign in again"),
        }
    }

    /// Tells whether there is no keychain here, as opposed to one that is locked or slow.
    #[must_use]
    pub fn is_absent(self) -> bool {
        matches!(self, Self::NoBus | Self::NoDefaultCollection | Self::NoProvider)
    }
}

impl fmt::Display for KeychainState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Available => "works",
            Self::Locked => "locked",
            Self::NoBus => "no bus",
            Self::NoDefaultCollection => "no default collection",
            Self::NoProvider => "no provider",
            Self::NotAnswering => "not answering",
        })
    }
}

/// Finds out whether the keychain can be used, in less than 2 seconds and without raising a prompt.
///
/// Credential Manager and the login keychain are part of their systems and count as available;
/// only a call shows whether macOS locked it.
pub async fn probe_keychain() -> KeychainState {
    let probed = blocking::run("keychain", || Ok(probe())).await;
    probed.unwrap_or(KeychainState::NotAnswering)
}

/// A person waits for it.
#[cfg(all(unix, not(target_vendor = "apple")))]
const DEADLINE: Duration = Duration::from_millis(1500);

/// For each question to the provider; the first one may start it.
#[cfg(all(unix, not(target_vendor = "apple")))]
const TIMEOUT: Duration = Duration::from_millis(1200);

/// The same before a call, which may take 3 seconds in all.
#[cfg(all(unix, not(target_vendor = "apple")))]
const TIMEOUT_OF_A_CALL: Duration = Duration::from_millis(2500);

#[cfg(all(unix, not(target_vendor = "apple")))]
fn probe() -> KeychainState {
    let probed = super::worker::aside(DEADLINE, || secret_service::probe(TIMEOUT));
    probed.unwrap_or(KeychainState::NotAnswering)
}

#[cfg(any(target_vendor = "apple", not(unix)))]
fn probe() -> KeychainState {
    KeychainState::Available
}

/// Finds out what keeps an item from being read or made, without raising a prompt:
/// [`KeychainState::Available`] if nothing does. `prompts` says that the client may raise some.
///
/// The Secret Service's client unlocks what it finds locked without being asked to, which raises a
/// prompt; and it waits for ever for an answer.
#[cfg(all(unix, not(target_vendor = "apple")))]
pub(super) fn state_of(service: &str, account: &str, prompts: bool) -> KeychainState {
    secret_service::state_of(service, account, prompts, TIMEOUT_OF_A_CALL)
}

/// The systems' own keychains tell that themselves.
#[cfg(any(target_vendor = "apple", not(unix)))]
pub(super) fn state_of(_service: &str, _account: &str, _prompts: bool) -> KeychainState {
    KeychainState::Available
}
