//! The TLS settings of a connection.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::BuilderVerifierExt;

use crate::error::StoreError;
use crate::sys::blocking;

/// Reads the trusted root certificates: those in a file, or else those of the system.
pub(super) async fn configured(
    place: String,
    roots: Option<PathBuf>,
) -> Result<ClientConfig, StoreError> {
    let failed = move |reason| StoreError::Unavailable {
        place: place.clone(),
        reason,
        advice: "name a PEM file with the root certificate of the server".into(),
    };
    blocking::run("the trusted certificates", move || config(roots.as_deref()).map_err(failed))
        .await
}

fn config(roots: Option<&Path>) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let Some(path) = roots else {
        let builder = builder.with_platform_verifier();
        let builder =
            builder.map_err(|_| "the certificates that this system trusts cannot be read")?;
        return Ok(builder.with_no_client_auth());
    };
    let roots = read(path).filter(|roots| !roots.is_empty());
    let roots = roots.ok_or_else(|| format!("{} holds no certificates", path.display()))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// Reads a PEM file. Returns `None` if anything in it is not a certificate.
fn read(path: &Path) -> Option<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).ok()? {
        roots.add(certificate.ok()?).ok()?;
    }
    Some(roots)
}
