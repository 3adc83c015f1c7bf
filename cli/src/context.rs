//! The context that all commands share.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokenkeep::oauth2::OAuth2Client;

use crate::arguments::SelectionArguments;
use crate::failure::Failure;
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
    /// Whether to show what the provider says when it refuses something.
    pub(crate) is_verbose: bool,
    /// How to sign in again, for the tokens that the command works on.
    sign_in: Arc<OnceLock<String>>,
    /// What the provider said last.
    said: Arc<Mutex<String>>,
}

impl Context {
    pub(crate) fn new(
        selection: SelectionArguments,
        limits: Limits,
        terminal: Terminal,
        interrupts: Interrupts,
        is_verbose: bool,
    ) -> Self {
        Self {
            selection,
            limits,
            terminal,
            interrupts,
            is_verbose,
            sign_in: Arc::default(),
            said: Arc::default(),
        }
    }

    /// Sets how to sign in again. The first call counts.
    pub(crate) fn set_sign_in(&self, how: String) {
        let _ = self.sign_in.set(how);
    }

    /// Adds the command to a text that says to sign in again.
    pub(crate) fn advised(&self, text: &str) -> String {
        self.sign_in.get().map_or_else(|| text.to_owned(), |how| advised(text, how))
    }

    /// Adds the command to a failure that says to sign in again.
    pub(crate) fn advise(&self, failure: Failure) -> Failure {
        let message = self.advised(failure.message());
        failure.with_message(message)
    }

    /// Returns the client, which shows what the provider says if the command is verbose.
    pub(crate) fn reporting(&self, client: OAuth2Client) -> OAuth2Client {
        if !self.is_verbose {
            return client;
        }
        let (terminal, said) = (self.terminal.clone(), self.said.clone());
        client.with_report(move |refusal| {
            let says = refusal.to_string();
            let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
            // A request may be sent again, and refused again.
            if *said != says {
                terminal.say(&format!("tokenkeep: {says}"));
                *said = says;
            }
        })
    }
}

/// Adds a command to a text that says to sign in again.
pub(crate) fn advised(text: &str, how: &str) -> String {
    let advice = ["sign in again", "sign in first"].into_iter().find(|it| text.contains(it));
    advice.map_or_else(|| text.to_owned(), |it| text.replacen(it, &format!("{it}{how}"), 1))
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
            is_verbose: false,
            sign_in: Arc::default(),
            said: Arc::default(),
        }
    }
}
