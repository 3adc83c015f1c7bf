use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::iter;
use std::os::windows::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::acl::{self, Access, right};
use super::lock::LOCK_WAIT;
use super::{Exposure, refuse_missing_root};
use crate::error::StoreError;

const FILE_FLAG_BACKUP_SEMANTICS: u32 = 0x0200_0000;
const FILE_FLAG_OPEN_REPARSE_POINT: u32 = 0x0020_0000;
const FILE_ATTRIBUTE_REPARSE_POINT: u32 = 0x400;
const ERROR_ACCESS_DENIED: i32 = 5;
const ERROR_SHARING_VIOLATION: i32 = 32;

/// How long to wait for another program that has a file open. Virus scanners and indexers open each new file,
/// but for much less time.
const PATIENCE: Duration = Duration::from_secs(2);

/// The pause between two attempts. Windows does not report when a file is closed.
const PAUSE: Duration = Duration::from_millis(2);

/// The rights that allow neither to read nor to change the content of a file.
const HARMLESS: u32 =
    right::READ_EA | right::READ_ATTRIBUTES | right::READ_CONTROL | right::SYNCHRONIZE;

const READ: u32 = right::READ_DATA | right::GENERIC_READ | right::GENERIC_ALL;

const WRITE: u32 = right::WRITE_DATA
    | right::APPEND_DATA
    | right::DELETE
    | right::WRITE_DAC
    | right::WRITE_OWNER
    | right::GENERIC_WRITE
    | right::GENERIC_ALL;

/// The rights to a directory that let others replace a private file in it.
const REPLACE: u32 =
    right::DELETE_CHILD | right::WRITE_DAC | right::WRITE_OWNER | right::GENERIC_ALL;

/// A directory that was checked. Each file that is opened in it is checked on its own handle.
#[derive(Debug)]
pub(super) struct Dir {
    path: PathBuf,
}

impl Dir {
    /// Opens a directory, or returns `None` if it does not exist. Groups have no meaning here.
    pub(super) fn open(
        path: &Path,
        exposure: Exposure,
        _group: Option<u32>,
    ) -> Result<Option<Self>, StoreError> {
        let Some(file) = open_directory(path, right::READ_CONTROL)? else { return Ok(None) };
        let access = access(path, &file)?;
        check_owner(path, &access)?;
        if exposure == Exposure::Refused {
            check_directory(path, &access)?;
        }
        check_above(path)?;
        Ok(Some(Self { path: path.to_owned() }))
    }

    /// Opens a directory. If it does not exist, creates it and those above it, private to this user.
    pub(super) fn create(path: &Path, group: Option<u32>) -> Result<Self, StoreError> {
        if let Some(dir) = Self::open(path, Exposure::Refused, group)? {
            return Ok(dir);
        }
        let create = |error| failed("create", path, error);
        let above = path.parent().ok_or_else(|| create(io::ErrorKind::InvalidInput.into()))?;
        Self::create(above, group)?;
        match fs::create_dir(path) {
            Ok(()) => {
                let rights = right::READ_CONTROL | right::WRITE_DAC;
                let file = open_directory(path, rights)?;
                let mut file = file.ok_or_else(|| create(io::ErrorKind::NotFound.into()))?;
                if let Err(error) = make_private(path, &mut file) {
                    drop(file);
                    // It is empty. If it cannot be removed, the first error is enough.
                    let _ = fs::remove_dir(path);
                    return Err(error);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(create(error)),
        }
        let dir = Self::open(path, Exposure::Refused, group)?;
        dir.ok_or_else(|| create(io::ErrorKind::NotFound.into()))
    }

    /// Opens a file for reading, or returns `None` if it does not exist.
    pub(super) fn open_file(
        &self,
        name: &OsStr,
        exposure: Exposure,
    ) -> Result<Option<File>, StoreError> {
        let path = self.path.join(name);
        let Some(file) = open(OpenOptions::new().read(true), &path)? else { return Ok(None) };
        let access = access(&path, &file)?;
        check_owner(&path, &access)?;
        if exposure == Exposure::Refused {
            check_private(&path, &access)?;
        }
        Ok(Some(file))
    }

    /// Creates a file that nobody else can open until this handle is closed.
    pub(super) fn create_new(&self, name: &OsStr) -> io::Result<File> {
        let path = self.path.join(name);
        patiently(ERROR_ACCESS_DENIED, || {
            OpenOptions::new()
                .write(true)
                .create_new(true)
                .access_mode(right::GENERIC_WRITE | right::READ_CONTROL | right::WRITE_DAC)
                .share_mode(0)
                .open(&path)
        })
    }

    /// Makes a file private that was just created.
    pub(super) fn make_private(&self, file: &mut File, name: &OsStr) -> Result<(), StoreError> {
        let path = self.path.join(name);
        make_private(&path, file)?;
        check_owner(&path, &access(&path, file)?)
    }

    /// Creates such a file as the successor of `record`, and writes `size` zeros, so that writing as many
    /// bytes later does not fail.
    pub(super) fn reserve(
        &self,
        name: &OsStr,
        record: &OsStr,
        size: usize,
        _beside: usize,
    ) -> Result<File, StoreError> {
        use std::io::Write;

        let place = self.path.join(record);
        let no_space = |error: io::Error| match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                let reason = self.missing_space(&[size], &error);
                StoreError::NoSpace { place: place.display().to_string(), reason }
            }
            _ => failed("write", &place, error),
        };
        let mut file = self.create_new(name).map_err(no_space)?;
        let reserved = self
            .make_private(&mut file, name)
            .and_then(|()| file.write_all(&vec![0; size]).map_err(no_space));
        match reserved {
            Ok(()) => Ok(file),
            Err(error) => {
                drop(file);
                let _ = self.remove(name);
                Err(error)
            }
        }
    }

    /// Returns a text that says how much room is needed, and what to do.
    #[expect(clippy::unused_self, reason = "as on other platforms")]
    pub(super) fn missing_space(&self, sizes: &[usize], _error: &io::Error) -> String {
        let needed: usize = sizes.iter().sum();
        format!("it takes up to {needed} bytes, and there are not as many; free some space")
    }

    /// Always succeeds: on Windows only a write shows whether the file of that name can be replaced.
    #[expect(clippy::unnecessary_wraps, clippy::unused_self, reason = "as on other platforms")]
    pub(super) fn check_replaceable(&self, _name: &OsStr) -> Result<(), StoreError> {
        Ok(())
    }

    /// Returns the names of all entries, or no names if the directory cannot be listed.
    pub(super) fn names(&self) -> Vec<OsString> {
        let Ok(entries) = fs::read_dir(&self.path) else { return Vec::new() };
        entries.filter_map(|entry| Some(entry.ok()?.file_name())).collect()
    }

    /// Opens a lock file. Creates it if it does not exist.
    pub(super) fn open_lock(&self, name: &OsStr) -> Result<File, StoreError> {
        let path = self.path.join(name);
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        let file = match open(&options, &path)? {
            Some(file) => file,
            None => {
                match self.create_new(name) {
                    Ok(mut file) => {
                        let made = self.make_private(&mut file, name);
                        drop(file);
                        if let Err(error) = made {
                            // The lock file is empty, so nobody needs it.
                            let _ = self.remove(name);
                            return Err(error);
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                    Err(error) => return Err(failed("lock", &path, error)),
                }
                let file = open(&options, &path)?;
                file.ok_or_else(|| failed("lock", &path, io::ErrorKind::NotFound.into()))?
            }
        };
        check_owner(&path, &access(&path, &file)?)?;
        Ok(file)
    }

    /// Returns whether there is an entry of that name. A link counts, even if its target does not exist.
    pub(super) fn has(&self, name: &OsStr) -> io::Result<bool> {
        match self.path.join(name).symlink_metadata() {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub(super) fn rename(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        let (from, to) = (self.path.join(from), self.path.join(to));
        patiently(ERROR_ACCESS_DENIED, || fs::rename(&from, &to))
    }

    pub(super) fn remove(&self, name: &OsStr) -> io::Result<()> {
        let path = self.path.join(name);
        patiently(ERROR_ACCESS_DENIED, || fs::remove_file(&path))
    }

    /// Does nothing: the journal of the file system makes a rename durable.
    #[expect(clippy::unnecessary_wraps, clippy::unused_self, reason = "as on other platforms")]
    pub(super) fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    /// Does nothing, as [`sync`](Self::sync).
    #[expect(clippy::unnecessary_wraps, clippy::unused_self, reason = "as on other platforms")]
    pub(super) fn sync_above(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

/// Removes the file of that path, if it exists.
pub(super) fn remove(path: &Path, _group: Option<u32>) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path, error)),
        _ => Ok(()),
    }
}

/// Opens a file that nobody else can change, such as one that holds keys, or returns `None` if it does not
/// exist. A link is followed.
pub(super) fn open_trusted_file(
    path: &Path,
    exposure: Exposure,
    _group: Option<u32>,
) -> Result<Option<File>, StoreError> {
    let opened = patiently(ERROR_SHARING_VIOLATION, || {
        OpenOptions::new().read(true).custom_flags(FILE_FLAG_BACKUP_SEMANTICS).open(path)
    });
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("open", path, error)),
    };
    check_kind(path, &file)?;
    check_above(path)?;
    let access = access(path, &file)?;
    check_owner(path, &access)?;
    if exposure == Exposure::Refused {
        check_private(path, &access)?;
    }
    let others = access.others_who_may(WRITE);
    if others.is_empty() { Ok(Some(file)) } else { Err(exposed(path, "write to it", &others)) }
}

/// Checks that nobody else can replace a directory above this path: of the path as it is written, and of the
/// one that its links and junctions lead to.
fn check_above(path: &Path) -> Result<(), StoreError> {
    let target = path.canonicalize().ok();
    for path in iter::once(path).chain(target.as_deref()) {
        for above in path.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty()) {
            let Some(directory) = open_directory(above, right::READ_CONTROL)? else { continue };
            let access = access(above, &directory)?;
            check_owner(above, &access)?;
            check_directory(above, &access)?;
        }
    }
    Ok(())
}

/// Checks that nobody else can replace a directory, or what is in it.
fn check_directory(path: &Path, access: &Access) -> Result<(), StoreError> {
    // The root of a drive cannot be renamed or removed.
    let rename = if path.parent().is_some() { right::DELETE } else { 0 };
    let others = access.others_who_may(REPLACE | rename);
    if others.is_empty() {
        return Ok(());
    }
    Err(exposed(path, "replace what is in this directory", &others))
}

/// Checks that a file or directory belongs to this user, or to the system: an owner can change who has access.
fn check_owner(path: &Path, access: &Access) -> Result<(), StoreError> {
    let owner = access.owner().unwrap_or("nobody");
    let is_trusted = acl::is_trusted(owner);
    if is_trusted.map_err(|error| failed("read the permissions of", path, error))? {
        return Ok(());
    }
    let place = path.display();
    Err(StoreError::Exposed {
        place: place.to_string(),
        reason: format!("it belongs to {owner}, and not to this user"),
        advice: format!(
            "if it is yours, run `icacls \"{place}\" /setowner \"%USERNAME%\"`; or use a path in your profile"
        ),
    })
}

/// Returns the length of a name, as the file system counts it.
pub(super) fn name_length(name: &OsStr) -> usize {
    use std::os::windows::ffi::OsStrExt;

    name.encode_wide().count()
}

/// Returns the longest name that a directory takes: 255 UTF-16 units on NTFS, ReFS, FAT and exFAT.
pub(super) fn longest_name(_directory: &Path) -> usize {
    255
}

/// Opens a file, or returns `None` if it does not exist. Fails if it is a link.
fn open(options: &OpenOptions, path: &Path) -> Result<Option<File>, StoreError> {
    let mut options = options.clone();
    // With these flags a directory can be opened too, so that the error can name it as a directory.
    options.custom_flags(FILE_FLAG_OPEN_REPARSE_POINT | FILE_FLAG_BACKUP_SEMANTICS);
    let file = match patiently(ERROR_SHARING_VIOLATION, || options.open(path)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("open", path, error)),
    };
    let metadata = file.metadata().map_err(|error| failed("open", path, error))?;
    if metadata.file_attributes() & FILE_ATTRIBUTE_REPARSE_POINT != 0 {
        return Err(StoreError::Exposed {
            place: path.display().to_string(),
            reason: "it is a link".into(),
            advice: "name the file itself".into(),
        });
    }
    check_kind(path, &file)?;
    Ok(Some(file))
}

fn open_directory(path: &Path, rights: u32) -> Result<Option<File>, StoreError> {
    let failed = |error| failed("open the directory", path, error);
    let opened =
        OpenOptions::new().access_mode(rights).custom_flags(FILE_FLAG_BACKUP_SEMANTICS).open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            refuse_missing_root(path)?;
            return Ok(None);
        }
        Err(error) => return Err(failed(error)),
    };
    if !file.metadata().map_err(failed)?.is_dir() {
        return Err(failed(io::ErrorKind::NotADirectory.into()));
    }
    Ok(Some(file))
}

fn check_kind(path: &Path, file: &File) -> Result<(), StoreError> {
    let metadata = file.metadata().map_err(|error| failed("open", path, error))?;
    let found = if metadata.is_file() {
        return Ok(());
    } else if metadata.is_dir() {
        "directory"
    } else {
        "link or device"
    };
    Err(StoreError::NotAFile { place: path.display().to_string(), found })
}

/// Makes a new file or directory private, if its inherited access list lets others in. Then reads the list
/// again, because not every file system applies the change. A list that is private by inheritance, as in a
/// profile, is not changed. So a user keeps access to the files of their elevated processes.
fn make_private(path: &Path, file: &mut File) -> Result<(), StoreError> {
    if access(path, file)?.others_who_may(!HARMLESS).is_empty() {
        return Ok(());
    }
    acl::make_private(file).map_err(|error| failed("make private", path, error))?;
    let access = access(path, file)?;
    let others = access.others_who_may(!HARMLESS);
    if others.is_empty() {
        return Ok(());
    }
    Err(StoreError::Exposed {
        place: path.display().to_string(),
        reason: format!("it cannot be taken away from {}", names(&others)),
        advice: "use a directory of your own, such as one in your profile".into(),
    })
}

fn check_private(path: &Path, access: &Access) -> Result<(), StoreError> {
    let others = access.others_who_may(!HARMLESS);
    if others.is_empty() {
        return Ok(());
    }
    let readers = access.others_who_may(READ);
    let verb = if readers.is_empty() { "use it" } else { "read it" };
    Err(exposed(path, verb, &others))
}

fn access(path: &Path, file: &File) -> Result<Access, StoreError> {
    Access::of(file).map_err(|error| failed("read the permissions of", path, error))
}

fn exposed(path: &Path, may: &str, others: &[&str]) -> StoreError {
    let place = path.display();
    let remove: String = others.iter().map(|who| format!(" *{who}")).collect();
    StoreError::Exposed {
        place: place.to_string(),
        reason: format!("{} can {may}", names(others)),
        advice: format!(
            "run `icacls \"{place}\" /inheritance:d` and `icacls \"{place}\" /remove:g{remove}`, \
             and replace the secrets in it, or keep it in your profile"
        ),
    }
}

/// Returns names for the most common groups and the SIDs of others. The system would have to ask a server for
/// some names.
fn names(others: &[&str]) -> String {
    let name = |who: &&str| match *who {
        "S-1-1-0" => "Everyone".to_owned(),
        "S-1-5-11" => "Authenticated Users".to_owned(),
        "S-1-5-32-545" => "Users".to_owned(),
        other => other.to_owned(),
    };
    others.iter().map(name).collect::<Vec<_>>().join(", ")
}

/// Repeats an attempt, for a limited time, that fails because another program has the file open.
fn patiently<T>(or: i32, attempt: impl Fn() -> io::Result<T>) -> io::Result<T> {
    let begin = Instant::now();
    loop {
        let done = attempt();
        let patience = match done.as_ref().err().and_then(io::Error::raw_os_error) {
            Some(ERROR_SHARING_VIOLATION) => LOCK_WAIT,
            Some(error) if error == or => PATIENCE,
            _ => return done,
        };
        if begin.elapsed() >= patience {
            return done;
        }
        thread::sleep(PAUSE);
    }
}

fn failed(action: &'static str, path: &Path, error: io::Error) -> StoreError {
    StoreError::io(action, path.display().to_string(), error)
}
