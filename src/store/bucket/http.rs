//! What carries the requests of the `object_store` crate.

use async_trait::async_trait;
use http_body_util::BodyExt;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector as TcpConnector;
use hyper_util::rt::TokioExecutor;
use object_store::client::{
    ClientConfigKey, HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest,
    HttpRequestBody, HttpResponse, HttpResponseBody, HttpService,
};
use object_store::{ClientOptions, Result};
use tokio::sync::OnceCell;

use crate::https::{NO_ROOTS, USER, reason_of, trusting_the_system};
use crate::loopback::is_loopback;

/// Why a server was not reached, or did not answer, in words of this crate.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct NotReached(pub(super) String);

/// Makes clients that speak plain HTTP with this machine alone.
#[derive(Debug)]
pub(super) struct Connector;

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> Result<HttpClient> {
        // Set for a cloud's own metadata service, which is on the link and speaks no TLS.
        let is_plain_allowed = options.get_config_value(&ClientConfigKey::AllowHttp);
        let is_plain_allowed = is_plain_allowed.is_some_and(|value| value == "true");
        Ok(HttpClient::new(Service { is_plain_allowed, client: OnceCell::new() }))
    }
}

#[derive(Debug)]
struct Service {
    is_plain_allowed: bool,
    client: OnceCell<Client<HttpsConnector<TcpConnector>, HttpRequestBody>>,
}

impl Service {
    async fn client(
        &self,
    ) -> Result<&Client<HttpsConnector<TcpConnector>, HttpRequestBody>, NotReached> {
        let make = || async {
            let builder = trusting_the_system().await;
            let builder = builder.ok_or_else(|| NotReached(NO_ROOTS.to_owned()))?;
            let mut tcp = TcpConnector::new();
            tcp.enforce_http(false);
            tcp.set_nodelay(true);
            let tls = builder.https_or_http().enable_http1().wrap_connector(tcp);
            Ok(Client::builder(TokioExecutor::new()).build(tls))
        };
        self.client.get_or_try_init(make).await
    }
}

#[async_trait]
impl HttpService for Service {
    async fn call(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let host = request.uri().host().unwrap_or_default().to_owned();
        let is_plain = request.uri().scheme_str() == Some("http");
        if is_plain && !self.is_plain_allowed && !is_loopback(&host) {
            let reason = format!("{host} is named with http:, and is another machine; use https:");
            return Err(HttpError::new(HttpErrorKind::Unknown, NotReached(reason)));
        }
        request.headers_mut().insert("user-agent", USER.parse().expect("it is ASCII"));
        let unknown = |error| HttpError::new(HttpErrorKind::Unknown, error);
        let sent = self.client().await.map_err(unknown)?.request(request).await;
        let response = sent.map_err(|error| {
            if error.is_connect() {
                let reason = format!("{host} {}", reason_of(&error));
                HttpError::new(HttpErrorKind::Connect, NotReached(reason))
            } else {
                broken(&host)
            }
        })?;
        let (head, body) = response.into_parts();
        let body = HttpResponseBody::new(body.map_err(move |_| broken(&host)));
        Ok(HttpResponse::from_parts(head, body))
    }
}

fn broken(host: &str) -> HttpError {
    HttpError::new(HttpErrorKind::Interrupted, NotReached(format!("{host} broke the connection")))
}
