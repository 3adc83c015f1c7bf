//! Ctrl-C, and other signals that end a program, while a refresh is under way or somebody types what is not
//! shown. What the server answers would be lost with this process, and the session with it: so the first
//! wish to end waits for that, and the second one does not. And the terminal is put back first.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// How long a signal may be the echo of the one before: who starts a command often passes on what the
/// terminal has sent to it already. Nobody reads what is said then, and means it, faster than that.
const ECHO: Duration = Duration::from_secs(1);

/// What becomes of the signals that end a process. All clones are one, and the thread that receives signals has
/// one of them.
#[derive(Clone, Default)]
pub(crate) struct Interrupts(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    caught: Notify,
}

#[derive(Default)]
struct State {
    is_watched: bool,
    is_held: bool,
    caught: Option<(Signal, Instant)>,
    tidy: Option<Tidy>,
}

/// What is put back before a signal ends this process.
type Tidy = Box<dyn Fn() + Send>;

impl Interrupts {
    /// From now on the first signal waits until [`let_go`](Self::let_go).
    pub(crate) fn hold(&self) {
        let mut state = self.state();
        state.is_held = true;
        // If they cannot be watched, they end the process as they always do.
        let _ = self.watch(&mut state);
    }

    /// Waits for a signal that waits.
    pub(crate) async fn caught(&self) {
        self.0.caught.notified().await;
    }

    /// From now on a signal does what it always does. Returns whether one has been waiting for that.
    pub(crate) fn let_go(&self) -> bool {
        let mut state = self.state();
        state.is_held = false;
        state.caught.is_some()
    }

    /// Begins something. From now on a signal that ends this process tidies up first, until
    /// [`tidied`](Self::tidied).
    #[cfg(unix)]
    pub(crate) fn tidy(
        &self,
        begin: impl FnOnce() -> io::Result<()>,
        tidy: impl Fn() + Send + 'static,
    ) -> io::Result<()> {
        let mut state = self.state();
        self.watch(&mut state)?;
        state.tidy = Some(Box::new(tidy));
        // Still with the state in hand, so that no signal comes in between.
        begin()
    }

    /// Does what was to be done, now that no signal came.
    #[cfg(unix)]
    pub(crate) fn tidied(&self) {
        if let Some(tidy) = self.state().tidy.take() {
            tidy();
        }
    }

    /// Ends this process as the signal would have that waited, if one did.
    pub(crate) fn end_if_caught(&self) {
        let caught = self.state().caught.take();
        if let Some((signal, _)) = caught {
            end_by(signal);
        }
    }

    /// Has the signals watched.
    fn watch(&self, state: &mut State) -> io::Result<()> {
        if !state.is_watched {
            let interrupts = self.clone();
            watch(move |signal| interrupts.receive(signal))?;
            state.is_watched = true;
        }
        Ok(())
    }

    fn receive(&self, signal: Signal) {
        let mut state = self.state();
        match state.caught {
            None if state.is_held && can_wait(signal) => {
                state.caught = Some((signal, Instant::now()));
                self.0.caught.notify_one();
            }
            Some((_, at)) if state.is_held && is_echo(signal, at.elapsed()) => {}
            _ => {
                if let Some(tidy) = state.tidy.take() {
                    tidy();
                }
                end_by(signal);
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(unix)]
type Signal = i32;

/// SIGQUIT is sent to see where the program is.
#[cfg(unix)]
fn can_wait(signal: Signal) -> bool {
    signal != signal_hook::consts::SIGQUIT
}

/// A terminal that is closed hangs up once by its shell and once by itself, and after that nobody is there
/// who could want anything else.
#[cfg(unix)]
fn is_echo(signal: Signal, since: Duration) -> bool {
    can_wait(signal) && (since < ECHO || signal == signal_hook::consts::SIGHUP)
}

#[cfg(unix)]
fn end_by(signal: Signal) {
    // It fails for numbers that are no signals.
    let _ = signal_hook::low_level::emulate_default_handler(signal);
}

/// Watches the signals on a thread, because this one may be busy. It lasts as long as the process.
#[cfg(unix)]
fn watch(receive: impl FnMut(Signal) + Send + 'static) -> io::Result<()> {
    use std::sync::mpsc;
    use std::thread;

    use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
    use signal_hook::iterator::Signals;

    let ignored = ignored();
    let watched = [SIGHUP, SIGINT, SIGQUIT, SIGTERM].into_iter().filter(move |number| {
        // As `nohup` has it; what is watched would no longer be ignored by what `exec` starts.
        ignored & 1 << (number - 1) == 0
    });
    let (is_ready, ready) = mpsc::channel();
    // The thread first: what is watched and received by nobody is lost.
    thread::Builder::new().spawn(move || -> io::Result<()> {
        let mut signals = Signals::new(watched)?;
        // If it is not received, nobody waits for it.
        let _ = is_ready.send(());
        signals.forever().for_each(receive);
        Ok(())
    })?;
    // If they cannot be watched, there is nothing to receive.
    ready.recv().map_err(io::Error::other)
}

/// The signals that this process was started to ignore, a bit each. Only Linux tells without a change.
#[cfg(unix)]
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default()
}

#[cfg(windows)]
type Signal = ();

#[cfg(windows)]
fn can_wait((): Signal) -> bool {
    true
}

#[cfg(windows)]
fn is_echo((): Signal, since: Duration) -> bool {
    since < ECHO
}

#[cfg(windows)]
fn end_by((): Signal) {
    /// `STATUS_CONTROL_C_EXIT`, with which the system ends a program at Ctrl-C.
    const CONTROL_C_EXIT: u32 = 0xC000_013A;

    std::process::exit(CONTROL_C_EXIT.cast_signed())
}

#[cfg(windows)]
fn watch(mut receive: impl FnMut(Signal) + Send + 'static) -> io::Result<()> {
    ctrlc::set_handler(move || receive(())).map_err(io::Error::other)
}

#[cfg(all(test, unix))]
mod tests {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

    use super::*;

    #[test]
    fn only_a_hangup_says_nothing_new_later_on() {
        for signal in [SIGHUP, SIGINT, SIGTERM] {
            assert!(is_echo(signal, ECHO / 2));
            assert_eq!(is_echo(signal, ECHO), signal == SIGHUP);
        }
        assert!(!is_echo(SIGQUIT, Duration::ZERO));
    }
}
