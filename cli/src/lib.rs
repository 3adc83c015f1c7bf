//! The command `tokenkeep`: keeps auth tokens, for people and for scripts. It is a library only for its own
//! binary and for fuzzing.

mod arguments;
mod commands;
mod failure;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod harden;
mod interrupt;
mod profile;
mod provider;
mod session;
mod side_by_side;
mod slot;
mod terminal;

use std::process::ExitCode;

use clap::Parser;
use tokio::runtime::{Builder, Runtime};

use crate::arguments::Cli;
use crate::failure::Failure;

/// Runs the command that this process was started with.
pub fn main() -> ExitCode {
    let limits = harden::harden();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return arguments::report(&error),
    };
    let done = match runtime() {
        Ok(runtime) => runtime.block_on(terminal::patiently(commands::run(cli, limits))),
        Err(error) => Err(error.into()),
    };
    terminal::stop_working();
    terminal::forget_passphrases();
    let code = done.unwrap_or_else(Failure::report);
    interrupt::end_if_caught();
    code
}

/// Two threads, one for what blocks: nothing is done at once with anything else, and so each run
/// makes its system calls in the same order.
fn runtime() -> std::io::Result<Runtime> {
    Builder::new_current_thread().enable_all().max_blocking_threads(1).build()
}
