//! Files of root among those of a slot, as a run under `sudo` leaves them.

#[cfg(unix)]
use std::path::{Path, PathBuf};

use tokenkeep::StoreUrl;

/// Returns how to fix it if some files of a slot, or the lock of the profiles, belong to root: they are in the
/// way of every later run. Returns `None` if there are none.
#[cfg(unix)]
pub(super) fn of_root(store: &StoreUrl) -> Option<String> {
    use rustix::process::{getegid, geteuid};

    use crate::describe::for_shell;
    use crate::profile;

    let us = geteuid();
    // A run as root has other problems in somebody's home directory, and says so.
    if us.is_root() {
        return None;
    }
    let profiles = profile::directory().ok().map(|directory| directory.join("profiles/.lock"));
    let mut files: Vec<PathBuf> = profiles.into_iter().collect();
    files.extend(store.path().into_iter().flat_map(|record| files_of(&record)));
    files.retain(|file| is_left_by_root(file) && is_way_trusted(store, file));
    if files.is_empty() {
        return None;
    }
    let files: Vec<_> = files.iter().map(|file| for_shell(file.display().to_string())).collect();
    let (us, group) = (us.as_raw(), getegid().as_raw());
    Some(format!(
        "these files belong to root, as after a run under sudo; run `sudo chown -h {us}:{group} {}`",
        files.join(" ")
    ))
}

#[cfg(not(unix))]
pub(super) fn of_root(_store: &StoreUrl) -> Option<String> {
    None
}

/// Returns the directory of a record if it is only for that, the record, and the files beside it.
#[cfg(unix)]
fn files_of(record: &Path) -> Vec<PathBuf> {
    use std::fs;

    const ENDINGS: [&str; 6] = [".lock", ".lease", ".tmp", ".next", ".intent", ".throttle"];

    let Some((directory, name)) = record.parent().zip(record.file_name()) else {
        return Vec::new();
    };
    let is_beside = |found: &std::ffi::OsString| {
        let ending = found.as_encoded_bytes().strip_prefix(name.as_encoded_bytes());
        ending.is_some_and(|ending| {
            ending.starts_with(b".") && ENDINGS.iter().any(|it| ending.ends_with(it.as_bytes()))
        })
    };
    let entries = fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
    let mut files: Vec<PathBuf> =
        entries.filter(|entry| is_beside(&entry.file_name())).map(|entry| entry.path()).collect();
    files.sort_unstable();
    // `init` puts records into this directory.
    let own = tokenkeep::store_url::state_directory();
    if own.is_ok_and(|own| directory.starts_with(own)) {
        files.insert(0, directory.to_owned());
    }
    files.insert(0, record.to_owned());
    files
}

/// Returns whether nobody but this user and root can have put the file there. The advice is to give it away, which a
/// second name that somebody else made for a file of root must not bring about.
#[cfg(unix)]
fn is_way_trusted(store: &StoreUrl, file: &Path) -> bool {
    let checked = crate::target::private_file(store, file).check_directories();
    // A directory of root's may be closed to this user. Those above it were checked.
    !matches!(checked, Err(tokenkeep::StoreError::Exposed { .. }))
}

/// Returns whether root owns this file, and it has no second name.
#[cfg(unix)]
fn is_left_by_root(file: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;

    const ROOT: u32 = 0;

    file.symlink_metadata().is_ok_and(|found| {
        found.uid() == ROOT && (found.is_dir() || (found.is_file() && found.nlink() == 1))
    })
}
