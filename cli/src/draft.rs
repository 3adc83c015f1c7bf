//! Files that are written beside their place, and put there whole and for good.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use tempfile::NamedTempFile;

use crate::failure::{Code, Failure};

/// How long a writer waits for another one, and how often it looks. A write takes milliseconds.
const LOCK_WAIT: Duration = Duration::from_secs(10);
const LOCK_POLL: Duration = Duration::from_millis(2);

/// The right to write profiles, which one process has at a time. It goes with a lock on a file that is
/// never removed.
pub(crate) struct Writer(File);

impl Writer {
    /// Waits for that right, in a directory that is made if need be.
    pub(crate) fn of(directory: &Path) -> Result<Self, Failure> {
        create_directory(directory).map_err(|error| failed("create", directory, &error))?;
        lock(directory).map(Self)
    }

    /// Writes a file that only this user can read, beside the path that it is meant for.
    pub(crate) fn draft(&self, path: &Path, text: &str) -> Result<NamedTempFile, Failure> {
        let directory = path.parent().expect("it is in the directory of profiles");
        let name = path.file_name().expect("it is a file");
        let write = || {
            // Always of that name, so that what a killed writer left does not stay: whoever still
            // lives has the lock.
            match fs::remove_file(path.with_extension("toml.tmp")) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut temporary = tempfile::Builder::new();
            temporary.prefix(name).rand_bytes(0).suffix(".tmp");
            let mut file = temporary.tempfile_in(directory)?;
            file.write_all(text.as_bytes())?;
            file.as_file().sync_all()?;
            Ok(file)
        };
        write().map_err(|error| failed("write", path, &error))
    }
}

impl Drop for Writer {
    /// Closing the file is not enough: a child process that is just being started has it too.
    fn drop(&mut self) {
        // If this fails, the process's end gives it up.
        let _ = self.0.unlock();
    }
}

fn lock(directory: &Path) -> Result<File, Failure> {
    let path = directory.join(".lock");
    let mut options = fs::OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(&path).map_err(|error| failed("open", &path, &error))?;
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) if error.kind() != io::ErrorKind::Interrupted => {
                return Err(failed("lock", &path, &error));
            }
            Err(_) if Instant::now() < deadline => std::thread::sleep(LOCK_POLL),
            Err(_) => {
                let message = format!(
                    "{} has been locked by another process for {LOCK_WAIT:?}; see whether that is \
                     stopped or stuck",
                    path.display()
                );
                return Err(Failure::new(Code::Inaccessible, message));
            }
        }
    }
}

/// What could not be done to which file.
pub(crate) fn failed(action: &str, path: &Path, error: &io::Error) -> Failure {
    let code = match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Code::Inaccessible,
        _ => Code::Other,
    };
    Failure::new(code, format!("cannot {action} {}: {error}", path.display()))
}

/// Removes a file for good. Removing none succeeds: an earlier run may have been killed after that.
pub(crate) fn remove(path: &Path) -> Result<(), Failure> {
    let removed = match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    };
    let synced = removed.and_then(|()| sync_directory(path.parent().unwrap_or(path)));
    synced.map_err(|error| failed("remove", path, &error))
}

/// Makes the names in a directory durable, if it is there and may be opened.
#[cfg(unix)]
fn sync_directory(path: &Path) -> io::Result<()> {
    match File::open(path).and_then(|directory| directory.sync_all()) {
        // Some network and user-space file systems know no such thing.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::InvalidInput
                    | io::ErrorKind::NotFound
                    | io::ErrorKind::PermissionDenied
            ) =>
        {
            Ok(())
        }
        synced => synced,
    }
}

#[cfg(not(unix))]
fn sync_directory(_path: &Path) -> io::Result<()> {
    Ok(())
}

fn create_directory(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Makes a file's name durable, and those of the directories above it that are this user's.
#[cfg(unix)]
pub(crate) fn sync_names(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt;

    let us = rustix::process::geteuid().as_raw();
    let mut below = path.symlink_metadata()?;
    for directory in path.ancestors().skip(1) {
        let above = directory.metadata()?;
        // Nobody here made a directory that belongs to others, or on which a disk is mounted.
        if below.is_dir() && (below.uid() != us || below.dev() != above.dev()) {
            break;
        }
        match File::open(directory).and_then(|directory| directory.sync_all()) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => break,
            // Some network and user-space file systems know no such thing.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
            synced => synced?,
        }
        below = above;
    }
    Ok(())
}

#[cfg(not(unix))]
pub(crate) fn sync_names(_path: &Path) -> io::Result<()> {
    Ok(())
}
