//! The tower layer on top of the two clients that it is most used with.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response, header::AUTHORIZATION};
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokenkeep::oauth2::OAuth2Client;
use tokenkeep::tower::BearerLayer;
use tokenkeep::{AuthError, AuthTokens, TokenManager};
use tower::{Service, ServiceBuilder, ServiceExt};

use crate::token_server::TokenServer;

/// Returns a manager with tokens of this server.
async fn signed_in(server: &TokenServer) -> TokenManager {
    let client = OAuth2Client::new(&server.token_url(), "app").unwrap();
    let manager = TokenManager::builder().refresher(client).build();
    let (access, refresh) = server.issue();
    let tokens = AuthTokens::new(access).with_refresh_token(refresh);
    manager.set_tokens(tokens).await.unwrap();
    manager
}

async fn layer(server: &TokenServer) -> BearerLayer {
    BearerLayer::new(signed_in(server).await).with_origin(&server.url("")).unwrap()
}

/// Returns the `Authorization` header of each request to `/api` of this server.
fn authorizations(server: &TokenServer) -> Vec<Option<String>> {
    let requests = server.requests();
    let to_api = requests.iter().filter(|request| request.path == "/api");
    to_api.map(|request| request.headers.get("authorization").cloned()).collect()
}

fn bearer(number: u32) -> Option<String> {
    Some(format!("Bearer access-canary-{number}"))
}

#[tokio::test]
async fn with_reqwest_a_refused_token_is_refreshed_and_the_request_sent_again_once() {
    let server = TokenServer::start();
    // reqwest uses the provider that is installed. Only one can be installed, so a second call fails.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().build().unwrap();
    let mut service = ServiceBuilder::new()
        .layer(layer(&server).await)
        .map_request(|request: Request<Bytes>| reqwest::Request::try_from(request).unwrap())
        .map_response(Response::<reqwest::Body>::from)
        .service(client);
    let request = || Request::post(server.url("/api")).body(Bytes::from("a=whole+body")).unwrap();
    let response = service.ready().await.unwrap().call(request()).await.unwrap();
    assert_eq!(response.status(), 200);
    server.forget_access_tokens();
    let response = service.ready().await.unwrap().call(request()).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(authorizations(&server), [bearer(1), bearer(1), bearer(2)]);
    let bodies: Vec<_> =
        server.requests().iter().filter_map(|request| request.form.get("a").cloned()).collect();
    assert_eq!(bodies, ["whole body"; 3]);
    assert_eq!(server.calls(), 1);
}

#[tokio::test]
async fn with_hyper_a_refused_token_is_refreshed_and_the_request_sent_again_once() {
    let server = TokenServer::start();
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let service = ServiceBuilder::new().layer(layer(&server).await).service(client);
    server.forget_access_tokens();
    let request = Request::post(server.url("/api")).body(Full::from("a=b")).unwrap();
    assert_eq!(service.oneshot(request).await.unwrap().status(), 200);
    assert_eq!(authorizations(&server), [bearer(1), bearer(2)]);
}

#[tokio::test]
async fn a_request_is_sent_twice_at_most_if_every_token_is_refused() {
    let server = TokenServer::start();
    // This server refuses the tokens of the other one.
    let elsewhere = TokenServer::start();
    let layer = layer(&server).await.with_origin(&elsewhere.url("")).unwrap();
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let service = ServiceBuilder::new().layer(layer).service(client);
    for requests in [2, 3, 4] {
        let request = Request::get(elsewhere.url("/api")).body(Full::default()).unwrap();
        assert_eq!(service.clone().oneshot(request).await.unwrap().status(), 401);
        // After the first refusal there is no new token yet, so each further request is sent once.
        assert_eq!(authorizations(&elsewhere).len(), requests);
    }
    assert_eq!(server.calls(), 1);
}

/// A client that records its requests, and answers each with 401.
#[derive(Clone, Default)]
struct Notes(Arc<Mutex<Vec<Request<String>>>>);

impl Service<Request<String>> for Notes {
    type Response = Response<()>;
    type Error = Infallible;
    type Future = Ready<Result<Response<()>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<String>) -> Self::Future {
        self.0.lock().unwrap().push(request);
        ready(Ok(Response::builder().status(401).body(()).unwrap()))
    }
}

/// Sends a request to this URL through a layer that knows only `https://api.example`. Returns the requests
/// that the client below the layer got.
async fn given(url: &str, authorization: Option<&str>) -> Vec<Request<String>> {
    // Some providers issue the same access token again while it is valid.
    let again = |_| async { Ok(AuthTokens::new("canary").with_refresh_token("canary-s")) };
    let manager = TokenManager::builder().refresh_with(again).build();
    manager.set_tokens(AuthTokens::new("canary").with_refresh_token("canary-r")).await.unwrap();
    let layer = BearerLayer::new(manager).with_origin("https://api.example").unwrap();
    assert!(!format!("{layer:?}").contains("canary"));
    let notes = Notes::default();
    let mut request = Request::get(url);
    if let Some(value) = authorization {
        request = request.header(AUTHORIZATION, value);
    }
    let request = request.body(String::new()).unwrap();
    let service = ServiceBuilder::new().layer(layer).service(notes.clone());
    assert_eq!(service.oneshot(request).await.unwrap().status(), 401);
    let given = notes.0.lock().unwrap();
    given.clone()
}

#[tokio::test]
async fn the_header_is_sent_only_to_known_servers_and_is_marked_as_sensitive() {
    let known = given("https://api.example/a", None).await;
    // The request is not sent again, because there is no other token.
    assert_eq!(known.len(), 1);
    let header = &known[0].headers()[AUTHORIZATION];
    assert_eq!(header, "Bearer canary");
    assert!(header.is_sensitive());
    assert!(!format!("{known:?}").contains("canary"));
    for url in [
        "http://api.example/",
        "https://api.example:8443/",
        "https://other.example/",
        "https://api.example.other.example/",
        "/api.example",
    ] {
        let given = given(url, None).await;
        assert!(given[0].headers().is_empty() && given.len() == 1, "{url}: {given:?}");
    }
}

#[tokio::test]
async fn a_request_with_its_own_header_is_not_changed_and_not_sent_again() {
    for url in ["https://api.example/", "https://other.example/"] {
        let given = given(url, Some("Basic theirs")).await;
        assert_eq!(given.len(), 1);
        assert_eq!(given[0].headers()[AUTHORIZATION], "Basic theirs");
    }
}

#[tokio::test]
async fn without_a_token_nothing_is_sent() {
    let notes = Notes::default();
    let layer = BearerLayer::new(TokenManager::builder().build());
    let layer = layer.with_origin("https://api.example").unwrap();
    let request = Request::get("https://api.example/").body(String::new()).unwrap();
    let service = ServiceBuilder::new().layer(layer.clone()).service(notes.clone());
    let error = service.oneshot(request).await.unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(AuthError::TokenNotFound)), "{error}");

    let manager = TokenManager::builder().build();
    manager.set_tokens(AuthTokens::new("canary\r\nX: y")).await.unwrap();
    let layer = BearerLayer::new(manager).with_origin("https://api.example").unwrap();
    let request = Request::get("https://api.example/").body(String::new()).unwrap();
    let service = ServiceBuilder::new().layer(layer).service(notes.clone());
    let error = service.oneshot(request).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the access token has characters that a header cannot contain; sign in again"
    );
    assert!(notes.0.lock().unwrap().is_empty());
}
