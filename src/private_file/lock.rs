//! Locks on files.

use std::ffi::OsStr;
use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::platform::Dir;
use crate::error::StoreError;

/// How long a writer waits for another one. A write takes milliseconds; who holds the lock for
/// this long is stopped or stuck, and the user should hear of it.
pub(super) const LOCK_WAIT: Duration = Duration::from_secs(10);

/// How often a waiting writer looks again. The kernel's waiting lock has no deadline.
const LOCK_POLL: Duration = Duration::from_millis(2);

const ERROR_LOCK_VIOLATION: i32 = 33;

/// A lock on a file, which goes with this or with the process.
#[derive(Debug)]
pub(crate) struct FileLock(pub(super) File);

impl FileLock {
    /// Takes the lock, or gives the file back while somebody else has it.
    pub(super) fn try_new(file: File, place: &Path) -> Result<Result<Self, File>, StoreError> {
        loop {
            return match file.try_lock() {
                Ok(()) => Ok(Ok(Self(file))),
                Err(TryLockError::WouldBlock) => Ok(Err(file)),
                // By a signal, which a network file system lets through.
                Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Interrupted => {
                    continue;
                }
                Err(TryLockError::Error(error)) => Err(StoreError::Unavailable {
                    place: place.display().to_string(),
                    reason: format!("its file system refuses locks ({error})"),
                    advice: "keep it on a local file system".into(),
                }),
            };
        }
    }
}

impl FileLock {
    /// Gives it up now.
    pub(crate) fn unlock(&self) -> io::Result<()> {
        match self.0.unlock() {
            // The standard library unlocks twice, because there could be two locks, and Wine 8 has
            // another word than Windows for there being none.
            Err(error) if cfg!(windows) && error.raw_os_error() == Some(ERROR_LOCK_VIOLATION) => {
                Ok(())
            }
            unlocked => unlocked,
        }
    }
}

impl Drop for FileLock {
    /// Closing the file is not enough: a child process that is just being started has it too, for
    /// a moment.
    fn drop(&mut self) {
        // If this fails, the process's end gives it up.
        let _ = self.unlock();
    }
}

/// Takes the lock of that name in a directory, and waits for it for so long.
pub(super) fn lock(
    dir: &Dir,
    name: &OsStr,
    place: &Path,
    wait: Duration,
) -> Result<FileLock, StoreError> {
    wait_for(dir.open_lock(name)?, place, wait)
}

pub(super) fn wait_for(
    mut file: File,
    place: &Path,
    wait: Duration,
) -> Result<FileLock, StoreError> {
    let deadline = Instant::now() + wait;
    loop {
        match FileLock::try_new(file, place)? {
            Ok(locked) => return Ok(locked),
            Err(taken) => file = taken,
        }
        if Instant::now() >= deadline {
            return Err(StoreError::Timeout {
                place: place.display().to_string(),
                reason: format!("another process has been writing to it for {wait:?}"),
                advice: "see whether that process is stopped or stuck".into(),
            });
        }
        thread::sleep(LOCK_POLL);
    }
}
