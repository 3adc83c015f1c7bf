use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::Poll;
use std::thread::{self, JoinHandle};
use std::time::SystemTime;

use socket2::SockRef;
use tokio::sync::oneshot;

use super::*;
use crate::error::RefreshFailure;
use crate::sys::clock::Clock;

/// Sends one request to a server that sends `answer` and nothing more. Waits up to the limit.
fn exchange(answer: impl Into<Vec<u8>>, limit: Duration) -> Result<HttpResponse, Failed> {
    exchange_stopped_for(Duration::ZERO, answer, limit)
}

/// Like `exchange`, in a process that is stopped for `time` after the answer was sent.
fn exchange_stopped_for(
    time: Duration,
    answer: impl Into<Vec<u8>>,
    limit: Duration,
) -> Result<HttpResponse, Failed> {
    let answer = answer.into();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let uri = format!("http://{}/token", listener.local_addr().unwrap());
    let (done, until) = mpsc::channel::<()>();
    let (answered, is_answered) = mpsc::channel();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_exact(&mut [0; 4]).unwrap();
        stream.write_all(&answer).unwrap();
        answered.send(()).unwrap();
        let _ = until.recv();
    });
    let request = http::Request::post(uri).body(b"a=b".to_vec()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let http = Http { answer: limit, ..Http::new() };
    // The limit makes the test fail instead of hang.
    let exchanged = runtime.block_on(async {
        let patience = Duration::from_secs(80);
        let stopped = async {
            while !time.is_zero() && is_answered.try_recv().is_err() {
                tokio::task::yield_now().await;
            }
            thread::sleep(time);
        };
        let both = async { tokio::join!(http.exchange(request), stopped).0 };
        timeout(patience, both).await.expect("it gives up by itself")
    });
    drop(done);
    server.join().unwrap();
    exchanged
}

#[test]
fn an_answer_that_came_while_the_process_was_stopped_is_read() {
    // The body is longer than one read.
    let body = " ".repeat(60_000);
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let (limit, stopped) = (Duration::from_millis(500), Duration::from_millis(700));
    let exchanged = exchange_stopped_for(stopped, answer, limit).unwrap();
    assert_eq!(exchanged.body().len(), body.len());
}

#[test]
fn a_missing_or_incomplete_answer_is_an_error() {
    for answer in ["", "HTTP/1.1 200", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"] {
        let failed = exchange(answer, Duration::from_millis(20)).unwrap_err();
        assert!(matches!(failed, Failed::NoAnswer { .. }), "{answer}: {failed}");
    }
}

#[test]
fn tokens_that_arrived_before_the_connection_ended_are_read() {
    let json = r#"{"access_token":"a","refresh_token":"r"}"#;
    for (head, is_read) in [
        // The last chunk is missing, and the content is shorter than announced.
        (format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{json}\r\n", json.len()), true),
        (format!("Content-Length: 999\r\n\r\n{json}"), true),
        (format!("Content-Length: 999\r\n\r\n{}", &json[..json.len() - 1]), true),
        (format!("Content-Length: 999\r\n\r\n{}", &json[..json.len() - 2]), false),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let uri = format!("http://{}/token", listener.local_addr().unwrap());
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            // The whole request is read, so that closing does not reset the connection.
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\na=b") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                request.push(byte[0]);
            }
            stream.write_all(format!("HTTP/1.1 200 OK\r\n{head}").as_bytes()).unwrap();
        });
        let request = http::Request::post(uri).body(b"a=b".to_vec()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let exchanged = runtime.block_on(Http::new().exchange(request));
        server.join().unwrap();
        assert_eq!(exchanged.is_ok_and(|answer| answer.body() == json.as_bytes()), is_read);
    }
}

#[test]
fn tokens_that_arrived_are_read_although_the_answer_does_not_end() {
    let json = r#"{"access_token":"a","refresh_token":"r"}"#;
    let chunk = |body: &str| format!("{:x}\r\n{body}\r\n", body.len());
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let limit = Duration::from_millis(500);
    let read = exchange(format!("{head}{}", chunk(json)), limit).unwrap();
    assert_eq!(read.body(), json.as_bytes());
    let failing = head.replace("200 OK", "400 Bad Request");
    let read = exchange(format!("{failing}{}", chunk(json)), limit).unwrap();
    assert_eq!(read.body(), json.as_bytes());
    // The first may be the beginning of a longer token. The second has neither tokens nor an error.
    for answer in
        [format!("{head}{}", chunk("access_token=a")), format!("{failing}{}", chunk("{}"))]
    {
        let failed = exchange(answer, limit).unwrap_err();
        assert!(matches!(failed, Failed::NoAnswer { .. }), "{failed:?}");
    }
}

#[test]
fn a_wait_that_arrived_is_kept_although_the_answer_does_not_end_or_is_too_long() {
    let limit = Duration::from_millis(500);
    let long = "x".repeat(LONGEST_BODY + 1);
    for (head, body) in [
        ("503 Whatever\r\nRetry-After: 7\r\nContent-Length: 9", "<h"),
        ("400 Whatever\r\nRetry-After: 7\r\nTransfer-Encoding: chunked", "3\r\n<h"),
        ("502 Whatever\r\nRetry-After: 7\r\nX: y", &*long),
    ] {
        let failed = exchange(format!("HTTP/1.1 {head}\r\n\r\n{body}"), limit).unwrap_err();
        let Failed::Answered { retry_after, .. } = failed else { panic!("{head}: {failed:?}") };
        assert_eq!(retry_after, Some(Duration::from_secs(7)), "{head}");
    }
}

/// Returns an answer with a body that is compressed although nobody asked for it.
fn compressed(body: &[u8], header: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(body).unwrap();
    let body = encoder.finish().unwrap();
    let head = format!("HTTP/1.1 200 OK\r\n{header}Content-Length: {}\r\n\r\n", body.len());
    [head.into_bytes(), body].concat()
}

#[test]
fn a_compressed_answer_is_read_with_the_limit_of_a_plain_one() {
    let json = br#"{"access_token":"a","refresh_token":"r"}"#;
    let limit = Duration::from_secs(60);
    for header in ["Content-Encoding: gzip\r\n", "Content-Encoding: x-gzip\r\n", ""] {
        assert_eq!(exchange(compressed(json, header), limit).unwrap().body(), json, "{header}");
    }
    // The checksum and the end of the data are missing.
    let whole = compressed(json, "Content-Encoding: gzip\r\n");
    let read = exchange(&whole[..whole.len() - 9], Duration::from_millis(500)).unwrap();
    assert_eq!(read.body(), json);
    let failed = exchange(compressed(&vec![b' '; LONGEST_BODY + 1], ""), limit).unwrap_err();
    assert!(matches!(&failed, Failed::Unreadable { .. }), "{failed:?}");
    assert!(failed.to_string().ends_with("more than 256 KiB"), "{failed}");
}

/// A permit for a minute, of which the save takes 25 s and the answer `deadline`.
fn permit(deadline: Duration, clock: &Clock) -> RefreshPermit {
    RefreshPermit::until(Duration::from_secs(60), deadline, Duration::from_secs(25), clock)
}

fn minute() -> RefreshPermit {
    permit(Duration::from_secs(30), &Clock::default())
}

/// Like `minute`, but the wall clock makes this step once there is a connection: `connected` ends then.
fn minute_with_step(step: Duration, connected: mpsc::Receiver<()>) -> RefreshPermit {
    let (connected, is_given_out) = (Mutex::new(connected), AtomicBool::new(false));
    let clock = Clock::new(move || {
        let mut now = SystemTime::UNIX_EPOCH;
        if is_given_out.swap(true, Ordering::SeqCst) {
            // Before there is a connection, no time has passed.
            let connected = connected.lock().unwrap().recv_timeout(Duration::from_secs(5));
            let is_connected = connected == Err(mpsc::RecvTimeoutError::Disconnected);
            now += if is_connected { step } else { Duration::ZERO };
        }
        now
    });
    permit(Duration::from_secs(30), &clock)
}

fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    // A large request must not fit into the buffer.
    SockRef::from(&listener).set_recv_buffer_size(4096).unwrap();
    let url = format!("http://{}/token", listener.local_addr().unwrap());
    (listener, url)
}

fn to(url: &str, length: usize) -> HttpRequest {
    http::Request::post(url).body(vec![b'a'; length]).unwrap()
}

/// Reads to the end of a connection. Returns how much was read, and how the connection ended.
fn drain(stream: &mut impl Read) -> (usize, Option<io::ErrorKind>) {
    let (mut count, mut bytes) = (0, vec![0; 65_536]);
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return (count, None),
            Ok(more) => count += more,
            Err(error) => return (count, Some(error.kind())),
        }
    }
}

#[tokio::test]
async fn a_permit_that_ended_while_connecting_sends_nothing() {
    let ((listener, url), (connect, connected)) = (listen(), mpsc::channel());
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        drop(connect);
        drain(&mut stream).0
    });
    // By the wall clock, this process was stopped for 6 s.
    let permit = minute_with_step(Duration::from_secs(6), connected);
    let http = Http::new().permitted(permit);
    let failure = RefreshFailure::from(http.exchange(to(&url, 3)).await.unwrap_err());
    assert!(failure.proves_unspent(), "{failure:?}");
    assert!(failure.to_string().contains("its lease may be over"), "{failure}");
    assert_eq!(server.join().unwrap(), 0);
}

/// Answers one request. Returns how the connection ended, once the client has finished.
fn answering(
    answer: &'static str,
    listener: TcpListener,
    connect: mpsc::Sender<()>,
    done: mpsc::Receiver<()>,
) -> JoinHandle<Option<io::ErrorKind>> {
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        drop(connect);
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\naaa") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            request.extend(byte);
        }
        stream.write_all(answer.as_bytes()).unwrap();
        done.recv().unwrap();
        // A reset that comes after the usual end is no error of a read.
        let reset = || stream.take_error().unwrap().map(|error| error.kind());
        drain(&mut &stream).1.or_else(reset)
    })
}

#[tokio::test]
async fn a_connection_that_took_seconds_is_used_and_closed_as_usual() {
    for is_limited in [true, false] {
        let ((listener, url), (connect, connected)) = (listen(), mpsc::channel());
        let (finish, done) = mpsc::channel();
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
        let server = answering(answer, listener, connect, done);
        // By the wall clock, connecting took 4 s.
        let permit = minute_with_step(Duration::from_secs(4), connected);
        let permit = if is_limited { permit } else { RefreshPermit::unlimited() };
        let http = Http::new().permitted(permit);
        assert_eq!(http.exchange(to(&url, 3)).await.unwrap().body(), b"{}");
        finish.send(()).unwrap();
        assert_eq!(server.join().unwrap(), None);
    }
}

#[tokio::test]
async fn a_request_without_an_answer_is_reset_when_the_permit_ends() {
    let ((listener, url), (connect, _)) = (listen(), mpsc::channel());
    let (finish, done) = mpsc::channel();
    let server = answering("HTTP/1.1 200 OK\r\n", listener, connect, done);
    let http = Http::new().permitted(permit(Duration::from_secs(2), &Clock::default()));
    // Without the permit it takes longer.
    let exchanged = timeout(ANSWER, http.exchange(to(&url, 3))).await.unwrap();
    let failed = exchanged.unwrap_err();
    assert!(matches!(failed, Failed::NoAnswer { .. }), "{failed:?}");
    finish.send(()).unwrap();
    assert_eq!(server.join().unwrap(), RESET);
}

/// How the server sees a reset. With Wine 8, the connection ends in the usual way.
const RESET: Option<io::ErrorKind> =
    if cfg!(windows) { None } else { Some(io::ErrorKind::ConnectionReset) };

#[tokio::test]
async fn a_request_is_written_in_the_same_poll_as_the_check_of_the_permit() {
    let ((listener, url), reads) = (listen(), Arc::new(AtomicUsize::new(0)));
    let clock = {
        let reads = reads.clone();
        Clock::new(move || {
            reads.fetch_add(1, Ordering::SeqCst);
            SystemTime::UNIX_EPOCH
        })
    };
    let http = Http::new().permitted(permit(Duration::from_secs(30), &clock));
    let mut exchange = pin!(http.exchange(to(&url, 3)));
    // The clock is read when the permit is made, for the time that is left, and for the check.
    poll_fn(|context| {
        assert!(exchange.as_mut().poll(context).is_pending());
        let is_checked = reads.load(Ordering::SeqCst) == 3;
        if is_checked { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    let (stream, _) = listener.accept().unwrap();
    // The limit makes the test fail instead of hang.
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert!(stream.peek(&mut [0]).unwrap() > 0);
}

/// The size of a request that does not fit into the buffers of the kernel.
const LARGE: usize = 32 * 1024 * 1024;

/// Reads on after `given_up`. Returns how the connection ended.
fn reading(
    listener: TcpListener,
    arrived: oneshot::Sender<()>,
    given_up: mpsc::Receiver<()>,
) -> JoinHandle<Option<io::ErrorKind>> {
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_exact(&mut [0; 4]).unwrap();
        arrived.send(()).unwrap();
        given_up.recv().unwrap();
        let (count, end) = drain(&mut stream);
        assert!(count < LARGE);
        end
    })
}

#[tokio::test]
async fn a_cancelled_request_is_not_delivered_after_the_permit_ends() {
    for (permit, end) in [(minute(), RESET), (RefreshPermit::unlimited(), None)] {
        let ((listener, url), (arrive, arrived)) = (listen(), oneshot::channel());
        let (give_up, given_up) = mpsc::channel();
        let server = reading(listener, arrive, given_up);
        let http = Http::new().permitted(permit);
        tokio::select! {
            answered = http.exchange(to(&url, LARGE)) => panic!("{answered:?}"),
            arrived = arrived => arrived.unwrap(),
        }
        give_up.send(()).unwrap();
        assert_eq!(server.join().unwrap(), end);
    }
}

#[test]
fn an_answer_that_is_not_http_is_an_error() {
    let failed = exchange("220 canary ESMTP\r\n\r\n", Duration::from_secs(60)).unwrap_err();
    assert!(matches!(failed, Failed::NotHttp { .. }), "{failed:?}");
    assert!(!failed.to_string().contains("canary"), "{failed}");
}

#[test]
fn a_server_that_connects_slowly_delays_a_good_token_no_longer_than_a_quick_one() {
    let (usual, good) = (Http::new(), Http::new().while_good());
    for seconds in [0, 3, 5, 60] {
        let connecting = Duration::from_secs(seconds);
        // The second try takes 3 s.
        let whole = connecting.min(good.connect) + good.time_to_answer(connecting) + LAST_LOOK;
        assert!(whole + Duration::from_secs(3) < Duration::from_secs(20), "{seconds}");
        assert!(good.time_to_answer(connecting) >= Duration::from_secs(10), "{seconds}");
        assert_eq!(usual.time_to_answer(connecting), ANSWER, "{seconds}");
    }
}

#[tokio::test]
async fn the_time_for_connecting_is_taken_from_the_time_for_the_answer() {
    // It accepts the connection, and never begins TLS.
    let (listener, url) = listen();
    let http = Http { connect: Duration::from_millis(50), ..Http::new() };
    let exchanged = http.exchange(to(&url.replace("http://", "https://"), 3));
    let failed = timeout(CONNECT, exchanged).await.unwrap().unwrap_err();
    assert!(matches!(failed, Failed::NotSent { .. }), "{failed:?}");
    drop(listener);
    // Connecting takes no time here, so the whole is the time for the answer.
    let (listener, url) = listen();
    let http = Http { whole: Duration::from_millis(50), ..Http::new() };
    let failed = timeout(CONNECT, http.exchange(to(&url, 3))).await.unwrap().unwrap_err();
    assert!(matches!(failed, Failed::NoAnswer { .. }), "{failed:?}");
    drop(listener);
}
