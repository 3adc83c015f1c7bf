//! A way to a server that can be closed, and that can lose what it carries.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// Carries HTTP requests, one for each connection, or bytes of any kind, to a server.
pub struct Proxy {
    address: SocketAddr,
    way: Arc<Mutex<Way>>,
    /// What carries bytes at the moment.
    carrying: Arc<Mutex<Vec<TcpStream>>>,
}

/// What becomes of a request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Open,
    /// It is broken off.
    Closed,
    /// Whatever it asks for is done, if only its conditions are left out.
    WithoutConditions,
    /// Of a write, the server's answer is lost.
    LosesAnswers,
}

impl Proxy {
    pub fn to(server: SocketAddr) -> Self {
        Self::with(move |client, way, _| carry(client, server, way))
    }

    /// One that does not look at what it carries.
    pub fn of_bytes(server: SocketAddr) -> Self {
        Self::with(move |client, way, carrying| {
            if way == Way::Closed {
                return client.shutdown(Shutdown::Both);
            }
            let server = TcpStream::connect(server)?;
            let (mut there, mut back) = (client.try_clone()?, server.try_clone()?);
            carrying.lock().unwrap().extend([client.try_clone()?, server.try_clone()?]);
            let both = thread::spawn(move || io::copy(&mut back, &mut there));
            let _ = io::copy(&mut &*client, &mut &server);
            server.shutdown(Shutdown::Both)?;
            drop(both.join());
            client.shutdown(Shutdown::Both)
        })
    }

    fn with(
        carry: impl Fn(&TcpStream, Way, &Mutex<Vec<TcpStream>>) -> io::Result<()>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, way) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Way::Open)));
        let carrying: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
        let (current, streams, carry) = (way.clone(), carrying.clone(), Arc::new(carry));
        thread::spawn(move || {
            for client in listener.incoming() {
                let (client, way) = (client.unwrap(), *current.lock().unwrap());
                let (carry, streams) = (carry.clone(), streams.clone());
                // A client that gives up is its own affair.
                thread::spawn(move || drop(carry(&client, way, &streams)));
            }
        });
        Self { address, way, carrying }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn set(&self, way: Way) {
        *self.way.lock().unwrap() = way;
        if way == Way::Closed {
            for stream in self.carrying.lock().unwrap().drain(..) {
                // It may have come to its end.
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
    }
}

fn carry(client: &TcpStream, server: SocketAddr, way: Way) -> io::Result<()> {
    if way == Way::Closed {
        return client.shutdown(Shutdown::Both);
    }
    let (method, request) = read_request(client, way)?;
    let mut upstream = TcpStream::connect(server)?;
    upstream.write_all(&request)?;
    let mut answer = Vec::new();
    upstream.read_to_end(&mut answer)?;
    if way != Way::LosesAnswers || method != "PUT" {
        (&*client).write_all(&answer)?;
    }
    client.shutdown(Shutdown::Both)
}

/// Reads one request, and asks for the connection to end with its answer.
fn read_request(client: &TcpStream, way: Way) -> io::Result<(String, Vec<u8>)> {
    let mut reader = BufReader::new(client);
    let (mut request, mut length, mut method) = (Vec::new(), 0, String::new());
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if line.trim().is_empty() {
            break;
        }
        let lower = line.to_ascii_lowercase();
        if method.is_empty() {
            method = line.split(' ').next().unwrap_or_default().to_owned();
        }
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
        let is_condition = lower.starts_with("if-match:") || lower.starts_with("if-none-match:");
        let is_left_out = is_condition && way == Way::WithoutConditions;
        if !is_left_out && !lower.starts_with("connection:") {
            request.extend_from_slice(line.as_bytes());
        }
    }
    request.extend_from_slice(b"connection: close\r\n\r\n");
    let head = request.len();
    request.resize(head + length, 0);
    reader.read_exact(&mut request[head..])?;
    Ok((method, request))
}
