//! Keeps auth tokens, for people and for scripts.

mod arguments;
mod commands;
mod draft;
mod failure;
mod harden;
mod profile;
mod provider;
mod side_by_side;
mod slot;
mod terminal;

use std::process::ExitCode;

use clap::Parser;
use tokio::runtime::{Builder, Runtime};

use crate::arguments::Cli;

fn main() -> ExitCode {
    let limits = harden::harden();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return arguments::report(&error),
    };
    let done = match runtime() {
        Ok(runtime) => runtime.block_on(commands::run(cli, limits)),
        Err(error) => Err(error.into()),
    };
    terminal::stop_working();
    terminal::forget_passphrases();
    match done {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}

/// Two threads, one for what blocks: nothing is done at once with anything else, and so each run
/// makes its system calls in the same order.
fn runtime() -> std::io::Result<Runtime> {
    Builder::new_current_thread().enable_all().max_blocking_threads(1).build()
}
