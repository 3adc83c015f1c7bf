//! Many private files under one lock.

use std::ffi::OsStr;
use std::fmt;
use std::io::{self, Write};
use std::path::{Component, Path, PathBuf};

use super::lock::{FileLock, LOCK_WAIT, lock};
use super::platform::{self, Dir};
use super::{TEMPORARY, explain_write, suffixed};
use crate::error::StoreError;

/// The name of the lock's file.
const LOCK: &str = ".lock";

/// A directory of private files, and the right to change them, which one process has at a time. Dropping it gives
/// that up.
///
/// It is for many small files that are changed together, such as profiles. It can be shared by threads, each of
/// which writes files of its own. The lock is that of the file `.lock` in the directory, which is never removed.
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
/// A file that it writes can be read and written by this user alone, from its first byte on. A directory that it
/// makes is this user's alone.
pub struct LockedDirectory {
    dir: Dir,
    path: PathBuf,
    _lock: FileLock,
}

impl LockedDirectory {
    /// Takes the lock, and waits up to 10 seconds for it. The directory is made if need be. This blocks.
    ///
    /// # Errors
    ///
    /// [`StoreError::Timeout`] if another process holds the lock for that long, [`StoreError::Exposed`] if others
    /// can write to the directory or to the one above it, or if it would be made in a directory of another user,
    /// and what the system says.
    pub fn lock(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        let path = path.as_ref();
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let dir = Dir::create(&path)?;
        if let Some(above) = path.parent() {
            platform::check_directory(above)?;
        }
        let lock = lock(&dir, OsStr::new(LOCK), &path.join(LOCK), LOCK_WAIT)?;
        Ok(Self { dir, path, _lock: lock })
    }

    /// Creates a file of this name and content. Returns `false` if there is one already, which stays as it is.
    ///
    /// The content is durable then, and the name after [`sync`](Self::sync). A file that a program makes without
    /// the lock at the same moment may be replaced.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoSpace`], and what else the system says.
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
    /// The content is durable then, and which of the two the name leads to after [`sync`](Self::sync).
    ///
    /// # Errors
    ///
    /// [`StoreError::NoSpace`], and what else the system says. The file is then as it was.
    pub fn replace(&self, name: impl AsRef<OsStr>, content: &[u8]) -> Result<(), StoreError> {
        self.write(self.checked(name.as_ref())?, content)
    }

    /// Removes the file of this name, durably. Removing none succeeds: an earlier run may have been killed before
    /// that was durable.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn remove(&self, name: impl AsRef<OsStr>) -> Result<(), StoreError> {
        let name = self.checked(name.as_ref())?;
        for name in [&*suffixed(name, TEMPORARY), name] {
            self.remove_one(name).map_err(|error| self.failed("remove", name, error))?;
        }
        self.dir.sync().map_err(|error| self.failed("remove", name, error))
    }

    /// Makes the names in this directory durable, and those of the directories above it.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn sync(&self) -> Result<(), StoreError> {
        let place = || self.path.display().to_string();
        self.dir.sync().map_err(|error| StoreError::io("write", place(), error))?;
        self.dir.sync_above()
    }

    /// Writes the file beside its place, and puts it there.
    fn write(&self, name: &OsStr, content: &[u8]) -> Result<(), StoreError> {
        let path = self.path.join(name);
        let failed = |error| explain_write(&self.dir, &path, content.len(), error);
        // Always of that name, so that what a killed writer left does not stay: a living one has the lock.
        let temporary = suffixed(name, TEMPORARY);
        self.remove_one(&temporary).map_err(failed)?;
        let mut file = self.dir.create_new(&temporary).map_err(failed)?;
        let written = self
            .dir
            .make_private(&mut file, &temporary)
            .and_then(|()| file.write_all(content).and_then(|()| file.sync_all()).map_err(failed));
        // On Windows it cannot be renamed, or removed, while it is open for this process alone.
        drop(file);
        let written = written.and_then(|()| self.dir.rename(&temporary, name).map_err(failed));
        written.inspect_err(|_| {
            // What failed is the write; that its remains could not be removed adds nothing.
            let _ = self.dir.remove(&temporary);
        })
    }

    fn remove_one(&self, name: &OsStr) -> io::Result<()> {
        match self.dir.remove(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    /// Returns the name if it is one of a file in this directory, and no path that leads elsewhere.
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
