//! Disk space for the next content of a file, reserved before that content is known.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Seek, Write};
use std::path::Path;
use std::sync::Arc;

use super::lock::{FileLock, lock, wait_for};
use super::platform::Dir;
use super::{NEXT, PrivateFile, explain_write, suffixed, unused_name};
use crate::error::StoreError;

/// A file that is large enough, in the directory of the file that it will replace. It is removed on drop.
#[derive(Debug)]
pub(crate) struct ReservedRoom {
    dir: Arc<Dir>,
    name: OsString,
    /// `None` after it has replaced the target, or when it can no longer be used.
    file: Option<File>,
    /// The open file of the write lock, in case its name leads elsewhere later.
    lock: File,
}

impl ReservedRoom {
    pub(super) fn reserve(
        dir: Dir,
        target: &OsStr,
        size: usize,
        first: usize,
    ) -> Result<Self, StoreError> {
        let lock = dir.open_lock(&suffixed(target, ".lock"))?;
        let name = unused_name(target, NEXT);
        let file = dir.reserve(&name, target, size, first)?;
        Ok(Self { dir: Arc::new(dir), name, file: Some(file), lock })
    }

    pub(super) fn dir(&self) -> Arc<Dir> {
        self.dir.clone()
    }

    /// Gives up the room: the target was replaced without it.
    pub(super) fn give_up(&mut self) {
        if self.file.take().is_some() {
            let _ = self.dir.remove(&self.name);
        }
    }

    /// Returns whether there is still a file to write to.
    pub(crate) fn is_usable(&self) -> bool {
        self.file.is_some()
    }

    /// Takes the write lock of its file, even if the name of the lock can no longer be used.
    pub(super) fn lock(&self, file: &PrivateFile, target: &OsStr) -> Result<FileLock, StoreError> {
        match lock(&self.dir, &suffixed(target, ".lock"), &file.path, file.lock_wait) {
            Err(StoreError::Timeout { place, reason, advice }) => {
                Err(StoreError::Timeout { place, reason, advice })
            }
            Err(error) => {
                let lock = self.lock.try_clone().map_err(|_| error)?;
                wait_for(lock, &file.path, file.lock_wait)
            }
            locked => locked,
        }
    }

    /// Writes into the reserved file and renames it to the target. If that fails, the room stays reserved
    /// where the system allows it.
    pub(super) fn become_file(
        &mut self,
        path: &Path,
        target: &OsStr,
        bytes: &[u8],
    ) -> Result<(), StoreError> {
        let failed = |error| explain_write(&self.dir, path, bytes.len(), error);
        let Some(mut file) = self.file.take() else {
            return Err(failed(std::io::ErrorKind::NotFound.into()));
        };
        let written = file
            .rewind()
            .and_then(|()| file.write_all(bytes))
            .and_then(|()| file.set_len(bytes.len() as u64))
            .and_then(|()| file.sync_all());
        // On Windows the file cannot be renamed while this process has it open without sharing.
        let kept = if cfg!(windows) {
            drop(file);
            None
        } else {
            Some(file)
        };
        let renamed = written.and_then(|()| self.dir.rename(&self.name, target));
        if let Err(error) = renamed {
            let error = failed(error);
            self.file = kept;
            return Err(error);
        }
        self.dir.sync().map_err(failed)
    }
}

impl Drop for ReservedRoom {
    fn drop(&mut self) {
        // If it cannot be removed, `remove_reserved` removes it later.
        self.give_up();
        if cfg!(windows) {
            let _ = self.dir.remove(&self.name);
        }
    }
}
