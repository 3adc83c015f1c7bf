//! Closes a connection so that the kernel delivers nothing more of it.

use std::io;
use std::time::Duration;

use socket2::{SockRef, Socket};
use tokio::net::TcpStream;

/// The shortest limit that the kernel accepts. It takes 0 as "no limit".
#[cfg(any(target_os = "android", target_os = "linux"))]
const SHORTEST: Duration = Duration::from_millis(1);

/// A second handle of a socket. The socket is reset when it is closed, until [`lift`](Self::lift) is called.
///
/// If a socket is closed, the kernel still delivers the data that was not sent yet. A reset drops that data.
/// The option is set on the socket itself, so it works in whatever way this process ends.
pub(super) struct HardClose(Socket);

impl HardClose {
    /// Sets the option. On Linux and Android, the kernel also resets the connection if the data is not
    /// received within `time`, even if this process is stopped.
    pub(super) fn within(stream: &TcpStream, time: Duration) -> io::Result<Self> {
        let socket = SockRef::from(stream).try_clone()?;
        socket.set_linger(Some(Duration::ZERO))?;
        #[cfg(any(target_os = "android", target_os = "linux"))]
        {
            // Some systems that run programs for Linux do not support this.
            let _ = socket.set_tcp_user_timeout(Some(time.max(SHORTEST)));
        }
        #[cfg(not(any(target_os = "android", target_os = "linux")))]
        let _ = time;
        Ok(Self(socket))
    }

    /// Lets the connection close in the usual way.
    pub(super) fn lift(self) {
        // If this fails, the connection is reset. The answer was read already.
        let _ = self.0.set_linger(None);
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn connected() -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        TcpStream::connect(listener.local_addr().unwrap()).await.unwrap()
    }

    #[tokio::test]
    async fn a_socket_is_closed_with_a_reset_until_lift() {
        let stream = connected().await;
        let hard = HardClose::within(&stream, Duration::from_secs(7)).unwrap();
        assert_eq!(SockRef::from(&stream).linger().unwrap(), Some(Duration::ZERO));
        hard.lift();
        assert_eq!(SockRef::from(&stream).linger().unwrap(), None);
    }

    #[cfg(any(target_os = "android", target_os = "linux"))]
    #[tokio::test]
    async fn the_kernel_gets_a_limit_for_the_delivery() {
        for (time, expected) in [(Duration::from_secs(7), 7000), (Duration::ZERO, 1)] {
            let stream = connected().await;
            let _hard = HardClose::within(&stream, time).unwrap();
            let told = SockRef::from(&stream).tcp_user_timeout().unwrap();
            assert_eq!(told, Some(Duration::from_millis(expected)));
        }
    }
}
