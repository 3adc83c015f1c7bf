//! A directory on the way to a file, and what of its content is trusted.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::accounts::{is_private_group, is_trusted};
use crate::error::StoreError;

const STICKY: u32 = 0o1000;
const WRITE_BY_GROUP: u32 = 0o020;
const WRITE_BY_ALL: u32 = 0o002;

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

/// An open directory. Its parents were checked.
#[derive(Debug)]
pub(super) struct TrustedDirectory {
    file: File,
    /// Its path, without links.
    path: PathBuf,
    metadata: Metadata,
    writers: Writers,
}

impl TrustedDirectory {
    /// Opens `/`. Members of `group` may write.
    pub(super) fn root(group: Option<u32>) -> Result<Self, StoreError> {
        let open = || rustix::fs::open("/", SEARCH | OFlags::CLOEXEC, Mode::empty());
        let failed = |error| StoreError::io("open the directory", "/", error);
        let root = rustix::io::retry_on_intr(open).map_err(|error| failed(error.into()))?;
        Self::new(root.into(), PathBuf::from("/"), group).map_err(failed)
    }

    fn new(file: File, path: PathBuf, group: Option<u32>) -> io::Result<Self> {
        let metadata = file.metadata()?;
        let mut directory = Self { file, path, metadata, writers: Writers::None };
        directory.writers = directory.find_writers(group);
        Ok(directory)
    }

    /// Opens a directory in this one, which was checked. The error is that of the system.
    pub(super) fn enter(
        &self,
        name: &OsStr,
        group: Option<u32>,
    ) -> Result<Result<Self, Errno>, StoreError> {
        let file = match self.open(name, SEARCH) {
            Ok(file) => file,
            Err(error) => return Ok(Err(error)),
        };
        let mut path = self.path.clone();
        if name == ".." {
            path.pop();
        } else {
            path.push(name);
        }
        let entered = Self::new(file, path, group);
        let entered = entered.map_err(|error| self.failed("open the directory", name, error))?;
        self.check_entry(name, entered.owner())?;
        if entered.metadata.dev() != self.metadata.dev() {
            entered.check_file_system()?;
        }
        Ok(Ok(entered))
    }

    /// Creates a directory in this one, which was checked, for this user alone. Succeeds if there is one.
    pub(super) fn create(&self, name: &OsStr) -> Result<(), StoreError> {
        match rustix::fs::mkdirat(&self.file, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(self.failed("create", name, error.into())),
        }
    }

    /// Removes the name of a file. Succeeds if there is no such file.
    pub(super) fn remove(&self, name: &OsStr) -> Result<(), StoreError> {
        match rustix::fs::unlinkat(&self.file, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(self.failed("remove", name, error.into())),
        }
    }

    /// Opens what has this name, unless it is a link.
    pub(super) fn open(&self, name: &OsStr, flags: OFlags) -> Result<File, Errno> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = || rustix::fs::openat(&self.file, name, flags, Mode::empty());
        rustix::io::retry_on_intr(open).map(File::from)
    }

    /// Opens this directory, to list it and to make it durable.
    pub(super) fn readable(&self) -> io::Result<File> {
        Ok(self.open(OsStr::new("."), OFlags::RDONLY | OFlags::DIRECTORY)?)
    }

    /// Returns where a link in this directory leads, or `None` if it is not known to be a link. The directory was
    /// checked.
    pub(super) fn link(&self, name: &OsStr) -> Result<Option<PathBuf>, StoreError> {
        let failed = |error: Errno| self.failed("read the link", name, error.into());
        let found = rustix::fs::statat(&self.file, name, AtFlags::SYMLINK_NOFOLLOW);
        let is_link = |found: &Stat| FileType::from_raw_mode(found.st_mode) == FileType::Symlink;
        let Some(found) = found.ok().filter(is_link) else { return Ok(None) };
        self.check_entry(name, found.st_uid)?;
        let target = rustix::fs::readlinkat(&self.file, name, Vec::new()).map_err(failed)?;
        Ok(Some(OsString::from_vec(target.into_bytes()).into()))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn owner(&self) -> u32 {
        self.metadata.uid()
    }

    /// Checks that nobody else can change what is in this directory. `asked` is the path that it leads to.
    pub(super) fn check(&self, asked: &Path) -> Result<(), StoreError> {
        self.check_owner(asked)?;
        match self.writers {
            Writers::None | Writers::Sticky => Ok(()),
            Writers::Others => Err(self.writable(asked)),
        }
    }

    /// Checks that only this user, root, and a trusted group can put anything into this directory. This is the
    /// rule for directories in which files are written and locked: in a directory like `/tmp`, others could
    /// take the names of their locks.
    pub(super) fn check_own(&self) -> Result<(), StoreError> {
        self.check_owner(&self.path)?;
        match self.writers {
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

    /// Checks that this directory belongs to root or to this user. `asked` is the path that it leads to.
    pub(super) fn check_owner(&self, asked: &Path) -> Result<(), StoreError> {
        let owner = self.owner();
        if cfg!(target_os = "android") || is_trusted(owner) {
            return Ok(());
        }
        let what = if asked == self.path {
            "it belongs".to_owned()
        } else {
            format!("it leads to {} and belongs", asked.display())
        };
        Err(StoreError::Exposed {
            place: self.path.display().to_string(),
            reason: format!(
                "{what} to user {owner}, and this process runs as user {}",
                geteuid().as_raw()
            ),
            advice: "run as its owner, or use a path of your own".into(),
        })
    }

    /// Checks who owns what has this name. It matters in a directory where others can add names.
    pub(super) fn check_entry(&self, name: &OsStr, owner: u32) -> Result<(), StoreError> {
        if self.writers != Writers::Sticky || name == ".." || is_trusted(owner) {
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

    /// Checks that this directory is not in `/proc`.
    fn check_file_system(&self) -> Result<(), StoreError> {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        {
            let kind = rustix::fs::fstatfs(&self.file)
                .map_err(|error| self.failed("read", OsStr::new(""), error.into()))?;
            if kind.f_type as u64 == rustix::fs::PROC_SUPER_MAGIC as u64 {
                return Err(StoreError::Exposed {
                    place: self.path.display().to_string(),
                    reason: "files in it can show texts of other users".into(),
                    advice: "use a regular file".into(),
                });
            }
        }
        Ok(())
    }

    /// Returns who can add, rename or remove what is in this directory, besides root and this user.
    fn find_writers(&self, group: Option<u32>) -> Writers {
        let mode = self.metadata.mode();
        if cfg!(target_os = "android") && self.owner() != geteuid().as_raw() {
            return Writers::None;
        }
        let by_all = mode & WRITE_BY_ALL != 0;
        let by_group = mode & WRITE_BY_GROUP != 0 && !self.is_group_trusted(group);
        match (by_all || by_group, mode & STICKY != 0) {
            (false, _) => Writers::None,
            (true, true) => Writers::Sticky,
            (true, false) => Writers::Others,
        }
    }

    fn is_group_trusted(&self, group: Option<u32>) -> bool {
        // Administrators of macOS may become root.
        let is_admins = self.owner() == 0 && self.metadata.gid() == 80;
        cfg!(target_vendor = "apple") && is_admins
            || self.readable().is_ok_and(|dir| is_group_trusted(&dir, &self.metadata, group))
    }

    /// Returns the error for a directory that others can write to. `asked` is the path that it leads to.
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
        let by = match self.owner() {
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

    pub(super) fn failed(
        &self,
        action: &'static str,
        name: &OsStr,
        error: io::Error,
    ) -> StoreError {
        StoreError::io(action, self.path.join(name).display().to_string(), error)
    }
}

/// Who can change what is in a directory, besides root, this user, and trusted groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

#[cfg(all(test, any(target_os = "linux", target_os = "android")))]
mod tests {
    use super::*;

    /// An access list as Linux shows it: the owner, these entries, the group and the mask.
    fn list(entries: &[(u16, u32)]) -> Vec<u8> {
        const NOBODY: u32 = u32::MAX;

        let mut list = 2_u32.to_le_bytes().to_vec();
        let usual = [(0x01, NOBODY), (0x04, NOBODY), (0x10, NOBODY), (0x20, NOBODY)];
        for (tag, id) in usual.iter().chain(entries) {
            list.extend(tag.to_le_bytes());
            list.extend(4_u16.to_le_bytes());
            list.extend(id.to_le_bytes());
        }
        list
    }

    #[test]
    fn an_access_list_names_others_unless_it_has_only_root_and_this_user() {
        let us = geteuid().as_raw();
        assert!(!names_others(&list(&[])));
        assert!(!names_others(&list(&[(0x02, us), (0x02, 0)])));
        assert!(names_others(&list(&[(0x02, us), (0x02, us + 1)])));
        assert!(names_others(&list(&[(0x08, 0)])));
        // What cannot be read may name anybody.
        assert!(names_others(b"") && names_others(b"\x03\0\0\0"));
        assert!(names_others(&list(&[])[..11]));
    }
}
