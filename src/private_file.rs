//! Private files. A write replaces the whole file or nothing. A file that others can access is refused.
//!
//! The stores of this crate keep their records in such files. A program can keep other files in the same way:
//! a client's secret in a [`PrivateFile`], its settings for many accounts in a [`LockedDirectory`]. All
//! functions here block for the milliseconds that a disk takes.
//!
//! # Files
//!
//! Beside a file `NAME` is `NAME.lock`, the write lock. During a write there is also `NAME.RANDOM.tmp`. While
//! room is reserved for a later write, there is also `NAME.RANDOM.next`. The names are random because in a
//! directory like `/tmp` others can take every name that they can guess. If a killed process left a `.tmp`
//! file, the next writer removes it. A lock file is never removed: a process that still has the unlinked file
//! open would hold a lock that no other process sees.

#[cfg(unix)]
mod accounts;
#[cfg(windows)]
mod acl;
mod lock;
mod lock_file;
mod locked_directory;
mod opened;
#[cfg_attr(unix, path = "private_file/unix.rs")]
#[cfg_attr(windows, path = "private_file/windows.rs")]
mod platform;
mod reserved_room;
#[cfg(all(unix, feature = "postgres"))]
mod socket_directory;
#[cfg(unix)]
mod space;
#[cfg(test)]
mod tests;
#[cfg(unix)]
mod trusted_directory;
#[cfg(unix)]
mod trusted_path;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretSlice;
use zeroize::Zeroizing;

pub(crate) use self::lock::FileLock;
use self::lock::{LOCK_WAIT, lock};
pub use self::lock_file::{HeldLockFile, LockFile};
pub use self::locked_directory::LockedDirectory;
pub(crate) use self::opened::{LockedFile, Opened};
use self::platform::Dir;
pub(crate) use self::reserved_room::ReservedRoom;
#[cfg(all(unix, feature = "postgres"))]
pub(crate) use self::socket_directory::SocketDirectory;
use crate::error::StoreError;
use crate::sys::wipe::Bytes;

/// The maximum size in bytes of a file that holds keys. A line with one key takes about 75.
#[cfg(feature = "age")]
const MAX_KEY_FILE: usize = 64 * 1024;

/// The endings of the names of temporary files and of reserved files.
const TEMPORARY: &str = ".tmp";
const NEXT: &str = ".next";

/// Whether permissions that let others read are an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exposure {
    Accepted,
    Refused,
}

/// A file that only this user can access. It may not exist yet.
///
/// ```
/// use tokenkeep::private_file::PrivateFile;
///
/// # fn example(path: &std::path::Path) -> Result<(), tokenkeep::StoreError> {
/// let file = PrivateFile::new(path, 64 * 1024);
/// file.replace(b"the client's secret")?;
/// assert!(file.read()?.is_some());
/// # Ok(())
/// # }
/// ```
///
/// # Security
///
/// On Unix a private file belongs to this user and has mode 0600 from its first byte on. It is no link and
/// has no second name. Its directory is one that nobody else can write to. On Windows its access list allows
/// only this user and the system. A directory that is created for it is private to this user.
#[derive(Debug)]
pub struct PrivateFile {
    path: PathBuf,
    /// The maximum size in bytes.
    limit: usize,
    lock_wait: Duration,
    /// A group whose members may write to the directories that lead to the file.
    trusted_group: Option<u32>,
}

impl PrivateFile {
    /// Names a file of at most `limit` bytes. A relative path is resolved now, so a later change of the
    /// working directory has no effect on it.
    #[must_use]
    pub fn new(path: impl AsRef<Path>, limit: usize) -> Self {
        let path = path.as_ref();
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        Self { path, limit, lock_wait: LOCK_WAIT, trusted_group: None }
    }

    /// Trusts all members of a group, by its number: they may write to the directories that lead to the file.
    /// Some set-ups need this, such as a volume with an `fsGroup` in Kubernetes. It has no effect on Windows.
    ///
    /// # Security
    ///
    /// Each member of the group can replace the file.
    #[must_use]
    pub fn with_trusted_group(mut self, group: impl Into<Option<u32>>) -> Self {
        self.trust_group(group.into());
        self
    }

    pub(crate) fn trust_group(&mut self, group: Option<u32>) {
        self.trusted_group = group;
    }

    /// Returns the absolute path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the file, or returns `None` if it does not exist. No lock is taken: the content is the old one
    /// or the new one.
    ///
    /// # Errors
    ///
    /// [`StoreError::Exposed`] if it is not private, [`StoreError::TooLarge`] if it is longer than the limit,
    /// [`StoreError::NotAFile`] for a directory, a pipe or a device, and errors of the system.
    ///
    /// # Security
    ///
    /// The content is read from the same open file that was checked. It is wiped on drop.
    pub fn read(&self) -> Result<Option<SecretSlice<u8>>, StoreError> {
        let Some(opened) = self.open(Exposure::Refused)? else { return Ok(None) };
        // Copied at its exact size: a buffer with spare capacity would be copied once more and not be wiped.
        Ok(opened.read()?.map(|bytes| SecretSlice::from(bytes.to_vec())))
    }

    /// Reads a file that nobody else can change, such as one with settings, or returns `None` if it does not
    /// exist. Others may read it. It may be a link, and it may belong to root.
    ///
    /// # Errors
    ///
    /// [`StoreError::Exposed`] if others can write to it, and the errors of [`read`](Self::read).
    ///
    /// # Security
    ///
    /// If it is a link, the link is followed through trusted directories only.
    pub fn read_trusted(&self) -> Result<Option<Vec<u8>>, StoreError> {
        let file = platform::open_trusted_file(&self.path, Exposure::Accepted, self.trusted_group)?;
        let Some(file) = file else { return Ok(None) };
        let mut bytes = read_whole(file, &self.path, self.limit)?;
        Ok(Some(std::mem::take(&mut *bytes)))
    }

    /// Creates the file with this content, durably. Returns `false` if it exists. An existing file is not
    /// changed.
    ///
    /// # Errors
    ///
    /// The errors of [`replace`](Self::replace), and those of [`read`](Self::read) if it exists.
    pub fn create(&self, content: &[u8]) -> Result<bool, StoreError> {
        let locked = self.lock()?;
        if locked.read()?.is_some() {
            locked.sync("write")?;
            return Ok(false);
        }
        locked.sync_above()?;
        locked.replace(content).map(|()| true)
    }

    /// Replaces the file, or creates it, durably. Temporary files of killed processes are removed.
    ///
    /// # Errors
    ///
    /// [`StoreError::Exposed`] if others can write to its directory, [`StoreError::Timeout`] if another
    /// process has been writing to it for 10 seconds, [`StoreError::NoSpace`], and other errors of the
    /// system. After an error the file is the old one. It is the new one if only its name could not be made
    /// durable.
    pub fn replace(&self, content: &[u8]) -> Result<(), StoreError> {
        let locked = self.lock()?;
        locked.sync_above()?;
        locked.replace(content)
    }

    /// Removes the file, durably. Succeeds if the file does not exist: an earlier run may have been killed
    /// before the removal was durable.
    ///
    /// No lock is taken, and no lock file is created. A file at any path can be removed, even if it is not
    /// private.
    ///
    /// # Errors
    ///
    /// Errors of the system.
    pub fn remove(&self) -> Result<(), StoreError> {
        platform::remove(&self.path, self.trusted_group)?;
        match self.open(Exposure::Accepted) {
            Ok(Some(opened)) => opened.sync("remove"),
            // The removal cannot be made durable in a directory that this user may not list.
            _ => Ok(()),
        }
    }

    /// Checks that nobody else can put a file in its place: that each directory that leads to it is trusted. It
    /// need not exist.
    ///
    /// # Errors
    ///
    /// [`StoreError::Exposed`] if somebody else can, and errors of the system.
    pub fn check_directories(&self) -> Result<(), StoreError> {
        self.open(Exposure::Refused).map(drop)
    }

    /// Makes the name of the file durable, and the names of the directories above it. The process that wrote
    /// the file may have been killed before that.
    ///
    /// # Errors
    ///
    /// Errors of the system. A directory that this user may not list is no error: no process of this user
    /// created anything in it.
    pub fn sync(&self) -> Result<(), StoreError> {
        match self.open(Exposure::Accepted) {
            Ok(Some(opened)) => {
                opened.sync("write")?;
                opened.dir.sync_above()
            }
            Ok(None) | Err(StoreError::Denied { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn place(&self) -> String {
        self.path.display().to_string()
    }

    /// Returns the path with links resolved where possible, so that two spellings of one path are equal.
    pub(crate) fn canonical(&self) -> PathBuf {
        let Ok((parent, name)) = self.split() else { return self.path.clone() };
        // The first directories may not exist yet.
        let existing = parent.ancestors().find_map(|dir| Some((dir, dir.canonicalize().ok()?)));
        let Some((dir, canonical)) = existing else { return self.path.clone() };
        let missing = parent.strip_prefix(dir).expect("it is an ancestor");
        canonical.join(missing).join(name)
    }

    /// Opens the directory of the file, or returns `None` if it does not exist. No lock is taken: after a
    /// rename a reader sees the old content or the new one.
    pub(crate) fn open(&self, exposure: Exposure) -> Result<Option<Opened<'_>>, StoreError> {
        let (parent, name) = self.split()?;
        let dir = Dir::open(parent, exposure, self.trusted_group)?;
        Ok(dir.map(|dir| Opened { file: self, name, dir: Arc::new(dir), exposure }))
    }

    /// Opens the directory to remove the file, and creates it if needed. Only removing is allowed in a
    /// directory that others can write to.
    pub(crate) fn open_to_remove(&self) -> Result<Opened<'_>, StoreError> {
        self.check_name()?;
        if let Some(opened) = self.open(Exposure::Accepted)? {
            return Ok(opened);
        }
        let (parent, name) = self.split()?;
        let dir = Arc::new(Dir::create(parent, self.trusted_group)?);
        Ok(Opened { file: self, name, dir, exposure: Exposure::Accepted })
    }

    /// Creates the directory if needed, and takes the write lock.
    pub(crate) fn lock(&self) -> Result<LockedFile<'_>, StoreError> {
        self.check_name()?;
        let (parent, name) = self.split()?;
        let dir = Arc::new(Dir::create(parent, self.trusted_group)?);
        Opened { file: self, name, dir, exposure: Exposure::Refused }.lock()
    }

    /// Takes the write lock to fill reserved room. It uses the directory and the lock file that the room
    /// holds open. So the new content is not lost if others change these paths after the reservation.
    pub(crate) fn lock_reserved(&self, room: &ReservedRoom) -> Result<LockedFile<'_>, StoreError> {
        let (_, name) = self.split()?;
        let lock = room.lock(self, name)?;
        let opened = Opened { file: self, name, dir: room.dir(), exposure: Exposure::Accepted };
        Ok(LockedFile { opened, _lock: lock })
    }

    /// Makes sure that the file can be replaced later, even if the disk fills up: first by a file that is
    /// `growth` bytes longer than now, then by one of `size` bytes.
    pub(crate) fn reserve(&self, size: usize, growth: usize) -> Result<ReservedRoom, StoreError> {
        let (parent, name) = self.split()?;
        let dir = Dir::create(parent, self.trusted_group)?;
        dir.check_replaceable(name)?;
        // The lock is not kept, because others may write meanwhile. This only shows that it can be taken.
        drop(lock(&dir, &suffixed(name, ".lock"), &self.path, self.lock_wait)?);
        let there = dir.open_file(name, Exposure::Accepted)?;
        let there = there.and_then(|file| file.metadata().ok()).map_or(0, |there| there.len());
        let first = usize::try_from(there).unwrap_or(size).min(size) + growth;
        ReservedRoom::reserve(dir, name, size, first)
    }

    /// Returns whether the file, leftovers of interrupted writes, and files with these endings are all
    /// absent. A file that cannot be checked counts as present.
    pub(crate) fn is_absent(&self, endings: &[&str]) -> Result<bool, StoreError> {
        let (parent, name) = self.split()?;
        let dir = match Dir::open(parent, Exposure::Accepted, self.trusted_group) {
            Ok(dir) => dir,
            // It may not be listed, but nobody else can put anything else in its place.
            Err(StoreError::Denied { .. }) => None,
            Err(error) => return Err(error),
        };
        let is_there = |name: &OsStr| {
            let found = parent.join(name).symlink_metadata();
            !found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
        };
        if is_there(name) || endings.iter().any(|ending| is_there(&suffixed(name, ending))) {
            return Ok(false);
        }
        let left = |ending| dir.as_ref().map_or_else(Vec::new, |dir| leftovers(dir, name, ending));
        let mut left = [TEMPORARY, NEXT].into_iter().flat_map(left);
        Ok(!is_there(&suffixed(name, TEMPORARY)) && !left.any(|left| is_there(&left)))
    }

    /// Makes the absence of the file durable. No lock is taken, because that may be impossible. Fails if its
    /// directory may be on a volume that is not mounted.
    pub(crate) fn sync_absence(&self) -> Result<(), StoreError> {
        let (parent, _) = self.split()?;
        refuse_missing_root(parent)?;
        // If this user may not list the directory, no process of this user removed the file.
        match self.open(Exposure::Accepted) {
            Ok(Some(opened)) => opened.sync("remove"),
            _ => Ok(()),
        }
    }

    fn split(&self) -> Result<(&Path, &OsStr), StoreError> {
        split(&self.path)
    }

    /// Fails if the files beside this one would have names that are too long. It could then be removed and not
    /// replaced, or written and not locked. Nothing is changed before this check.
    fn check_name(&self) -> Result<(), StoreError> {
        const LONGEST_ENDING: usize = ".".len() + RANDOM + NEXT.len();

        let (parent, name) = self.split()?;
        let (length, longest) = (platform::name_length(name), platform::longest_name(parent));
        if length + LONGEST_ENDING <= longest {
            return Ok(());
        }
        let reason = format!(
            "its name has {length} bytes, and at most {} leave room for the files beside it; use a shorter name",
            longest.saturating_sub(LONGEST_ENDING)
        );
        Err(StoreError::ReadOnly { place: self.place(), reason })
    }
}

/// Takes the exclusive lock of that name, and creates its directory if needed. Fails if this takes longer than
/// the given time.
#[cfg(feature = "keychain")]
pub(crate) fn exclusive(path: &Path, wait: Duration) -> Result<FileLock, StoreError> {
    let (parent, name) = split(path)?;
    lock(&Dir::create(parent, None)?, name, path, wait)
}

/// Reads a file that somebody else put there: a key, or the file of another program. It may be a link, as mounted
/// secrets are. `exposure` says whether others may read it. Nobody else may write to it in any case.
#[cfg(any(feature = "age", feature = "import"))]
pub(crate) fn read_through_links(
    path: &Path,
    exposure: Exposure,
    limit: usize,
    trusted_group: Option<u32>,
) -> Result<Option<Bytes>, StoreError> {
    match platform::open_trusted_file(path, exposure, trusted_group)? {
        Some(file) => read_whole(file, path, limit).map(Some),
        None => Ok(None),
    }
}

/// Reads a file that holds keys, like [`read_through_links`].
#[cfg(feature = "age")]
pub(crate) fn read_key_file(
    path: &Path,
    exposure: Exposure,
    trusted_group: Option<u32>,
) -> Result<Option<Bytes>, StoreError> {
    read_through_links(path, exposure, MAX_KEY_FILE, trusted_group)
}

/// Reads into a buffer that is wiped and never grows.
fn read_whole(mut file: File, path: &Path, limit: usize) -> Result<Bytes, StoreError> {
    let failed = |error| StoreError::io("read", path.display().to_string(), error);
    let too_large = || StoreError::TooLarge { place: path.display().to_string(), limit };
    let length = file.metadata().map_err(failed)?.len();
    let length = usize::try_from(length).ok().filter(|&n| n <= limit).ok_or_else(too_large)?;
    // One more byte, to detect the end. If the file grew meanwhile, it is read up to the limit.
    let mut bytes = Zeroizing::new(vec![0; length + 1]);
    let mut filled = 0;
    loop {
        if filled == bytes.len() {
            if filled > limit {
                return Err(too_large());
            }
            let mut longer = Zeroizing::new(vec![0; limit + 1]);
            longer[..filled].copy_from_slice(&bytes);
            bytes = longer;
        }
        match file.read(&mut bytes[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

fn split(path: &Path) -> Result<(&Path, &OsStr), StoreError> {
    path.parent().zip(path.file_name()).ok_or_else(|| StoreError::Io {
        action: "use",
        place: format!("{path:?}"),
        source: Arc::new(io::Error::new(io::ErrorKind::InvalidInput, "the path names no file")),
    })
}

/// Fails if the path leads through a link to a missing directory, such as a volume that is not mounted, or is
/// on a missing drive. It is then not known which files exist there.
fn refuse_missing_root(path: &Path) -> Result<(), StoreError> {
    let unavailable = |reason: String| {
        let advice = "mount it, or fix the link".into();
        Err(StoreError::Unavailable { place: path.display().to_string(), reason, advice })
    };
    for above in path.ancestors() {
        let failed =
            |error| StoreError::io("open the directory", above.display().to_string(), error);
        match above.symlink_metadata() {
            Ok(metadata) if metadata.is_symlink() && !above.exists() => {
                let above = above.display();
                return unavailable(format!("{above} is a link to something that is not there"));
            }
            Ok(_) if above.is_dir() => return Ok(()),
            Ok(_) => return Err(failed(io::ErrorKind::NotADirectory.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
    }
    unavailable("its drive is not there".into())
}

/// Returns a file name that nobody else knows.
fn unused_name(name: &OsStr, suffix: &str) -> OsString {
    let mut random = [0; RANDOM / 2];
    // Without randomness the name may be taken. The file is created exclusively in any case.
    let _ = getrandom::fill(&mut random);
    let random: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    suffixed(name, &format!(".{random}{suffix}"))
}

/// How many characters of such a name are random. There are 2^64 values, too many to guess.
const RANDOM: usize = 16;

/// Returns the names of temporary or reserved files of the file of that name.
fn leftovers(dir: &Dir, name: &OsStr, suffix: &str) -> Vec<OsString> {
    let prefix = suffixed(name, ".");
    let (prefix, suffix) = (prefix.as_encoded_bytes(), suffix.as_bytes());
    let is_ours = |found: &OsString| {
        let random = found.as_encoded_bytes().strip_prefix(prefix);
        let random = random.and_then(|found| found.strip_suffix(suffix));
        random.is_some_and(|random| {
            random.len() == RANDOM && random.iter().all(u8::is_ascii_hexdigit)
        })
    };
    dir.names().into_iter().filter(is_ours).collect()
}

/// Writes a new file under the temporary name, durably, and gives it its name. That name is not durable yet.
fn write_by_rename(
    dir: &Dir,
    path: &Path,
    temporary: &OsStr,
    name: &OsStr,
    content: &[u8],
) -> Result<(), StoreError> {
    let failed = |error| explain_write(dir, path, content.len(), error);
    let mut file = dir.create_new(temporary).map_err(failed)?;
    let written = dir
        .make_private(&mut file, temporary)
        .and_then(|()| file.write_all(content).and_then(|()| file.sync_all()).map_err(failed));
    // On Windows the file cannot be renamed or removed while this process has it open without sharing.
    drop(file);
    let written = written.and_then(|()| dir.rename(temporary, name).map_err(failed));
    written.inspect_err(|_| {
        // The error of the write is returned. An error of this cleanup would add nothing.
        let _ = dir.remove(temporary);
    })
}

/// Returns an error that says why a file could not be written, and what to do.
fn explain_write(dir: &Dir, path: &Path, size: usize, error: io::Error) -> StoreError {
    let place = path.display().to_string();
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            StoreError::NoSpace { place, reason: dir.missing_space(&[size], &error) }
        }
        io::ErrorKind::ResourceBusy => StoreError::ReadOnly { place, reason: MOUNT_POINT.into() },
        _ => StoreError::io("write", place, error),
    }
}

const MOUNT_POINT: &str =
    "it is a mount point, so that it cannot be replaced; mount its directory, and not the file";

fn suffixed(name: &OsStr, suffix: &str) -> OsString {
    let mut name = name.to_owned();
    name.push(suffix);
    name
}
