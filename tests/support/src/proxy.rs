//! A proxy that can close its connections, and that can lose answers.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// Forwards HTTP requests, one for each connection, or bytes of any kind, to a server.
pub struct Proxy {
    address: SocketAddr,
    way: Arc<Mutex<Way>>,
    /// The open connections of a proxy for bytes.
    carrying: Arc<Mutex<Vec<TcpStream>>>,
}

/// What happens to a request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Open,
    /// Its connection is closed.
    Closed,
    /// It is forwarded without its conditions.
    WithoutConditions,
    /// It is forwarded, but the answer to a write is lost.
    LosesAnswers,
}

impl Proxy {
    pub fn to(server: SocketAddr) -> Self {
        Self::with(move |client, way, _| carry(client, server, way))
    }

    /// Returns a proxy that forwards bytes of any kind.
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
                // A client that closes its connection is no failure of the proxy.
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
                // The connection may have ended already.
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

/// Reads one request, and adds a header so that the connection ends after its answer.
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
