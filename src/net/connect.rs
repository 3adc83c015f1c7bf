//! TCP connections to servers, directly or through the proxy that the environment names.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use rustls::ClientConfig;
#[cfg(feature = "oauth2")]
use tokio::net::TcpStream;
use tower_service::Service;

use super::proxy::{Proxy, Transport};

/// Connects to the servers of URLs.
#[derive(Clone, Debug)]
pub(crate) struct Connector {
    tcp: HttpConnector,
    /// The settings for a proxy with TLS, or `None` if no proxy is used.
    by_proxy: Option<Arc<ClientConfig>>,
}

impl Connector {
    /// Returns a connector that uses the proxy of the environment, if it gets settings for a proxy with TLS.
    pub(crate) fn new(by_proxy: Option<Arc<ClientConfig>>) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        Self { tcp, by_proxy }
    }
}

impl Service<Uri> for Connector {
    type Response = Transport;
    type Error = Box<dyn std::error::Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.tcp.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let Self { mut tcp, by_proxy } = self.clone();
        Box::pin(async move {
            if let Some(tls) = by_proxy
                && let Some(proxy) = Proxy::of(&to)?
            {
                return Ok(proxy.connect(to, tcp, tls).await?);
            }
            Ok(Transport::Http(tcp.call(to).await?))
        })
    }
}

/// Returns the TCP connection.
#[cfg(feature = "oauth2")]
pub(crate) fn tcp(transport: &Transport) -> &TcpStream {
    match transport {
        Transport::Http(stream) => stream.inner(),
        Transport::Https(stream) => stream.inner().get_ref().0.inner().inner(),
    }
}
