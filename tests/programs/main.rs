//! Files that other programs wrote, and what the import takes over of them.

#![cfg(target_os = "linux")]
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "these are tests, and their tokens are made up"
)]

mod commands;
mod compiled;
mod scripts;
mod taken;
mod writers;
