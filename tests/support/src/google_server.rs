//! A server with the conditions of Google Cloud Storage, according to its documentation. No server that can
//! be installed has them. An object has a generation, and `x-goog-if-generation-match` demands a generation
//! (0 means no object; cloud.google.com, "Request preconditions").

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use tokenkeep::chrono::{DateTime, Utc};

/// The object of each path.
type Objects = Arc<Mutex<HashMap<String, Object>>>;

#[derive(Clone)]
struct Object {
    generation: u64,
    bytes: Vec<u8>,
    written: Written,
}

#[derive(Clone, Copy)]
struct Written {
    at: SystemTime,
    /// For the limit. It must not depend on changes of the wall clock.
    since: Instant,
}

impl Written {
    fn now() -> Self {
        Self { at: SystemTime::now(), since: Instant::now() }
    }

    /// Returns the time in the format of `last-modified` (RFC 9110, section 5.6.7).
    fn as_header(self) -> String {
        DateTime::<Utc>::from(self.at).format("%a, %d %b %Y %H:%M:%S GMT").to_string()
    }
}

/// The least time between two writes of an object ("Quotas & limits": once per second).
const LIMIT: Duration = Duration::from_secs(1);

/// Serves one bucket, `tokens`, for as long as the process lives.
pub struct GoogleServer {
    address: SocketAddr,
    objects: Objects,
}

impl GoogleServer {
    pub fn start() -> Self {
        Self::start_with(Duration::ZERO)
    }

    /// Starts a server that accepts one write of each object per second.
    pub fn start_with_limit() -> Self {
        Self::start_with(LIMIT)
    }

    fn start_with(limit: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let objects = Objects::default();
        let kept = objects.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                let (client, objects) = (client.unwrap(), kept.clone());
                // A client that closes its connection is no failure of the server.
                thread::spawn(move || drop(serve(&client, &objects, limit)));
            }
        });
        Self { address, objects }
    }

    pub fn url(&self, bucket: &str, key: &str, identity: &Path) -> String {
        let (endpoint, identity) = (self.address, identity.display());
        format!("gs://{bucket}/{key}?endpoint=http://{endpoint}&identity={identity}")
    }

    /// Returns the paths of all objects, sorted.
    pub fn paths(&self) -> Vec<String> {
        let mut paths: Vec<_> = self.objects.lock().unwrap().keys().cloned().collect();
        paths.sort();
        paths
    }
}

fn serve(mut client: &TcpStream, objects: &Objects, limit: Duration) -> io::Result<()> {
    let mut reader = BufReader::new(client);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (method, path) = (method.to_owned(), path.to_owned());
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;

    let (status, generation, answer) = answer(&method, &path, &headers, body, objects, limit);
    let modified = objects.lock().unwrap().get(&path).map_or_else(Written::now, |it| it.written);
    write!(
        client,
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\
         last-modified: {}\r\netag: \"{generation}\"\r\n\
         x-goog-generation: {generation}\r\n\r\n",
        answer.len(),
        modified.as_header()
    )?;
    client.write_all(&answer)
}

fn answer(
    method: &str,
    path: &str,
    headers: &HashMap<String, String>,
    body: Vec<u8>,
    objects: &Objects,
    limit: Duration,
) -> (&'static str, u64, Vec<u8>) {
    let refused = |status, code: &str| {
        let error = format!("<?xml version='1.0'?><Error><Code>{code}</Code></Error>");
        (status, 0, error.into_bytes())
    };
    if !path.starts_with("/tokens/") {
        return refused("404 Not Found", "NoSuchBucket");
    }
    let mut objects = objects.lock().unwrap();
    let there = objects.get(path).cloned();
    let generation = there.as_ref().map_or(0, |there| there.generation);
    match (method, there) {
        ("GET", Some(there)) => ("200 OK", generation, there.bytes),
        ("GET", None) => refused("404 Not Found", "NoSuchKey"),
        ("PUT", Some(there)) if there.written.since.elapsed() < limit => {
            refused("429 Too Many Requests", "SlowDown")
        }
        ("PUT", _) => {
            let wanted = headers.get("x-goog-if-generation-match");
            if wanted.is_some_and(|wanted| *wanted != generation.to_string()) {
                return refused("412 Precondition Failed", "PreconditionFailed");
            }
            // A generation is similar to a time. A new object never gets the generation of an earlier one.
            let next = generation.max(1_700_000_000_000_000) + 1;
            let written = Object { generation: next, bytes: body, written: Written::now() };
            objects.insert(path.to_owned(), written);
            ("200 OK", next, Vec::new())
        }
        _ => refused("405 Method Not Allowed", "MethodNotAllowed"),
    }
}
