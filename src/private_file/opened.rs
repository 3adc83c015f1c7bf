//! A private file whose directory is open, and its write lock.

use std::ffi::OsStr;
use std::io;
use std::ops::Deref;
use std::sync::Arc;

use super::lock::{FileLock, lock};
use super::platform::Dir;
use super::{
    Exposure, NEXT, PrivateFile, ReservedRoom, TEMPORARY, explain_write, leftovers, read_whole,
    suffixed, unused_name, write_by_rename,
};
use crate::error::StoreError;
use crate::sys::wipe::Bytes;

/// A private file in its directory. The directory was checked, and the file is reached through its
/// descriptor.
#[derive(Debug)]
pub(crate) struct Opened<'a> {
    pub(super) file: &'a PrivateFile,
    pub(super) name: &'a OsStr,
    pub(super) dir: Arc<Dir>,
    pub(super) exposure: Exposure,
}

impl<'a> Opened<'a> {
    /// Takes the write lock.
    pub(crate) fn lock(self) -> Result<LockedFile<'a>, StoreError> {
        let PrivateFile { path, lock_wait, .. } = self.file;
        let lock = lock(&self.dir, &suffixed(self.name, ".lock"), path, *lock_wait)?;
        Ok(LockedFile { opened: self, _lock: lock })
    }

    /// Takes the lock of the file with that ending, or returns `None` if another holder has it, in this
    /// process or in another one.
    pub(crate) fn try_lock_beside(&self, ending: &str) -> Result<Option<FileLock>, StoreError> {
        let file = self.dir.open_lock(&suffixed(self.name, ending))?;
        Ok(FileLock::try_new(file, &self.file.path)?.ok())
    }

    /// Reads the file.
    pub(crate) fn read(&self) -> Result<Option<Bytes>, StoreError> {
        let Some(file) = self.dir.open_file(self.name, self.exposure)? else { return Ok(None) };
        read_whole(file, &self.file.path, self.file.limit).map(Some)
    }

    /// Reads the file with that ending, if it exists and can be read.
    pub(crate) fn read_beside(&self, ending: &str, limit: usize) -> Option<Bytes> {
        let file = self.dir.open_file(&suffixed(self.name, ending), Exposure::Accepted).ok()??;
        read_whole(file, &self.file.path, limit).ok()
    }

    /// Removes the file with that ending. A failure is ignored.
    pub(crate) fn remove_beside(&self, ending: &str) {
        let _ = self.dir.remove(&suffixed(self.name, ending));
    }

    /// Removes reserved room that killed processes left. The caller must know that nobody uses it.
    pub(crate) fn remove_reserved(&self) {
        self.sweep(NEXT);
    }

    /// Makes the names in the directory durable. `action` names the operation in errors.
    pub(crate) fn sync(&self, action: &'static str) -> Result<(), StoreError> {
        self.dir.sync().map_err(|error| StoreError::io(action, self.file.place(), error))
    }

    /// Removes files that killed processes left. A failure is ignored: in a directory that others can write
    /// to, the file may be theirs.
    fn sweep(&self, ending: &str) {
        for left in leftovers(&self.dir, self.name, ending) {
            let _ = self.dir.remove(&left);
        }
    }
}

/// A private file under its write lock. No other user of this crate changes it meanwhile.
#[derive(Debug)]
pub(crate) struct LockedFile<'a> {
    pub(super) opened: Opened<'a>,
    pub(super) _lock: FileLock,
}

impl<'a> Deref for LockedFile<'a> {
    type Target = Opened<'a>;

    fn deref(&self) -> &Self::Target {
        &self.opened
    }
}

impl LockedFile<'_> {
    /// Makes the names of the directories above durable. This is needed for the first file in them.
    pub(crate) fn sync_above(&self) -> Result<(), StoreError> {
        self.dir.sync_above()
    }

    /// Replaces the file, durably.
    pub(crate) fn replace(&self, content: &[u8]) -> Result<(), StoreError> {
        self.remove_temporary();
        self.write(content)
    }

    /// Replaces the file by the reserved room.
    pub(crate) fn replace_with(
        &self,
        room: &mut ReservedRoom,
        content: &[u8],
    ) -> Result<(), StoreError> {
        self.remove_temporary();
        if let Err(error) = room.become_file(&self.file.path, self.name, content) {
            // The reserved file may have been removed or damaged. There may still be other space.
            self.write(content).map_err(|_| error)?;
            room.give_up();
        }
        Ok(())
    }

    /// Replaces the file with that ending. A power cut may undo it.
    pub(crate) fn write_beside(&self, ending: &str, content: &[u8]) -> Result<(), StoreError> {
        let (temporary, name) = (unused_name(self.name, TEMPORARY), suffixed(self.name, ending));
        write_by_rename(&self.dir, &self.file.path, &temporary, &name, content)
    }

    /// Fails if something else than a regular file of this user has the name, or if the file has a second
    /// name. Removing a link would leave its target, and removing one of two names would leave the file.
    pub(crate) fn check_removable(&self) -> Result<(), StoreError> {
        self.dir.open_file(self.name, Exposure::Accepted).map(drop)
    }

    /// Removes the file and leftovers of interrupted writes. [`sync`](Opened::sync) makes it durable.
    pub(crate) fn remove(&self) -> Result<(), StoreError> {
        // The temporary files hold tokens too. If one cannot be removed, the file itself still is.
        self.remove_temporary();
        match self.dir.remove(self.name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::io("remove", self.file.place(), error))
            }
            _ => Ok(()),
        }
    }

    fn remove_temporary(&self) {
        self.sweep(TEMPORARY);
        // An earlier build used this name.
        self.remove_beside(TEMPORARY);
    }

    /// Writes the content and makes it durable, then renames it and makes the name durable.
    fn write(&self, content: &[u8]) -> Result<(), StoreError> {
        let (dir, path) = (&*self.dir, &self.file.path);
        write_by_rename(dir, path, &unused_name(self.name, TEMPORARY), self.name, content)?;
        dir.sync().map_err(|error| explain_write(dir, path, content.len(), error))
    }
}
