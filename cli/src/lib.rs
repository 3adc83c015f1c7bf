//! The command `tokenkeep`: keeps auth tokens, for people and for scripts. It is a library only for its own
//! binary and for fuzzing.

mod arguments;
mod commands;
mod describe;
mod failure;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod harden;
mod interrupt;
mod parallel;
mod profile;
mod provider;
mod refreshing;
mod runtime;
mod selection;
mod target;
mod terminal;

use std::process::ExitCode;

use clap::Parser;

use crate::arguments::Cli;
use crate::failure::Failure;

/// Runs the command that this process was started with.
pub fn main() -> ExitCode {
    let limits = harden::harden();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return arguments::report(&error),
    };
    let done = match runtime::runtime() {
        Ok(runtime) => runtime.block_on(terminal::patiently(commands::run(cli, limits))),
        Err(error) => Err(error.into()),
    };
    terminal::stop_working();
    terminal::forget_passphrases();
    let code = done.unwrap_or_else(Failure::report);
    interrupt::end_if_caught();
    code
}
