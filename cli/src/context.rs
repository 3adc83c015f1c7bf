//! What all commands have in common.

use crate::arguments::Slot;
use crate::harden::Limits;
use crate::interrupt::Interrupts;
use crate::terminal::Terminal;

/// What a command works with, made once by `main`.
#[derive(Clone)]
pub(crate) struct Context {
    /// Which tokens it is about.
    pub(crate) slot: Slot,
    /// The limits of the programs that it starts.
    pub(crate) limits: Limits,
    pub(crate) terminal: Terminal,
    pub(crate) interrupts: Interrupts,
}

#[cfg(test)]
impl Context {
    pub(crate) fn for_tests() -> Self {
        let interrupts = Interrupts::default();
        Self {
            slot: Slot { profile: None, store: None, allow_prompt: false },
            limits: crate::harden::harden(),
            terminal: Terminal::new(interrupts.clone()),
            interrupts,
        }
    }
}
