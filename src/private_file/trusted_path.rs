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
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::trusted_directory::TrustedDirectory;
use crate::error::StoreError;

/// How many links a walk follows. Linux has the same limit.
const MAX_LINKS: usize = 40;

/// A walk along a path.
struct Walk<'a> {
    /// The path that was asked for.
    asked: &'a Path,
    /// A group whose members may write, too.
    group: Option<u32>,
    /// The directory that it has reached.
    at: TrustedDirectory,
    /// What is left to walk. The next component is the last one.
    rest: Vec<OsString>,
    links: usize,
}

/// Walks to a directory. Returns `None` if it does not exist. The directory itself is not checked yet. Members of
/// `group` may write to the directories on the way.
pub(super) fn directory(
    path: &Path,
    group: Option<u32>,
) -> Result<Option<TrustedDirectory>, StoreError> {
    let mut walk = Walk::begin(path, group)?;
    while let Some(name) = walk.rest.pop() {
        if !walk.enter(&name)? {
            return Ok(None);
        }
    }
    Ok(Some(walk.at))
}

/// Walks to a directory, and creates it and those above it, for this user alone, if they do not exist.
pub(super) fn created_directory(
    path: &Path,
    group: Option<u32>,
) -> Result<TrustedDirectory, StoreError> {
    let mut walk = Walk::begin(path, group)?;
    while let Some(name) = walk.rest.pop() {
        if !walk.enter(&name)? {
            walk.at.create(&name)?;
            walk.rest.push(name);
        }
    }
    Ok(walk.at)
}

/// Walks to a file, follows it if it is a link, and opens it for reading. Returns `None` if it does not exist.
/// The file itself is not checked yet. The path is that of the file without links.
pub(super) fn file(path: &Path, group: Option<u32>) -> Result<Option<(File, PathBuf)>, StoreError> {
    let mut walk = Walk::begin(path, group)?;
    while let Some(name) = walk.rest.pop() {
        if !walk.rest.is_empty() || name == ".." {
            if !walk.enter(&name)? {
                return Ok(None);
            }
            continue;
        }
        walk.at.check(path)?;
        // NONBLOCK: opening a FIFO must not wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        match walk.at.open(&name, flags) {
            Ok(file) => {
                let metadata = file.metadata();
                let metadata = metadata.map_err(|error| walk.at.failed("read", &name, error))?;
                walk.at.check_entry(&name, metadata.uid())?;
                return Ok(Some((file, walk.at.path().join(name))));
            }
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::NXIO) => {
                let place = walk.at.path().join(name).display().to_string();
                return Err(StoreError::NotAFile { place, found: "socket" });
            }
            // The error for a link differs from system to system.
            Err(error) => match walk.at.link(&name)? {
                Some(target) => walk.follow(&name, &target)?,
                None => return Err(walk.at.failed("open", &name, error.into())),
            },
        }
    }
    Err(StoreError::NotAFile { place: path.display().to_string(), found: "directory" })
}

/// Walks to the directory of a file and removes the name of the file from it. Succeeds if there is no such file.
/// The directory itself is not checked: nothing but a name in it can be lost.
pub(super) fn remove_file(path: &Path, group: Option<u32>) -> Result<(), StoreError> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
    directory(parent, group)?.map_or(Ok(()), |directory| directory.remove(name))
}

impl<'a> Walk<'a> {
    fn begin(path: &'a Path, group: Option<u32>) -> Result<Self, StoreError> {
        if !path.is_absolute() {
            let reason = "the working directory cannot be found; give the whole path";
            let error = io::Error::new(io::ErrorKind::InvalidInput, reason);
            return Err(StoreError::io("open", path.display().to_string(), error));
        }
        let (at, rest) = (TrustedDirectory::root(group)?, components(path).collect());
        Ok(Self { asked: path, group, at, rest, links: 0 })
    }

    /// Enters a directory, or follows a link. Returns `false` if nothing has this name.
    fn enter(&mut self, name: &OsStr) -> Result<bool, StoreError> {
        self.at.check(self.asked)?;
        let failed = |walk: &Self, error| walk.at.failed("open the directory", name, error);
        match self.at.enter(name, self.group)? {
            Ok(directory) => self.at = directory,
            Err(Errno::NOENT) => return Ok(false),
            Err(Errno::NOTDIR | Errno::LOOP | Errno::MLINK) => match self.at.link(name)? {
                Some(target) => self.follow(name, &target)?,
                None => return Err(failed(self, io::ErrorKind::NotADirectory.into())),
            },
            Err(error) => return Err(failed(self, error.into())),
        }
        Ok(true)
    }

    /// Goes on with the target of a link in the directory that the walk has reached.
    fn follow(&mut self, name: &OsStr, target: &Path) -> Result<(), StoreError> {
        self.links += 1;
        if self.links > MAX_LINKS {
            return Err(self.at.failed("read the link", name, Errno::LOOP.into()));
        }
        if target.is_absolute() {
            self.at = TrustedDirectory::root(self.group)?;
        }
        self.rest.extend(components(target));
        Ok(())
    }
}

/// Returns the components of a path to walk, the next one last.
fn components(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().rev().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::CurDir | Component::RootDir | Component::Prefix(_) => None,
    })
}
