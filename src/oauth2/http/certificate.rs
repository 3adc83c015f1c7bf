//! The certificate by which a client proves who it is.

use std::sync::Arc;

use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{Error, InconsistentKeys};
use secrecy::{ExposeSecret, SecretString};

use crate::oauth2::OAuth2Error;

/// Reads a certificate with those of its authorities, and its key. No error quotes them.
pub(in crate::oauth2) fn client_certificate(
    certificates: &str,
    key: &SecretString,
) -> Result<Arc<SingleCertAndKey>, OAuth2Error> {
    let wrong = |reason| OAuth2Error::InvalidSetting { setting: "client_certificate", reason };
    let wrong_key =
        |reason| OAuth2Error::InvalidSetting { setting: "client_certificate_key", reason };
    let chain: Result<Vec<_>, _> =
        CertificateDer::pem_slice_iter(certificates.as_bytes()).collect();
    let chain = chain.ok().filter(|chain| !chain.is_empty());
    let chain = chain.ok_or_else(|| wrong("is not a certificate in PEM"))?;
    #[expect(clippy::disallowed_methods, reason = "parsed, and shown to nobody")]
    let key = PrivateKeyDer::from_pem_slice(key.expose_secret().as_bytes());
    let key = key.map_err(|_| wrong_key("is not a private key in PEM without a passphrase"))?;
    let both = CertifiedKey::from_der(chain, key, &default_provider());
    both.map(|both| Arc::new(both.into())).map_err(|error| match error {
        Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            wrong_key("is not the key of client_certificate")
        }
        Error::InvalidCertificate(_) => wrong("cannot be read"),
        _ => wrong_key("is of a kind that is not supported; use RSA, ECDSA P-256 or Ed25519"),
    })
}
