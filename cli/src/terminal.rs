//! The terminal: prompts, messages and progress. Secrets that the user types are not shown.

mod hidden;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::future::Future;
use std::io::{self, IsTerminal, Write};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;
use tokenkeep::error::escape_hidden;
use tokenkeep::secrecy::SecretString;
use tokio::time::Instant;

pub(crate) use self::hidden::{input_line, unbuffered_input};
use crate::interrupt::Interrupts;
use crate::output;

/// Holds the passphrase where there is no terminal to type it on.
pub(crate) const PASSPHRASE_VARIABLE: &str = "TOKENKEEP_PASSPHRASE";

/// The text that is shown while the command waits for the provider.
pub(crate) const FOR_PROVIDER: &str = "waiting for the provider";

/// How long a command waits in silence before it shows progress.
const PATIENCE: Duration = Duration::from_secs(2);

/// Asks and shows things for a command. All clones share one state.
#[derive(Clone)]
pub(crate) struct Terminal(Arc<Shared>);

struct Shared {
    interrupts: Interrupts,
    /// The progress display: a spinner, or a bar that has a length.
    progress: Mutex<Option<ProgressBar>>,
    /// What the command waits for, if it is not the usual thing.
    waiting: Mutex<Option<&'static str>>,
    /// The passphrases typed so far, by what they open: nobody should type one twice.
    typed: Mutex<BTreeMap<String, SecretString>>,
    /// Whether a prompt is open. Nothing else is shown meanwhile.
    is_asking: AtomicBool,
}

impl Terminal {
    /// Makes a terminal. `interrupts` restores its settings when a signal ends a prompt.
    pub(crate) fn new(interrupts: Interrupts) -> Self {
        Self(Arc::new(Shared {
            interrupts,
            progress: Mutex::default(),
            waiting: Mutex::default(),
            typed: Mutex::default(),
            is_asking: AtomicBool::default(),
        }))
    }

    /// Asks for the passphrase of an existing file or record, then shows that work is going on.
    pub(crate) fn ask_passphrase(&self, of: &str) -> io::Result<SecretString> {
        let mut typed = self.0.typed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(passphrase) = typed.get(of) {
            return Ok(passphrase.clone());
        }
        let passphrase = self.passphrase(&format!("Passphrase of {of}: "))?;
        typed.insert(of.to_owned(), passphrase.clone());
        self.show("working on the passphrase");
        Ok(passphrase)
    }

    /// Wipes the typed passphrases now. A store that is still in use holds this terminal until the
    /// process ends, for example during a keychain call that does not return.
    pub(crate) fn forget_passphrases(&self) {
        self.0.typed.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Asks for a new passphrase, twice.
    pub(crate) fn ask_new_passphrase(&self) -> io::Result<SecretString> {
        let first = self.passphrase("New passphrase: ")?;
        if std::env::var_os(PASSPHRASE_VARIABLE).is_none() {
            let second = self.passphrase("The same again: ")?;
            if !is_same(&first, &second) {
                return Err(io::Error::other("the two are not the same"));
            }
        }
        self.show("working on the passphrase");
        Ok(first)
    }

    fn passphrase(&self, prompt: &str) -> io::Result<SecretString> {
        if let Some(passphrase) = std::env::var_os(PASSPHRASE_VARIABLE) {
            // A script may have failed to fill the variable. An empty passphrase must not seal
            // anything.
            let passphrase = passphrase.into_string().ok().filter(|text| !text.is_empty());
            return passphrase.map(SecretString::from).ok_or_else(|| {
                io::Error::other(format!("{PASSPHRASE_VARIABLE} is set, and is empty or not UTF-8"))
            });
        }
        self.ask_hidden(prompt).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => io::Error::other(format!(
                "there is no terminal to ask on; set {PASSPHRASE_VARIABLE}"
            )),
            _ => error,
        })
    }

    /// Sets what the command waits for from now on.
    pub(crate) fn waiting_for(&self, what: &'static str) -> Waiting<'_> {
        *self.waiting() = Some(what);
        Waiting(self)
    }

    fn waiting(&self) -> MutexGuard<'_, Option<&'static str>> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does the work. Shows what the command waits for if the work takes long.
    pub(crate) async fn patiently<T>(&self, work: impl Future<Output = T>) -> T {
        const MOST: &str =
            "waiting for the store, or for another process that refreshes these tokens";

        let mut work = pin!(work);
        let mut patience = tokio::time::interval_at(Instant::now() + PATIENCE, PATIENCE);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                // Shown again, because the reason may have changed, and because each message
                // removes the display.
                _ = patience.tick() => {
                    let is_new = self.progress().as_ref().is_some_and(|bar| bar.elapsed() < PATIENCE);
                    if !is_new {
                        let what = self.waiting().unwrap_or(MOST);
                        self.show(what);
                    }
                }
            }
        }
    }

    /// Shows what takes time, if standard error is a terminal.
    pub(crate) fn show(&self, what: &'static str) {
        let mut progress = self.progress();
        match &*progress {
            Some(bar) if bar.length().is_none() => bar.set_message(what),
            None if io::stderr().is_terminal() && !self.0.is_asking.load(Ordering::Relaxed) => {
                let fresh = ProgressBar::new_spinner().with_message(what);
                fresh.enable_steady_tick(Duration::from_millis(100));
                *progress = Some(fresh);
            }
            _ => {}
        }
    }

    /// Shows how many of `all` are done, if standard error is a terminal.
    pub(crate) fn start_counting(&self, all: usize) {
        self.stop_working();
        if io::stderr().is_terminal() {
            let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}");
            let style = style.expect("it is a template");
            *self.progress() = Some(ProgressBar::new(all as u64).with_style(style));
        }
    }

    /// Shows that one more is done.
    pub(crate) fn count(&self, name: &str) {
        if let Some(bar) = &*self.progress() {
            bar.set_message(name.to_owned());
            bar.inc(1);
            bar.tick();
        }
    }

    pub(crate) fn stop_working(&self) {
        if let Some(progress) = self.progress().take() {
            progress.finish_and_clear();
        }
    }

    fn progress(&self) -> MutexGuard<'_, Option<ProgressBar>> {
        self.0.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Prints lines to standard output. On a terminal, what it would obey is escaped.
    pub(crate) fn print(&self, text: &str) -> io::Result<()> {
        if io::stdout().is_terminal() {
            self.print_styled(&escape_hidden(text))
        } else {
            self.print_styled(text)
        }
    }

    /// Prints JSON in one line. Hidden characters are escaped as JSON escapes them, so it means the same.
    pub(crate) fn print_json(&self, value: &Value) -> io::Result<()> {
        let mut line = String::new();
        for character in value.to_string().chars() {
            let (mut bytes, mut units) = ([0; 4], [0; 2]);
            match escape_hidden(character.encode_utf8(&mut bytes)) {
                Cow::Borrowed(plain) => line += plain,
                Cow::Owned(_) => {
                    for unit in character.encode_utf16(&mut units) {
                        write!(line, "\\u{unit:04x}").expect("a String takes everything");
                    }
                }
            }
        }
        self.print(&line)
    }

    /// Prints lines that may have colours. Everything in them that comes from outside must be escaped.
    pub(crate) fn print_styled(&self, text: &str) -> io::Result<()> {
        self.stop_working();
        output::write_lines(text)
    }

    /// Prints a secret, unchanged. Fails if it would be lost, or if it contains anything that the terminal it
    /// goes to would obey: an escaped secret would be another one.
    pub(crate) fn print_secret(&self, secret: &str) -> io::Result<()> {
        output::refuse_closed()?;
        if io::stdout().is_terminal() && *escape_hidden(secret) != *secret {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "this secret contains characters that a terminal obeys or does not show, so it is not \
                 printed on one; send it into a pipe or a file",
            ));
        }
        self.print_styled(secret)
    }

    /// Prints a message to standard error. What a terminal obeys or does not show is escaped, also for a log.
    pub(crate) fn say(&self, text: &str) {
        let text = escape_hidden(text);
        // If the message cannot be written, as to a log on a full disk, the exit code still reports
        // the outcome.
        let line = || drop(writeln!(io::stderr(), "{text}"));
        match &*self.progress() {
            // Printed above the bar, which continues.
            Some(bar) if bar.length().is_some() => return bar.suspend(line),
            _ => {}
        }
        self.stop_working();
        line();
    }

    /// Says what was done, if standard error is a terminal. A script has the exit code.
    pub(crate) fn say_to_person(&self, text: &str) {
        if io::stderr().is_terminal() {
            self.say(text);
        }
    }

    /// Reads a line without showing it, from the terminal and not from standard input.
    pub(crate) fn ask_hidden(&self, prompt: &str) -> io::Result<SecretString> {
        self.ask(prompt, None)
    }

    /// Reads a line like [`ask_hidden`](Self::ask_hidden), until `is_over` becomes true. Then returns `None`.
    pub(crate) fn ask_hidden_until(
        &self,
        prompt: &str,
        is_over: &AtomicBool,
    ) -> io::Result<Option<SecretString>> {
        match self.ask(prompt, Some(is_over)) {
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Ok(None),
            typed => typed.map(Some),
        }
    }

    fn ask(&self, prompt: &str, is_over: Option<&AtomicBool>) -> io::Result<SecretString> {
        self.0.is_asking.store(true, Ordering::Relaxed);
        self.stop_working();
        let typed = hidden::read_hidden(&escape_hidden(prompt), &self.0.interrupts, is_over);
        self.0.is_asking.store(false, Ordering::Relaxed);
        typed
    }

    /// Returns whether a person can type an answer while the command does something else.
    pub(crate) fn can_ask(&self) -> bool {
        io::stdin().is_terminal() && hidden::is_in_foreground()
    }
}

/// Sets what the command waits for, until it is dropped.
pub(crate) struct Waiting<'a>(&'a Terminal);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        *self.0.waiting() = None;
    }
}

#[expect(clippy::disallowed_methods, reason = "compared, and looked at for being empty")]
fn is_same(first: &SecretString, second: &SecretString) -> bool {
    use tokenkeep::secrecy::ExposeSecret;
    first.expose_secret() == second.expose_secret()
}
