//! What the standard library offers where there are no Unix permissions. A file is as private as
//! the directory that it is in; on Windows that is the user's profile.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::Exposure;
use crate::error::StoreError;

pub(super) struct Dir {
    path: PathBuf,
}

impl Dir {
    pub(super) fn open(path: &Path, _exposure: Exposure) -> Result<Option<Self>, StoreError> {
        match fs::metadata(path) {
            Ok(_) => Ok(Some(Self { path: path.to_owned() })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("open the directory", path, error)),
        }
    }

    pub(super) fn create(path: &Path) -> Result<Self, StoreError> {
        fs::create_dir_all(path).map_err(|error| failed("create", path, error))?;
        Ok(Self { path: path.to_owned() })
    }

    pub(super) fn open_file(
        &self,
        name: &OsStr,
        _exposure: Exposure,
    ) -> Result<Option<File>, StoreError> {
        open(&self.path.join(name))
    }

    pub(super) fn create_new(&self, name: &OsStr) -> io::Result<File> {
        File::create_new(self.path.join(name))
    }

    pub(super) fn open_lock(&self, name: &OsStr) -> Result<File, StoreError> {
        let path = self.path.join(name);
        let mut options = fs::OpenOptions::new();
        let opened = options.read(true).write(true).create(true).truncate(false).open(&path);
        opened.map_err(|error| failed("lock", &path, error))
    }

    pub(super) fn rename(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    pub(super) fn remove(&self, name: &OsStr) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    /// A rename is made durable with its file system's journal; there is nothing to call.
    #[expect(clippy::unnecessary_wraps, clippy::unused_self, reason = "as on other platforms")]
    pub(super) fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(feature = "age")]
pub(super) fn open_key_file(path: &Path, _exposure: Exposure) -> Result<Option<File>, StoreError> {
    open(path)
}

fn open(path: &Path) -> Result<Option<File>, StoreError> {
    let place = || path.display().to_string();
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_file() => {
            File::open(path).map(Some).map_err(|error| failed("read", path, error))
        }
        Ok(metadata) if metadata.is_dir() => {
            Err(StoreError::NotAFile { place: place(), found: "directory" })
        }
        Ok(_) => Err(StoreError::NotAFile { place: place(), found: "link or device" }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", path, error)),
    }
}

fn failed(action: &'static str, path: &Path, error: io::Error) -> StoreError {
    StoreError::io(action, path.display().to_string(), error)
}
