//! The stores that fleets share, tested with real servers: PostgreSQL, S3 and Azure.

#![cfg(target_os = "linux")]
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "these are tests, and their tokens are made up"
)]

mod authenticity;
mod bucket;
mod contract;
mod faults;
mod hosts;
mod postgres;
mod rekey;
mod sockets;

use tokenkeep_test_support::{
    self as support, bucket_server, fleet as world, google_server, postgres_server, provider,
    proxy, session,
};
