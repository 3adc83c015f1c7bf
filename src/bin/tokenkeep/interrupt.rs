//! Ctrl-C, and other signals that end a program, while a refresh is under way. What the server answers
//! would be lost with this process, and the session with it: so the first of them waits for that, and the
//! second one does not.

use std::convert::Infallible;
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::{io, thread};

use tokio::sync::Notify;

use crate::{runtime, terminal};

static STATE: Mutex<State> = Mutex::new(State { is_watched: false, is_held: false, caught: None });
static CAUGHT: Notify = Notify::const_new();

struct State {
    is_watched: bool,
    is_held: bool,
    caught: Option<Signal>,
}

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on the first signal waits until [`let_go`].
pub(crate) fn hold() {
    let mut state = state();
    state.is_held = true;
    if !state.is_watched {
        // Without a thread to watch them, they end the process as they always do.
        state.is_watched = watch().is_ok();
    }
}

/// Tells whether a refresh is under way.
pub(crate) fn is_held() -> bool {
    state().is_held
}

/// Waits for a signal that waits.
pub(crate) async fn caught() {
    CAUGHT.notified().await;
}

/// From now on a signal does what it always does. Tells whether one has been waiting for that.
pub(crate) fn let_go() -> bool {
    let mut state = state();
    state.is_held = false;
    state.caught.is_some()
}

/// Ends this process as the signal would have that waited, if one did.
pub(crate) fn end_if_caught() {
    let caught = state().caught.take();
    if let Some(signal) = caught {
        end_by(signal);
    }
}

/// Watches the signals on a thread, because this one may be busy. It lasts as long as the process.
fn watch() -> io::Result<()> {
    let (is_ready, ready) = mpsc::channel();
    thread::Builder::new().spawn(move || -> io::Result<Infallible> {
        runtime()?.block_on(async {
            let mut signals = Signals::new()?;
            // If it is not received, nobody waits for it.
            let _ = is_ready.send(());
            loop {
                receive(signals.next().await);
            }
        })
    })?;
    // If they cannot be watched, there is nothing to receive.
    ready.recv().map_err(io::Error::other)
}

fn receive(signal: Signal) {
    let mut state = state();
    if !state.is_held || state.caught.is_some() {
        return end_by(signal);
    }
    state.caught = Some(signal);
    drop(state);
    terminal::say(
        "finishing a refresh, so that the session is not lost; once more ends this at once",
    );
    CAUGHT.notify_one();
}

#[cfg(unix)]
type Signal = i32;

#[cfg(unix)]
fn end_by(signal: Signal) {
    // It fails for numbers that are no signals.
    let _ = signal_hook::low_level::emulate_default_handler(signal);
}

#[cfg(unix)]
struct Signals(Vec<(Signal, tokio::signal::unix::Signal)>);

#[cfg(unix)]
impl Signals {
    fn new() -> io::Result<Self> {
        use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
        use tokio::signal::unix::{SignalKind, signal};

        let ignored = ignored();
        let watched = [SIGHUP, SIGINT, SIGTERM].into_iter().filter(|number| {
            // As `nohup` has it; what is watched would no longer be ignored by what `exec` starts.
            ignored & 1 << (number - 1) == 0
        });
        let watched = watched.map(|number| Ok((number, signal(SignalKind::from_raw(number))?)));
        watched.collect::<io::Result<_>>().map(Self)
    }

    async fn next(&mut self) -> Signal {
        std::future::poll_fn(|context| {
            let came = |(number, signal): &mut (Signal, tokio::signal::unix::Signal)| {
                signal.poll_recv(context).is_ready().then_some(*number)
            };
            match self.0.iter_mut().find_map(came) {
                Some(number) => std::task::Poll::Ready(number),
                None => std::task::Poll::Pending,
            }
        })
        .await
    }
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
fn end_by((): Signal) {
    /// `STATUS_CONTROL_C_EXIT`, with which the system ends a program at Ctrl-C.
    const CONTROL_C_EXIT: u32 = 0xC000_013A;

    std::process::exit(CONTROL_C_EXIT.cast_signed())
}

#[cfg(windows)]
struct Signals(tokio::signal::windows::CtrlC, tokio::signal::windows::CtrlBreak);

#[cfg(windows)]
impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self(tokio::signal::windows::ctrl_c()?, tokio::signal::windows::ctrl_break()?))
    }

    async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.0.recv() => {}
            _ = self.1.recv() => {}
        }
    }
}
