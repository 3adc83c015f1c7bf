//! Tests of the command with real files, processes and terminals, a real keychain, and a test provider.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "these are tests, and their tokens are made up"
)]

mod access_lists;
mod blank_options;
mod certificates;
mod client_certificates;
mod command;
mod command_errors;
mod credential_manager;
mod discovery;
mod hostile_texts;
mod imports;
mod interrupt;
mod keychain_items;
mod linked_profiles;
mod login;
mod migrate_all;
mod neighbours;
mod odd_places;
mod own_client;
mod profile_remove;
mod provider_answers;
mod provider_pages;
mod proxies;
mod readme;
mod refresh_command;
mod sign_in_again;
mod slow_server;
mod terminal;
mod unreplaceable_slots;
mod waits;

#[cfg(unix)]
use tokenkeep_test_support::certificates as issuing;
#[cfg(all(unix, not(target_vendor = "apple")))]
use tokenkeep_test_support::session;
#[cfg(unix)]
use tokenkeep_test_support::token_server;
use tokenkeep_test_support::{self as support, home};
#[cfg(target_os = "linux")]
use tokenkeep_test_support::{figures, forward_proxy};
