//! Ends a connection such that the kernel delivers nothing of it later.

use std::io;
use std::time::Duration;

use socket2::{SockRef, Socket};
use tokio::net::TcpStream;

/// What the kernel counts in. It takes 0 for "no limit".
#[cfg(any(target_os = "android", target_os = "linux"))]
const SHORTEST: Duration = Duration::from_millis(1);

/// A second handle of a socket that is reset when it closes, until [`lift`](Self::lift).
///
/// The kernel goes on to deliver what a closed socket has not sent yet. A reset drops that. The option is
/// set on the socket itself, so it holds however this process ends.
pub(super) struct HardClose(Socket);

impl HardClose {
    /// Also has the kernel reset the connection itself if what was sent is not received within `time`.
    /// Only Linux and Android can do that. This process may be stopped by then.
    pub(super) fn within(stream: &TcpStream, time: Duration) -> io::Result<Self> {
        let socket = SockRef::from(stream).try_clone()?;
        socket.set_linger(Some(Duration::ZERO))?;
        #[cfg(any(target_os = "android", target_os = "linux"))]
        {
            // Not each system that runs programs for Linux has this.
            let _ = socket.set_tcp_user_timeout(Some(time.max(SHORTEST)));
        }
        #[cfg(not(any(target_os = "android", target_os = "linux")))]
        let _ = time;
        Ok(Self(socket))
    }

    /// Lets the connection close as others do.
    pub(super) fn lift(self) {
        // If this fails, it is reset, and the answer is here all the same.
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
    async fn a_socket_is_reset_until_that_is_lifted() {
        let stream = connected().await;
        let hard = HardClose::within(&stream, Duration::from_secs(7)).unwrap();
        assert_eq!(SockRef::from(&stream).linger().unwrap(), Some(Duration::ZERO));
        hard.lift();
        assert_eq!(SockRef::from(&stream).linger().unwrap(), None);
    }

    #[cfg(any(target_os = "android", target_os = "linux"))]
    #[tokio::test]
    async fn the_kernel_knows_for_how_long_it_may_deliver() {
        for (time, expected) in [(Duration::from_secs(7), 7000), (Duration::ZERO, 1)] {
            let stream = connected().await;
            let _hard = HardClose::within(&stream, time).unwrap();
            let told = SockRef::from(&stream).tcp_user_timeout().unwrap();
            assert_eq!(told, Some(Duration::from_millis(expected)));
        }
    }
}
