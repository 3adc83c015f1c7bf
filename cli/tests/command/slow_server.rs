//! A token endpoint that never ends its answer.
#![cfg(unix)]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use crate::login::home;
use crate::refresh_command::sign_in_for;
use crate::token_server::TokenServer;

/// How long it may delay a good token, and a whole command.
const LIMIT: Duration = Duration::from_secs(20);

/// Sends the head of an answer, and then one byte each second.
fn drip(mut client: TcpStream) {
    let mut request = [0; 4096];
    let _ = client.read(&mut request);
    let head =
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n";
    let mut sent = client.write_all(head);
    while sent.is_ok() {
        thread::sleep(Duration::from_secs(1));
        sent = client.write_all(b" ");
    }
}

#[test]
fn an_answer_that_never_ends_delays_a_command_with_a_good_token_by_20_seconds_at_most() {
    let (server, slow) = (TokenServer::start(), TcpListener::bind("127.0.0.1:0").unwrap());
    let home = home(&server, "");
    let access = sign_in_for(&server, &home, 10);
    let profile = home.path("config/profiles/default.toml");
    let text = fs::read_to_string(&profile).unwrap();
    let url = format!("http://{}", slow.local_addr().unwrap());
    fs::write(&profile, text.replace(&server.url(""), &url)).unwrap();
    thread::spawn(move || {
        slow.incoming().for_each(|client| drop(thread::spawn(|| drip(client.unwrap()))));
    });

    let mut get = home.command();
    let began = Instant::now();
    get.arg("get").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut get = get.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(get.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let printed = began.elapsed();
    assert!(get.wait().unwrap().success());
    let ended = began.elapsed();
    assert_eq!(line.trim_end(), access);
    // A caller waits 5 s for the new token, and the command waits for the answer.
    assert!(printed < Duration::from_secs(10), "{printed:?}");
    assert!((Duration::from_secs(15)..LIMIT).contains(&ended), "{ended:?}");
}
