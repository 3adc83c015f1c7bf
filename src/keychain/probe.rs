//! Checks whether the keychain can be used, without raising a prompt.

#[cfg(all(unix, not(target_vendor = "apple")))]
mod bus;
#[cfg(all(unix, not(target_vendor = "apple")))]
mod kwallet;
#[cfg(all(unix, not(target_vendor = "apple")))]
mod secret_service;

#[cfg(all(unix, not(target_vendor = "apple")))]
use std::time::Duration;

use super::state::KeychainState;
use crate::sys::blocking;

/// Returns whether the keychain can be used. It takes less than 2 seconds and raises no prompt. A collection
/// that is locked is unlocked if that raises no prompt, as with an open wallet of KWallet.
///
/// Credential Manager and the login keychain of macOS are parts of their systems, and count as available.
/// Only a call shows whether macOS has locked the keychain.
pub async fn probe_keychain() -> KeychainState {
    let probed = blocking::run("keychain", || Ok(probe())).await;
    probed.unwrap_or(KeychainState::NotAnswering)
}

/// The limit for the whole check, because a person waits for it.
#[cfg(all(unix, not(target_vendor = "apple")))]
const DEADLINE: Duration = Duration::from_millis(1500);

/// The limit for each request to the provider. The first request may start the provider.
#[cfg(all(unix, not(target_vendor = "apple")))]
const TIMEOUT: Duration = Duration::from_millis(1200);

/// The limit for each request before a call. The whole call may take 3 s.
#[cfg(all(unix, not(target_vendor = "apple")))]
const TIMEOUT_OF_A_CALL: Duration = Duration::from_millis(2500);

#[cfg(all(unix, not(target_vendor = "apple")))]
fn probe() -> KeychainState {
    let probed = super::worker::run_abandonable(DEADLINE, || secret_service::probe(TIMEOUT));
    probed.unwrap_or(KeychainState::NotAnswering)
}

/// iOS and its relatives have a keychain, but no client of it is built in. Other systems have none.
#[cfg(any(target_vendor = "apple", not(unix)))]
fn probe() -> KeychainState {
    if cfg!(any(target_os = "macos", windows)) {
        KeychainState::Available
    } else {
        KeychainState::Unsupported
    }
}

/// Returns [`KeychainState::Available`] if an item can be read or created now, and otherwise why not. A
/// locked collection is unlocked first if that raises no prompt. `prompts` says whether the client may raise
/// prompts.
///
/// This is needed because the client of the Secret Service unlocks a locked collection without being asked
/// to. That raises a prompt, and the client waits for an answer without a limit.
#[cfg(all(unix, not(target_vendor = "apple")))]
pub(super) fn state_of(service: &str, account: &str, prompts: bool) -> KeychainState {
    secret_service::state_of(service, account, prompts, TIMEOUT_OF_A_CALL)
}

/// The keychains of these systems report this themselves.
#[cfg(any(target_vendor = "apple", not(unix)))]
pub(super) fn state_of(_service: &str, _account: &str, _prompts: bool) -> KeychainState {
    probe()
}
