//! The directory of a Unix socket, and who may be at the other end.

use std::path::{Path, PathBuf};

use super::accounts::is_trusted;
use super::trusted_path;
use crate::error::StoreError;

/// The directory of a socket. Nobody except root and this user can replace it.
///
/// A socket has no certificate, so anybody who can put one into the directory could be the server. libpq has a
/// setting for that, `requirepeer`: the user id of the peer. Here it needs no setting, because the directory
/// names the user.
#[derive(Debug)]
pub(crate) struct SocketDirectory {
    path: PathBuf,
    owner: u32,
    /// Whether nobody except root, this user and their groups can put anything into it.
    is_own: bool,
}

impl SocketDirectory {
    /// Walks to the directory. Returns `None` if it does not exist.
    ///
    /// # Errors
    ///
    /// [`StoreError::Exposed`] if others can replace it, or a link that leads to it.
    pub(crate) fn find(path: &Path) -> Result<Option<Self>, StoreError> {
        let Some(reached) = trusted_path::directory(path, None)? else { return Ok(None) };
        let (path, owner) = (reached.path().to_owned(), reached.owner());
        Ok(Some(Self { path, owner, is_own: reached.check_own().is_ok() }))
    }

    /// Returns the path without links.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn owner(&self) -> u32 {
        self.owner
    }

    /// Returns whether a server that runs as this user is trusted.
    pub(crate) fn trusts(&self, peer: u32) -> bool {
        self.is_own || peer == self.owner || is_trusted(peer)
    }
}
