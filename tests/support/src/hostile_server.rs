//! Servers that send what no real one would: PostgreSQL, and HTTP.

mod http;
mod postgres;

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

pub use self::http::HTTP;
pub use self::postgres::POSTGRES;

/// A server that does the same to everybody who connects. It ends with the process.
pub struct HostileServer(SocketAddr);

/// What a server does to a client, and what the client's error says. It ends when the client gives up.
pub struct Act {
    pub name: &'static str,
    pub says: &'static str,
    act: fn(&mut TcpStream) -> io::Result<()>,
}

impl HostileServer {
    pub fn start(act: &Act) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, act) = (listener.local_addr().unwrap(), act.act);
        thread::spawn(move || {
            for client in listener.incoming() {
                let mut client = client.unwrap();
                // The client is supposed to give up.
                thread::spawn(move || drop(act(&mut client)));
            }
        });
        Self(address)
    }

    pub fn address(&self) -> SocketAddr {
        self.0
    }
}

/// A text that a terminal obeys, and that a reader might. What is left of it is `run this`.
pub const ORDER: &str = "\u{1b}[31mrun\u{202e}\u{200b} \u{e000}this\u{1b}[0m";

/// Sends something until the client gives up.
fn flood(client: &mut TcpStream, piece: &[u8]) -> io::Result<()> {
    let pieces = piece.repeat((64 << 10) / piece.len().min(64 << 10));
    loop {
        client.write_all(&pieces)?;
    }
}

/// Sends a byte now and then, without an end.
fn drip(client: &mut TcpStream, byte: u8) -> io::Result<()> {
    loop {
        client.write_all(&[byte])?;
        thread::sleep(Duration::from_millis(100));
    }
}
