//! Private files: each holds one record or none, is replaced whole or not at all, and is refused
//! when others can get at it.
//!
//! Beside a slot `tokens.age` lie `tokens.age.lock` (the write lock) and `tokens.age.lease` (the lease).
//! For the time of a write there is `tokens.age.RANDOM.tmp`, and for the time of a refresh
//! `tokens.age.RANDOM.next`, which has room for the successor. What a process that was killed left of the
//! former, the next holder of the write lock removes; what it left of the latter, the next holder of the
//! lease. The names are random because in a directory like `/tmp` others can take every name that they
//! can guess. The lock files are never removed: a process that still has an unlinked one open would hold a lock
//! that nobody else sees.
//!
//! Earlier builds wrote `tokens.age.intent`, `tokens.age.tmp` and `tokens.age.intent.tmp`. Such an intent
//! is read once, and the next write removes it.

#[cfg(windows)]
mod acl;
#[cfg_attr(unix, path = "private_file/unix.rs")]
#[cfg_attr(windows, path = "private_file/windows.rs")]
mod platform;
mod successor;
#[cfg(test)]
mod tests;

use std::ffi::{OsStr, OsString};
use std::fs::{File, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use self::platform::Dir;
pub(crate) use self::successor::Successor;
use crate::error::StoreError;
use crate::record::MAX_STATE;
use crate::store::{Expect, Revision};
use crate::sys::wipe::Bytes;

/// How long a writer waits for another one. A write takes milliseconds; who holds the lock for
/// this long is stopped or stuck, and the user should hear of it.
const LOCK_WAIT: Duration = Duration::from_secs(10);

/// How often a waiting writer looks again. The kernel's waiting lock has no deadline.
const LOCK_POLL: Duration = Duration::from_millis(2);

const ERROR_LOCK_VIOLATION: i32 = 33;

/// The most bytes of a file that holds keys; a line of one takes some 75.
#[cfg(feature = "age")]
const MAX_KEY_FILE: usize = 64 * 1024;

/// The most bytes of an intent as earlier builds wrote it; it has some 130.
const MAX_INTENT: usize = 1024;

/// The endings of the names of files that hold what is being written.
const TEMPORARY: &str = ".tmp";
const NEXT: &str = ".next";

/// Whether permissions that let others read are an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exposure {
    Accepted,
    Refused,
}

/// What a slot holds.
pub(crate) struct Content {
    pub(crate) bytes: Bytes,
    pub(crate) revision: Revision,
    /// The text of an intent that an earlier build left beside it.
    pub(crate) intent: Option<Bytes>,
}

/// A file that holds one record or does not exist.
#[derive(Debug)]
pub(crate) struct FileSlot {
    path: PathBuf,
    /// The most bytes that it may have.
    limit: usize,
    lock_wait: Duration,
}

impl FileSlot {
    /// Pins the path: a process that changes its working directory keeps its slot.
    pub(crate) fn new(path: &Path, limit: usize) -> Self {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        Self { path, limit, lock_wait: LOCK_WAIT }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn place(&self) -> String {
        self.path.display().to_string()
    }

    /// The path with every link resolved that can be, so that two spellings come out as one.
    pub(crate) fn canonical(&self) -> PathBuf {
        let Ok((parent, name)) = self.split() else { return self.path.clone() };
        // The first directories may not exist yet.
        let existing = parent.ancestors().find_map(|dir| Some((dir, dir.canonicalize().ok()?)));
        let Some((dir, canonical)) = existing else { return self.path.clone() };
        let missing = parent.strip_prefix(dir).expect("it is an ancestor");
        canonical.join(missing).join(name)
    }

    /// Reads the file, and takes no lock: a rename shows the old record or the new one.
    pub(crate) fn read(&self, exposure: Exposure) -> Result<Option<Content>, StoreError> {
        let (parent, _) = self.split()?;
        let Some(dir) = Dir::open(parent, exposure)? else { return Ok(None) };
        let mut content = self.read_in(&dir, exposure)?;
        if let Some(content) = &mut content {
            content.intent = self.read_intent(&dir);
        }
        Ok(content)
    }

    /// Replaces the file if it is as `expect` says.
    ///
    /// Whatever is there is shown to `inspect` first, which refuses what must not be overwritten. `next` makes
    /// the new content; it is told whether the slot is empty. Both run under the write lock.
    ///
    /// With a successor that was reserved, its room, its directory and its lock are used: what others did
    /// to those since then must not cost the tokens.
    pub(crate) fn replace(
        &self,
        expect: &Expect,
        successor: Option<&mut Successor>,
        inspect: impl FnOnce(&Content) -> Result<(), StoreError>,
        next: impl FnOnce(bool) -> Result<Bytes, StoreError>,
    ) -> Result<Revision, StoreError> {
        let (parent, name) = self.split()?;
        let (dir, exposure, _lock) = match &successor {
            Some(successor) => (successor.dir(), Exposure::Accepted, successor.lock(self, name)?),
            None => {
                let dir = Arc::new(Dir::create(parent)?);
                let lock = self.lock(&dir, name)?;
                (dir, Exposure::Refused, lock)
            }
        };
        let dir = &*dir;
        let current = self.read_in(dir, exposure)?;
        let compared = self.compare(expect, current.as_ref(), inspect);
        if compared.is_err() && current.is_some() {
            // Whoever is told of a conflict may take what is there for saved, and who saved it may
            // have been killed before it was durable.
            dir.sync().map_err(|error| StoreError::io("write", self.place(), error))?;
        }
        compared?;
        if current.is_none() {
            dir.sync_above()?;
        }
        let bytes = next(current.is_none())?;
        self.sweep(dir, TEMPORARY);
        match successor {
            Some(successor) => {
                let saved = successor.become_record(&self.path, name, &bytes);
                if let Err(error) = saved {
                    // Something became of the reserved file. The intent was written without it.
                    self.write(dir, name, &bytes).map_err(|_| error)?;
                    successor.give_up();
                }
            }
            None => self.write(dir, name, &bytes)?,
        }
        Ok(revision(&bytes))
    }

    /// Removes the file, and what an interrupted write or refresh left beside it, if it is as
    /// `expect` says. `Anything` removes whatever record is there without reading it.
    ///
    /// `afterwards` runs under the write lock; with one, the directory is made if need be.
    pub(crate) fn remove(
        &self,
        expect: &Expect,
        inspect: impl FnOnce(&Content) -> Result<(), StoreError>,
        afterwards: Option<impl FnOnce() -> Result<(), StoreError>>,
    ) -> Result<(), StoreError> {
        let (parent, name) = self.split()?;
        let failed = |error| StoreError::io("remove", self.place(), error);
        // Whatever cannot be looked at may be there.
        let is_there = |name: &OsStr| {
            let found = parent.join(name).symlink_metadata();
            !found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
        };
        let is_empty = !is_there(name) && !is_there(&suffixed(name, ".intent")) && {
            let dir = Dir::open(parent, Exposure::Accepted).ok().flatten();
            let left =
                |suffix| dir.as_ref().map_or_else(Vec::new, |dir| leftovers(dir, name, suffix));
            ![TEMPORARY, NEXT].into_iter().flat_map(left).any(|left| is_there(&left))
        };
        if afterwards.is_none() && is_empty {
            // An empty slot needs no lock, which may not even be possible here.
            refuse_missing_root(parent)?;
            self.compare(expect, None, inspect)?;
            // Whoever emptied it may have been killed before that was durable. Where we may not look,
            // that was not one of us.
            return match Dir::open(parent, Exposure::Accepted) {
                Ok(Some(dir)) => dir.sync().map_err(failed),
                _ => Ok(()),
            };
        }
        let dir = open_or_create(parent)?;
        let _lock = self.lock(&dir, name)?;
        if *expect == Expect::Anything {
            // Only its kind and owner matter: a link's target would stay behind.
            dir.open_file(name, Exposure::Accepted)?;
        } else {
            let current = self.read_in(&dir, Exposure::Accepted)?;
            self.compare(expect, current.as_ref(), inspect)?;
        }
        // What the holder of the lease is about to write stays. If nobody holds it, it was left behind and goes
        // too.
        let lease = self.lease_in(&dir, name).ok().flatten();
        // First what holds tokens that nobody asked for.
        self.sweep(&dir, TEMPORARY);
        if lease.is_some() {
            self.sweep(&dir, NEXT);
        }
        match dir.remove(name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        // Last, because it would be missed beside a record.
        let _ = dir.remove(&suffixed(name, ".intent"));
        // Also if there was nothing to remove: see above.
        dir.sync().map_err(failed)?;
        afterwards.map_or(Ok(()), |afterwards| afterwards())
    }

    /// Takes the lock of the lease, or returns `None` while another holder has it, here or elsewhere.
    pub(crate) fn try_lease(&self) -> Result<Option<Locked>, StoreError> {
        let (parent, name) = self.split()?;
        let dir = open_or_create(parent)?;
        let locked = self.lease_in(&dir, name)?;
        if locked.is_some() {
            self.sweep(&dir, NEXT);
        }
        Ok(locked)
    }

    fn lease_in(&self, dir: &Dir, name: &OsStr) -> Result<Option<Locked>, StoreError> {
        let file = dir.open_lock(&suffixed(name, ".lease"))?;
        Ok(Locked::try_new(file, &self.path)?.ok())
    }

    /// Makes sure that the file can be replaced by one of that size, whatever becomes of the disk. The
    /// holder of the lease calls it.
    pub(crate) fn reserve(&self, size: usize) -> Result<Successor, StoreError> {
        let (parent, name) = self.split()?;
        let dir = Dir::create(parent)?;
        dir.check_replaceable(name)?;
        // It is not kept: a login or a logout does not wait for a refresh. But that it can be had is known.
        drop(self.lock(&dir, name)?);
        // The intent is written beside what is there now, and first.
        let there = dir.open_file(name, Exposure::Accepted)?;
        let there = there.and_then(|file| file.metadata().ok()).map_or(0, |there| there.len());
        let intent = usize::try_from(there).unwrap_or(size).min(size) + MAX_STATE;
        Successor::reserve(dir, name, size, intent)
    }

    /// Reads the intent that an earlier build left beside the record. What cannot be read stops nobody.
    fn read_intent(&self, dir: &Dir) -> Option<Bytes> {
        let name = suffixed(self.path.file_name()?, ".intent");
        let file = dir.open_file(&name, Exposure::Accepted).ok()??;
        read_whole(file, &self.path, MAX_INTENT).ok()
    }

    /// Removes what processes that were killed left of their writes. What cannot be removed is no
    /// obstacle: in a directory that others can write to, it may be theirs.
    fn sweep(&self, dir: &Dir, suffix: &str) {
        let Some(name) = self.path.file_name() else { return };
        for left in leftovers(dir, name, suffix) {
            let _ = dir.remove(&left);
        }
    }

    fn read_in(&self, dir: &Dir, exposure: Exposure) -> Result<Option<Content>, StoreError> {
        let (_, name) = self.split()?;
        let Some(file) = dir.open_file(name, exposure)? else { return Ok(None) };
        let bytes = read_whole(file, &self.path, self.limit)?;
        let revision = revision(&bytes);
        Ok(Some(Content { bytes, revision, intent: None }))
    }

    fn compare(
        &self,
        expect: &Expect,
        current: Option<&Content>,
        inspect: impl FnOnce(&Content) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        if let Some(current) = current {
            inspect(current)?;
        }
        let as_expected = match (current, expect) {
            (Some(current), Expect::Unchanged(revision)) => current.revision == *revision,
            (Some(_), Expect::Anything) | (None, Expect::Absent | Expect::Anything) => true,
            (Some(_), Expect::Absent) | (None, Expect::Unchanged(_)) => false,
        };
        if as_expected { Ok(()) } else { Err(StoreError::Conflict { place: self.place() }) }
    }

    /// Writes, and makes durable, first the content and then its name.
    fn write(&self, dir: &Dir, name: &OsStr, bytes: &[u8]) -> Result<(), StoreError> {
        let failed = |error| explain_write(dir, &self.path, bytes.len(), error);
        let temporary = unused_name(name, TEMPORARY);
        let mut file = dir.create_new(&temporary).map_err(failed)?;
        let written = dir
            .make_private(&mut file, &temporary)
            .and_then(|()| file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed));
        // On Windows it cannot be renamed, or removed, while it is open for this process alone.
        drop(file);
        let written = written.and_then(|()| dir.rename(&temporary, name).map_err(failed));
        if let Err(error) = written {
            // What failed is the write; that its remains could not be removed adds nothing.
            let _ = dir.remove(&temporary);
            return Err(error);
        }
        dir.sync().map_err(failed)?;
        // The record says it now.
        let _ = dir.remove(&suffixed(name, ".intent"));
        Ok(())
    }

    fn lock(&self, dir: &Dir, name: &OsStr) -> Result<Locked, StoreError> {
        lock(dir, &suffixed(name, ".lock"), &self.path, self.lock_wait)
    }

    fn split(&self) -> Result<(&Path, &OsStr), StoreError> {
        split(&self.path)
    }
}

/// Takes the exclusive lock of that name, making its directory if need be.
#[cfg(feature = "keychain")]
pub(crate) fn exclusive(path: &Path) -> Result<Locked, StoreError> {
    let (parent, name) = split(path)?;
    lock(&Dir::create(parent)?, name, path, LOCK_WAIT)
}

/// Reads a file that holds keys. It may be a link, as mounted secrets are. `exposure` says whether
/// others may read it: nobody may write to it in any case.
#[cfg(feature = "age")]
pub(crate) fn read_key_file(path: &Path, exposure: Exposure) -> Result<Option<Bytes>, StoreError> {
    match platform::open_key_file(path, exposure)? {
        Some(file) => read_whole(file, path, MAX_KEY_FILE).map(Some),
        None => Ok(None),
    }
}

/// For what takes tokens out: that is possible even where others can write, and nothing else is.
fn open_or_create(directory: &Path) -> Result<Dir, StoreError> {
    match Dir::open(directory, Exposure::Accepted)? {
        Some(dir) => Ok(dir),
        None => Dir::create(directory),
    }
}

/// A lock on a file, which goes with this or with the process.
#[derive(Debug)]
pub(crate) struct Locked(File);

impl Locked {
    /// Takes the lock, or gives the file back while somebody else has it.
    fn try_new(file: File, place: &Path) -> Result<Result<Self, File>, StoreError> {
        loop {
            return match file.try_lock() {
                Ok(()) => Ok(Ok(Self(file))),
                Err(TryLockError::WouldBlock) => Ok(Err(file)),
                // By a signal, which a network file system lets through.
                Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Interrupted => {
                    continue;
                }
                Err(TryLockError::Error(error)) => Err(StoreError::Unavailable {
                    place: place.display().to_string(),
                    reason: format!("its file system refuses locks ({error})"),
                    advice: "keep it on a local file system".into(),
                }),
            };
        }
    }
}

impl Locked {
    /// Gives it up now.
    pub(crate) fn unlock(&self) -> io::Result<()> {
        match self.0.unlock() {
            // The standard library unlocks twice, because there could be two locks, and Wine 8 has
            // another word than Windows for there being none.
            Err(error) if cfg!(windows) && error.raw_os_error() == Some(ERROR_LOCK_VIOLATION) => {
                Ok(())
            }
            unlocked => unlocked,
        }
    }
}

impl Drop for Locked {
    /// Closing the file is not enough: a child process that is just being started has it too, for
    /// a moment.
    fn drop(&mut self) {
        // If this fails, the process's end gives it up.
        let _ = self.unlock();
    }
}

fn lock(dir: &Dir, name: &OsStr, place: &Path, wait: Duration) -> Result<Locked, StoreError> {
    wait_for(dir.open_lock(name)?, place, wait)
}

fn wait_for(mut file: File, place: &Path, wait: Duration) -> Result<Locked, StoreError> {
    let deadline = Instant::now() + wait;
    loop {
        match Locked::try_new(file, place)? {
            Ok(locked) => return Ok(locked),
            Err(taken) => file = taken,
        }
        if Instant::now() >= deadline {
            return Err(StoreError::Timeout {
                place: place.display().to_string(),
                reason: format!("another process has been writing to it for {wait:?}"),
                advice: "see whether that process is stopped or stuck".into(),
            });
        }
        thread::sleep(LOCK_POLL);
    }
}

/// Reads into a buffer that is wiped and never grows.
fn read_whole(mut file: File, path: &Path, limit: usize) -> Result<Bytes, StoreError> {
    let failed = |error| StoreError::io("read", path.display().to_string(), error);
    let too_large = || StoreError::TooLarge { place: path.display().to_string(), limit };
    let length = file.metadata().map_err(failed)?.len();
    let length = usize::try_from(length).ok().filter(|&n| n <= limit).ok_or_else(too_large)?;
    // One more byte, to see the end; a file that grew meanwhile is read up to the limit.
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

/// A link to a directory that is not there, such as a volume that is not mounted, says nothing
/// about what would be in it, and neither does a drive that is missing.
fn refuse_missing_root(path: &Path) -> Result<(), StoreError> {
    let unavailable = |reason: String| {
        let advice = "mount or mend it".into();
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

/// The digest of the content: it differs whenever the content does, whoever wrote it.
pub(crate) fn revision(bytes: &[u8]) -> Revision {
    Revision::new(Sha256::digest(bytes).as_slice())
}

/// Makes the name of a file that nobody else knows.
fn unused_name(name: &OsStr, suffix: &str) -> OsString {
    let mut random = [0; RANDOM / 2];
    // Without randomness a name may be taken; the file is created exclusively all the same.
    let _ = getrandom::fill(&mut random);
    let random: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    suffixed(name, &format!(".{random}{suffix}"))
}

/// How many characters of such a name are random: nobody guesses one of 2^64.
const RANDOM: usize = 16;

/// Finds the files that were made under such names, and those of earlier builds, for the slot of that name.
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
    let mut found: Vec<OsString> = dir.names().into_iter().filter(is_ours).collect();
    if suffix == TEMPORARY.as_bytes() {
        found.push(suffixed(name, TEMPORARY));
    } else {
        found.push(suffixed(name, ".intent.tmp"));
    }
    found
}

/// Says why a record could not be written, and what to do.
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
