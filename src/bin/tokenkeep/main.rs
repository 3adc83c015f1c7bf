//! Keeps auth tokens, for people and for scripts.

mod arguments;
mod commands;
mod failure;
mod harden;
mod profile;
mod provider;
mod slot;
mod terminal;

use std::process::ExitCode;

use clap::Parser;

use crate::arguments::Cli;

fn main() -> ExitCode {
    let limits = harden::harden();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return arguments::report(&error),
    };
    // One thread: what blocks has the runtime's pool, and nothing here needs more.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = match runtime {
        Ok(runtime) => runtime.block_on(commands::run(cli, limits)),
        Err(error) => Err(error.into()),
    };
    terminal::stop_working();
    match done {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}
