//! Refreshing, signing in and revoking at a provider.

mod browser;
mod device;

use std::io::Read;
use std::time::{Duration, SystemTime};

use tokenkeep::chrono::DateTime;
use tokenkeep::oauth2::{OAuth2Client, OAuth2Error};
use tokenkeep::refresh::RefreshPermit;
use tokenkeep::secrecy::{ExposeSecret, SecretString};
use tokenkeep::{AuthTokens, RefreshFailure, TokenRefresher};

use self::browser::with_browser;
use crate::support::block_on;
use crate::token_server::{Act, LIFETIME, TokenServer, fetch};

/// The time of the clients' clocks. It is long ago, so that a use of another clock is detected.
const NOW: i64 = 1_000_000_000;

fn client(server: &TokenServer) -> OAuth2Client {
    OAuth2Client::new(&server.token_url(), "app")
        .unwrap()
        .with_clock(|| SystemTime::UNIX_EPOCH + Duration::from_secs(NOW as u64))
}

fn session(server: &TokenServer) -> AuthTokens {
    let (access, refresh) = server.issue();
    AuthTokens::new(access).with_refresh_token(refresh)
}

/// Returns how the next refresh fails if the server does `act`. Checks that the failure shows no secret.
async fn failure(server: &TokenServer, act: Act) -> RefreshFailure {
    server.script([act]);
    let failure =
        client(server).refresh(session(server), &RefreshPermit::unlimited()).await.unwrap_err();
    let shown = format!("{failure} {failure:?}");
    assert!(!shown.contains("canary"), "{shown}");
    failure
}

#[tokio::test]
async fn a_refresh_returns_the_rotated_token_the_expiry_and_all_other_fields() {
    let server = TokenServer::start();
    let before = session(&server);
    let after = client(&server).refresh(before.clone(), &RefreshPermit::unlimited()).await.unwrap();
    assert_ne!(after.access_token, before.access_token);
    assert!(after.refresh_token.is_some() && after.refresh_token != before.refresh_token);
    assert_eq!(after.expires_at, DateTime::from_timestamp(NOW + LIFETIME, 0));
    assert_eq!(after.obtained_at, DateTime::from_timestamp(NOW, 0));
    let extra: Vec<_> = after.extras().map(|(name, value)| (name, value.expose_secret())).collect();
    assert_eq!(
        extra,
        [("id_token", "id-canary"), ("scope", "read offline_access"), ("token_type", "Bearer")]
    );
    // The new refresh token is accepted.
    client(&server).refresh(after, &RefreshPermit::unlimited()).await.unwrap();
    assert!(!server.has_ended_a_session());

    let request = server.requests().remove(0);
    let user_agent = concat!("tokenkeep/", env!("CARGO_PKG_VERSION"));
    assert_eq!(request.headers["user-agent"], user_agent);
    assert_eq!(request.headers["accept"], "application/json");
    // No scope is sent: it could reduce the granted scopes, or be refused.
    let fields: Vec<_> = request.form.keys().map(String::as_str).collect();
    assert_eq!(fields, ["client_id", "grant_type", "refresh_token"]);
}

#[tokio::test]
async fn tokens_from_an_answer_without_a_refresh_token_have_none() {
    let server = TokenServer::start();
    server.script([Act::Change(|mut body| {
        body.as_object_mut().unwrap().remove("refresh_token");
        body
    })]);
    let after =
        client(&server).refresh(session(&server), &RefreshPermit::unlimited()).await.unwrap();
    assert_eq!(after.refresh_token, None);
}

#[tokio::test]
async fn a_rotated_token_is_kept_although_its_answer_breaks_the_standard() {
    let server = TokenServer::start();
    server.script([
        Act::Change(|mut body| {
            body.as_object_mut().unwrap().remove("token_type");
            body["expires_in"] = "3600".into();
            body["nested"] = serde_json::json!({ "a": [1, 2] });
            body
        }),
        Act::answer(200, r#"{"access_token":"a","refresh_token":"r"}"#)
            .header("Content-Type", "text/html"),
        Act::answer(201, r#"{"access_token":"a","refresh_token":"r"}"#),
    ]);
    let first =
        client(&server).refresh(session(&server), &RefreshPermit::unlimited()).await.unwrap();
    assert!(first.refresh_token.is_some());
    assert_eq!(first.expires_at, DateTime::from_timestamp(NOW + 3600, 0));
    assert_eq!(first.extra("nested").unwrap().expose_secret(), r#"{"a":[1,2]}"#);
    for _ in 0..2 {
        let next =
            client(&server).refresh(session(&server), &RefreshPermit::unlimited()).await.unwrap();
        assert_eq!(next.refresh_token.unwrap().expose_secret(), "r");
    }
}

#[tokio::test]
async fn what_an_answer_does_not_repeat_stays_and_keeps_its_type() {
    let server = TokenServer::start();
    let current = session(&server)
        .with_extra("scope", "read write".to_owned().into())
        .with_extra("id_token", "canary-i".to_owned().into())
        .with_extra("instance_url", "https://eu.example".to_owned().into())
        .with_json_extra("realm", "7".to_owned().into())
        .with_json_extra("refresh_expires_in", "60".to_owned().into());
    server.script([Act::answer(
        200,
        r#"{"access_token":"a","refresh_token":"r","instance_url":"https://us.example","level":5}"#,
    )]);
    let tokens = client(&server).refresh(current, &RefreshPermit::unlimited()).await.unwrap();
    let extra = |name: &str| tokens.extra(name).map(|value| value.expose_secret().to_owned());
    assert_eq!(extra("scope").as_deref(), Some("read write"));
    assert_eq!(extra("id_token").as_deref(), Some("canary-i"));
    assert_eq!(extra("instance_url").as_deref(), Some("https://us.example"));
    // A time counts from its own answer.
    assert_eq!(extra("refresh_expires_in"), None);
    let record = tokens.to_record("here").unwrap();
    let record: serde_json::Value = serde_json::from_str(record.expose_secret()).unwrap();
    assert_eq!((&record["extra"]["realm"], &record["extra"]["level"]), (&7.into(), &5.into()));
}

#[tokio::test]
async fn the_client_secret_is_sent_by_basic_or_in_the_body() {
    let server = TokenServer::start();
    server.require_client("app", "secret-canary", true);
    let with_secret = |secret: &str| client(&server).with_secret(SecretString::from(secret));
    with_secret("secret-canary")
        .refresh(session(&server), &RefreshPermit::unlimited())
        .await
        .unwrap();
    let wrong = with_secret("wrong-canary")
        .refresh(session(&server), &RefreshPermit::unlimited())
        .await
        .unwrap_err();
    assert!(matches!(&wrong, RefreshFailure::Misconfigured { reason, .. }
        if reason.contains("answered 401 invalid_client; check the client's id and secret")));

    server.require_client("app", "secret-canary", false);
    let in_body = with_secret("secret-canary").with_secret_in_body();
    assert!(!format!("{in_body:?}").contains("canary"));
    in_body.refresh(session(&server), &RefreshPermit::unlimited()).await.unwrap();
}

#[tokio::test]
async fn without_a_refresh_token_nothing_is_sent() {
    let server = TokenServer::start();
    let failure = client(&server)
        .refresh(AuthTokens::new("access"), &RefreshPermit::unlimited())
        .await
        .unwrap_err();
    assert_eq!(failure, RefreshFailure::rejected("the server issued no refresh token"));
    assert_eq!(server.requests().len(), 0);
}

#[tokio::test]
async fn a_token_that_is_sent_twice_is_rejected_and_so_is_its_successor() {
    let server = TokenServer::start();
    let first = session(&server);
    let second = client(&server).refresh(first.clone(), &RefreshPermit::unlimited()).await.unwrap();
    for tokens in [first, second] {
        let failure =
            client(&server).refresh(tokens, &RefreshPermit::unlimited()).await.unwrap_err();
        assert!(matches!(failure, RefreshFailure::Rejected { .. }), "{failure:?}");
    }
    assert!(server.has_ended_a_session());
    assert_eq!(server.received(), ["refresh-canary-1", "refresh-canary-1", "refresh-canary-2"]);
}

#[tokio::test]
async fn a_temporary_failure_of_the_server_is_transient() {
    let server = TokenServer::start();
    for (act, wait, is_proof) in [
        (Act::answer(429, "canary").header("Retry-After", "120"), Some(120), true),
        (Act::answer(503, "canary").header("Retry-After", "86400"), Some(3600), false),
        (
            Act::answer(503, "canary").header("Retry-After", "Fri, 31 Dec 9999 23:59:59 GMT"),
            Some(3600),
            false,
        ),
        (Act::answer(429, "canary").header("Retry-After", "canary"), Some(30), true),
        (Act::answer(403, "<html>canary"), None, false),
        (Act::error(400, "temporarily_unavailable"), None, false),
        (Act::error(400, "server_error"), None, false),
    ] {
        let failure = failure(&server, act).await;
        assert_eq!(failure.proves_unspent(), is_proof, "{failure:?}");
        let RefreshFailure::Transient { retry_after, .. } = failure else { panic!("{failure:?}") };
        assert_eq!(retry_after.map(|wait| wait.as_secs()), wait);
    }
}

#[tokio::test]
async fn a_refused_connection_is_transient() {
    // No server listens on this port: it was free just now.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let client = OAuth2Client::new(&format!("http://{free}/token"), "app").unwrap();
    let tokens = AuthTokens::new("a").with_refresh_token("canary");
    let failure = client.refresh(tokens, &RefreshPermit::unlimited()).await.unwrap_err();
    assert_eq!(
        failure,
        RefreshFailure::transient(format!(
            "{free} refused the connection; check the port, and whether it is running"
        ))
    );
}

#[tokio::test]
async fn an_answer_that_was_lost_or_cannot_be_read_is_ambiguous() {
    let server = TokenServer::start();
    for act in [
        Act::DropRequest,
        Act::DropAnswer,
        Act::BreakOff,
        Act::answer(408, ""),
        Act::answer(500, "canary"),
        Act::answer(502, "<html>canary"),
        Act::answer(504, ""),
        Act::answer(200, ""),
        Act::answer(200, "<html>canary"),
        Act::answer(200, r#"{"access_token":"#),
        Act::answer(200, r#"{"access_token":""}"#),
        Act::answer(200, r#"{"token_type":"canary"}"#),
        Act::answer(200, r#"["canary"]"#),
    ] {
        let failure = failure(&server, act).await;
        assert!(matches!(failure, RefreshFailure::Ambiguous { .. }), "{failure:?}");
    }
}

#[tokio::test]
async fn a_failure_that_another_attempt_would_not_fix_is_misconfigured() {
    let server = TokenServer::start();
    for (act, words) in [
        (Act::error(401, "invalid_client"), "401 invalid_client"),
        (Act::error(400, "unauthorized_client"), "400 unauthorized_client"),
        (Act::error(400, "invalid_scope"), "400 invalid_scope"),
        (Act::error(400, "unsupported_grant_type"), "400 unsupported_grant_type"),
        (Act::error(404, "invalid_scope"), "404"),
        (Act::answer(400, ""), "400"),
        (Act::error(400, "refresh-canary-1"), "400 and an error code that is not registered"),
        (Act::error(200, "incorrect_client_credentials"), "200 incorrect_client_credentials"),
    ] {
        let failure = failure(&server, act).await;
        let RefreshFailure::Misconfigured { reason, .. } = &failure else { panic!("{failure:?}") };
        assert!(reason.contains(&format!(" answered {words}")), "{reason}");
    }
}

#[tokio::test]
async fn a_rejection_with_status_200_is_a_rejection() {
    let server = TokenServer::start();
    for code in ["bad_refresh_token", "invalid_grant"] {
        let failure = failure(&server, Act::error(200, code)).await;
        assert!(matches!(failure, RefreshFailure::Rejected { .. }), "{failure:?}");
    }
}

#[tokio::test]
async fn no_redirect_is_followed() {
    let (server, elsewhere) = (TokenServer::start(), TokenServer::start());
    for status in [301, 302, 303, 307, 308] {
        let act = Act::answer(status, "").header("Location", &elsewhere.url("/token?canary"));
        let failure = failure(&server, act).await;
        assert!(matches!(failure, RefreshFailure::Ambiguous { .. }), "{failure:?}");
        assert!(failure.to_string().contains(&format!("answered {status}, a redirect")));
    }
    assert_eq!(elsewhere.requests().len(), 0);
}

#[tokio::test]
async fn an_answer_is_read_up_to_256_kib() {
    let server = TokenServer::start();
    let body = |length: usize| {
        let empty = r#"{"access_token":"","refresh_token":"r"}"#.len();
        format!(r#"{{"access_token":"{}","refresh_token":"r"}}"#, "c".repeat(length - empty))
    };
    server.script([Act::answer(200, &body(256 * 1024))]);
    client(&server).refresh(session(&server), &RefreshPermit::unlimited()).await.unwrap();
    let failure = failure(&server, Act::answer(200, &body(256 * 1024 + 1))).await;
    assert!(matches!(&failure, RefreshFailure::Ambiguous { reason }
        if reason.ends_with("answered 200 with more than 256 KiB")));
}

#[tokio::test]
async fn a_cancelled_refresh_ends_its_connection() {
    let server = TokenServer::start();
    let held = server.hold();
    let refresh = tokio::spawn({
        let (client, tokens) = (client(&server), session(&server));
        async move { client.refresh(tokens, &RefreshPermit::unlimited()).await }
    });
    let waiting = tokio::task::spawn_blocking(move || (held.wait(), held));
    let (mut connection, held) = waiting.await.unwrap();
    refresh.abort();
    assert!(refresh.await.unwrap_err().is_cancelled());
    // The limit makes the test fail instead of hang.
    connection.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    assert_eq!(connection.read(&mut [0]).unwrap(), 0);
    held.release();
}

#[test]
fn a_client_is_named_by_its_token_url_and_its_id() {
    let client = OAuth2Client::new("https://issuer.example/token", "app").unwrap();
    let client = client.with_secret(SecretString::from("canary"));
    assert_eq!(client.client(), "https://issuer.example/token app");
}

#[test]
fn tokens_are_sent_only_to_https_or_a_loopback_address() {
    for url in ["http://issuer.example/token", "http://localhost/token", "http://10.0.0.1/token"] {
        let error = OAuth2Client::new(url, "app").unwrap_err();
        assert!(matches!(error, OAuth2Error::InvalidSetting { setting: "token_url", .. }), "{url}");
    }
    let client = || OAuth2Client::new("https://issuer.example/token", "app").unwrap();
    client().with_revocation_url("http://issuer.example/revoke").unwrap_err();
    client().with_authorization_url("http://issuer.example/authorize").unwrap_err();
    client().with_device_authorization_url("http://issuer.example/device").unwrap_err();
}

#[tokio::test]
async fn revoking_ends_the_session_at_the_provider() {
    let server = TokenServer::start();
    let revoker = client(&server).with_revocation_url(&server.url("/revoke")).unwrap();
    let (access, refresh) = server.issue();
    let tokens = AuthTokens::new(access.as_str()).with_refresh_token(refresh.as_str());
    revoker.revoke(&tokens).await.unwrap();
    assert!(server.is_revoked(&access) && server.is_revoked(&refresh));
    let hints: Vec<_> =
        server.requests().iter().map(|request| request.form["token_type_hint"].clone()).collect();
    assert_eq!(hints, ["refresh_token", "access_token"]);
    let failure =
        client(&server).refresh(tokens.clone(), &RefreshPermit::unlimited()).await.unwrap_err();
    assert!(matches!(failure, RefreshFailure::Rejected { .. }), "{failure:?}");
    // It is no error if the tokens are revoked already.
    revoker.revoke(&tokens).await.unwrap();
    let unset = client(&server).revoke(&tokens).await.unwrap_err();
    assert_eq!(unset.to_string(), "revocation_url is not set; set it first");
}

#[tokio::test]
async fn a_failed_revocation_is_an_error_that_shows_no_token() {
    let server = TokenServer::start();
    // The token endpoint stands for the revocation endpoint, because its answers can be scripted.
    let revoker = client(&server).with_revocation_url(&server.token_url()).unwrap();
    let tokens = session(&server);
    server.script([Act::answer(503, "canary")]);
    let failed = revoker.revoke(&tokens).await.unwrap_err();
    assert!(matches!(failed, OAuth2Error::Unavailable { .. }), "{failed:?}");
    server.script([Act::answer(200, ""), Act::error(400, "unsupported_token_type")]);
    revoker.revoke(&tokens).await.unwrap();
    // A refresh token that the server no longer knows is revoked, and then the access token is not waited for.
    server.script([Act::error(400, "invalid_token"), Act::answer(503, "canary")]);
    revoker.revoke(&tokens).await.unwrap();
    server.script([Act::error(400, "invalid_token")]);
    revoker.revoke(&AuthTokens::new("canary")).await.unwrap();
    server.script([Act::error(400, "unsupported_token_type")]);
    let failed = revoker.revoke(&AuthTokens::new("canary")).await.unwrap_err();
    assert!(failed.to_string().ends_with("answered 400 unsupported_token_type"), "{failed}");
    server.script([Act::answer(307, "").header("Location", "https://elsewhere.example/canary")]);
    let failed = revoker.revoke(&tokens).await.unwrap_err();
    assert!(!format!("{failed} {failed:?}").contains("canary"), "{failed:?}");
}

/// Refreshes, signs in by device (with a pause) and by browser, and revokes.
async fn everything(server: &TokenServer) {
    let client = with_browser(server);
    client.refresh(session(server), &RefreshPermit::unlimited()).await.unwrap();

    // The token endpoint stands for the device endpoint, because its answers can be scripted.
    let by_device = client.clone().with_device_authorization_url(&server.token_url()).unwrap();
    let asked = r#"{"device_code":"d","user_code":"WDJB","verification_uri":"https://issuer.example/",
        "expires_in":600,"interval":1}"#;
    let tokens = r#"{"access_token":"a","refresh_token":"r"}"#;
    server.script([
        Act::answer(200, asked),
        Act::error(400, "authorization_pending"),
        Act::answer(200, tokens),
    ]);
    by_device.sign_in_by_device().await.unwrap().tokens().await.unwrap();

    let sign_in = client.sign_in_by_browser(0).await.unwrap();
    let url = sign_in.url().to_owned();
    let browser = std::thread::spawn(move || fetch(&fetch(&url).1.unwrap()));
    let tokens = sign_in.tokens().await.unwrap();
    assert_eq!(browser.join().unwrap().0, 200);

    let revoker = client.with_revocation_url(&server.url("/revoke")).unwrap();
    revoker.revoke(&tokens).await.unwrap();
}

#[test]
fn it_works_without_any_runtime() {
    block_on(everything(&TokenServer::start()));
}

#[test]
fn it_works_in_a_runtime_without_io_and_timers() {
    let bare = tokio::runtime::Builder::new_current_thread().build().unwrap();
    bare.block_on(everything(&TokenServer::start()));
}

#[test]
fn it_works_in_a_runtime_whose_only_thread_waits_for_it() {
    let bare = tokio::runtime::Builder::new_current_thread().build().unwrap();
    bare.block_on(async { block_on(everything(&TokenServer::start())) });
}

/// Windows cannot represent such a time.
#[cfg(unix)]
#[tokio::test]
async fn a_lifetime_beyond_the_last_date_is_ignored() {
    use tokenkeep::chrono::{TimeDelta, Utc};

    let server = TokenServer::start();
    let far = DateTime::<Utc>::MAX_UTC - TimeDelta::seconds(5);
    let client = OAuth2Client::new(&server.token_url(), "app").unwrap().with_clock(move || {
        SystemTime::UNIX_EPOCH + Duration::from_secs(far.timestamp().unsigned_abs())
    });
    assert_eq!(
        client.refresh(session(&server), &RefreshPermit::unlimited()).await.unwrap().expires_at,
        None
    );
}
