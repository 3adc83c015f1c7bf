//! Which paths are trusted: one rule for every file that this crate reads, writes, locks or removes.
//!
//! A path is walked from `/`, one component after the other, through open directories. So what was checked is
//! what is used, even if somebody renames a directory meanwhile. Each directory on the way, also behind a
//! link, belongs to root or to this user, and nobody else can change what is in it. There are these
//! exceptions:
//!
//! - A directory with the sticky bit, such as `/tmp`, may be writable by everybody. In it, only what belongs to
//!   root or to this user is entered or followed: others cannot replace that.
//! - The group of a directory may write if it is the private group of this user, or if the caller trusts it.
//! - On macOS, administrators may write to directories of root.
//! - On Android, only directories of this user are checked: those above belong to the system.
//!
//! Nothing in `/proc` is trusted: a file there can belong to root and show a text of another user's process.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::accounts::{is_private_group, is_root};
use crate::error::StoreError;

const STICKY: u32 = 0o1000;
const WRITE_BY_GROUP: u32 = 0o020;
const WRITE_BY_ALL: u32 = 0o002;

/// How many links a walk follows. Linux has the same limit.
const MAX_LINKS: usize = 40;

/// Opens a directory to reach what is in it. It need not be readable: homes often have mode 0711.
#[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
const SEARCH: OFlags = OFlags::PATH.union(OFlags::DIRECTORY);
/// `O_SEARCH` of macOS (`sys/fcntl.h`), which is `O_EXEC | O_DIRECTORY`.
#[cfg(target_vendor = "apple")]
const SEARCH: OFlags = OFlags::from_bits_retain(0x4000_0000).union(OFlags::DIRECTORY);
#[cfg(not(any(
    target_os = "linux",
    target_os = "android",
    target_os = "freebsd",
    target_vendor = "apple"
)))]
const SEARCH: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY);

/// A walk along a path, and the directory that it has reached.
#[derive(Debug)]
pub(super) struct Walk<'a> {
    /// The path that was asked for.
    asked: &'a Path,
    /// A group whose members may write, too.
    group: Option<u32>,
    dir: File,
    /// The path of `dir`, without links.
    path: PathBuf,
    metadata: Metadata,
    /// What is left to walk. The next component is the last one.
    rest: Vec<OsString>,
    links: usize,
}

/// What a step of a walk found.
#[derive(PartialEq, Eq)]
enum Step {
    /// A directory, which was entered, or a link, which is followed by the next steps.
    Taken,
    Missing(OsString),
    NotADirectory(OsString),
}

impl<'a> Walk<'a> {
    /// Walks to a directory. Returns `None` if it does not exist. The directory itself is not checked yet.
    pub(super) fn to_directory(
        path: &'a Path,
        group: Option<u32>,
    ) -> Result<Option<Self>, StoreError> {
        let mut walk = Self::begin(path, group)?;
        while let Some(name) = walk.rest.pop() {
            match walk.enter(name)? {
                Step::Taken => {}
                Step::Missing(_) => return Ok(None),
                Step::NotADirectory(name) => return Err(walk.not_a_directory(&name)),
            }
        }
        Ok(Some(walk))
    }

    /// Walks to a directory, and creates it and those above it, for this user alone, if they do not exist.
    pub(super) fn create_directory(path: &'a Path, group: Option<u32>) -> Result<Self, StoreError> {
        let mut walk = Self::begin(path, group)?;
        while let Some(name) = walk.rest.pop() {
            match walk.enter(name)? {
                Step::Taken => {}
                Step::NotADirectory(name) => return Err(walk.not_a_directory(&name)),
                Step::Missing(name) => match rustix::fs::mkdirat(&walk.dir, &name, Mode::RWXU) {
                    Ok(()) | Err(Errno::EXIST) => walk.rest.push(name),
                    Err(error) => return Err(walk.failed("create", &name, error.into())),
                },
            }
        }
        Ok(walk)
    }

    /// Walks to a file, follows it if it is a link, and opens it for reading. Returns `None` if it does not
    /// exist. The file itself is not checked yet. The path is that of the file without links.
    pub(super) fn open_file(
        path: &'a Path,
        group: Option<u32>,
    ) -> Result<Option<(File, PathBuf)>, StoreError> {
        let mut walk = Self::begin(path, group)?;
        while let Some(name) = walk.rest.pop() {
            if !walk.rest.is_empty() || name == ".." {
                match walk.enter(name)? {
                    Step::Taken => continue,
                    Step::Missing(_) => return Ok(None),
                    Step::NotADirectory(name) => return Err(walk.not_a_directory(&name)),
                }
            }
            walk.check()?;
            // NONBLOCK: opening a FIFO must not wait for a writer.
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
            match walk.open(&name, flags) {
                Ok(file) => {
                    let metadata = file.metadata();
                    let metadata = metadata.map_err(|error| walk.failed("read", &name, error))?;
                    walk.check_entry(&name, metadata.uid())?;
                    return Ok(Some((file, walk.path.join(name))));
                }
                Err(Errno::NOENT) => return Ok(None),
                Err(Errno::NXIO) => {
                    let place = walk.path.join(name).display().to_string();
                    return Err(StoreError::NotAFile { place, found: "socket" });
                }
                // The error for a link differs from system to system.
                Err(_) if walk.is_link(&name) => walk.follow(&name)?,
                Err(error) => return Err(walk.failed("open", &name, error.into())),
            }
        }
        Err(StoreError::NotAFile { place: path.display().to_string(), found: "directory" })
    }

    /// Walks to the directory of a file and removes the name of the file from it. Succeeds if there is no
    /// such file. The directory itself is not checked: nothing but a name in it can be lost.
    pub(super) fn remove_file(path: &'a Path, group: Option<u32>) -> Result<(), StoreError> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
        let Some(walk) = Self::to_directory(parent, group)? else { return Ok(()) };
        match rustix::fs::unlinkat(&walk.dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(walk.failed("remove", name, error.into())),
        }
    }

    fn begin(path: &'a Path, group: Option<u32>) -> Result<Self, StoreError> {
        if !path.is_absolute() {
            let reason = "the working directory cannot be found; give the whole path";
            let error = io::Error::new(io::ErrorKind::InvalidInput, reason);
            return Err(StoreError::io("open", path.display().to_string(), error));
        }
        let failed = |error| StoreError::io("open the directory", "/", error);
        let dir = open_root().map_err(|error| failed(error.into()))?;
        let metadata = dir.metadata().map_err(failed)?;
        let mut walk = Self {
            asked: path,
            group,
            dir,
            path: PathBuf::from("/"),
            metadata,
            rest: Vec::new(),
            links: 0,
        };
        walk.rest.extend(components(path));
        walk.check_file_system()?;
        Ok(walk)
    }

    /// Enters the next component.
    fn enter(&mut self, name: OsString) -> Result<Step, StoreError> {
        self.check()?;
        match self.open(&name, SEARCH) {
            Ok(dir) => {
                let metadata = dir.metadata();
                let metadata =
                    metadata.map_err(|error| self.failed("open the directory", &name, error))?;
                self.check_entry(&name, metadata.uid())?;
                if name == ".." {
                    self.path.pop();
                } else {
                    self.path.push(&name);
                }
                let was_on = self.metadata.dev();
                (self.dir, self.metadata) = (dir, metadata);
                if self.metadata.dev() != was_on {
                    self.check_file_system()?;
                }
                Ok(Step::Taken)
            }
            Err(Errno::NOENT) => Ok(Step::Missing(name)),
            Err(Errno::NOTDIR | Errno::LOOP | Errno::MLINK) => {
                if self.is_link(&name) {
                    self.follow(&name)?;
                    return Ok(Step::Taken);
                }
                Ok(Step::NotADirectory(name))
            }
            Err(error) => Err(self.failed("open the directory", &name, error.into())),
        }
    }

    /// Follows a link in the directory that the walk has reached, which was checked.
    fn follow(&mut self, name: &OsStr) -> Result<(), StoreError> {
        let failed = |walk: &Self, error: Errno| walk.failed("read the link", name, error.into());
        self.links += 1;
        if self.links > MAX_LINKS {
            return Err(failed(self, Errno::LOOP));
        }
        let link = rustix::fs::statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| failed(self, error))?;
        self.check_entry(name, link.st_uid)?;
        let target = rustix::fs::readlinkat(&self.dir, name, Vec::new())
            .map_err(|error| failed(self, error))?;
        let target = Path::new(OsStr::from_bytes(target.to_bytes())).to_owned();
        if target.is_absolute() {
            let failed = |error| StoreError::io("open the directory", "/", error);
            self.dir = open_root().map_err(|error| failed(error.into()))?;
            self.metadata = self.dir.metadata().map_err(failed)?;
            self.path = PathBuf::from("/");
        }
        self.rest.extend(components(&target));
        Ok(())
    }

    /// Checks that nobody else can change what is in the directory that the walk has reached.
    fn check(&self) -> Result<(), StoreError> {
        check_owner(&self.path, &self.metadata, self.asked)?;
        match self.writers() {
            Writers::None | Writers::Sticky => Ok(()),
            Writers::Others => Err(self.writable(self.asked)),
        }
    }

    /// Checks that only this user, root, and a trusted group can put anything into the directory that the
    /// walk has reached. This is the rule for directories in which files are written and locked: in a
    /// directory like `/tmp`, others could take the names of their locks.
    pub(super) fn check_own(&self) -> Result<(), StoreError> {
        self.check_owner()?;
        match self.writers() {
            Writers::None => Ok(()),
            Writers::Others => Err(self.writable(&self.path)),
            Writers::Sticky => Err(StoreError::Exposed {
                place: self.path.display().to_string(),
                reason: "everybody can create files in this directory, also with the names of the locks of \
                         these files"
                    .into(),
                advice: "use a directory of your own in it".into(),
            }),
        }
    }

    /// Checks that the directory belongs to root or to this user.
    pub(super) fn check_owner(&self) -> Result<(), StoreError> {
        check_owner(&self.path, &self.metadata, &self.path)
    }

    /// Returns the path of the directory that the walk has reached, without links, and its owner.
    #[cfg(feature = "postgres")]
    pub(super) fn reached(&self) -> (&Path, u32) {
        (&self.path, self.metadata.uid())
    }

    /// Opens the directory that the walk has reached, to list it and to make it durable.
    pub(super) fn readable(&self) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        Ok(self.open(OsStr::new("."), flags)?)
    }

    /// Returns who can add, rename or remove what is in the directory, besides root and this user.
    fn writers(&self) -> Writers {
        let mode = self.metadata.mode();
        if cfg!(target_os = "android") && self.metadata.uid() != geteuid().as_raw() {
            return Writers::None;
        }
        let by_all = mode & WRITE_BY_ALL != 0;
        let by_group = mode & WRITE_BY_GROUP != 0 && !self.is_group_trusted();
        match (by_all || by_group, mode & STICKY != 0) {
            (false, _) => Writers::None,
            (true, true) => Writers::Sticky,
            (true, false) => Writers::Others,
        }
    }

    fn is_group_trusted(&self) -> bool {
        // Administrators may become root.
        let is_of_root = self.metadata.uid() == 0 && self.metadata.gid() == 80;
        let is_admin = cfg!(target_vendor = "apple") && is_of_root;
        is_admin
            || self.readable().is_ok_and(|dir| is_group_trusted(&dir, &self.metadata, self.group))
    }

    /// Checks who owns what has this name. It matters in a directory where others can add names.
    fn check_entry(&self, name: &OsStr, owner: u32) -> Result<(), StoreError> {
        if self.writers() != Writers::Sticky || name == ".." || is_trusted(owner) {
            return Ok(());
        }
        Err(StoreError::Exposed {
            place: self.path.join(name).display().to_string(),
            reason: format!(
                "it belongs to user {owner}, this process runs as user {}, and everybody can create files \
                 beside it",
                geteuid().as_raw()
            ),
            advice: "run as its owner, or use a directory of your own".into(),
        })
    }

    /// Checks that the directory is not in `/proc`.
    fn check_file_system(&self) -> Result<(), StoreError> {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        {
            let kind = rustix::fs::fstatfs(&self.dir)
                .map_err(|error| self.failed("read", OsStr::new(""), error.into()))?;
            if kind.f_type as u64 == rustix::fs::PROC_SUPER_MAGIC as u64 {
                return Err(StoreError::Exposed {
                    place: self.asked.display().to_string(),
                    reason: format!(
                        "it leads to {}, where files can show texts of other users",
                        self.path.display()
                    ),
                    advice: "use a regular file".into(),
                });
            }
        }
        Ok(())
    }

    fn writable(&self, asked: &Path) -> StoreError {
        let (mode, dir) = (self.metadata.mode(), self.path.display());
        let above = if asked == self.path {
            String::new()
        } else {
            format!(", which leads to {}", asked.display())
        };
        let (who, chmod, or) = if mode & WRITE_BY_ALL != 0 {
            ("others".to_owned(), "go-w", "use a directory of your own".to_owned())
        } else {
            let group = self.metadata.gid();
            let or = format!(
                "use a directory of your own; for the files of a store, `trust_group={group}` in its URL \
                 trusts all members of the group"
            );
            (format!("group {group}"), "g-w", or)
        };
        let by = match self.metadata.uid() {
            owner if owner == geteuid().as_raw() => "",
            _ => " as root",
        };
        StoreError::Exposed {
            place: self.path.display().to_string(),
            reason: format!(
                "{who} can write to this directory{above} (mode {:04o})",
                mode & 0o7777
            ),
            advice: format!("run `chmod {chmod} {dir}`{by}, or {or}"),
        }
    }

    fn is_link(&self, name: &OsStr) -> bool {
        let found = rustix::fs::statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW);
        found.is_ok_and(|found| FileType::from_raw_mode(found.st_mode) == FileType::Symlink)
    }

    fn open(&self, name: &OsStr, flags: OFlags) -> Result<File, Errno> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = || rustix::fs::openat(&self.dir, name, flags, Mode::empty());
        rustix::io::retry_on_intr(open).map(File::from)
    }

    fn not_a_directory(&self, name: &OsStr) -> StoreError {
        self.failed("open the directory", name, io::ErrorKind::NotADirectory.into())
    }

    fn failed(&self, action: &'static str, name: &OsStr, error: io::Error) -> StoreError {
        StoreError::io(action, self.path.join(name).display().to_string(), error)
    }
}

/// Who can change what is in a directory, besides root, this user, and trusted groups.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Writers {
    None,
    /// Others can, but not what belongs to root or to this user.
    Sticky,
    Others,
}

/// Returns whether only this user, root, and members of the trusted group can use the rights of the group of a
/// file or directory.
pub(super) fn is_group_trusted(file: &File, metadata: &Metadata, trusted: Option<u32>) -> bool {
    let group = metadata.gid();
    (trusted == Some(group) || is_private_group(group)) && !has_access_list(file)
}

/// Returns whether a POSIX access list may give rights to other users or groups. Then the bits of the group in
/// the mode are not the rights of the group, but the most rights that anybody in the list has.
pub(super) fn has_access_list(file: &File) -> bool {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        // A list with more entries names others.
        let mut list = [0; 256];
        match rustix::fs::fgetxattr(file, "system.posix_acl_access", &mut list[..]) {
            Ok(length) => list.get(..length).is_none_or(names_others),
            Err(error) => !matches!(error, Errno::NODATA | Errno::OPNOTSUPP),
        }
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    {
        let _ = file;
        false
    }
}

/// Returns whether an access list names a user who is not trusted, or a group. systemd gives a service its
/// credentials by such a list, with the user of the service in it.
///
/// Linux shows a list as a version and entries of 8 bytes: tag, rights and id (`linux/posix_acl_xattr.h`).
#[cfg(any(target_os = "linux", target_os = "android"))]
fn names_others(list: &[u8]) -> bool {
    const VERSION: [u8; 4] = 2_u32.to_le_bytes();
    const USER: u16 = 0x02;
    const GROUP: u16 = 0x08;

    let Some(entries) = list.strip_prefix(&VERSION) else { return true };
    let is_other = |entry: &[u8]| {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
        tag == GROUP || tag == USER && !is_trusted(id)
    };
    entries.len() % 8 != 0 || entries.chunks_exact(8).any(is_other)
}

/// Returns whether this is root, or the user of this process.
pub(super) fn is_trusted(user: u32) -> bool {
    user == geteuid().as_raw() || is_root(user)
}

fn check_owner(path: &Path, metadata: &Metadata, asked: &Path) -> Result<(), StoreError> {
    let owner = metadata.uid();
    if cfg!(target_os = "android") || is_trusted(owner) {
        return Ok(());
    }
    let what = if asked == path {
        "it belongs".to_owned()
    } else {
        format!("it leads to {} and belongs", asked.display())
    };
    Err(StoreError::Exposed {
        place: path.display().to_string(),
        reason: format!(
            "{what} to user {owner}, and this process runs as user {}",
            geteuid().as_raw()
        ),
        advice: "run as its owner, or use a path of your own".into(),
    })
}

fn open_root() -> Result<File, Errno> {
    rustix::io::retry_on_intr(|| rustix::fs::open("/", SEARCH | OFlags::CLOEXEC, Mode::empty()))
        .map(File::from)
}

/// Returns the components of a path to walk, the next one last.
fn components(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().rev().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::CurDir | Component::RootDir | Component::Prefix(_) => None,
    })
}
