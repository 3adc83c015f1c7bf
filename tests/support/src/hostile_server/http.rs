//! What a server of HTTP can do: one that keeps objects, and a provider.

use std::io::{self, Read, Write};
use std::net::TcpStream;

use super::{Act, ORDER, drip, flood};

/// The headers of an object.
const OBJECT: &str = "ETag: \"1\"\r\nLast-Modified: Thu, 26 Nov 2026 00:00:00 GMT\r\n";

/// The error says something else for each kind of client.
pub const HTTP: &[Act] = &[
    Act {
        name: "an error without an end",
        says: "",
        act: |client| {
            answer(client, "HTTP/1.1 403 Forbidden\r\n\r\n")?;
            flood(client, b"x")
        },
    },
    Act {
        name: "a fault of its own without an end",
        says: "",
        act: |client| {
            answer(client, "HTTP/1.1 500 Internal Server Error\r\n\r\n")?;
            flood(client, b"x")
        },
    },
    Act {
        name: "an answer without an end",
        says: "",
        act: |client| {
            answer(client, &format!("HTTP/1.1 200 OK\r\n{OBJECT}\r\n"))?;
            flood(client, b"x")
        },
    },
    Act {
        name: "an answer in pieces without an end",
        says: "",
        act: |client| {
            answer(client, "HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            flood(client, b"1\r\nx\r\n")
        },
    },
    Act {
        name: "an answer of 4 GiB",
        says: "",
        act: |client| {
            answer(
                client,
                &format!("HTTP/1.1 200 OK\r\nContent-Length: 4294967296\r\n{OBJECT}\r\n"),
            )?;
            flood(client, b"x")
        },
    },
    Act {
        name: "a short answer that is longer than it says",
        says: "",
        act: |client| {
            answer(client, &format!("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n{OBJECT}\r\n"))?;
            flood(client, b"x")
        },
    },
    Act {
        name: "headers without end",
        says: "",
        act: |client| {
            answer(client, "HTTP/1.1 200 OK\r\n")?;
            flood(client, b"x: x\r\n")
        },
    },
    Act {
        name: "a header without an end",
        says: "",
        act: |client| {
            answer(client, "HTTP/1.1 200 OK\r\nx: ")?;
            flood(client, b"x")
        },
    },
    Act {
        name: "trailers without end",
        says: "",
        act: |client| {
            answer(client, "HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n")?;
            flood(client, b"x: x\r\n")
        },
    },
    Act {
        name: "interim answers without end",
        says: "",
        act: |client| {
            answer(client, "")?;
            flood(client, b"HTTP/1.1 103 Early Hints\r\n\r\n")
        },
    },
    Act {
        name: "an error with an order",
        says: "",
        act: |client| {
            let body = format!("<Code>{ORDER}</Code><Message>{ORDER}</Message>");
            let head = format!("HTTP/1.1 403 Forbidden\r\nContent-Length: {}\r\n\r\n", body.len());
            answer(client, &(head + &body))?;
            client.read_exact(&mut [0])
        },
    },
    Act {
        name: "a byte now and then",
        says: "did not answer",
        act: |client| {
            answer(client, "HTTP/1.1 403 Forbidden\r\n\r\n")?;
            drip(client, b'x')
        },
    },
];

/// Reads the head of a request, and begins to answer.
fn answer(client: &mut TcpStream, head: &str) -> io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte)?;
        request.extend(byte);
    }
    client.write_all(head.as_bytes())
}
