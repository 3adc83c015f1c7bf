//! The context that all commands share.

use crate::arguments::SelectionArguments;
use crate::harden::Limits;
use crate::interrupt::Interrupts;
use crate::terminal::Terminal;

/// The context of a command. `main` makes it once.
#[derive(Clone)]
pub(crate) struct Context {
    /// The tokens that the command works on.
    pub(crate) selection: SelectionArguments,
    /// The limits for programs that the command starts.
    pub(crate) limits: Limits,
    pub(crate) terminal: Terminal,
    pub(crate) interrupts: Interrupts,
}

#[cfg(test)]
impl Context {
    pub(crate) fn for_tests() -> Self {
        let interrupts = Interrupts::default();
        Self {
            selection: SelectionArguments { profile: None, store: None, allow_prompt: false },
            limits: crate::harden::harden(),
            terminal: Terminal::new(interrupts.clone()),
            interrupts,
        }
    }
}
