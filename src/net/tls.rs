//! TLS connections that trust the root certificates of the system.

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::WantsClientCert;

use super::certificate::Verifier;

/// The user agent of this crate.
pub(crate) const USER: &str = concat!("tokenkeep/", env!("CARGO_PKG_VERSION"));

/// The reason and the advice if [`trusting_the_system`] returns `None`.
pub(crate) const NO_ROOTS: (&str, &str) =
    ("this machine has no root certificates", "install them (often the package ca-certificates)");

/// Starts to build the settings of a client. Returns `None` if the system has no root certificates.
///
/// On some systems the root certificates are files, so they are read on a blocking thread.
pub(crate) async fn trusting_the_system()
-> Option<rustls::ConfigBuilder<ClientConfig, WantsClientCert>> {
    let builder = tokio::task::spawn_blocking(|| {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone());
        let verifier = Arc::new(Verifier::of_the_system(provider)?);
        let builder = builder.with_safe_default_protocol_versions()?;
        Ok::<_, rustls::Error>(builder.dangerous().with_custom_certificate_verifier(verifier))
    });
    builder.await.ok().and_then(Result::ok)
}
