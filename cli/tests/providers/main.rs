//! Signing in and staying signed in at authorization servers that others wrote.

#![cfg(target_os = "linux")]
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "these are tests, and their tokens are made up"
)]

mod client_authentication;
mod client_certificate;
mod discovery;
mod no_refresh_token;
mod parameters;
mod records;
mod refused_services;
mod sessions;
mod visits;

use tokenkeep_test_support::{home, real_provider};
