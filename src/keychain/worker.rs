//! The thread that calls the keychain.
//!
//! Keychain calls have no timeouts, do not work inside an async runtime, and must not run at the same time.
//! So they run one after the other on one thread. A caller gives up at its deadline, and the process can
//! exit even if the thread hangs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, SendError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use keyring_core::{CredentialStore, Error};

use super::connection::Connection;
use super::failure::{self, Failure};
use crate::sys::wipe;

/// How often an item is looked up again if it was removed after it was found.
const ATTEMPTS: usize = 5;

struct Job {
    work: Box<dyn FnOnce(&mut Keychain) + Send>,
    abandoned: Abandoned,
}

/// Is set when a caller has given up. Work that has not started by then is not done.
type Abandoned = Arc<AtomicBool>;

/// The call that is running.
type Running = Arc<Mutex<Option<Abandoned>>>;

#[derive(Clone)]
struct Worker {
    jobs: Sender<Job>,
    running: Running,
}

/// The worker's connection to the platform's keychain.
#[derive(Default)]
struct Keychain(Connection);

static WORKER: Mutex<Option<Worker>> = Mutex::new(None);

/// Makes a call, and waits for it up to a deadline.
///
/// `check` runs first. A connection is made meanwhile, which raises no prompt. If the connection fails,
/// both run once more on a new one. A restarted keychain has lost its sessions, and may be locked. And in 1 of
/// 256 sessions with kwalletd5 5.103, the two sides have different keys, so nothing can be deciphered. The
/// closures are dropped when the call is finished, which may be long after the deadline.
pub(super) fn call<T: Send + 'static>(
    deadline: Duration,
    check: impl Fn() -> Result<(), Failure> + Send + 'static,
    work: impl Fn(&CredentialStore) -> keyring_core::Result<T> + Send + 'static,
) -> Result<T, Failure> {
    run(deadline, move |keychain, abandoned| keychain.call(&check, &work, abandoned))?
}

/// Runs other work that calls the keychain's service, in the same way.
#[cfg(all(unix, not(target_vendor = "apple")))]
pub(super) fn run_abandonable<T: Send + 'static>(
    deadline: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failure> {
    run(deadline, |_, _| work())
}

fn run<T: Send + 'static>(
    deadline: Duration,
    work: impl FnOnce(&mut Keychain, &Abandoned) -> T + Send + 'static,
) -> Result<T, Failure> {
    let (reply, answer) = mpsc::sync_channel(1);
    let abandoned = Abandoned::default();
    let given_up = abandoned.clone();
    let work = Box::new(move |keychain: &mut Keychain| {
        // If the caller gave up, nothing receives this.
        let _ = reply.send(work(keychain, &given_up));
    });
    send(Job { work, abandoned: abandoned.clone() })?;
    answer.recv_timeout(deadline).map_err(|error| match error {
        RecvTimeoutError::Timeout => {
            abandoned.store(true, Ordering::SeqCst);
            Failure::Deadline(deadline)
        }
        RecvTimeoutError::Disconnected => Failure::Panicked,
    })
}

/// Sends a job to the worker. Starts a worker if there is none, or if the last one panicked.
fn send(job: Job) -> Result<(), Failure> {
    let mut worker = lock(&WORKER);
    let job = match worker.as_ref() {
        Some(worker) => {
            let is_stuck = |running: &Abandoned| running.load(Ordering::SeqCst);
            if lock(&worker.running).as_ref().is_some_and(is_stuck) {
                return Err(Failure::Busy);
            }
            match worker.jobs.send(job) {
                Ok(()) => return Ok(()),
                Err(SendError(job)) => job,
            }
        }
        None => job,
    };
    let fresh = Worker::start()?;
    fresh.jobs.send(job).map_err(|_| Failure::Thread)?;
    *worker = Some(fresh);
    Ok(())
}

impl Worker {
    fn start() -> Result<Self, Failure> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let running = Running::default();
        let worker = Self { jobs, running: running.clone() };
        let run = move || {
            let mut keychain = Keychain::default();
            for job in queue {
                *lock(&running) = Some(job.abandoned.clone());
                let _end = End(&running);
                if !job.abandoned.load(Ordering::SeqCst) {
                    wipe::with_wiped_stack(|| (job.work)(&mut keychain));
                }
            }
        };
        let thread = thread::Builder::new().name("tokenkeep-keychain".into()).spawn(run);
        thread.map(|_| worker).map_err(|_| Failure::Thread)
    }
}

/// Marks the end of a call when it is dropped, also after a panic.
struct End<'a>(&'a Running);

impl Drop for End<'_> {
    fn drop(&mut self) {
        *lock(self.0) = None;
    }
}

impl Keychain {
    fn call<T>(
        &mut self,
        check: &impl Fn() -> Result<(), Failure>,
        work: &impl Fn(&CredentialStore) -> keyring_core::Result<T>,
        abandoned: &Abandoned,
    ) -> Result<T, Failure> {
        let mut answer = self.try_call(check, work, abandoned);
        for _ in 1..ATTEMPTS {
            match &answer {
                Err(Failure::Keychain(error)) if failure::is_gone(error) => {}
                _ => break,
            }
            answer = self.try_call(check, work, abandoned);
        }
        match answer {
            Err(Failure::Keychain(Error::PlatformFailure(_))) => {
                self.0 = self.0.anew();
                self.try_call(check, work, abandoned)
            }
            answer => answer,
        }
    }

    fn try_call<T>(
        &mut self,
        check: &impl Fn() -> Result<(), Failure>,
        work: &impl Fn(&CredentialStore) -> keyring_core::Result<T>,
        abandoned: &Abandoned,
    ) -> Result<T, Failure> {
        self.0.begin();
        check()?;
        // A call that was abandoned meanwhile must not take effect.
        if abandoned.load(Ordering::SeqCst) {
            return Err(Failure::Busy);
        }
        self.0.get().and_then(|keychain| work(&*keychain)).map_err(Failure::Keychain)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[cfg(all(unix, not(target_vendor = "apple")))]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// The error of gnome-keyring for an item that another process has just removed.
    fn gone() -> Error {
        let call = zbus::Message::method_call("/", "GetSecret").unwrap().build(&()).unwrap();
        let name = "org.freedesktop.DBus.Error.UnknownMethod".try_into().unwrap();
        Error::PlatformFailure(Box::new(zbus::Error::MethodError(name, None, call)))
    }

    fn mock() -> Keychain {
        Keychain(Connection::made_by(|| Ok(keyring_core::mock::Store::new()?)))
    }

    #[test]
    fn a_first_connection_that_fails_is_made_again() {
        let calls = Cell::new(0);
        let work = |_: &CredentialStore| {
            calls.set(calls.get() + 1);
            if calls.get() > 1 {
                return Ok("deciphered");
            }
            Err(Error::PlatformFailure("message decryption failed".into()))
        };
        let answer = mock().call(&|| Ok(()), &work, &Abandoned::default());
        assert!(matches!(answer, Ok("deciphered")));
    }

    #[test]
    fn a_call_is_repeated_if_another_process_removes_the_item_after_it_was_found() {
        let calls = Cell::new(0);
        let work = |_: &CredentialStore| {
            calls.set(calls.get() + 1);
            if calls.get() < 3 { Err(gone()) } else { Ok("looked again") }
        };
        let mut keychain = mock();
        let answer = keychain.call(&|| Ok(()), &work, &Abandoned::default());
        assert!(matches!(answer, Ok("looked again")));
    }

    #[test]
    fn a_call_fails_if_the_item_is_gone_each_time() {
        let calls = Cell::new(0);
        let work = |_: &CredentialStore| {
            calls.set(calls.get() + 1);
            Err::<(), _>(gone())
        };
        let mut keychain = mock();
        let answer = keychain.call(&|| Ok(()), &work, &Abandoned::default());
        assert!(answer.is_err());
        // The connection may be the cause, so it is made again.
        assert_eq!(calls.get(), ATTEMPTS + 1);
    }
}
