//! Profiles that are links, as stow, chezmoi and home-manager make them. A change goes to the file behind the
//! link, and the link stays.

use std::fs::{self, Metadata};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tokenkeep::private_file::PrivateFile;

use super::{LONGEST, directory_of, file_name_of};
use crate::failure::Failure;

/// Returns the file behind a profile, or `None` if the profile is no link.
pub(super) fn target_of(profile: &Path) -> Result<Option<PathBuf>, Failure> {
    if !profile.is_symlink() {
        return Ok(None);
    }
    let target = profile.canonicalize();
    target.map(Some).map_err(|error| Failure::io("read", profile, &error))
}

/// Returns why the file behind a link cannot be replaced, or `None` if it can.
pub(super) fn obstacle(target: &Path) -> Result<Option<String>, Failure> {
    // The directories of the target must be as safe as those of a profile that is no link.
    PrivateFile::new(target, LONGEST).read_trusted()?;
    let metadata = target.metadata().map_err(|error| Failure::io("read", target, &error))?;
    if let Some(owner) = other_owner(&metadata) {
        return Ok(Some(format!("it belongs to user {owner}")));
    }
    if metadata.permissions().readonly() {
        return Ok(Some("it is read-only".to_owned()));
    }
    Ok(match check_writable(directory_of(target)) {
        Ok(()) => None,
        Err(error) => Some(format!("its directory cannot be written to ({error})")),
    })
}

#[cfg(unix)]
fn other_owner(metadata: &Metadata) -> Option<u32> {
    use std::os::unix::fs::MetadataExt;

    Some(metadata.uid()).filter(|owner| *owner != rustix::process::geteuid().as_raw())
}

/// The access list of the directory decides.
#[cfg(not(unix))]
fn other_owner(_metadata: &Metadata) -> Option<u32> {
    None
}

#[cfg(unix)]
fn check_writable(directory: &Path) -> io::Result<()> {
    use rustix::fs::{Access, AtFlags, CWD, accessat};

    Ok(accessat(CWD, directory, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS)?)
}

#[cfg(not(unix))]
fn check_writable(directory: &Path) -> io::Result<()> {
    if directory.metadata()?.permissions().readonly() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    Ok(())
}

/// Replaces the file behind a link, durably. The caller has the lock of the directory of profiles.
///
/// No lock file is put beside the target: `stow` would make a link of it too. The temporary file always has the
/// same name, so that the next run replaces what a killed one left.
pub(super) fn replace(target: &Path, text: &str) -> io::Result<()> {
    let directory = directory_of(target);
    let mut name = std::ffi::OsString::from(".");
    name.push(file_name_of(target));
    name.push(".tokenkeep.tmp");
    match fs::remove_file(directory.join(&name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = tempfile::Builder::new().prefix(&name).rand_bytes(0).tempfile_in(directory)?;
    file.write_all(text.as_bytes())?;
    // A profile is no secret, and others may have to read this file.
    file.as_file().set_permissions(target.metadata()?.permissions())?;
    file.as_file().sync_all()?;
    file.persist(target)?;
    // On Windows, directories cannot be synced.
    #[cfg(unix)]
    fs::File::open(directory)?.sync_all()?;
    Ok(())
}
