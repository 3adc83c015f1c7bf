//! TLS connections that trust the root certificates of the system.

use hyper_rustls::HttpsConnectorBuilder;
use hyper_rustls::builderstates::WantsSchemes;

/// The user agent of this crate.
pub(crate) const USER: &str = concat!("tokenkeep/", env!("CARGO_PKG_VERSION"));

/// The error if [`trusting_the_system`] returns `None`.
pub(crate) const NO_ROOTS: &str =
    "this machine has no root certificates; install them (often the package ca-certificates)";

/// Starts to build a connector. Returns `None` if the system has no root certificates.
///
/// On some systems the root certificates are files, so they are read on a blocking thread.
pub(crate) async fn trusting_the_system() -> Option<HttpsConnectorBuilder<WantsSchemes>> {
    let builder = tokio::task::spawn_blocking(|| {
        let provider = rustls::crypto::ring::default_provider();
        HttpsConnectorBuilder::new().with_provider_and_platform_verifier(provider)
    });
    builder.await.ok().and_then(Result::ok)
}

/// Returns why a connection failed. The text is this crate's own, because an error of another crate may
/// quote the server.
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
            // `source` of an I/O error skips the error that it wraps.
            if let Some(inner) = error.get_ref() {
                cause = Some(inner);
                continue;
            }
        }
        cause = error.source();
    }
    reason
}
