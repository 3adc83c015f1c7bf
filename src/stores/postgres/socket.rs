//! The socket of a connection, and who is at its other end.

use std::io;
use std::net::SocketAddr;
#[cfg(unix)]
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::failure::unavailable;
use crate::error::StoreError;
#[cfg(unix)]
use crate::sys::blocking;

/// How long one address of a server may take to accept a connection, which is one round trip.
const CONNECT: Duration = Duration::from_secs(3);

/// How soon an idle connection sends a keepalive. Load balancers drop an idle connection after some minutes.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Where a server listens.
#[derive(Clone, Debug)]
pub(super) enum Address {
    Tcp(SocketAddr),
    /// The directory of a socket, and the port in the socket's name.
    #[cfg(unix)]
    Unix(PathBuf, u16),
}

impl Address {
    /// Connects to it. `place` names the database in errors.
    pub(super) async fn connect(&self, place: &str) -> Result<Socket, StoreError> {
        match self {
            Self::Tcp(address) => {
                let stream = connected(TcpStream::connect(address), place).await?;
                let keepalive = TcpKeepalive::new().with_time(KEEPALIVE);
                let set = stream
                    .set_nodelay(true)
                    .and_then(|()| SockRef::from(&stream).set_tcp_keepalive(&keepalive));
                set.map_err(|error| not_reached(place, &error))?;
                Ok(Socket::Tcp(stream))
            }
            #[cfg(unix)]
            Self::Unix(directory, port) => {
                let (directory, trusted) = blocking::run(place, {
                    let (directory, place) = (directory.clone(), place.to_owned());
                    move || peer::trusted(&directory, &place)
                })
                .await?;
                let path = directory.join(format!(".s.PGSQL.{port}"));
                let stream = connected(UnixStream::connect(&path), place).await?;
                let peer = stream.peer_cred().map_err(|error| not_reached(place, &error))?;
                trusted.check(peer.uid(), &path, place)?;
                Ok(Socket::Unix(stream))
            }
        }
    }
}

/// An open socket.
pub(super) enum Socket {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
}

trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

impl Socket {
    fn stream(self: Pin<&mut Self>) -> Pin<&mut dyn Stream> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream),
            #[cfg(unix)]
            Self::Unix(stream) => Pin::new(stream),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream().poll_read(context, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream().poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(context)
    }
}

async fn connected<S>(
    connecting: impl Future<Output = io::Result<S>>,
    place: &str,
) -> Result<S, StoreError> {
    let timed_out = |_| Err(io::ErrorKind::TimedOut.into());
    let connected = timeout(CONNECT, connecting).await.unwrap_or_else(timed_out);
    connected.map_err(|error| not_reached(place, &error))
}

pub(super) fn not_reached(place: &str, error: &io::Error) -> StoreError {
    unavailable(place, &format!("cannot connect to it ({error})"), "check whether it is running")
}

/// Which users may be the server behind a socket.
///
/// A socket has no certificate, so anybody who can put one into the directory could be the server. libpq has a
/// setting for that, `requirepeer`: the user id of the peer. Here it needs no setting, because the directory
/// names the user.
#[cfg(unix)]
mod peer {
    use std::ffi::OsString;
    use std::fs::{self, Metadata};
    use std::os::unix::fs::MetadataExt;
    use std::path::Component;

    use rustix::process::geteuid;

    use super::{Path, PathBuf, StoreError, io, unavailable};

    /// The most links in a path, as Linux has it.
    const MOST_LINKS: u32 = 40;

    const ROOT: u32 = 0;
    const STICKY: u32 = 0o1000;
    const WRITE_BY_OTHERS: u32 = 0o022;

    const ADVICE: &str = "use a socket in a directory that only the server's user and root can write to, \
         such as /run/postgresql; or use 127.0.0.1 with scram-sha-256";

    /// The users that are trusted to be the server.
    #[derive(Debug, PartialEq, Eq)]
    pub(super) enum Trusted {
        /// Any: only root and this user can have put the socket there.
        Any,
        /// Root, this user, and the owner of the directory.
        Owner(u32),
    }

    impl Trusted {
        /// Checks the user at the other end of a socket.
        pub(super) fn check(&self, peer: u32, path: &Path, place: &str) -> Result<(), StoreError> {
            match *self {
                Self::Owner(owner) if peer != owner && !is_ours(peer) => {
                    let reason = format!(
                        "the server behind the socket {} runs as user {peer}, and the directory belongs \
                         to user {owner}, so anybody may have put the socket there",
                        path.display()
                    );
                    Err(unavailable(place, &reason, ADVICE))
                }
                _ => Ok(()),
            }
        }
    }

    /// Resolves the directory of a socket, and returns which users may be the server behind it.
    ///
    /// # Errors
    ///
    /// Fails if another user can replace the directory, or a link that leads to it.
    pub(super) fn trusted(directory: &Path, place: &str) -> Result<(PathBuf, Trusted), StoreError> {
        let unreadable = |error: io::Error| {
            let reason = format!(
                "the directory {} of its socket cannot be checked ({error})",
                directory.display()
            );
            unavailable(place, &reason, "check whether it is running")
        };
        let mut resolved = PathBuf::from("/");
        let mut links = 0;
        let mut names = names_in(directory);
        let mut metadata = fs::metadata(&resolved).map_err(unreadable)?;
        while let Some(name) = names.pop() {
            if name == ".." {
                resolved.pop();
                metadata = fs::metadata(&resolved).map_err(unreadable)?;
                continue;
            }
            let entry = resolved.join(name);
            let found = fs::symlink_metadata(&entry).map_err(unreadable)?;
            if !is_safe_above(&metadata, found.uid()) {
                let reason = format!(
                    "others can replace the directory of its socket, because they can write to {} \
                     (mode {:04o}, user {})",
                    resolved.display(),
                    metadata.mode() & 0o7777,
                    metadata.uid()
                );
                return Err(unavailable(place, &reason, ADVICE));
            }
            if found.is_symlink() {
                links += 1;
                if links > MOST_LINKS {
                    return Err(unreadable(rustix::io::Errno::LOOP.into()));
                }
                let target = fs::read_link(&entry).map_err(unreadable)?;
                if target.is_absolute() {
                    resolved = PathBuf::from("/");
                }
                names.extend(names_in(&target));
                metadata = fs::metadata(&resolved).map_err(unreadable)?;
            } else {
                (resolved, metadata) = (entry, found);
            }
        }
        let is_private = is_ours(metadata.uid()) && metadata.mode() & WRITE_BY_OTHERS == 0;
        let trusted = if is_private { Trusted::Any } else { Trusted::Owner(metadata.uid()) };
        Ok((resolved, trusted))
    }

    /// Returns the names in a path, the last one first.
    fn names_in(path: &Path) -> Vec<OsString> {
        let names = path.components().rev().filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            _ => None,
        });
        names.collect()
    }

    /// Returns whether nobody else can replace what is in this directory and belongs to user `below`.
    fn is_safe_above(metadata: &Metadata, below: u32) -> bool {
        let is_private = metadata.mode() & WRITE_BY_OTHERS == 0;
        // In a sticky directory, others can make names of their own, but cannot replace these.
        let is_kept = metadata.mode() & STICKY != 0 && is_ours(below);
        is_ours(metadata.uid()) && (is_private || is_kept)
    }

    fn is_ours(user: u32) -> bool {
        user == ROOT || user == geteuid().as_raw()
    }
}
