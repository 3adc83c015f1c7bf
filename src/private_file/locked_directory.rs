//! Many private files under one lock.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::path::{Component, Path, PathBuf};

use super::lock::{FileLock, LOCK_WAIT, lock};
use super::platform::Dir;
use super::{TEMPORARY, explain_write, suffixed, write_by_rename};
use crate::error::StoreError;

/// The name of the lock file.
const LOCK: &str = ".lock";

/// A directory of private files, locked for changes. One process has the lock at a time. It is released on
/// drop.
///
/// Use it for many small files that are changed together, such as profiles. Threads can share it if each
/// thread writes its own files. The lock file is `.lock` in the directory. It is never removed.
///
/// ```
/// use tokenkeep::private_file::LockedDirectory;
///
/// # fn example(path: &std::path::Path) -> Result<(), tokenkeep::StoreError> {
/// let directory = LockedDirectory::lock(path)?;
/// for name in ["alice.toml", "bob.toml"] {
///     directory.replace(name, b"store = \"env:APP\"\n")?;
/// }
/// directory.sync()?;
/// # Ok(())
/// # }
/// ```
///
/// # Security
///
/// Files that it writes can be read and written only by this user, from their first byte on. A directory that
/// it creates is private to this user.
pub struct LockedDirectory {
    dir: Dir,
    path: PathBuf,
    _lock: FileLock,
}

impl LockedDirectory {
    /// Takes the lock, and waits up to 10 seconds for it. The directory is created if needed. This blocks.
    ///
    /// # Errors
    ///
    /// [`StoreError::Timeout`] if another process holds the lock for that long, [`StoreError::Exposed`] if
    /// others can write to the directory or to the one above it, or if it would be created in a directory of
    /// another user, and errors of the system.
    pub fn lock(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        let path = path.as_ref();
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let dir = Dir::create(&path, None)?;
        let lock = lock(&dir, OsStr::new(LOCK), &path.join(LOCK), LOCK_WAIT)?;
        Ok(Self { dir, path, _lock: lock })
    }

    /// Creates a file of this name and content. Returns `false` if the file exists. An existing file is not
    /// changed.
    ///
    /// On return the content is durable. The name is durable after [`sync`](Self::sync). A file that a
    /// program creates without the lock at the same moment may be replaced.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoSpace`], and other errors of the system.
    pub fn create(&self, name: impl AsRef<OsStr>, content: &[u8]) -> Result<bool, StoreError> {
        let name = self.checked(name.as_ref())?;
        let exists = self.dir.has(name);
        if exists.map_err(|error| self.failed("read", name, error))? {
            return Ok(false);
        }
        self.write(name, content).map(|()| true)
    }

    /// Replaces the file of this name, or creates it. A reader sees the old content or the new one. A link is
    /// replaced by a file.
    ///
    /// On return the new content is durable. The replacement is durable after [`sync`](Self::sync).
    ///
    /// # Errors
    ///
    /// [`StoreError::NoSpace`], and other errors of the system. After an error the file is unchanged.
    pub fn replace(&self, name: impl AsRef<OsStr>, content: &[u8]) -> Result<(), StoreError> {
        self.write(self.checked(name.as_ref())?, content)
    }

    /// Removes the file of this name, durably. Succeeds if the file does not exist: an earlier run may have
    /// been killed before the removal was durable.
    ///
    /// # Errors
    ///
    /// Errors of the system.
    pub fn remove(&self, name: impl AsRef<OsStr>) -> Result<(), StoreError> {
        let name = self.checked(name.as_ref())?;
        for name in [&*suffixed(name, TEMPORARY), name] {
            self.remove_one(name).map_err(|error| self.failed("remove", name, error))?;
        }
        self.dir.sync().map_err(|error| self.failed("remove", name, error))
    }

    /// Makes the names in this directory durable, and the names of the directories above it.
    ///
    /// # Errors
    ///
    /// Errors of the system.
    pub fn sync(&self) -> Result<(), StoreError> {
        let place = || self.path.display().to_string();
        self.dir.sync().map_err(|error| StoreError::io("write", place(), error))?;
        self.dir.sync_above()
    }

    /// Writes a temporary file, and renames it.
    fn write(&self, name: &OsStr, content: &[u8]) -> Result<(), StoreError> {
        let path = self.path.join(name);
        let failed = |error| explain_write(&self.dir, &path, content.len(), error);
        // The name is always the same, so that a file left by a killed writer is replaced. Other writers need
        // the lock.
        let temporary = suffixed(name, TEMPORARY);
        self.remove_one(&temporary).map_err(failed)?;
        write_by_rename(&self.dir, &path, &temporary, name, content)
    }

    fn remove_one(&self, name: &OsStr) -> io::Result<()> {
        match self.dir.remove(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    /// Returns the name. Fails if it is a path that leads out of this directory.
    fn checked<'a>(&self, name: &'a OsStr) -> Result<&'a OsStr, StoreError> {
        let mut components = Path::new(name).components();
        match (components.next(), components.next()) {
            (Some(Component::Normal(only)), None) if only == name && name != LOCK => Ok(name),
            _ => {
                let reason = "this is not the name of a file";
                let error = io::Error::new(io::ErrorKind::InvalidInput, reason);
                Err(self.failed("use", name, error))
            }
        }
    }

    fn failed(&self, action: &'static str, name: &OsStr, error: io::Error) -> StoreError {
        StoreError::io(action, self.path.join(name).display().to_string(), error)
    }
}

impl fmt::Debug for LockedDirectory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LockedDirectory({})", self.path.display())
    }
}
