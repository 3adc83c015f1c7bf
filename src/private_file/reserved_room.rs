//! Room for what a file is to be replaced by, taken before it is known what that is.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Seek, Write};
use std::path::Path;
use std::sync::Arc;

use super::lock::{FileLock, lock, wait_for};
use super::platform::Dir;
use super::{NEXT, PrivateFile, explain_write, suffixed, unused_name};
use crate::error::StoreError;

/// A file of a size that suffices, beside the file that it is to replace. Dropping it removes it.
#[derive(Debug)]
pub(crate) struct ReservedRoom {
    dir: Arc<Dir>,
    name: OsString,
    /// `None` once it has become the file, or can no longer be used.
    file: Option<File>,
    /// The write lock's file, for when its name leads elsewhere by then.
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

    /// Lets go of the room: the file was replaced without it.
    pub(super) fn give_up(&mut self) {
        if self.file.take().is_some() {
            let _ = self.dir.remove(&self.name);
        }
    }

    /// Returns whether there is still a file to write to.
    pub(crate) fn is_usable(&self) -> bool {
        self.file.is_some()
    }

    /// Takes the write lock of its file, also if the lock's name has become unusable.
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

    /// Writes into the room that was reserved, and puts it in the place of the file. If that fails, the room
    /// stays reserved where the system allows it.
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
        // On Windows it cannot be renamed while it is open for this process alone.
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
