//! TLS connections that trust the root certificates of the system.

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::WantsClientCert;

use super::certificate::Verifier;
use super::unreached::Unreached;

/// The user agent of this crate.
pub(crate) const USER: &str = concat!("tokenkeep/", env!("CARGO_PKG_VERSION"));

/// The variables that name root certificates instead of those of the system. The systems of Apple and Windows
/// ignore them.
const ROOTS: [&str; 2] = ["SSL_CERT_FILE", "SSL_CERT_DIR"];

/// Returns why [`trusting_the_system`] returned `None`.
pub(crate) fn no_roots() -> Unreached {
    let (reason, advice) = without_roots(|name| std::env::var_os(name).is_some());
    Unreached::new(reason, advice)
}

/// Returns the reason, and what to do. The argument returns whether a variable is set.
fn without_roots(is_set: impl Fn(&str) -> bool) -> (String, String) {
    let set: Vec<&str> = ROOTS.into_iter().filter(|name| is_set(name)).collect();
    match set.as_slice() {
        [] => (
            "this machine has no root certificates".into(),
            "install them (often the package ca-certificates)".into(),
        ),
        [name] => (
            format!("there are no root certificates where {name} says"),
            format!("correct {name}, or unset it"),
        ),
        both => {
            let both = both.join(" and ");
            (
                format!("there are no root certificates where {both} say"),
                format!("correct {both}, or unset them"),
            )
        }
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_without_root_certificates_is_named() {
        assert!(without_roots(|_| false).1.contains("install them"));
        let (reason, advice) = without_roots(|name| name == "SSL_CERT_FILE");
        assert_eq!(reason, "there are no root certificates where SSL_CERT_FILE says");
        assert_eq!(advice, "correct SSL_CERT_FILE, or unset it");
        assert!(without_roots(|_| true).0.ends_with("SSL_CERT_FILE and SSL_CERT_DIR say"));
    }
}
