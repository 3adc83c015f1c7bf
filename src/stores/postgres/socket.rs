//! The socket of a connection, and who is at its other end.

use std::io;
use std::net::SocketAddr;
#[cfg(unix)]
use std::path::PathBuf;
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
use crate::private_file::SocketDirectory;
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
                let directory = directory.clone();
                let found = blocking::run(place, move || SocketDirectory::find(&directory)).await?;
                let missing = || not_reached(place, &io::ErrorKind::NotFound.into());
                let directory = found.ok_or_else(missing)?;
                let path = directory.path().join(format!(".s.PGSQL.{port}"));
                let stream = connected(UnixStream::connect(&path), place).await?;
                let peer = stream.peer_cred().map_err(|error| not_reached(place, &error))?.uid();
                if !directory.trusts(peer) {
                    let (path, owner) = (path.display(), directory.owner());
                    let reason = format!(
                        "the server behind the socket {path} runs as user {peer}, and the directory \
                         belongs to user {owner}, so anybody may have put the socket there"
                    );
                    let advice = "use a socket in a directory that only the server's user and root can \
                         write to, such as /run/postgresql; or use 127.0.0.1 with scram-sha-256";
                    return Err(unavailable(place, &reason, advice));
                }
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
