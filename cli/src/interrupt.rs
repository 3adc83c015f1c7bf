//! Ctrl-C and other signals that end a program, during a refresh or a hidden prompt. If the process
//! ended during a refresh, the answer of the server would be lost, and the session with it. So the
//! first signal waits for the refresh, and the second one does not. The terminal settings are
//! restored first, also before Ctrl-Z stops the process: not every shell does that.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// How long a signal may be an echo of the previous one. A program that starts a command often
/// forwards a signal that the terminal has already sent to the command. No user reads the message
/// and sends a second signal faster than that.
const ECHO: Duration = Duration::from_secs(1);

/// Decides what the signals that end a process do. All clones share one state, and the thread that
/// receives signals has a clone.
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

/// Restores what must be restored before a signal ends or stops this process.
type Tidy = Box<dyn Fn() + Send>;

impl Interrupts {
    /// From now on, the first signal waits until [`let_go`](Self::let_go).
    pub(crate) fn hold(&self) {
        let mut state = self.state();
        state.is_held = true;
        // If the signals cannot be watched, they end the process as usual.
        let _ = self.watch(&mut state);
    }

    /// Waits until a signal arrives that has to wait.
    pub(crate) async fn caught(&self) {
        self.0.caught.notified().await;
    }

    /// From now on, a signal has its usual effect. Returns whether a signal has been waiting.
    pub(crate) fn let_go(&self) -> bool {
        let mut state = self.state();
        state.is_held = false;
        state.caught.is_some()
    }

    /// Calls `begin`. From now on, a signal that ends or stops this process calls `tidy` first, until
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
        // Called with the state locked, so that no signal is handled in between.
        begin()
    }

    /// Does this while no signal is handled. A process that is stopped continues first.
    #[cfg(unix)]
    pub(crate) fn undisturbed<T>(&self, work: impl FnOnce() -> T) -> T {
        let _state = self.state();
        work()
    }

    /// Calls `tidy` now, because no signal came.
    #[cfg(unix)]
    pub(crate) fn tidied(&self) {
        if let Some(tidy) = self.state().tidy.take() {
            tidy();
        }
    }

    /// Ends this process as the waiting signal would have, if there is one.
    pub(crate) fn end_if_caught(&self) {
        let caught = self.state().caught.take();
        if let Some((signal, _)) = caught {
            end_by(signal);
        }
    }

    /// Starts to watch the signals.
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
                if let Some(tidy) = &state.tidy {
                    tidy();
                }
                if stops(signal) {
                    // The state stays locked, so that nothing is hidden again before this process continues.
                    return stop();
                }
                state.tidy = None;
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

/// Returns whether a signal can wait. SIGQUIT cannot: users send it to see where the program is.
#[cfg(unix)]
fn can_wait(signal: Signal) -> bool {
    signal != signal_hook::consts::SIGQUIT && !stops(signal)
}

/// Returns whether a signal stops this process and does not end it: Ctrl-Z.
#[cfg(unix)]
fn stops(signal: Signal) -> bool {
    signal == signal_hook::consts::SIGTSTP
}

/// Stops this process, as SIGTSTP would if it was not watched. Returns when the process continues.
///
/// SIGTTOU has the same effect and is not watched. Unlike SIGSTOP, it does nothing if no shell is there to continue this
/// process.
#[cfg(unix)]
fn stop() {
    // It fails for numbers that are not signals.
    let _ = signal_hook::low_level::raise(signal_hook::consts::SIGTTOU);
}

/// Returns whether a signal is an echo of the previous one. A closed terminal causes two SIGHUP,
/// one from its shell and one from itself. After that, no user is there to send another signal.
#[cfg(unix)]
fn is_echo(signal: Signal, since: Duration) -> bool {
    can_wait(signal) && (since < ECHO || signal == signal_hook::consts::SIGHUP)
}

#[cfg(unix)]
fn end_by(signal: Signal) {
    // It fails for numbers that are not signals.
    let _ = signal_hook::low_level::emulate_default_handler(signal);
}

/// Watches the signals on a thread of its own, because this one may be busy. The thread lasts as
/// long as the process.
#[cfg(unix)]
fn watch(receive: impl FnMut(Signal) + Send + 'static) -> io::Result<()> {
    use std::sync::mpsc;
    use std::thread;

    use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP};
    use signal_hook::iterator::Signals;

    let ignored = ignored();
    let watched = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP].into_iter().filter(move |number| {
        // Ignored signals stay ignored, as `nohup` sets them. A watched signal would no longer be
        // ignored by the program that `exec` starts.
        ignored & 1 << (number - 1) == 0
    });
    let (is_ready, ready) = mpsc::channel();
    // The thread starts first: a signal that is watched but not received is lost.
    thread::Builder::new().spawn(move || -> io::Result<()> {
        let mut signals = Signals::new(watched)?;
        // If sending fails, nothing waits for it.
        let _ = is_ready.send(());
        signals.forever().for_each(receive);
        Ok(())
    })?;
    // If the signals cannot be watched, nothing is sent.
    ready.recv().map_err(io::Error::other)
}

/// Returns the signals that this process was started to ignore, one bit each. Only Linux reports
/// them without a change to them.
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
fn stops((): Signal) -> bool {
    false
}

#[cfg(windows)]
fn stop() {}

#[cfg(windows)]
fn is_echo((): Signal, since: Duration) -> bool {
    since < ECHO
}

#[cfg(windows)]
fn end_by((): Signal) {
    /// `STATUS_CONTROL_C_EXIT`, the exit status when Windows ends a program at Ctrl-C.
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
