//! What users rely on, tried through the public interface: real files, real processes that are
//! really killed, a real keychain, and the stock `age`.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "these are tests, and their tokens are made up"
)]

mod access_lists;
mod age_tool;
mod broken_slots;
mod cancellation;
mod clock;
mod command;
mod command_errors;
mod conformance;
mod credential_manager;
mod default_store;
mod faults;
mod file_privacy;
mod interrupt;
mod keychain;
mod keychain_items;
mod keychain_states;
mod keys;
mod kill_points;
mod login;
mod logout;
mod manager;
mod migrate_all;
mod oauth2;
mod processes;
mod protocol_model;
mod provider;
mod readme;
mod refresh;
mod refresh_command;
mod refresh_doubt;
mod refresh_executors;
mod refresh_files;
mod refresh_lease;
mod refresh_model;
mod refresh_processes;
mod refresh_races;
mod refresh_state;
mod reserved_room;
mod session;
mod support;
mod terminal;
mod token_server;
mod tower;
mod transfer;
mod unreplaceable_slots;
mod world;
