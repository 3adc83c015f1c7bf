//! Lock files that nobody needs any more.

use std::path::{Path, PathBuf};

use super::lock::FileLock;
use super::platform::Dir;
use super::{Exposure, split};
use crate::error::StoreError;

/// What has the name of a lock file. The lock files of this crate are empty, so a file with content is not one.
///
/// They are never removed while a slot is used: a process that still has the unlinked file open would hold a
/// lock that no other process sees. A program that removes a slot for good can remove its locks.
///
/// ```
/// use tokenkeep::private_file::LockFile;
///
/// # fn example(path: &std::path::Path) -> Result<(), tokenkeep::StoreError> {
/// match LockFile::open(path, None)? {
///     LockFile::Free(lock) => lock.remove()?,
///     LockFile::Busy => println!("another process uses it"),
///     LockFile::Absent | LockFile::Foreign => {}
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub enum LockFile {
    /// Nothing has this name.
    Absent,
    /// A process holds the lock.
    Busy,
    /// It is not a lock file of this user.
    Foreign,
    /// Nobody held the lock. It is held until this is dropped.
    Free(HeldLockFile),
}

/// A lock file, and its lock.
#[derive(Debug)]
pub struct HeldLockFile {
    path: PathBuf,
    dir: Dir,
    _lock: FileLock,
}

impl LockFile {
    /// Takes the lock if it exists and is free. Creates nothing. Members of the trusted group may write to the
    /// directories that lead to it. This blocks for the milliseconds that a disk
    /// takes.
    ///
    /// # Errors
    ///
    /// [`StoreError::Exposed`] if others can change a directory that leads to it, and errors of the system.
    pub fn open(path: impl AsRef<Path>, trusted_group: Option<u32>) -> Result<Self, StoreError> {
        let path = path.as_ref();
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let (parent, name) = split(&path)?;
        let Some(dir) = Dir::open(parent, Exposure::Accepted, trusted_group)? else {
            return Ok(Self::Absent);
        };
        let file = match dir.open_file(name, Exposure::Accepted) {
            Ok(Some(file)) => file,
            Ok(None) => return Ok(Self::Absent),
            Err(StoreError::Exposed { .. } | StoreError::NotAFile { .. }) => {
                return Ok(Self::Foreign);
            }
            Err(error) => return Err(error),
        };
        if !file.metadata().is_ok_and(|metadata| metadata.len() == 0) {
            return Ok(Self::Foreign);
        }
        Ok(match FileLock::try_new(file, &path)? {
            Ok(lock) => Self::Free(HeldLockFile { path, dir, _lock: lock }),
            Err(_) => Self::Busy,
        })
    }
}

impl HeldLockFile {
    /// Removes the file, durably.
    ///
    /// # Errors
    ///
    /// Errors of the system.
    pub fn remove(self) -> Result<(), StoreError> {
        let (_, name) = split(&self.path)?;
        let failed = |error| StoreError::io("remove", self.path.display().to_string(), error);
        self.dir.remove(name).map_err(failed)?;
        self.dir.sync().map_err(failed)
    }
}
