//! Connections to the servers of others: over TLS, which trusts whom the system trusts.

use hyper_rustls::HttpsConnectorBuilder;
use hyper_rustls::builderstates::WantsSchemes;

/// What this crate calls itself.
pub(crate) const USER: &str = concat!("tokenkeep/", env!("CARGO_PKG_VERSION"));

/// What is wrong where [`trusting_the_system`] returns nothing.
pub(crate) const NO_ROOTS: &str =
    "this machine has no root certificates; install them (often the package ca-certificates)";

/// Begins to build a connector: `None` if this system trusts nobody.
///
/// The system's roots are files on some systems, so this is no work for the runtime's threads.
pub(crate) async fn trusting_the_system() -> Option<HttpsConnectorBuilder<WantsSchemes>> {
    let builder = tokio::task::spawn_blocking(|| {
        let provider = rustls::crypto::ring::default_provider();
        HttpsConnectorBuilder::new().with_provider_and_platform_verifier(provider)
    });
    builder.await.ok().and_then(Result::ok)
}

/// Says what a connection failed of, in words of this crate: those of others may quote the server.
pub(crate) fn reason_of(error: &(dyn std::error::Error + 'static)) -> &'static str {
    let mut cause = Some(error);
    let mut reason = "cannot be reached; check the network and the host's name";
    while let Some(error) = cause {
        if let Some(rustls::Error::InvalidCertificate(_)) = error.downcast_ref() {
            return "has a certificate that is not trusted; check the clock, and the root \
                    certificates of this machine";
        }
        if error.is::<rustls::Error>() {
            return "does not agree on TLS; check the URL";
        }
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            if error.kind() == std::io::ErrorKind::ConnectionRefused {
                reason = "refused the connection";
            }
            // An I/O error's source leaves out what it wraps itself.
            if let Some(inner) = error.get_ref() {
                cause = Some(inner);
                continue;
            }
        }
        cause = error.source();
    }
    reason
}
