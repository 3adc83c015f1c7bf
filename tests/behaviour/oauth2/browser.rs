//! Signing in by a browser.

use std::time::Duration;

use tokenkeep::TokenRefresher;
use tokenkeep::chrono::DateTime;
use tokenkeep::oauth2::{OAuth2Client, OAuth2Error};
use tokenkeep::refresh::RefreshPermit;

use super::{NOW, client};
use crate::token_server::{LIFETIME, TokenServer, fetch};

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
    let browser = tokio::task::spawn_blocking(move || {
        let (status, location, _) = fetch(&url);
        assert_eq!(status, 302);
        let back = location.unwrap();
        let port = back.split('/').nth(2).unwrap().to_owned();
        // Neither an idle connection nor requests that are not part of the sign-in delay it.
        let idle = std::net::TcpStream::connect(&port).unwrap();
        assert_eq!(fetch(&format!("http://{port}/favicon.ico")).0, 404);
        assert_eq!(fetch(&format!("http://{port}/callback?code=canary&state=canary")).0, 404);
        let (status, _, page) = fetch(&back);
        assert_eq!(status, 200);
        assert!(page.starts_with("Thank you.") && !page.contains("canary"), "{page}");
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
    let browser = tokio::task::spawn_blocking(move || {
        let (_, location, _) = fetch(&url);
        fetch(&location.unwrap())
    });
    assert_eq!(sign_in.tokens().await, Err(OAuth2Error::Declined));
    let (_, _, page) = browser.await.unwrap();
    assert!(page.starts_with("You are not signed in.") && !page.contains("canary"), "{page}");
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
