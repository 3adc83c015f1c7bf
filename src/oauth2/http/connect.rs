//! Connects to a server, directly or through a proxy.

use std::sync::Arc;

use http::Uri;
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tower_service::Service;

use super::Http;
use crate::net::connect::{self, Connector};
use crate::net::proxy::{Proxy, Transport};
use crate::net::tls::{no_roots, trusting_the_system};
use crate::net::unreached::Unreached;
use crate::oauth2::failure::Failed;

pub(super) type Connection = MaybeHttpsStream<Transport>;

/// Connects within the limit of the client, including a proxy and TLS.
pub(super) async fn connect(http: &Http, uri: &Uri, place: &str) -> Result<Connection, Failed> {
    let proxy = if http.by_proxy { Proxy::of(uri) } else { Ok(None) };
    // Trying again does not help.
    let proxy = proxy.map_err(|error| Failed::Unsendable { reason: error.to_string() })?;
    let through = proxy.as_ref().map(|proxy| format!("{place}, through {proxy},"));
    let connected = open(http, uri, through.as_deref().unwrap_or(place));
    let connected = timeout(http.connect, connected).await;
    connected.unwrap_or_else(|_| {
        let seconds = http.connect.as_secs();
        let reason = match proxy {
            Some(proxy) => format!(
                "{proxy} opened no connection to {place} within {seconds} seconds; check its URL, and \
                 whether it can reach that"
            ),
            None => format!("{place} accepted no connection within {seconds} seconds"),
        };
        Err(Failed::NotSent { reason })
    })
}

fn not_sent(error: &Unreached) -> Failed {
    let reason = error.to_string();
    if error.is_lasting { Failed::NotAdmitted { reason } } else { Failed::NotSent { reason } }
}

async fn open(http: &Http, uri: &Uri, place: &str) -> Result<Connection, Failed> {
    if uri.scheme_str() == Some("http") {
        let connected = Connector::new(None).call(uri.clone()).await;
        let connected = connected.map_err(|error| not_sent(&Unreached::because(place, &*error)))?;
        return Ok(MaybeHttpsStream::Http(connected));
    }
    // The roots are read each time, because they may change while a program runs for months.
    let builder = trusting_the_system().await;
    let builder = builder.ok_or_else(|| not_sent(&no_roots()))?;
    let by_proxy = Arc::new(builder.clone().with_no_client_auth());
    let tls = match &http.certificate {
        None => by_proxy.clone(),
        Some(certificate) => Arc::new(builder.with_client_cert_resolver(certificate.clone())),
    };
    let tcp = Connector::new(http.by_proxy.then_some(by_proxy));
    let mut tls = HttpsConnector::from((tcp, tls));
    tls.enforce_https();
    let connected = tls.call(uri.clone()).await;
    connected.map_err(|error| not_sent(&Unreached::because(place, &*error)))
}

/// Returns the TCP connection, which is to the proxy if there is one.
pub(super) fn tcp(connection: &Connection) -> &TcpStream {
    connect::tcp(match connection {
        MaybeHttpsStream::Http(stream) => stream,
        MaybeHttpsStream::Https(stream) => stream.inner().get_ref().0.inner(),
    })
}
