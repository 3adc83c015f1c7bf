//! Whether the keychain can be used, found out without raising a prompt.

#[cfg(all(unix, not(target_vendor = "apple")))]
mod secret_service;

#[cfg(all(unix, not(target_vendor = "apple")))]
use std::time::Duration;

use super::state::KeychainState;
use crate::sys::blocking;

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
    let probed = super::worker::run_abandonable(DEADLINE, || secret_service::probe(TIMEOUT));
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
