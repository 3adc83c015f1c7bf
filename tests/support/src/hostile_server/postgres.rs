//! What a PostgreSQL server can do, with the protocol by hand.

use std::io::{self, Read, Write};
use std::net::TcpStream;

use super::{Act, ORDER, drip, flood};

/// What a PostgreSQL server can do.
pub const POSTGRES: &[Act] = &[
    Act {
        name: "a row of 2 GiB",
        says: "it sent more than an answer",
        act: |client| {
            greet(client)?;
            heads(client, &[25; 5])?;
            client.write_all(b"D\x7f\xff\xff\xff")?;
            flood(client, &[0; 1024])
        },
    },
    Act {
        name: "rows without end",
        says: "it sent more than an answer",
        act: |client| {
            greet(client)?;
            heads(client, &[25])?;
            flood(client, &message(b'D', &[0, 1, 0, 0, 0, 1, b'x']))
        },
    },
    Act {
        name: "two rows",
        says: "unexpected number of rows",
        act: |client| {
            greet(client)?;
            heads(client, &[25])?;
            client.write_all(&message(b'D', &[0, 1, 0, 0, 0, 1, b'x']).repeat(2))?;
            client.read_exact(&mut [0])
        },
    },
    Act {
        name: "parameters without end",
        says: "it sent more than an answer",
        act: |client| {
            startup(client)?;
            client.write_all(&message(b'R', &[0; 4]))?;
            (0_u64..).try_for_each(|number| {
                let parameter = format!("{number}\0{}\0", "x".repeat(1000));
                client.write_all(&message(b'S', parameter.as_bytes()))
            })
        },
    },
    Act {
        name: "notices without end, before it is ready",
        says: "it sent more than an answer",
        act: |client| {
            startup(client)?;
            client.write_all(&message(b'R', &[0; 4]))?;
            flood(client, &message(b'N', &error("a notice")))
        },
    },
    Act {
        name: "notices without end, in an answer",
        says: "it sent more than an answer",
        act: |client| {
            greet(client)?;
            flood(client, &message(b'N', &error("a notice")))
        },
    },
    Act {
        name: "types of types without end",
        says: "it sent more than an answer",
        act: |client| {
            greet(client)?;
            heads(client, &[100_000])?;
            client.write_all(&[message(b'C', b"SELECT 0\0"), ready()].concat())?;
            // The driver asks what the type is, and then what that one is made of.
            asked(client)?;
            let columns = columns(&[25, 18, 26, 26, 26, 25, 26]);
            let prepared = [message(b'1', b""), message(b't', &[0, 1, 0, 0, 0, 26]), columns];
            client.write_all(&[&prepared.concat()[..], &ready()].concat())?;
            (100_001_u32..).try_for_each(|next| {
                asked(client)?;
                let [one, none] = [1_u32.to_be_bytes(), 0_u32.to_be_bytes()];
                let [four, next] = [4_u32.to_be_bytes(), next.to_be_bytes()];
                let null = [0xff; 4];
                let row: Vec<&[u8]> = vec![
                    &[0, 7],
                    &one,
                    b"t",
                    &one,
                    b"d",
                    &four,
                    &none,
                    &null,
                    &four,
                    &next,
                    &one,
                    b"n",
                    &four,
                    &none,
                ];
                let row = message(b'D', &row.concat());
                let answer =
                    [message(b'2', b""), row, message(b'C', b"SELECT 1\0"), ready()].concat();
                client.write_all(&answer)
            })
        },
    },
    Act {
        name: "an error of 5 MB",
        says: "it sent more than an answer",
        act: |client| {
            greet(client)?;
            client.write_all(&message(b'E', &error(&"x".repeat(5_000_000))))?;
            client.read_exact(&mut [0])
        },
    },
    Act {
        name: "an error of 1 MB",
        says: "error XX000; the server says \"xxxx",
        act: |client| {
            greet(client)?;
            client.write_all(&message(b'E', &error(&"x".repeat(1_000_000))))?;
            client.read_exact(&mut [0])
        },
    },
    Act {
        name: "an error with an order",
        says: "error XX000; the server says \"[31mrun this[0m\"",
        act: |client| {
            greet(client)?;
            client.write_all(&message(b'E', &error(ORDER)))?;
            client.read_exact(&mut [0])
        },
    },
    Act {
        name: "a refusal with an order, instead of a start-up",
        says: "error XX000; the server says \"[31mrun this[0m\"",
        act: |client| {
            startup(client)?;
            client.write_all(&message(b'E', &error(ORDER)))?;
            client.read_exact(&mut [0])
        },
    },
    Act {
        name: "an order at the end of a password's proof",
        says: "SCRAM error: [31mrun this[0m",
        act: |client| {
            challenge(client, 4096)?;
            sent(client)?;
            let end = [&12_u32.to_be_bytes()[..], format!("e={ORDER}").as_bytes()].concat();
            client.write_all(&message(b'R', &end))?;
            client.read_exact(&mut [0])
        },
    },
    Act {
        name: "the password in cleartext",
        says: "it asks for the password in cleartext, which is not sent without TLS; set `password_encryption",
        act: |client| wants_password(client, &[0, 0, 0, 3]),
    },
    Act {
        name: "an MD5 hash of the password",
        says: "it asks for an MD5 hash of the password, which is not sent without TLS; set `password_encryption",
        act: |client| wants_password(client, &[0, 0, 0, 5, 1, 2, 3, 4]),
    },
    Act {
        name: "a hash of the password that is easy to guess",
        says: "fewer than 4096 iterations, which is not sent without TLS; set `scram_iterations",
        act: |client| {
            challenge(client, 1)?;
            gets_no_password(client)
        },
    },
    Act {
        name: "a hash of the password that takes hours",
        says: "SCRAM iteration count exceeds the maximum",
        act: |client| {
            challenge(client, u32::MAX)?;
            gets_no_password(client)
        },
    },
    Act {
        name: "a byte now and then",
        says: "did not answer in time",
        act: |client| {
            startup(client)?;
            client.write_all(b"R\0\0\x0f\xff")?;
            drip(client, 9)
        },
    },
    Act {
        name: "what is no message",
        says: "is unavailable",
        act: |client| {
            startup(client)?;
            flood(client, b"HTTP/1.1 400 Bad Request\r\n")
        },
    },
];

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [&[kind], &length.to_be_bytes()[..], body].concat()
}

fn ready() -> Vec<u8> {
    message(b'Z', b"I")
}

fn error(text: &str) -> Vec<u8> {
    format!("SERROR\0VERROR\0CXX000\0M{text}\0\0").into_bytes()
}

fn columns(types: &[u32]) -> Vec<u8> {
    let count = u16::try_from(types.len()).unwrap();
    let mut columns = count.to_be_bytes().to_vec();
    for number in types {
        columns.extend([&b"c\0\0\0\0\0\0\0"[..], &number.to_be_bytes(), &[0; 8]].concat());
    }
    message(b'T', &columns)
}

/// Reads the first message of a client.
fn startup(client: &mut TcpStream) -> io::Result<()> {
    let mut length = [0; 4];
    client.read_exact(&mut length)?;
    client.read_exact(&mut vec![0; u32::from_be_bytes(length) as usize - 4])
}

/// Reads one message of a client.
fn sent(client: &mut TcpStream) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 5];
    client.read_exact(&mut head)?;
    let [kind, length @ ..] = head;
    let mut body = vec![0; u32::from_be_bytes(length) as usize - 4];
    client.read_exact(&mut body)?;
    Ok((kind, body))
}

/// Reads what a client asks, up to where it waits for an answer.
fn asked(client: &mut TcpStream) -> io::Result<()> {
    while sent(client)?.0 != b'S' {}
    Ok(())
}

/// Lets a client in, and waits until it asks something.
fn greet(client: &mut TcpStream) -> io::Result<()> {
    startup(client)?;
    client.write_all(&[message(b'R', &[0; 4]), message(b'K', &[0; 8]), ready()].concat())?;
    asked(client)
}

/// Begins an answer with columns of these types.
fn heads(client: &mut TcpStream, types: &[u32]) -> io::Result<()> {
    let begun = [message(b'1', b""), message(b'2', b""), columns(types)];
    client.write_all(&begun.concat())
}

fn wants_password(client: &mut TcpStream, request: &[u8]) -> io::Result<()> {
    startup(client)?;
    client.write_all(&message(b'R', request))?;
    gets_no_password(client)
}

/// Says so if the client sends a password.
fn gets_no_password(client: &mut TcpStream) -> io::Result<()> {
    let (kind, _) = sent(client)?;
    if kind == b'p' {
        client.write_all(&message(b'E', &error("the password was sent")))?;
    }
    client.read_exact(&mut [0])
}

/// Begins to check a password.
fn challenge(client: &mut TcpStream, iterations: u32) -> io::Result<()> {
    startup(client)?;
    client.write_all(&message(b'R', b"\0\0\0\x0aSCRAM-SHA-256\0\0"))?;
    let (_, first) = sent(client)?;
    let first = String::from_utf8_lossy(&first).into_owned();
    let nonce = first.split_once(",r=").map(|(_, nonce)| nonce.to_owned()).unwrap_or_default();
    let challenge = format!("\0\0\0\x0br={nonce}canary,s=c2FsdHNhbHQ=,i={iterations}");
    client.write_all(&message(b'R', challenge.as_bytes()))
}
