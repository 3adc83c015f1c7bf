//! Every promise of README, docs/ and SECURITY.md, tried where it would break: processes killed and system
//! calls failed one by one, power cut at every write, memory read, secrets looked for. On Linux, which has
//! the tools for that.

#![cfg(target_os = "linux")]
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "these are tests, and their tokens are made up"
)]

mod canaries;
mod clocks;
mod faults;
mod figures;
mod kills;
mod leaks;
mod memory;
mod power_loss;
mod scarcity;
mod scenes;
mod servers;
mod soak;
mod stages;
mod trace;

use tokenkeep_test_support::{
    self as support, bucket_server, home, postgres_server, session, token_server,
};
