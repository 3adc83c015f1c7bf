//! Signing in by a browser.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use tokenkeep::chrono::DateTime;
use tokenkeep::oauth2::{OAuth2Client, OAuth2Error};
use tokenkeep::refresh::RefreshPermit;
use tokenkeep::secrecy::SecretString;
use tokenkeep::{AuthTokens, TokenRefresher};
use tokio::task::spawn_blocking;

use super::{NOW, client};
use crate::token_server::{Act, LIFETIME, TokenServer, fetch};

pub(super) fn with_browser(server: &TokenServer) -> OAuth2Client {
    client(server)
        .with_scopes(["read"])
        .with_authorization_url(&server.url("/authorize?access_type=offline"))
        .unwrap()
}

#[tokio::test]
async fn a_sign_in_by_browser_returns_tokens() {
    let server = TokenServer::start();
    let sign_in = with_browser(&server).sign_in_by_browser(0).await.unwrap();
    // This is shorter than the time for which the sign-in waits for an idle connection.
    let sign_in = sign_in.deadline(Duration::from_secs(8));
    assert!(!format!("{sign_in:?}").contains("state"), "{sign_in:?}");
    let url = sign_in.url().to_owned();
    let browser = spawn_blocking(move || {
        let (status, location, _) = fetch(&url);
        assert_eq!(status, 302);
        let back = location.unwrap();
        let port = back.split('/').nth(2).unwrap().to_owned();
        // Neither an idle connection nor requests that are not part of the sign-in delay it.
        let idle = TcpStream::connect(&port).unwrap();
        assert_eq!(fetch(&format!("http://{port}/favicon.ico")).0, 404);
        assert_eq!(fetch(&format!("http://{port}/callback?code=canary&state=canary")).0, 404);
        let (status, _, page) = fetch(&back);
        assert_eq!(status, 200);
        assert!(page.contains("Thank you.") && !page.contains("canary"), "{page}");
        drop(idle);
    });
    let tokens = sign_in.tokens().await.unwrap();
    browser.await.unwrap();
    assert_eq!(tokens.expires_at, DateTime::from_timestamp(NOW + LIFETIME, 0));
    client(&server).refresh(tokens, &RefreshPermit::unlimited()).await.unwrap();
    let asked = &server.requests()[0].query;
    assert_eq!(asked["access_type"], "offline");
    assert_eq!(asked["scope"], "read");
    assert_eq!(asked["client_id"], "app");
}

#[tokio::test]
async fn two_sign_ins_share_neither_state_nor_challenge() {
    let server = TokenServer::start();
    let one = with_browser(&server).sign_in_by_browser(0).await.unwrap();
    let other = with_browser(&server).sign_in_by_browser(0).await.unwrap();
    let parts = |url: &str| -> Vec<String> { url.split('&').map(str::to_owned).collect() };
    for part in parts(one.url()) {
        let is_random = part.starts_with("state=") || part.starts_with("code_challenge=");
        assert_eq!(
            is_random,
            part.len() > 20 && !parts(other.url()).contains(&part) && !part.contains("redirect"),
            "{part}"
        );
    }
}

#[tokio::test]
async fn a_refusal_in_the_browser_ends_the_sign_in() {
    let server = TokenServer::start();
    server.deny();
    let sign_in = with_browser(&server).sign_in_by_browser(0).await.unwrap();
    let url = sign_in.url().to_owned();
    let browser = spawn_blocking(move || {
        let (_, location, _) = fetch(&url);
        fetch(&location.unwrap())
    });
    assert_eq!(sign_in.tokens().await, Err(OAuth2Error::Declined));
    let (_, _, page) = browser.await.unwrap();
    assert!(page.contains("You are not signed in.") && !page.contains("canary"), "{page}");
    assert_eq!(server.calls(), 0);
}

#[tokio::test]
async fn a_sign_in_by_browser_ends_at_its_deadline() {
    let server = TokenServer::start();
    let sign_in = with_browser(&server).sign_in_by_browser(0).await.unwrap();
    let tokens = sign_in.deadline(Duration::from_millis(1)).tokens().await;
    assert_eq!(tokens, Err(OAuth2Error::TimedOut));
}

#[tokio::test]
async fn the_error_for_a_port_in_use_names_the_port() {
    let server = TokenServer::start();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let error = with_browser(&server).sign_in_by_browser(port).await.unwrap_err();
    assert!(error.to_string().contains(&format!("port {port} of 127.0.0.1")), "{error}");
}

/// Starts a sign-in, and does `visit` with the URL to which the provider redirects the browser.
async fn visited<T: Send + 'static>(
    client: &OAuth2Client,
    visit: impl FnOnce(String) -> T + Send + 'static,
) -> (Result<AuthTokens, OAuth2Error>, T) {
    let sign_in = client.sign_in_by_browser(0).await.unwrap();
    // The limit makes the test fail instead of hang.
    let sign_in = sign_in.deadline(Duration::from_secs(60));
    let url = sign_in.url().to_owned();
    let browser = spawn_blocking(move || visit(fetch(&url).1.unwrap()));
    let tokens = sign_in.tokens().await;
    (tokens, browser.await.unwrap())
}

/// Splits a URL into the address and the rest.
fn parts(url: &str) -> (String, String) {
    let rest = url.strip_prefix("http://").unwrap();
    let (address, target) = rest.split_at(rest.find(['/', '?']).unwrap());
    (address.to_owned(), target.to_owned())
}

/// Sends this text to the address, and returns the connection.
fn sent(address: &str, text: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(text.as_bytes()).unwrap();
    stream
}

fn answer(mut stream: TcpStream) -> String {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[tokio::test]
async fn hundreds_of_idle_connections_do_not_delay_the_browser() {
    let server = TokenServer::start();
    let (tokens, ended) = visited(&with_browser(&server), |back| {
        let (address, _) = parts(&back);
        let mut idle: Vec<_> = (0..300).map(|_| sent(&address, "GET /callback?")).collect();
        assert_eq!(fetch(&back).0, 200);
        // The port itself ended the oldest one. It did not wait for its time to be over.
        let oldest = idle.remove(0);
        oldest.set_nonblocking(true).unwrap();
        (&oldest).read(&mut [0])
    })
    .await;
    tokens.unwrap();
    assert!(!matches!(&ended, Err(error) if error.kind() == ErrorKind::WouldBlock), "{ended:?}");
}

#[tokio::test]
async fn a_browser_with_many_cookies_is_served() {
    let server = TokenServer::start();
    let (tokens, page) = visited(&with_browser(&server), |back| {
        let (address, target) = parts(&back);
        let cookies = format!("Cookie: {}=\u{e9}\r\n", "c".repeat(4000)).repeat(12);
        let request = format!("GET {target} HTTP/1.1\r\nHost: {address}\r\n{cookies}\r\n");
        answer(sent(&address, &request))
    })
    .await;
    tokens.unwrap();
    assert!(page.contains("Thank you."), "{page}");
}

#[tokio::test]
async fn an_error_without_state_ends_the_sign_in_if_the_person_sees_it() {
    let server = TokenServer::start();
    let (tokens, pages) = visited(&with_browser(&server), |back| {
        let (address, _) = parts(&back);
        let mut pages = Vec::new();
        // A page of another site wants to end the sign-in unseen.
        for dest in ["image", "iframe", "document"] {
            let request = format!(
                "GET /callback?error=invalid_scope&error_description=canary HTTP/1.1\r\n\
                 Host: {address}\r\nSec-Fetch-Dest: {dest}\r\n\r\n"
            );
            pages.push(answer(sent(&address, &request)));
        }
        pages
    })
    .await;
    let error = tokens.unwrap_err();
    let error = error.to_string();
    assert!(error.contains("without the state of this sign-in says invalid_scope,"), "{error}");
    assert!(error.contains("may be from somebody else"), "{error}");
    assert!(pages[0].starts_with("HTTP/1.1 404 ") && pages[1].starts_with("HTTP/1.1 404 "));
    assert!(pages[2].contains("You are not signed in.") && !pages[2].contains("canary"));
}

#[tokio::test]
async fn the_browser_shows_the_result_after_the_code_was_exchanged() {
    let server = TokenServer::start();
    let held = server.hold();
    let (tokens, page) = visited(&with_browser(&server), |back| {
        let (address, target) = parts(&back);
        let browser = sent(&address, &format!("GET {target} HTTP/1.1\r\nHost: {address}\r\n\r\n"));
        // The code has arrived at the provider, and nothing was said to the browser.
        held.wait();
        browser.set_nonblocking(true).unwrap();
        let early = (&browser).read(&mut [0]);
        assert!(matches!(&early, Err(error) if error.kind() == ErrorKind::WouldBlock), "{early:?}");
        held.release();
        browser.set_nonblocking(false).unwrap();
        answer(browser)
    })
    .await;
    tokens.unwrap();
    let (head, body) = page.split_once("\r\n\r\n").unwrap();
    assert!(body.contains("Thank you.") && !page.contains("canary"), "{page}");
    assert!(
        head.contains("text/html; charset=utf-8") && head.contains("default-src 'none'"),
        "{head}"
    );

    server.script([Act::error(400, "invalid_grant")]);
    let (tokens, (status, _, page)) = visited(&with_browser(&server), |back| fetch(&back)).await;
    assert!(tokens.unwrap_err().to_string().ends_with("400 invalid_grant; sign in again"));
    assert!(status == 200 && page.contains("You are not signed in."), "{page}");
}

#[tokio::test]
async fn a_browser_that_is_gone_loses_no_tokens() {
    let server = TokenServer::start();
    let held = server.hold();
    let (tokens, ()) = visited(&with_browser(&server), |back| {
        let (address, target) = parts(&back);
        let browser = sent(&address, &format!("GET {target} HTTP/1.1\r\nHost: {address}\r\n\r\n"));
        held.wait();
        drop(browser);
        held.release();
    })
    .await;
    tokens.unwrap();
}

#[tokio::test]
async fn an_answer_may_be_posted_as_a_form() {
    let server = TokenServer::start();
    let (tokens, page) = visited(&with_browser(&server), |back| {
        let (address, target) = parts(&back);
        let (path, form) = target.split_once('?').unwrap();
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {}\r\n\r\n",
            form.len()
        );
        let mut browser = sent(&address, &request);
        browser.write_all(form.as_bytes()).unwrap();
        answer(browser)
    })
    .await;
    tokens.unwrap();
    assert!(page.contains("Thank you."), "{page}");
}

#[tokio::test]
async fn the_redirect_uri_names_host_port_and_path() {
    let server = TokenServer::start();
    // Another test may take the port before this one does.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (uri, start) in [
        ("http://localhost/auth/back", "http://localhost:".to_owned()),
        ("http://localhost", "http://localhost:".to_owned()),
        (&*format!("http://{free}/back"), format!("http://{free}/back?")),
    ] {
        let client = with_browser(&server).with_redirect_uri(uri).unwrap();
        let (tokens, back) = visited(&client, |back| {
            let (address, target) = parts(&back);
            let target = if target.starts_with('/') { target } else { format!("/{target}") };
            let host = address.replace("localhost", "127.0.0.1");
            let page = answer(sent(&host, &format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n")));
            assert!(page.contains("Thank you."), "{page}");
            back
        })
        .await;
        tokens.unwrap();
        assert!(back.starts_with(&start), "{back}");
        let sent = server.requests();
        let exchanged = &sent.last().unwrap().form["redirect_uri"];
        assert!(back.starts_with(exchanged), "{back} {exchanged}");
        let tail = uri.rsplit_once("localhost").map_or("/back", |(_, tail)| tail);
        assert!(exchanged.ends_with(tail), "{exchanged}");
    }
    let fixed = with_browser(&server).with_redirect_uri("http://127.0.0.1:8912/").unwrap();
    let error = fixed.sign_in_by_browser(8913).await.unwrap_err();
    assert!(
        matches!(error, OAuth2Error::InvalidSetting { setting: "redirect_uri", .. }),
        "{error}"
    );
    let elsewhere = with_browser(&server).with_redirect_uri("https://app.example/back").unwrap();
    let error = elsewhere.sign_in_by_browser(0).await.unwrap_err();
    assert!(error.to_string().contains("use sign_in_by_paste"), "{error}");
}

#[tokio::test]
async fn an_answer_without_the_issuer_that_is_always_sent_is_refused() {
    let server = TokenServer::start();
    let client = with_browser(&server);
    let always = client.clone().with_issuer("https://issuer.example", true).unwrap();
    let (tokens, _) = visited(&always, |back| fetch(&back)).await;
    let error = tokens.unwrap_err();
    assert!(
        matches!(&error, OAuth2Error::Misconfigured { reason } if reason.contains("names no issuer")),
        "{error}"
    );
    assert_eq!(server.calls(), 0);
    let known = client.with_issuer("https://issuer.example", false).unwrap();
    let (tokens, _) = visited(&known, |back| fetch(&back)).await;
    tokens.unwrap();
    let (tokens, _) =
        visited(&known, |back| fetch(&format!("{back}&iss=https%3A%2F%2Fcanary.example"))).await;
    let error = tokens.unwrap_err().to_string();
    assert!(error.contains("names another issuer than https://issuer.example"), "{error}");
    assert!(!error.contains("canary"), "{error}");
    assert_eq!(server.calls(), 1);
}

#[tokio::test]
async fn the_answer_can_be_pasted_and_a_wrong_text_ends_nothing() {
    let server = TokenServer::start();
    for uri in ["http://127.0.0.1/callback", "https://app.example/back", "com.example.app:/back"] {
        let client = with_browser(&server).with_redirect_uri(uri).unwrap();
        let sign_in = client.sign_in_by_paste().unwrap();
        assert_eq!(sign_in.one_time_url(), None);
        let paste = sign_in.paste();
        assert!(!format!("{paste:?} {sign_in:?}").contains("state"));
        let url = sign_in.url().to_owned();
        let typing = spawn_blocking(move || {
            for wrong in
                ["", "canary", "code=canary", "https://app.example/?code=canary&state=canary"]
            {
                let refused = paste.submit(&SecretString::from(wrong));
                assert_eq!(refused, Err(OAuth2Error::NotThisSignIn), "{wrong}");
            }
            paste.submit(&SecretString::from(fetch(&url).1.unwrap())).unwrap();
            paste
        });
        sign_in.tokens().await.unwrap();
        // What comes too late is ignored.
        let paste = typing.await.unwrap();
        paste.submit(&SecretString::from("error=access_denied")).unwrap();
    }
}

#[tokio::test]
async fn the_port_and_the_paste_both_count() {
    let server = TokenServer::start();
    let sign_in = with_browser(&server).sign_in_by_browser(0).await.unwrap();
    let (paste, url) = (sign_in.paste(), sign_in.url().to_owned());
    let typing = spawn_blocking(move || {
        let back = fetch(&url).1.unwrap();
        paste.submit(&SecretString::from(back.split_once('?').unwrap().1)).unwrap();
    });
    sign_in.tokens().await.unwrap();
    typing.await.unwrap();

    let sign_in = with_browser(&server).sign_in_by_browser(0).await.unwrap();
    let (paste, url) = (sign_in.paste(), sign_in.url().to_owned());
    let browser = spawn_blocking(move || {
        paste.submit(&SecretString::from("canary")).unwrap_err();
        fetch(&fetch(&url).1.unwrap()).0
    });
    sign_in.tokens().await.unwrap();
    assert_eq!(browser.await.unwrap(), 200);
}

#[tokio::test]
async fn the_one_time_url_leads_to_the_provider_and_a_prefetch_does_not_use_it_up() {
    let server = TokenServer::start();
    let sign_in = with_browser(&server).sign_in_by_browser(0).await.unwrap();
    let (url, once) = (sign_in.url().to_owned(), sign_in.one_time_url().unwrap());
    assert!(once.starts_with("http://127.0.0.1:") && !once.contains("state"), "{once}");
    let browser = spawn_blocking(move || {
        let (address, path) = parts(&once);
        for (method, header) in [
            ("HEAD", ""),
            ("POST", ""),
            ("GET", "Sec-Purpose: prefetch;prerender\r\n"),
            ("GET", "purpose: Prefetch\r\n"),
        ] {
            let request = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\n{header}\r\n");
            let page = answer(sent(&address, &request));
            assert!(page.starts_with("HTTP/1.1 404 ") && !page.contains("Location"), "{page}");
        }
        let (status, location, _) = fetch(&once);
        assert_eq!((status, location.as_ref()), (302, Some(&url)));
        fetch(&fetch(&url).1.unwrap()).0
    });
    sign_in.tokens().await.unwrap();
    assert_eq!(browser.await.unwrap(), 200);
}

#[tokio::test]
async fn a_sign_in_that_is_opened_twice_says_so_and_ends() {
    let server = TokenServer::start();
    let sign_in = with_browser(&server).sign_in_by_browser(0).await.unwrap();
    let once = sign_in.one_time_url().unwrap();
    let browser = spawn_blocking(move || {
        // Somebody else is faster.
        assert_eq!(fetch(&once).0, 302);
        fetch(&once)
    });
    assert_eq!(sign_in.tokens().await, Err(OAuth2Error::OpenedTwice));
    let (status, location, page) = browser.await.unwrap();
    assert!(status == 403 && location.is_none(), "{status} {location:?}");
    assert!(page.contains("opened twice, perhaps by somebody else"), "{page}");
    assert_eq!(server.calls(), 0);
}

#[tokio::test]
async fn somebody_elses_code_is_worth_nothing_if_the_browser_comes_while_it_is_exchanged() {
    let server = TokenServer::start();
    let held = server.hold();
    let sign_in = with_browser(&server).sign_in_by_browser(0).await.unwrap();
    let once = sign_in.one_time_url().unwrap();
    let browser = spawn_blocking(move || {
        let back = fetch(&fetch(&once).1.unwrap()).1.unwrap();
        let (address, target) = parts(&back);
        let somebody = sent(&address, &format!("GET {target} HTTP/1.1\r\nHost: {address}\r\n\r\n"));
        held.wait();
        assert_eq!(fetch(&once).0, 403);
        held.release();
        answer(somebody)
    });
    assert_eq!(sign_in.tokens().await, Err(OAuth2Error::OpenedTwice));
    let page = browser.await.unwrap();
    assert!(page.contains("You are not signed in."), "{page}");
}
