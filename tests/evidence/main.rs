//! Every promise of README, docs/ and SECURITY.md, tried where it would break: processes killed and system
//! calls failed one by one, power cut at every write, memory read, secrets looked for. On Linux, which has
//! the tools for that.

#![cfg(target_os = "linux")]
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "these are tests, and their tokens are made up"
)]

#[allow(dead_code, reason = "it is shared with the other tests")]
#[path = "../fleet/bucket_server.rs"]
mod bucket_server;
mod canaries;
mod cli_home;
mod clocks;
mod faults;
mod figures;
mod kills;
mod leaks;
mod memory;
#[allow(dead_code, reason = "it is shared with the other tests")]
#[path = "../fleet/postgres_server.rs"]
mod postgres_server;
mod power_loss;
#[allow(dead_code, reason = "it is shared with the other tests")]
#[path = "../fleet/proxy.rs"]
mod proxy;
mod scarcity;
mod scenes;
mod servers;
#[allow(dead_code, reason = "it is shared with the other tests")]
#[path = "../behaviour/session.rs"]
mod session;
mod soak;
mod stages;
#[allow(dead_code, reason = "it is shared with the other tests")]
#[path = "../behaviour/support.rs"]
mod support;
#[allow(dead_code, reason = "it is shared with the other tests")]
#[path = "../behaviour/token_server.rs"]
mod token_server;
mod trace;
