//! The client of `examples/axiom`: what it sends, to which server, and how it handles each answer.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "these are tests, and their tokens are made up"
)]

#[path = "../examples/axiom/client.rs"]
mod client;
#[path = "../examples/axiom/server.rs"]
mod server;

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use client::{AuthClient, ClientError};
use server::{EMAIL, PASSWORD, Server};
use tokenkeep::chrono::{TimeDelta, Utc};
use tokenkeep::refresh::RefreshPermit;
use tokenkeep::stores::PlaintextStore;
use tokenkeep::{AccessToken, AuthError, AuthTokens, RefreshFailure, TokenManager, TokenRefresher};
use tokio::sync::Barrier;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nSet-Cookie: auth-access-token=new; Path=/; HttpOnly\r\n\r\n";

/// Starts a server that reads one request for each answer, sends the answer, and closes the connection.
fn answering(answers: &[&str]) -> (String, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    let answers: Vec<String> = answers.iter().map(ToString::to_string).collect();
    let (send, requests) = channel();
    thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            send.send(read(&mut stream)).unwrap();
            // The client may close the connection before it has read the whole answer.
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    (origin, requests)
}

/// Reads one request, head and body.
fn read(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    loop {
        let mut bytes = [0; 4096];
        let count = stream.read(&mut bytes).unwrap();
        text += std::str::from_utf8(&bytes[..count]).unwrap();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = header(head, "content-length").map_or(0, |length| length.parse().unwrap());
        if body.len() >= length {
            return text;
        }
    }
}

fn header(request: &str, wanted: &str) -> Option<String> {
    let lines = request.lines().skip(1).take_while(|line| !line.is_empty());
    let mut headers = lines.filter_map(|line| line.split_once(": "));
    headers.find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.to_owned())
}

/// Returns a port to which no client may connect.
fn forbidden() -> (String, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    (format!("http://{}", listener.local_addr().unwrap()), listener)
}

fn nobody_called(listener: &TcpListener) -> bool {
    listener.accept().is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

fn tokens() -> AuthTokens {
    AuthTokens::new("access-canary").with_refresh_token("refresh-canary")
}

fn refresh_of(tokens: &AuthTokens) -> &str {
    tokens.refresh_token.as_ref().unwrap().expose_secret()
}

async fn signed_in(server: &Server) -> (AuthClient, AuthTokens) {
    let client = AuthClient::new(server.origin()).unwrap();
    let pending = client.login(EMAIL, PASSWORD).await.unwrap();
    let tokens = pending.enter_code(&server.mailed_code()).await.unwrap().tokens;
    (client, tokens)
}

/// Returns the result of a refresh that gets this answer.
async fn refreshed(answer: &str) -> Result<AuthTokens, RefreshFailure> {
    let (origin, _requests) = answering(&[answer]);
    AuthClient::new(&origin).unwrap().refresh(tokens(), &RefreshPermit::unlimited()).await
}

#[tokio::test]
async fn a_refresh_is_a_post_with_the_refresh_token_as_a_cookie_and_no_body() {
    let (origin, requests) = answering(&[OK]);
    let new = AuthClient::new(&origin).unwrap().refresh_tokens(&tokens()).await.unwrap();
    let request = requests.recv().unwrap();
    assert!(request.starts_with("POST /refresh-access-token HTTP/1.1\r\n"), "{request}");
    assert_eq!(header(&request, "cookie").unwrap(), "auth-refresh-token=refresh-canary");
    assert!(request.ends_with("\r\n\r\n"), "{request}");
    assert_eq!(request.matches("canary").count(), 1, "{request}");
    assert_eq!(new.access_token.expose_secret(), "new");
}

#[tokio::test]
async fn a_login_sends_the_password_and_then_the_code_with_the_login_token_as_a_cookie() {
    let otp = "HTTP/1.1 200 OK\r\nContent-Length: 23\r\n\r\n{\"otpJwtToken\":\"a.b==\"}";
    let done = OK.replace("\r\n\r\n", "\r\nSet-Cookie: auth-refresh-token=r\r\n\r\n");
    let (origin, requests) = answering(&[otp, &done]);
    let client = AuthClient::new(&origin).unwrap();
    let pending = client.login("me@example.com", "hash==").await.unwrap();
    let tokens = pending.enter_code("123456").await.unwrap().tokens;

    let body = |request: &str| -> serde_json::Value {
        assert_eq!(header(request, "content-type").unwrap(), "application/json");
        serde_json::from_str(request.split_once("\r\n\r\n").unwrap().1).unwrap()
    };
    let first = requests.recv().unwrap();
    assert!(first.starts_with("POST /login-password-v2 HTTP/1.1\r\n"), "{first}");
    assert_eq!(header(&first, "cookie"), None);
    let login = serde_json::json!({ "email": "me@example.com", "b64Password": "hash==" });
    assert_eq!(body(&first), login);
    let second = requests.recv().unwrap();
    assert!(second.starts_with("POST /login-otp HTTP/1.1\r\n"), "{second}");
    assert_eq!(header(&second, "cookie").unwrap(), "auth-otp-login-token=a.b==");
    let code =
        serde_json::json!({ "code": "123456", "email": "me@example.com", "b64Password": "hash==" });
    assert_eq!(body(&second), code);
    assert_eq!((tokens.access_token.expose_secret(), refresh_of(&tokens)), ("new", "r"));
}

#[tokio::test]
async fn a_wrong_password_or_code_is_refused() {
    let server = Server::start();
    let client = AuthClient::new(server.origin()).unwrap();
    let refused = client.login(EMAIL, "wrong").await.unwrap_err();
    assert!(matches!(refused, ClientError::Refused { .. }), "{refused}");
    let pending = client.login(EMAIL, PASSWORD).await.unwrap();
    let refused = pending.enter_code("wrong").await.unwrap_err();
    assert!(matches!(refused, ClientError::Refused { .. }), "{refused}");
}

#[tokio::test]
async fn a_login_without_a_refresh_token_is_an_error() {
    let otp = "HTTP/1.1 200 OK\r\nContent-Length: 19\r\n\r\n{\"otpJwtToken\":\"t\"}";
    let (origin, _requests) = answering(&[otp, OK]);
    let client = AuthClient::new(&origin).unwrap();
    let failed = client.login("e", "p").await.unwrap().enter_code("1").await.unwrap_err();
    assert!(matches!(failed, ClientError::Wrong { .. }), "{failed}");
}

#[tokio::test]
async fn a_rotated_refresh_token_is_kept_and_saved() {
    let server = Server::start();
    let (client, first) = signed_in(&server).await;
    let mut scratch = tempfile::Builder::new();
    #[cfg(unix)]
    scratch.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700));
    let dir = scratch.prefix("tokenkeep-axiom").tempdir().unwrap();
    let store = || PlaintextStore::new(dir.path().join("tokens.json"));
    let manager = TokenManager::builder().store(store()).refresher(client.clone()).build();
    manager.set_tokens(first.clone()).await.unwrap();
    let second = manager.refresh().await.unwrap();
    assert_ne!(refresh_of(&second), refresh_of(&first));

    let reopened = TokenManager::builder().store(store()).refresher(client).build();
    assert_eq!(reopened.get_tokens().await.unwrap().unwrap(), second);
    // The server accepts the new one.
    reopened.refresh().await.unwrap();
}

#[tokio::test]
async fn without_rotation_the_refresh_token_and_all_other_fields_are_kept() {
    let (origin, _requests) = answering(&[OK]);
    let client = AuthClient::new(&origin).unwrap();
    let expired = tokens().with_expires_at(Utc::now()).with_obtained_at(Utc::now());
    let new = client.refresh_tokens(&expired.with_extra("user", "me".into())).await.unwrap();
    assert_eq!(refresh_of(&new), "refresh-canary");
    assert!(new.extra("user").is_some());
    assert_eq!((new.expires_at, new.obtained_at), (None, None));
}

#[tokio::test]
async fn a_refresh_token_that_is_sent_twice_ends_the_session() {
    let server = Server::start();
    let (client, first) = signed_in(&server).await;
    let second = client.refresh_tokens(&first).await.unwrap();
    client.get("portfolio", &second.access_token).await.unwrap();

    let replayed = client.refresh(first, &RefreshPermit::unlimited()).await.unwrap_err();
    assert!(matches!(replayed, RefreshFailure::Rejected { .. }), "{replayed}");
    assert!(client.get("portfolio", &second.access_token).await.is_err());
    let manager = TokenManager::builder().refresher(client).build();
    manager.set_tokens(second).await.unwrap();
    let ended = manager.refresh().await.unwrap_err();
    assert!(matches!(ended, AuthError::LoginRequired { .. }), "{ended}");
}

#[tokio::test]
async fn cookie_values_with_equals_signs_are_kept_whole() {
    let answer = OK
        .replace("=new", "=a=b==")
        .replace("\r\n\r\n", "\r\nset-cookie: auth-refresh-token=c=d=\r\n\r\n");
    let (origin, requests) = answering(&[&answer, OK]);
    let client = AuthClient::new(&origin).unwrap();
    let new = client.refresh_tokens(&tokens()).await.unwrap();
    assert_eq!((new.access_token.expose_secret(), refresh_of(&new)), ("a=b==", "c=d="));
    client.refresh_tokens(&new).await.unwrap();
    requests.recv().unwrap();
    assert_eq!(header(&requests.recv().unwrap(), "cookie").unwrap(), "auth-refresh-token=c=d=");
}

#[tokio::test]
async fn other_cookies_are_not_read_as_tokens_and_the_last_one_of_a_name_is_used() {
    let cookies = [
        "auth-access-token=old",
        "auth-access-token=new",
        "x-auth-access-token=1",
        "auth-access-tokens=2",
        "x; auth-access-token=3",
    ];
    let cookies = cookies.map(|cookie| format!("Set-Cookie: {cookie}\r\n")).concat();
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{cookies}\r\n");
    assert_eq!(refreshed(&answer).await.unwrap().access_token.expose_secret(), "new");
    // A deleted cookie does not count as a token.
    for empty in [OK.replace("=new", "="), OK.replace("auth-access-token", "session")] {
        let failed = refreshed(&empty).await.unwrap_err();
        assert!(matches!(failed, RefreshFailure::Ambiguous { .. }), "{failed}");
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    for status in [301, 302, 303, 307, 308] {
        let (elsewhere, listener) = forbidden();
        // A redirect with a cookie is still no answer.
        let moved = format!("HTTP/1.1 {status} Moved\r\nLocation: {elsewhere}/\r\n");
        let answer = OK.replace("HTTP/1.1 200 OK\r\n", &moved);
        let failed = refreshed(&answer).await.unwrap_err();
        assert!(matches!(failed, RefreshFailure::Ambiguous { .. }), "{status}: {failed}");
        assert!(nobody_called(&listener), "{status}");
    }
}

#[tokio::test]
async fn a_path_that_leads_to_another_host_is_refused() {
    let (origin, _requests) = answering(&[OK]);
    let (elsewhere, listener) = forbidden();
    let client = AuthClient::new(&origin).unwrap();
    let scheme_relative = elsewhere.strip_prefix("http:").unwrap();
    for path in [&elsewhere, scheme_relative, "https://127.0.0.1/", "\\\\127.0.0.1:1/x"] {
        let failed = client.get(path, &AccessToken::from("canary")).await.unwrap_err();
        assert!(matches!(failed, ClientError::Unsendable { .. }), "{path}: {failed}");
    }
    assert!(nobody_called(&listener));
    client.get("portfolio", &AccessToken::from("canary")).await.unwrap();
}

#[test]
fn only_https_and_loopback_addresses_are_accepted_as_a_base() {
    for base in
        ["https://api.example", "https://api.example/v1", "http://127.0.0.1:1", "http://[::1]:1"]
    {
        assert!(AuthClient::new(base).is_ok(), "{base}");
    }
    for base in [
        "http://api.example",
        "http://localhost:1",
        "http://127.0.0.1.example",
        "http://128.0.0.1",
        "http://[::2]",
        "ftp://127.0.0.1",
        "file:///etc/passwd",
        "https://canary:canary@api.example",
        "https://canary@api.example",
        "https://api.example/?canary",
        "https://api.example/#canary",
        "canary",
        "",
    ] {
        let refused = AuthClient::new(base).unwrap_err();
        assert!(matches!(refused, ClientError::InvalidBase { .. }), "{base}: {refused}");
        assert!(!refused.to_string().contains("canary"), "{refused}");
    }
}

#[tokio::test]
async fn a_base_may_have_a_path() {
    for end in ["/v1", "/v1/"] {
        let (origin, requests) = answering(&[OK]);
        let client = AuthClient::new(&format!("{origin}{end}")).unwrap();
        client.refresh_tokens(&tokens()).await.unwrap();
        let request = requests.recv().unwrap();
        assert!(request.starts_with("POST /v1/refresh-access-token "), "{request}");
    }
}

#[tokio::test]
async fn each_status_says_whether_the_refresh_token_may_be_spent() {
    let kind = |failure: &RefreshFailure| match failure {
        RefreshFailure::Ambiguous { .. } => "ambiguous",
        RefreshFailure::Misconfigured { .. } => "misconfigured",
        RefreshFailure::Rejected { .. } => "rejected",
        RefreshFailure::Transient { .. } => "transient",
        _ => "another",
    };
    for (status, wanted, is_proof) in [
        (204, "ambiguous", false), // without a cookie
        (304, "ambiguous", false),
        (400, "misconfigured", false),
        (401, "rejected", true),
        (403, "transient", false),
        (404, "misconfigured", false),
        (408, "ambiguous", false),
        (429, "transient", true),
        (500, "ambiguous", false),
        (502, "ambiguous", false),
        (503, "transient", false),
        (504, "ambiguous", false),
        (599, "ambiguous", false),
    ] {
        let answer = format!("HTTP/1.1 {status} canary\r\nContent-Length: 0\r\n\r\n");
        let failure = refreshed(&answer).await.unwrap_err();
        assert_eq!(kind(&failure), wanted, "{status}: {failure}");
        assert_eq!(failure.proves_unspent(), is_proof, "{status}: {failure}");
    }
}

#[tokio::test]
async fn a_busy_server_can_ask_to_wait_for_an_hour_at_most() {
    let in_a_minute = (Utc::now() + TimeDelta::seconds(90)).to_rfc2822();
    for (header, from, to) in [
        ("120", 120, 120),
        ("86400", 3600, 3600),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0, 0),
        (&in_a_minute, 30, 90),
    ] {
        let answer =
            format!("HTTP/1.1 429 Slow\r\nRetry-After: {header}\r\nContent-Length: 0\r\n\r\n");
        let Err(RefreshFailure::Transient { retry_after: Some(wait), .. }) =
            refreshed(&answer).await
        else {
            panic!("{header} is a wait");
        };
        assert!((from..=to).contains(&wait.as_secs()), "{header}: {wait:?}");
    }
    let none = refreshed("HTTP/1.1 503 No\r\nRetry-After: soon\r\nContent-Length: 0\r\n\r\n").await;
    assert!(matches!(none, Err(RefreshFailure::Transient { retry_after: None, .. })));
}

#[tokio::test]
async fn a_connection_that_failed_proves_that_nothing_was_sent() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let client = AuthClient::new(&format!("http://{free}")).unwrap();
    let failed = client.refresh(tokens(), &RefreshPermit::unlimited()).await.unwrap_err();
    assert!(matches!(failed, RefreshFailure::Transient { unspent: true, .. }), "{failed}");
    // Nothing is sent to a server without TLS either.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = AuthClient::new(&format!("https://{}", listener.local_addr().unwrap())).unwrap();
    let plain = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(OK.as_bytes()).unwrap();
        let mut sent = Vec::new();
        // The client closes the connection, perhaps with an error.
        let _ = stream.read_to_end(&mut sent);
        String::from_utf8_lossy(&sent).into_owned()
    });
    let failed = client.refresh(tokens(), &RefreshPermit::unlimited()).await.unwrap_err();
    assert!(matches!(failed, RefreshFailure::Transient { .. }), "{failed}");
    assert!(!plain.join().unwrap().contains("canary"));
}

#[tokio::test]
async fn a_lost_answer_is_ambiguous() {
    for answer in ["", "HTTP/1.1 200", "HTTP/1.1 200 OK\r\nSet-Cookie: auth-access-token=new\r\n"] {
        let failed = refreshed(answer).await.unwrap_err();
        assert!(matches!(failed, RefreshFailure::Ambiguous { .. }), "{answer}: {failed}");
    }
}

#[tokio::test]
async fn a_refresh_without_an_answer_ends_at_its_deadline() {
    let (origin, listener) = forbidden();
    let client = AuthClient::new(&origin).unwrap().answer_within(Duration::from_millis(50));
    let failed = client.refresh(tokens(), &RefreshPermit::unlimited()).await.unwrap_err();
    assert!(matches!(failed, RefreshFailure::Ambiguous { .. }), "{failed}");
    assert!(failed.to_string().contains("in time"), "{failed}");
    drop(listener);
}

#[tokio::test]
async fn an_answer_that_is_not_http_or_too_long_is_an_error() {
    let endless = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "canary".repeat(200_000));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: canary\r\n".repeat(5_000));
    for answer in ["220 canary ESMTP\r\n\r\n", &endless, &many] {
        let failed = refreshed(answer).await.unwrap_err();
        let is_right = matches!(failed, RefreshFailure::Misconfigured { unspent: false, .. });
        assert!(is_right, "{failed}");
        assert!(!failed.to_string().contains("canary"), "{failed}");
    }
}

#[tokio::test]
async fn tokens_are_kept_although_the_body_of_the_answer_is_incomplete() {
    let breaks_off = OK.replace("Length: 0", "Length: 9");
    assert_eq!(refreshed(&breaks_off).await.unwrap().access_token.expose_secret(), "new");
    let endless = OK.replace("Length: 0", "Length: 9000000") + &"x".repeat(9_000_000);
    assert_eq!(refreshed(&endless).await.unwrap().access_token.expose_secret(), "new");
}

#[tokio::test]
async fn a_body_that_is_too_long_is_refused() {
    let long = "HTTP/1.1 200 OK\r\n\r\n".to_owned() + &"x".repeat(300_000);
    let (origin, _requests) = answering(&[&long, &long]);
    let client = AuthClient::new(&origin).unwrap();
    let failed = client.get("portfolio", &AccessToken::from("a")).await.unwrap_err();
    assert!(failed.to_string().contains("more than 256 KiB"), "{failed}");
    let failed = client.login("e", "p").await.unwrap_err();
    assert!(failed.to_string().contains("more than 256 KiB"), "{failed}");
}

#[tokio::test]
async fn a_token_that_a_cookie_cannot_contain_is_not_sent() {
    let (origin, listener) = forbidden();
    let client = AuthClient::new(&origin).unwrap();
    for token in ["canary; auth-access-token=x", "canary\r\nX: y", "canary x", "canäry", ""] {
        let current = AuthTokens::new("a").with_refresh_token(token);
        let failed = client.refresh(current, &RefreshPermit::unlimited()).await.unwrap_err();
        assert!(matches!(failed, RefreshFailure::Misconfigured { unspent: true, .. }), "{failed}");
    }
    let failed =
        client.refresh(AuthTokens::new("a"), &RefreshPermit::unlimited()).await.unwrap_err();
    assert!(matches!(failed, RefreshFailure::Rejected { .. }), "{failed}");
    assert!(nobody_called(&listener));
}

#[tokio::test]
async fn the_expiry_of_a_token_comes_from_its_claims() {
    let server = Server::start();
    let (client, tokens) = signed_in(&server).await;
    assert_eq!(tokens.expires_at, None);
    let lives = |tokens: &AuthTokens| (tokens.expiry().unwrap() - Utc::now()).num_seconds();
    assert!((890..=900).contains(&lives(&tokens)), "{}", lives(&tokens));
    let new = client.refresh_tokens(&tokens).await.unwrap();
    assert_eq!(new.expires_at, None);
    assert!((890..=900).contains(&lives(&new)), "{}", lives(&new));
    // The new token is neither due at once nor valid for an hour.
    assert!(!new.needs_refresh(Utc::now()));
    assert!(new.is_expired(Utc::now() + TimeDelta::minutes(15)));
}

#[tokio::test]
async fn no_output_shows_a_secret() {
    let server = Server::start();
    let client = AuthClient::new(server.origin()).unwrap();
    let pending = client.login(EMAIL, PASSWORD).await.unwrap();
    let mut shown = format!("{client:?} {pending:?}");
    let login = pending.enter_code(&server.mailed_code()).await.unwrap();
    shown += &format!("{login:?} {login:#?}");
    let secrets = [
        login.tokens.access_token.expose_secret(),
        refresh_of(&login.tokens),
        PASSWORD,
        EMAIL,
        &server.mailed_code(),
    ];
    for answer in [
        "",
        "canary",
        "HTTP/1.1 200 canary\r\nContent-Length: 6\r\n\r\ncanary",
        "HTTP/1.1 200 OK\r\nContent-Length: 23\r\n\r\n{\"otpJwtToken\":{\"canary\"",
        "HTTP/1.1 200 OK\r\nContent-Length: 24\r\n\r\n{\"otpJwtToken\":[\"canary\"]}",
        "HTTP/1.1 200 OK\r\nSet-Cookie: canary=canary\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 307 canary\r\nLocation: https://canary/\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 401 canary\r\nContent-Length: 6\r\n\r\ncanary",
        "HTTP/1.1 429 canary\r\nRetry-After: canary\r\nContent-Length: 6\r\n\r\ncanary",
    ] {
        let (origin, _requests) = answering(&[answer, answer, answer]);
        let client = AuthClient::new(&origin).unwrap();
        let failed = client.refresh(tokens(), &RefreshPermit::unlimited()).await.unwrap_err();
        shown += &format!("{failed} {failed:?}");
        let failed = client.refresh_tokens(&tokens()).await.unwrap_err();
        shown += &format!("{failed} {failed:?}");
        let failed = client.login(EMAIL, PASSWORD).await.unwrap_err();
        shown += &format!("{failed} {failed:?}");
    }
    assert!(!shown.contains("canary"), "{shown}");
    for secret in secrets {
        assert!(!shown.contains(secret), "{shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_tasks_make_one_refresh() {
    let server = Server::start();
    let (client, tokens) = signed_in(&server).await;
    let clock = server.clone();
    let manager = TokenManager::builder().refresher(client.clone()).clock(move || clock.now());
    let manager = manager.build();
    manager.set_tokens(tokens.clone()).await.unwrap();
    server.turn_clock(Duration::from_secs(16 * 60));
    assert!(client.get("portfolio", &tokens.access_token).await.is_err());

    let all = Arc::new(Barrier::new(50));
    let tasks: Vec<_> = (0..50)
        .map(|_| {
            let (manager, all) = (manager.clone(), all.clone());
            tokio::spawn(async move {
                all.wait().await;
                manager.get_access_token().await.unwrap()
            })
        })
        .collect();
    let mut got = Vec::new();
    for task in tasks {
        got.push(task.await.unwrap());
    }
    assert_eq!(server.refreshes(), 1);
    assert!(got.iter().all(|token| *token == got[0] && *token != tokens.access_token));
    client.get("portfolio", &got[0]).await.unwrap();
}

#[test]
fn the_example_succeeds_shows_no_secret_and_uses_no_proxy() {
    let this = std::env::current_exe().unwrap();
    let name = format!("axiom{}", std::env::consts::EXE_SUFFIX);
    let example = this.ancestors().nth(2).unwrap().join("examples").join(name);
    assert!(example.exists(), "{} is missing: run all of `cargo test`", example.display());
    let (proxy, listener) = forbidden();
    let mut command = Command::new(example);
    for variable in
        ["ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "all_proxy"]
    {
        command.env(variable, &proxy);
    }
    let output = command.env_remove("NO_PROXY").env_remove("no_proxy").output().unwrap();
    let printed = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(output.status.success(), "{printed}");
    assert!(nobody_called(&listener));
    assert_eq!(printed, include_str!("../examples/axiom/transcript.txt"));
    assert!(!printed.contains("eyJ") && !printed.contains(PASSWORD), "{printed}");
}
