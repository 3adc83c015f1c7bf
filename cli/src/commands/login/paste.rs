//! The answer to a sign-in that a person pastes, or that a script gives through standard input.

use std::future::pending;
use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokenkeep::oauth2::RedirectPaste;
use tokio::sync::oneshot::{self, Sender};

use crate::failure::Failure;
use crate::terminal::{Terminal, input_line};

/// How long the end of a sign-in waits for the terminal, and how often it looks.
const PATIENCE: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(5);

/// Where the answer comes from.
#[derive(Clone, Copy)]
pub(super) enum Source {
    StandardInput,
    Terminal,
}

impl Source {
    /// Returns where an answer can come from. Standard input that is not a terminal is read only if that was asked
    /// for.
    pub(super) fn of(terminal: &Terminal, was_asked_for: bool) -> Option<Self> {
        if terminal.can_ask() && (was_asked_for || io::stderr().is_terminal()) {
            return Some(Self::Terminal);
        }
        was_asked_for.then_some(Self::StandardInput)
    }
}

/// Reads on a thread of its own until it is dropped. The port may get the answer first.
pub(super) struct Pasting {
    is_over: Arc<AtomicBool>,
    failed: oneshot::Receiver<Failure>,
    thread: Option<JoinHandle<()>>,
}

impl Pasting {
    /// Starts to read. If the answer `must` come from here, a failure to read is one of the sign-in.
    pub(super) fn start(
        source: Source,
        terminal: &Terminal,
        paste: RedirectPaste,
        must: bool,
    ) -> io::Result<Self> {
        let is_over = Arc::new(AtomicBool::new(false));
        let (fail, failed) = oneshot::channel();
        let reading = is_over.clone();
        let terminal = terminal.clone();
        // A thread of the runtime would keep the process from ending.
        let thread = thread::Builder::new().spawn(move || {
            let read = match source {
                Source::StandardInput => from_input(&paste),
                Source::Terminal => from_terminal(&terminal, &paste, &reading, must),
            };
            if let Err(failure) = read {
                report(fail, failure, must);
            }
        })?;
        // A read from standard input cannot be ended. The thread ends with the process.
        let can_end = cfg!(unix) && matches!(source, Source::Terminal);
        Ok(Self { is_over, failed, thread: Some(thread).filter(|_| can_end) })
    }

    /// Waits for a failure that ends the sign-in.
    pub(super) async fn failed(&mut self) -> Failure {
        match (&mut self.failed).await {
            Ok(failure) => failure,
            Err(_) => pending().await,
        }
    }
}

impl Drop for Pasting {
    /// Restores the terminal, usually within 0.1 s. The tokens have arrived and are not saved yet, so a terminal that
    /// does not answer is left as it is.
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else { return };
        let begin = Instant::now();
        while !thread.is_finished() && begin.elapsed() < PATIENCE {
            thread::sleep(LOOK);
        }
    }
}

fn report(fail: Sender<Failure>, failure: Failure, must: bool) {
    if must {
        // If the sign-in has ended, nobody waits for it.
        let _ = fail.send(failure);
    }
}

fn from_input(paste: &RedirectPaste) -> Result<(), Failure> {
    Ok(paste.submit(&input_line()?)?)
}

/// Asks until the answer is one to this sign-in.
fn from_terminal(
    terminal: &Terminal,
    paste: &RedirectPaste,
    is_over: &AtomicBool,
    must: bool,
) -> Result<(), Failure> {
    let prompt = if must {
        "Paste the address of the page on which the browser ends: "
    } else {
        "If the browser ends on a page that cannot be reached, paste its address: "
    };
    loop {
        match terminal.ask_hidden_until(prompt, is_over) {
            Ok(None) => return Ok(()),
            Ok(Some(address)) => match paste.submit(&address) {
                Ok(()) => return Ok(()),
                Err(error) => Failure::from(error).say(terminal),
            },
            // What was typed cannot be used.
            Err(error) if error.kind() == io::ErrorKind::Other => {
                Failure::from(error).say(terminal);
            }
            Err(error) => return Err(error.into()),
        }
    }
}
