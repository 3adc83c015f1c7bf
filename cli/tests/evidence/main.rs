//! Tests of every promise of README, docs/ and SECURITY.md under faults: kills at each system call, failing
//! system calls, power cuts at every write, reads of memory, and searches for secrets. They run on Linux,
//! which has the tools for this.

#![cfg(target_os = "linux")]
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "these are tests, and their tokens are made up"
)]

mod canaries;
mod clocks;
mod faults;
mod hostile;
mod kills;
mod leaks;
mod memory;
mod power_loss;
mod providers;
mod scarcity;
mod scenes;
mod servers;
mod soak;
mod stages;
mod trace;

use tokenkeep_test_support::{
    self as support, bucket_server, figures, home, hostile_server, postgres_server, session,
    token_server,
};
