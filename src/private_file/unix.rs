use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::process::geteuid;

use super::accounts::is_root;
use super::space::{self, Space};
use super::trusted_directory::{TrustedDirectory, has_access_list, is_group_trusted};
use super::{Exposure, refuse_missing_root, trusted_path};
use crate::error::StoreError;

const READ_BY_OTHERS: u32 = 0o044;
const ANY_BY_OTHERS: u32 = 0o077;

/// Directories whose names this process made durable, together with the names of all directories above them.
static DURABLE: Mutex<BTreeSet<Birth>> = Mutex::new(BTreeSet::new());

/// Identifies a directory. A directory that is created later can get the same inode number.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Birth {
    device: u64,
    number: u64,
    at: SystemTime,
}

impl Birth {
    /// Returns `None` if the file system does not record when a directory was created.
    fn of(directory: &fs::Metadata) -> Option<Self> {
        let (device, number) = (directory.dev(), directory.ino());
        Some(Self { device, number, at: directory.created().ok()? })
    }
}

/// A directory that was checked. Its files are reached through its descriptor, so the directory that was
/// checked is the one that is used, even if the path changes.
#[derive(Debug)]
pub(super) struct Dir {
    file: File,
    path: PathBuf,
}

impl Dir {
    /// Opens a directory, or returns `None` if it does not exist. Members of `group` may write to it and to
    /// those above it.
    pub(super) fn open(
        path: &Path,
        exposure: Exposure,
        group: Option<u32>,
    ) -> Result<Option<Self>, StoreError> {
        match trusted_path::directory(path, group)? {
            Some(reached) => Self::reached(&reached, path, exposure).map(Some),
            None => refuse_missing_root(path).map(|()| None),
        }
    }

    /// Opens a directory. If it does not exist, creates it and those above it, private to this user.
    ///
    /// [`sync_above`](Self::sync_above) makes the new names durable. A lock does not need that.
    pub(super) fn create(path: &Path, group: Option<u32>) -> Result<Self, StoreError> {
        if let Some(dir) = Self::open(path, Exposure::Refused, group)? {
            return Ok(dir);
        }
        Self::reached(&trusted_path::created_directory(path, group)?, path, Exposure::Refused)
    }

    fn reached(
        reached: &TrustedDirectory,
        path: &Path,
        exposure: Exposure,
    ) -> Result<Self, StoreError> {
        match exposure {
            Exposure::Accepted => reached.check_owner(reached.path())?,
            Exposure::Refused => reached.check_own()?,
        }
        let file = reached.readable().map_err(|error| failed("open the directory", path, error))?;
        Ok(Self { file, path: path.to_owned() })
    }

    /// Opens a file of this user's for reading, or returns `None` if it does not exist.
    pub(super) fn open_file(
        &self,
        name: &OsStr,
        exposure: Exposure,
    ) -> Result<Option<File>, StoreError> {
        let path = self.path.join(name);
        // NONBLOCK: opening a FIFO must not wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = match self.open_at(name, flags, Mode::empty()) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(not_openable(&path, error)),
        };
        let metadata = file.metadata().map_err(|error| failed("read", &path, error))?;
        check_kind(&path, &metadata)?;
        check_owner(&path, &metadata, false)?;
        check_names(&path, &metadata)?;
        if exposure == Exposure::Refused && metadata.mode() & ANY_BY_OTHERS != 0 {
            return Err(exposed(&path, &file));
        }
        Ok(Some(file))
    }

    /// Creates a file that is this user's alone from its first byte on.
    pub(super) fn create_new(&self, name: &OsStr) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        self.open_at(name, flags, Mode::RUSR | Mode::WUSR)
    }

    /// Creates such a file as the successor of `record`, and allocates `size` bytes, so that writing them
    /// later does not fail. `beside` is the size of another file that is written before that.
    pub(super) fn reserve(
        &self,
        name: &OsStr,
        record: &OsStr,
        size: usize,
        beside: usize,
    ) -> Result<File, StoreError> {
        let place = self.path.join(record);
        let no_space = |error: io::Error| match error.kind() {
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge => StoreError::NoSpace {
                place: place.display().to_string(),
                reason: self.missing_space(&[size, beside], &error),
            },
            _ => failed("write", &place, error),
        };
        // A write beyond this limit does not fail: it ends the process.
        let limit = rustix::process::getrlimit(rustix::process::Resource::Fsize).current;
        if limit.is_some_and(|limit| limit < size as u64) {
            return Err(no_space(io::ErrorKind::FileTooLarge.into()));
        }
        let mut file = self.create_new(name).map_err(no_space)?;
        let allocated =
            space::allocate(&mut file, size).and_then(|()| match Space::of(&self.file) {
                Some(space) if space.has_no_inode || space.free < space.round_up(beside) => {
                    Err(io::ErrorKind::StorageFull.into())
                }
                _ => Ok(()),
            });
        allocated.map_err(|error| {
            let _ = self.remove(name);
            no_space(error)
        })?;
        Ok(file)
    }

    /// Returns a text that says how much room files of these sizes need, how much there is, and what to do.
    pub(super) fn missing_space(&self, sizes: &[usize], error: &io::Error) -> String {
        space::missing(&self.file, sizes, error)
    }

    /// Checks that the file of that name can be replaced, if it exists.
    pub(super) fn check_replaceable(&self, name: &OsStr) -> Result<(), StoreError> {
        #[cfg(target_os = "linux")]
        for (name, flags) in
            [(name, AtFlags::SYMLINK_NOFOLLOW), (OsStr::new(""), AtFlags::EMPTY_PATH)]
        {
            use rustix::fs::{StatxAttributes, StatxFlags};

            // If the system does not report it here, the write fails later.
            let Ok(found) = rustix::fs::statx(&self.file, name, flags, StatxFlags::TYPE) else {
                continue;
            };
            let place = if name.is_empty() { self.path.clone() } else { self.path.join(name) };
            let read_only = |reason: String| {
                let place = place.display().to_string();
                Err(StoreError::ReadOnly { place, reason })
            };
            let has = |attribute| found.stx_attributes.contains(attribute);
            for (attribute, flag, word) in [
                (StatxAttributes::IMMUTABLE, 'i', "immutable"),
                (StatxAttributes::APPEND, 'a', "append-only"),
            ] {
                if has(attribute) {
                    let place = place.display();
                    return read_only(format!("it is marked {word}; run `chattr -{flag} {place}`"));
                }
            }
            if !name.is_empty() && has(StatxAttributes::MOUNT_ROOT) {
                return read_only(super::MOUNT_POINT.to_owned());
            }
        }
        #[cfg(not(target_os = "linux"))]
        let _ = name;
        Ok(())
    }

    /// Returns the names of all entries, or no names if the directory cannot be listed.
    pub(super) fn names(&self) -> Vec<OsString> {
        let Ok(entries) = rustix::fs::Dir::read_from(&self.file) else { return Vec::new() };
        let names = entries.filter_map(Result::ok);
        names.map(|entry| OsStr::from_bytes(entry.file_name().to_bytes()).to_owned()).collect()
    }

    /// Makes a file private that was just created. Here its mode has done that already.
    #[expect(clippy::unnecessary_wraps, clippy::unused_self, reason = "as on other platforms")]
    pub(super) fn make_private(&self, _file: &mut File, _name: &OsStr) -> Result<(), StoreError> {
        Ok(())
    }

    /// Opens a lock file. Creates it if it does not exist.
    pub(super) fn open_lock(&self, name: &OsStr) -> Result<File, StoreError> {
        let path = self.path.join(name);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NONBLOCK | OFlags::NOCTTY;
        let opened = || {
            let file =
                self.open_at(name, flags, Mode::RUSR | Mode::WUSR).map_err(|error| match error
                    .kind()
                {
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                        StoreError::NoSpace {
                            place: path.display().to_string(),
                            reason: self.missing_space(&[1], &error),
                        }
                    }
                    _ => not_openable(&path, error),
                })?;
            let metadata = file.metadata().map_err(|error| failed("lock", &path, error))?;
            check_kind(&path, &metadata)?;
            check_owner(&path, &metadata, false)?;
            check_names(&path, &metadata)?;
            // A user who can open it can hold the lock for as long as they like.
            if metadata.mode() & ANY_BY_OTHERS != 0 {
                return Err(exposed(&path, &file));
            }
            Ok(file)
        };
        opened().map_err(|error| {
            let there = rustix::fs::statat(&self.file, name, AtFlags::SYMLINK_NOFOLLOW);
            // If the lock file does not exist, the error is about its directory.
            if there.is_ok() { unusable_lock(&path, error) } else { error }
        })
    }

    /// Returns whether there is an entry of that name. A link counts, even if its target does not exist.
    pub(super) fn has(&self, name: &OsStr) -> io::Result<bool> {
        match rustix::fs::statat(&self.file, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(rustix::io::Errno::NOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn rename(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.file, from, &self.file, to)?)
    }

    pub(super) fn remove(&self, name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.file, name, AtFlags::empty())?)
    }

    /// Makes the names in this directory durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        match self.file.sync_all() {
            // Some network and user-space file systems do not support it.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
            synced => synced,
        }
    }

    /// Makes the name of this directory durable, and the names of the directories above it.
    ///
    /// This is needed for existing directories too: the process that created them may have been killed before
    /// it did this. Once in each process is enough.
    pub(super) fn sync_above(&self) -> Result<(), StoreError> {
        let us = geteuid().as_raw();
        let mut below = self.metadata()?;
        let mut durable = DURABLE.lock().unwrap_or_else(PoisonError::into_inner);
        for path in self.path.ancestors().skip(1) {
            // No process of this user created a directory that belongs to another user.
            if below.uid() != us || Birth::of(&below).is_some_and(|birth| durable.contains(&birth))
            {
                break;
            }
            let above = match File::open(path) {
                Ok(file) => Self { file, path: path.to_owned() },
                // It cannot be synced without being opened. Where this user may not write, no process of
                // theirs created anything.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    if may_write(path) {
                        self.sync_file_system()
                            .map_err(|error| failed("create", &self.path, error))?;
                    }
                    break;
                }
                Err(error) => return Err(failed("open the directory", path, error)),
            };
            let metadata = above.metadata()?;
            // No process of this user created a mount point.
            if below.dev() != metadata.dev() {
                break;
            }
            above.sync().map_err(|error| failed("create", &self.path, error))?;
            below = metadata;
        }
        durable.extend(Birth::of(&self.metadata()?));
        Ok(())
    }

    /// Makes all of its file system durable.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn sync_file_system(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(&self.file)?)
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    #[expect(clippy::unused_self, reason = "as on Linux")]
    fn sync_file_system(&self) -> io::Result<()> {
        Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "a directory above may be written to and not read, so nothing in it can be made durable",
        ))
    }

    fn metadata(&self) -> Result<fs::Metadata, StoreError> {
        self.file.metadata().map_err(|error| failed("open the directory", &self.path, error))
    }

    /// Opens the file of that name in this directory. Fails if it is a link.
    fn open_at(&self, name: &OsStr, flags: OFlags, mode: Mode) -> io::Result<File> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened =
            rustix::io::retry_on_intr(|| rustix::fs::openat(&self.file, name, flags, mode));
        Ok(File::from(opened?))
    }
}

/// Returns the length of a name, as the file system counts it.
pub(super) fn name_length(name: &OsStr) -> usize {
    name.len()
}

/// Returns the longest name that a directory takes. It may not exist yet.
pub(super) fn longest_name(directory: &Path) -> usize {
    /// `NAME_MAX` of Linux, macOS and the BSDs. Some file systems count characters, and name a higher limit.
    const USUAL: usize = 255;

    let there = directory.ancestors().find_map(|directory| rustix::fs::statvfs(directory).ok());
    let longest = there.and_then(|there| usize::try_from(there.f_namemax).ok());
    longest.filter(|longest| *longest > 0).map_or(USUAL, |longest| longest.min(USUAL))
}

fn may_write(directory: &Path) -> bool {
    use rustix::fs::{Access, CWD, accessat};

    accessat(CWD, directory, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS).is_ok()
}

/// Opens a file that nobody else can change, such as one that holds keys, or returns `None` if it does not
/// exist.
///
/// A file of root may be readable by its group: systemd and Kubernetes provide secrets in this way. A link is
/// followed, because a mounted secret is a link.
pub(super) fn open_trusted_file(
    path: &Path,
    exposure: Exposure,
    group: Option<u32>,
) -> Result<Option<File>, StoreError> {
    let Some((file, found)) = trusted_path::file(path, group)? else { return Ok(None) };
    let metadata = file.metadata().map_err(|error| failed("read", path, error))?;
    check_kind(path, &metadata)?;
    check_owner(&found, &metadata, true)?;
    let is_at_most = |allowed: u32| metadata.mode() & 0o777 & !allowed == 0;
    let is_allowed = match exposure {
        Exposure::Accepted => {
            is_at_most(0o755) || is_at_most(0o775) && is_group_trusted(&file, &metadata, group)
        }
        Exposure::Refused => {
            let is_of_group = is_root(metadata.uid()) || group == Some(metadata.gid());
            is_at_most(0o700) || is_at_most(0o740) && is_of_group && !has_access_list(&file)
        }
    };
    if is_allowed {
        return Ok(Some(file));
    }
    if exposure == Exposure::Refused {
        return Err(exposed(path, &file));
    }
    Err(StoreError::Exposed {
        place: path.display().to_string(),
        reason: format!("others can write to it (mode {:04o})", metadata.mode() & 0o7777),
        advice: format!("look through it, and run `chmod go-w {}`", path.display()),
    })
}

/// Removes the file of that path, if it exists.
pub(super) fn remove(path: &Path, group: Option<u32>) -> Result<(), StoreError> {
    trusted_path::remove_file(path, group)
}

fn check_kind(path: &Path, metadata: &fs::Metadata) -> Result<(), StoreError> {
    use std::os::unix::fs::FileTypeExt;

    let kind = metadata.file_type();
    let found = if kind.is_file() {
        return Ok(());
    } else if kind.is_dir() {
        "directory"
    } else if kind.is_fifo() {
        "named pipe"
    } else {
        "device"
    };
    Err(StoreError::NotAFile { place: path.display().to_string(), found })
}

fn check_names(path: &Path, metadata: &fs::Metadata) -> Result<(), StoreError> {
    if metadata.nlink() <= 1 {
        return Ok(());
    }
    Err(StoreError::Exposed {
        place: path.display().to_string(),
        reason: "it has a second name (a hard link) under which it stays usable".into(),
        advice: "remove the other name".into(),
    })
}

fn check_owner(path: &Path, metadata: &fs::Metadata, or_root: bool) -> Result<(), StoreError> {
    let (owner, us) = (metadata.uid(), geteuid().as_raw());
    if owner == us || (or_root && is_root(owner)) {
        return Ok(());
    }
    Err(StoreError::Exposed {
        place: path.display().to_string(),
        reason: format!("it belongs to user {owner}, and this process runs as user {us}"),
        advice: "run as its owner, or use a path of your own".into(),
    })
}

fn exposed(path: &Path, file: &File) -> StoreError {
    let place = path.display().to_string();
    let metadata = match file.metadata() {
        Ok(metadata) => metadata,
        Err(error) => return failed("read", path, error),
    };
    let mode = metadata.mode();
    let verb = if mode & READ_BY_OTHERS != 0 { "read" } else { "use" };
    let is_read_only = rustix::fs::fstatvfs(file)
        .is_ok_and(|found| found.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY));
    let advice = if is_read_only || metadata.uid() != geteuid().as_raw() {
        // A container mounts it like that, and this user cannot change it.
        "mount it with mode 0440 (in Kubernetes: `defaultMode: 0440`), and replace the secrets in it"
            .to_owned()
    } else {
        format!("run `chmod 600 {place}`, and replace the secrets in it")
    };
    let reason = format!("others can {verb} it (mode {:04o})", mode & 0o7777);
    StoreError::Exposed { place, reason, advice }
}

/// Returns the error for a path that could not be opened.
fn not_openable(path: &Path, error: io::Error) -> StoreError {
    let place = path.display().to_string();
    match rustix::io::Errno::from_io_error(&error) {
        Some(rustix::io::Errno::LOOP | rustix::io::Errno::MLINK) => StoreError::Exposed {
            place,
            reason: "it is a symbolic link".into(),
            advice: "name the file itself".into(),
        },
        Some(rustix::io::Errno::NXIO) => StoreError::NotAFile { place, found: "socket" },
        Some(rustix::io::Errno::ISDIR) => StoreError::NotAFile { place, found: "directory" },
        _ => failed("open", path, error),
    }
}

/// Adds what to do about a lock file that cannot be used.
fn unusable_lock(path: &Path, error: StoreError) -> StoreError {
    let advice = format!(
        "stop the programs that use these tokens, and remove {}: it holds nothing",
        path.display()
    );
    match error {
        StoreError::Exposed { place, reason, .. } => StoreError::Exposed { place, reason, advice },
        StoreError::Denied { place, .. } => StoreError::Denied { place, advice },
        error => error,
    }
}

fn failed(action: &'static str, path: &Path, error: io::Error) -> StoreError {
    StoreError::io(action, path.display().to_string(), error)
}
