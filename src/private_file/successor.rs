//! Room for the record that a refresh ends with, taken before the refresh token is sent.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Seek, Write};
use std::path::Path;
use std::sync::Arc;

use super::platform::Dir;
use super::{FileSlot, Locked, NEXT, explain_write, suffixed, unused_name, wait_for};
use crate::error::StoreError;

/// A file of the size of the largest record, beside the record that it is to replace. Dropping it removes
/// it.
#[derive(Debug)]
pub(crate) struct Successor {
    dir: Arc<Dir>,
    name: OsString,
    /// `None` once it has become the record, or can no longer be used.
    file: Option<File>,
    /// The write lock's file, for when its name leads elsewhere by then.
    lock: File,
}

impl Successor {
    pub(super) fn reserve(
        dir: Dir,
        record: &OsStr,
        size: usize,
        intent: usize,
    ) -> Result<Self, StoreError> {
        let lock = dir.open_lock(&suffixed(record, ".lock"))?;
        let name = unused_name(record, NEXT);
        let file = dir.reserve(&name, record, size, intent)?;
        Ok(Self { dir: Arc::new(dir), name, file: Some(file), lock })
    }

    pub(super) fn dir(&self) -> Arc<Dir> {
        self.dir.clone()
    }

    /// Lets go of the room: the record was saved without it.
    pub(super) fn give_up(&mut self) {
        if self.file.take().is_some() {
            let _ = self.dir.remove(&self.name);
        }
    }

    /// Returns whether there is still a file to write to.
    pub(crate) fn is_usable(&self) -> bool {
        self.file.is_some()
    }

    /// Takes the write lock of its slot, also if its name has become unusable.
    pub(super) fn lock(&self, slot: &FileSlot, record: &OsStr) -> Result<Locked, StoreError> {
        match slot.lock(&self.dir, record) {
            Err(StoreError::Timeout { place, reason, advice }) => {
                Err(StoreError::Timeout { place, reason, advice })
            }
            Err(error) => {
                let file = self.lock.try_clone().map_err(|_| error)?;
                wait_for(file, slot.path(), slot.lock_wait)
            }
            locked => locked,
        }
    }

    /// Writes the record into the room that was reserved, and puts it in its place. If that fails, the room
    /// stays reserved where the system allows it.
    pub(super) fn become_record(
        &mut self,
        path: &Path,
        record: &OsStr,
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
        let renamed = written.and_then(|()| self.dir.rename(&self.name, record));
        if let Err(error) = renamed {
            let error = failed(error);
            self.file = kept;
            return Err(error);
        }
        self.dir.sync().map_err(failed)?;
        let _ = self.dir.remove(&suffixed(record, ".intent"));
        Ok(())
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        // If it cannot be removed, the next holder of the lease removes it.
        self.give_up();
        if cfg!(windows) {
            let _ = self.dir.remove(&self.name);
        }
    }
}
