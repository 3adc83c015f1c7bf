//! Signing in by a code on another device.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use tokenkeep::chrono::DateTime;
use tokenkeep::oauth2::{DeviceSignIn, OAuth2Client, OAuth2Error};
use tokenkeep::refresh::RefreshPermit;
use tokenkeep::{AuthTokens, TokenRefresher};

use super::{NOW, client};
use crate::token_server::{Act, LIFETIME, TokenServer};

/// Signs in by device. Returns the tokens, and the pauses between the requests in seconds.
async fn by_device(server: &TokenServer) -> (Result<AuthTokens, OAuth2Error>, Vec<u64>) {
    let client = client(server).with_scopes(["read", "offline_access"]);
    let client = client.with_device_authorization_url(&server.url("/device")).unwrap();
    let sign_in = client.sign_in_by_device().await.unwrap();
    assert_eq!(sign_in.user_code(), "WDJB-MJHT");
    assert_eq!(sign_in.verification_url(), server.url("/device"));
    assert_eq!(sign_in.expires_in(), Duration::from_secs(600));
    let shown = format!("{sign_in:?}");
    assert!(!shown.contains("canary") && !shown.contains("WDJB"), "{shown}");
    let waits = Arc::new(Mutex::new(Vec::new()));
    let waited = waits.clone();
    let tokens = sign_in.tokens_with_sleep(move |time| {
        waited.lock().unwrap().push(time.as_secs());
        async {}
    });
    let tokens = tokens.await;
    let waits = waits.lock().unwrap().clone();
    (tokens, waits)
}

#[tokio::test]
async fn a_device_asks_at_the_allowed_interval_until_there_are_tokens() {
    let server = TokenServer::start();
    server.device_hears(["authorization_pending", "slow_down", "authorization_pending"]);
    let (tokens, waits) = by_device(&server).await;
    assert_eq!(waits, [5, 10, 10]);
    let tokens = tokens.unwrap();
    assert_eq!(tokens.expires_at, DateTime::from_timestamp(NOW + LIFETIME, 0));
    client(&server).refresh(tokens, &RefreshPermit::unlimited()).await.unwrap();
    assert_eq!(server.requests()[0].form["scope"], "read offline_access");
}

#[tokio::test]
async fn a_device_continues_after_a_connection_failed() {
    let server = TokenServer::start();
    server.device_hears(["authorization_pending"]);
    server.script([Act::DropRequest, Act::answer(503, "")]);
    let (tokens, waits) = by_device(&server).await;
    tokens.unwrap();
    assert_eq!(waits, [10, 10, 10]);
}

#[tokio::test]
async fn a_device_stops_asking_after_a_final_answer() {
    let server = TokenServer::start();
    for (act, expected) in [
        (Act::error(400, "access_denied"), OAuth2Error::Declined),
        (Act::error(400, "expired_token"), OAuth2Error::TimedOut),
    ] {
        server.script([act]);
        assert_eq!(by_device(&server).await.0, Err(expected));
    }
    for (act, may_succeed) in [
        (Act::error(401, "invalid_client"), false),
        (Act::error(400, "bad_verification_code"), true),
        (Act::error(400, "invalid_grant"), true),
    ] {
        server.script([act]);
        let (ended, waits) = by_device(&server).await;
        let ended = ended.unwrap_err();
        assert_eq!(matches!(&ended, OAuth2Error::SignInRequired { .. }), may_succeed, "{ended:?}");
        assert_eq!(matches!(&ended, OAuth2Error::Misconfigured { .. }), !may_succeed, "{ended:?}");
        assert!(waits.is_empty() && !format!("{ended} {ended:?}").contains("canary"), "{ended:?}");
    }
}

#[tokio::test]
async fn a_device_continues_after_answers_of_gateways() {
    let server = TokenServer::start();
    server.script([
        Act::answer(403, "<html>canary"),
        Act::answer(503, "canary").header("Retry-After", "30"),
        Act::answer(200, "<html>canary"),
        Act::answer(404, "canary"),
        Act::answer(307, "").header("Location", "https://elsewhere.example/"),
        Act::error(429, "slow_down"),
        Act::error(428, "authorization_pending"),
    ]);
    let (tokens, waits) = by_device(&server).await;
    tokens.unwrap();
    assert_eq!(waits, [5, 30, 5, 5, 5, 10, 10]);
}

#[tokio::test]
async fn a_device_stops_asking_when_the_url_is_wrong() {
    let server = TokenServer::start();
    server.script((0..5).map(|_| Act::answer(404, "canary")));
    let (ended, waits) = by_device(&server).await;
    let ended = ended.unwrap_err();
    assert!(ended.to_string().ends_with("answered 404; check the URL"), "{ended}");
    assert_eq!(waits, [5; 4]);
}

#[tokio::test]
async fn a_device_stops_asking_when_its_code_has_expired() {
    let server = TokenServer::start();
    server.device_hears(["authorization_pending"; 9]);
    let minutes = Arc::new(Mutex::new(0));
    let clock = minutes.clone();
    let client = OAuth2Client::new(&server.token_url(), "app")
        .unwrap()
        .with_device_authorization_url(&server.url("/device"))
        .unwrap()
        .with_clock(move || {
            SystemTime::UNIX_EPOCH + Duration::from_secs(60 * *clock.lock().unwrap())
        });
    let sign_in = client.sign_in_by_device().await.unwrap();
    let tokens = sign_in.tokens_with_sleep(|_| {
        *minutes.lock().unwrap() += 4;
        async {}
    });
    assert_eq!(tokens.await, Err(OAuth2Error::TimedOut));
    assert_eq!(server.calls(), 3);
}

#[tokio::test]
async fn a_device_answer_that_could_control_the_terminal_is_refused() {
    // The token endpoint stands for the device endpoint, because its answers can be scripted.
    let server = TokenServer::start();
    for (code, url) in [
        ("\\u001b[2J", "https://issuer.example/"),
        ("", "https://issuer.example/"),
        ("WDJB\u{430}", "https://issuer.example/"),
        ("WDJB\u{202e}", "https://issuer.example/"),
        ("WDJB\\n", "https://issuer.example/"),
        ("WDJB;", "https://issuer.example/"),
        ("WDJB", "https://issuer.example\\u001b[2J/"),
        ("WDJB", "javascript:alert(1)"),
        ("WDJB", "http://issuer.example/"),
    ] {
        server.script([Act::answer(
            200,
            &format!(
                r#"{{"device_code":"canary","user_code":"{code}","verification_uri":"{url}",
                    "expires_in":600,"interval":5}}"#
            ),
        )]);
        let client = client(&server).with_device_authorization_url(&server.token_url()).unwrap();
        let error = client.sign_in_by_device().await.unwrap_err();
        assert!(matches!(error, OAuth2Error::Misconfigured { .. }), "{error:?}");
    }
}

/// Starts a sign-in with this answer. The token endpoint stands for the device endpoint, because its answers can be
/// scripted.
async fn begun(server: &TokenServer, answer: Act) -> DeviceSignIn {
    server.script([answer]);
    let client = client(server).with_device_authorization_url(&server.token_url()).unwrap();
    client.sign_in_by_device().await.unwrap()
}

#[tokio::test]
async fn a_device_answer_may_differ_from_the_standard() {
    let server = TokenServer::start();
    let google = r#"{"device_code":"d","user_code":"WDJB","verification_url":"https://g.example/device",
        "verification_uri_complete":"https://g.example/#code=WDJB","expires_in":"1800","interval":"5.0"}"#;
    let sign_in = begun(&server, Act::answer(200, google)).await;
    assert_eq!(sign_in.verification_url(), "https://g.example/device");
    assert_eq!(sign_in.verification_url_complete(), Some("https://g.example/#code=WDJB"));
    assert_eq!(sign_in.expires_in(), Duration::from_secs(1800));
    let form =
        "device_code=d&user_code=WD+JB&verification_uri=https%3A%2F%2Fh.example%2F%23%2Fdevice";
    let sign_in = begun(&server, Act::answer(200, form)).await;
    assert_eq!(sign_in.verification_url(), "https://h.example/#/device");
    assert_eq!((sign_in.user_code(), sign_in.verification_url_complete()), ("WD JB", None));
    assert_eq!(sign_in.expires_in(), Duration::from_secs(900));
}

#[tokio::test]
async fn a_complete_url_that_is_not_safe_is_not_shown() {
    let server = TokenServer::start();
    let long = format!("https://issuer.example/{}", "a".repeat(2048));
    for url in
        ["javascript:alert(1)", "http://issuer.example/", "https://me:canary@i.example/", &long]
    {
        let answer = format!(
            r#"{{"device_code":"d","user_code":"WDJB","verification_uri":"https://issuer.example/",
                "verification_uri_complete":"{url}"}}"#
        );
        let sign_in = begun(&server, Act::answer(200, &answer)).await;
        assert_eq!(sign_in.verification_url_complete(), None, "{url}");
    }
}

#[tokio::test]
async fn a_code_that_expires_during_failures_reports_the_last_one() {
    let server = TokenServer::start();
    let now = Arc::new(Mutex::new(0));
    let clock = now.clone();
    let client = OAuth2Client::new(&server.token_url(), "app")
        .unwrap()
        .with_device_authorization_url(&server.url("/device"))
        .unwrap()
        .with_clock(move || SystemTime::UNIX_EPOCH + Duration::from_secs(*clock.lock().unwrap()));
    let sign_in = client.sign_in_by_device().await.unwrap();
    // The pause that the server asks for is longer than the code lives.
    server.script([Act::answer(503, "").header("Retry-After", "3600"), Act::answer(503, "canary")]);
    let tokens = sign_in.tokens_with_sleep(|time| {
        *now.lock().unwrap() += time.as_secs();
        async {}
    });
    let ended = tokens.await.unwrap_err();
    assert!(matches!(ended, OAuth2Error::Unavailable { .. }), "{ended:?}");
    assert_eq!(*now.lock().unwrap(), 601);
}
