//! Processes that use the keychain at the same time.

use std::path::Path;
use std::time::Duration;

use super::failure::Failure;
use crate::error::StoreError;
use crate::private_file::{self, FileLock};
use crate::sys::directories::state_directory;

/// The lock file, in this user's state directory. No file of a slot can have this name.
const LOCK: &str = ".keychain.lock";

/// Whether the keychain is a program that answers one request after the other. The others answer quickly.
const IS_A_SERVICE: bool = cfg!(all(unix, not(target_vendor = "apple")));

/// Waits until no other process of this user calls the keychain.
///
/// Each call has a short deadline. If many processes called at once, each would wait for the answers of all,
/// and all would give up together.
///
/// This only keeps an order. If the lock cannot be taken, as in a read-only directory, the call is made without
/// it.
pub(super) fn wait(patience: Duration) -> Result<Option<FileLock>, Failure> {
    if !IS_A_SERVICE {
        return Ok(None);
    }
    let Ok(directory) = state_directory() else { return Ok(None) };
    wait_in(&directory, patience)
}

fn wait_in(directory: &Path, patience: Duration) -> Result<Option<FileLock>, Failure> {
    match private_file::exclusive(&directory.join(LOCK), patience) {
        Ok(turn) => Ok(Some(turn)),
        Err(StoreError::Timeout { .. }) => Err(Failure::Turn(patience)),
        Err(_) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_whose_turn_does_not_come_says_what_it_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let Ok(Some(held)) = wait_in(directory.path(), Duration::ZERO) else {
            panic!("it is free")
        };
        let Err(failure) = wait_in(directory.path(), Duration::ZERO) else { panic!("it is held") };
        let error = failure.explain("here".into(), "that one", false).to_string();
        assert!(error.contains("other processes have been using the keychain"), "{error}");
        drop(held);
        assert!(matches!(wait_in(directory.path(), Duration::ZERO), Ok(Some(_))));
    }

    #[test]
    fn where_no_lock_can_be_made_nobody_waits() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(matches!(wait_in(&file, Duration::ZERO), Ok(None)));
    }
}
