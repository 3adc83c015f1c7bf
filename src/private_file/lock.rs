//! Locks on files.

use std::ffi::OsStr;
use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::platform::Dir;
use crate::error::StoreError;

/// How long a writer waits for another writer. A write takes milliseconds. A process that holds the lock for
/// this long is stopped or stuck, and the user should be told.
pub(super) const LOCK_WAIT: Duration = Duration::from_secs(10);

/// How often a waiting writer tries again. The kernel's blocking lock has no deadline.
const LOCK_POLL: Duration = Duration::from_millis(2);

const ERROR_LOCK_VIOLATION: i32 = 33;

/// A lock on a file. It is released on drop, or when the process ends.
#[derive(Debug)]
pub(crate) struct FileLock(pub(super) File);

impl FileLock {
    /// Takes the lock, or returns the file if another holder has the lock.
    pub(super) fn try_new(file: File, place: &Path) -> Result<Result<Self, File>, StoreError> {
        loop {
            return match file.try_lock() {
                Ok(()) => Ok(Ok(Self(file))),
                Err(TryLockError::WouldBlock) => Ok(Err(file)),
                // Interrupted by a signal. A network file system reports this.
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
    /// Releases the lock now.
    pub(crate) fn unlock(&self) -> io::Result<()> {
        match self.0.unlock() {
            // The standard library unlocks twice, because there could be two locks. Wine 8 reports a missing
            // lock with another error code than Windows.
            Err(error) if cfg!(windows) && error.raw_os_error() == Some(ERROR_LOCK_VIOLATION) => {
                Ok(())
            }
            unlocked => unlocked,
        }
    }
}

impl Drop for FileLock {
    /// Closing the file is not enough: a child process that is being started has the file open too, for a
    /// moment.
    fn drop(&mut self) {
        // If this fails, the lock is released when the process ends.
        let _ = self.unlock();
    }
}

/// Takes the lock of that name in a directory. Fails if this takes longer than the given time.
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
