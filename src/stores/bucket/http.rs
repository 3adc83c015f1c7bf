//! The HTTP client for the `object_store` crate.

use std::net::Ipv4Addr;
use std::sync::Arc;

use async_trait::async_trait;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody,
    HttpResponse, HttpResponseBody, HttpService,
};
use object_store::{ClientOptions, Result};
use tokio::sync::OnceCell;

use super::LONGEST_OBJECT;
use crate::net::connect::Connector as TcpConnector;
use crate::net::loopback::is_loopback;
use crate::net::tls::{USER, no_roots, trusting_the_system};
use crate::net::unreached::Unreached;

const RUNNING: &str = "check whether it is running";

/// The most bytes of the body of any answer: an object, an error, or credentials. `object_store` reads errors
/// and credentials as a whole, whatever their length.
const LONGEST_BODY: usize = 2 * LONGEST_OBJECT;

/// The longest head of an answer. It also limits how much is read at a time: between two reads, deadlines are
/// checked.
const LONGEST_HEAD: usize = 32 << 10;

/// The hosts from which the machines of a cloud get their credentials, in addition to link-local addresses
/// (169.254.0.0/16). They are on the same link, and do not support TLS.
const METADATA: [&str; 3] = ["[fd00:ec2::23]", "[fd00:ec2::254]", "metadata.google.internal"];

fn is_metadata(host: &str) -> bool {
    METADATA.contains(&host) || host.parse().is_ok_and(|ip: Ipv4Addr| ip.is_link_local())
}

/// Returns whether this text is about a request for credentials.
pub(super) fn names_metadata(text: &str) -> bool {
    METADATA.iter().any(|host| text.contains(host)) || text.contains("://169.254.")
}

/// Makes clients that use plain HTTP only for this machine and the cloud's metadata service.
///
/// The client options about plain HTTP are ignored: the environment can set them, and for Google they allow
/// it for every host.
#[derive(Debug)]
pub(super) struct Connector {
    /// Whether it uses the proxy of the environment.
    pub(super) by_proxy: bool,
}

impl HttpConnector for Connector {
    fn connect(&self, _options: &ClientOptions) -> Result<HttpClient> {
        Ok(HttpClient::new(Service { by_proxy: self.by_proxy, client: OnceCell::new() }))
    }
}

#[derive(Debug)]
struct Service {
    by_proxy: bool,
    client: OnceCell<Client<HttpsConnector<TcpConnector>, HttpRequestBody>>,
}

impl Service {
    async fn client(
        &self,
    ) -> Result<&Client<HttpsConnector<TcpConnector>, HttpRequestBody>, Unreached> {
        let make = || async {
            let builder = trusting_the_system().await;
            let builder = builder.ok_or_else(no_roots)?;
            let tls = Arc::new(builder.with_no_client_auth());
            let tcp = TcpConnector::new(self.by_proxy.then(|| tls.clone()));
            let tls = HttpsConnector::from((tcp, tls));
            Ok(Client::builder(TokioExecutor::new()).http1_max_buf_size(LONGEST_HEAD).build(tls))
        };
        self.client.get_or_try_init(make).await
    }
}

#[async_trait]
impl HttpService for Service {
    async fn call(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let host = request.uri().host().unwrap_or_default().to_owned();
        let is_plain = request.uri().scheme_str() == Some("http");
        if is_plain && !is_loopback(&host) && !is_metadata(&host) {
            let reason = format!("http: is not accepted for {host}, which is another machine");
            let refused = Unreached::new(reason, "use https:");
            return Err(HttpError::new(HttpErrorKind::Unknown, refused));
        }
        request.headers_mut().insert("user-agent", USER.parse().expect("it is ASCII"));
        let unknown = |error| HttpError::new(HttpErrorKind::Unknown, error);
        let sent = self.client().await.map_err(unknown)?.request(request).await;
        let response = sent.map_err(|error| {
            if error.is_connect() {
                HttpError::new(HttpErrorKind::Connect, Unreached::because(&host, &error))
            } else {
                broken(&host)
            }
        })?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, LONGEST_BODY).map_err(move |error| {
            if error.is::<LengthLimitError>() { too_long(&host) } else { broken(&host) }
        });
        Ok(HttpResponse::from_parts(head, HttpResponseBody::new(body)))
    }
}

fn broken(host: &str) -> HttpError {
    let broken = Unreached::new(format!("{host} broke the connection"), RUNNING);
    HttpError::new(HttpErrorKind::Interrupted, broken)
}

fn too_long(host: &str) -> HttpError {
    let reason = format!("{host} sent an answer with more than {LONGEST_BODY} bytes");
    // This kind is not retried.
    HttpError::new(HttpErrorKind::Decode, Unreached::new(reason, RUNNING))
}
