//! The command `tokenkeep`: keeps auth tokens, for people and for scripts. It is a library only for its own
//! binary and for fuzzing.

mod arguments;
mod commands;
mod context;
mod describe;
mod failure;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod harden;
mod interrupt;
mod known_providers;
mod output;
mod parallel;
mod profile;
mod provider;
mod refreshing;
mod runtime;
mod selection;
mod target;
mod terminal;

use std::process::ExitCode;

use crate::arguments::{Cli, Command};
use crate::context::Context;
use crate::interrupt::Interrupts;
use crate::terminal::Terminal;

/// Runs the command with the arguments of this process.
#[must_use]
pub fn main() -> ExitCode {
    let limits = harden::harden();
    let interrupts = Interrupts::default();
    let terminal = Terminal::new(interrupts.clone());
    let Cli { selection, verbose, command } = match arguments::read() {
        Ok(cli) => cli,
        Err(error) => return arguments::report(&error, &terminal),
    };
    // At a sign-in there is a person to read it.
    let is_verbose = verbose || matches!(command, Command::Login(_));
    let context = Context::new(selection, limits, terminal, interrupts, is_verbose);
    let terminal = &context.terminal;
    let done = match runtime::runtime() {
        Ok(runtime) => runtime.block_on(terminal.patiently(commands::run(&context, command))),
        Err(error) => Err(error.into()),
    };
    terminal.stop_working();
    terminal.forget_passphrases();
    let code = done.unwrap_or_else(|failure| context.advise(failure).report(terminal));
    context.interrupts.end_if_caught();
    code
}
