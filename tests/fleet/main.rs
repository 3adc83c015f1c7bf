//! The stores that whole fleets share, against real servers: PostgreSQL, S3 and Azure.

#![cfg(target_os = "linux")]
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "these are tests, and their tokens are made up"
)]

mod bucket;
mod bucket_server;
mod command;
mod contract;
mod faults;
mod google_server;
mod hosts;
mod postgres;
mod postgres_server;
#[allow(dead_code, reason = "it is shared with the other tests")]
#[path = "../behaviour/provider.rs"]
mod provider;
mod proxy;
#[allow(dead_code, reason = "it is shared with the other tests")]
#[path = "../behaviour/session.rs"]
mod session;
#[allow(dead_code, reason = "it is shared with the other tests")]
#[path = "../behaviour/support.rs"]
mod support;
mod world;
