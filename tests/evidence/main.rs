//! Every promise of README and SECURITY.md, tried where it would break: processes killed and system
//! calls failed one by one, power cut at every write, memory read, secrets looked for. On Linux, which has
//! the tools for that.

#![cfg(target_os = "linux")]
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "these are tests, and their tokens are made up"
)]

mod canaries;
mod cli_home;
mod clocks;
mod faults;
mod figures;
mod kills;
mod leaks;
mod memory;
mod power_loss;
mod scarcity;
mod scenes;
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
