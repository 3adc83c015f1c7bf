//! What users rely on, tried through the public interface: real files, real processes that are
//! really killed, a real keychain, and the stock `age`.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "these are tests, and their tokens are made up"
)]

mod age_tool;
mod broken_slots;
mod cancellation;
mod conformance;
mod default_store;
mod discovery;
mod faults;
mod file_privacy;
mod keychain;
mod keychain_states;
mod keys;
mod kill_points;
mod logout;
mod manager;
mod oauth2;
mod other_users_bus;
mod own_tokens;
mod processes;
mod protocol_model;
mod refresh;
mod refresh_doubt;
mod refresh_executors;
mod refresh_files;
mod refresh_lease;
mod refresh_model;
mod refresh_processes;
mod refresh_races;
mod refresh_state;
mod reserved_room;
mod secret_service_providers;
mod tower;
mod transfer;
mod world;

#[cfg(all(unix, not(target_vendor = "apple")))]
use tokenkeep_test_support::session;
use tokenkeep_test_support::{self as support, clock, faulty_store, provider, token_server};
