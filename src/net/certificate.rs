//! The certificates of servers: which are accepted, and what is wrong with the others.

use std::fmt;
use std::sync::Arc;

#[cfg(any(feature = "oauth2", feature = "object-store"))]
use rustls::AlertDescription;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, SignatureScheme};
use webpki::{EndEntityCert, KeyUsage};

/// What is wrong with a certificate, and what to do. The texts are this crate's own, because those of the
/// libraries quote the certificate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Fault {
    /// What a server has: "a certificate that has expired".
    pub(crate) what: &'static str,
    pub(crate) advice: &'static str,
}

impl Fault {
    /// Returns the fault that is the reason of this error, if it is a fault of a certificate.
    pub(crate) fn of(error: &Error) -> Option<Self> {
        let Error::InvalidCertificate(error) = error else { return None };
        let (what, advice) = match error {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => (
                "a certificate that has expired",
                "check the clock of this machine, or have the certificate renewed",
            ),
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                ("a certificate that is not valid yet", "check the clock of this machine")
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                ("a certificate for another name", "check the name of the host")
            }
            CertificateError::Revoked => (
                "a certificate that was revoked",
                "do not trust the server until it has another certificate",
            ),
            CertificateError::UnknownIssuer => (
                "a certificate of an authority that is not trusted",
                "check the name of the host; for an authority of your own, add its certificate to the root \
                 certificates of this machine",
            ),
            CertificateError::Other(OtherError(error)) => match error.downcast_ref() {
                Some(SelfSigned { is_authority: false }) => (
                    "a self-signed certificate",
                    "check the name of the host; for a server of your own, add the certificate to the root \
                     certificates of this machine",
                ),
                Some(SelfSigned { is_authority: true }) => (
                    "a self-signed certificate that is meant for an authority",
                    "have a certificate for the server signed by that authority",
                ),
                None => NOT_VALID,
            },
            _ => NOT_VALID,
        };
        Some(Self { what, advice })
    }
}

/// Returns whether this is the message of a server that does not accept the certificate of the client, or that
/// wants one and got none (RFC 8446, 6.2).
#[cfg(any(feature = "oauth2", feature = "object-store"))]
pub(crate) fn refuses_the_client(error: &Error) -> bool {
    matches!(
        error,
        Error::AlertReceived(
            AlertDescription::AccessDenied
                | AlertDescription::BadCertificate
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateRequired
                | AlertDescription::CertificateRevoked
                | AlertDescription::CertificateUnknown
                | AlertDescription::DecryptError
                | AlertDescription::UnknownCA
                | AlertDescription::UnsupportedCertificate
        )
    )
}

/// Returns whether this is the message of a server that cannot agree on the settings of a connection. Before TLS
/// 1.3, one of the settings is the certificate of the client (RFC 5246, 7.2.2 and 7.4.6).
#[cfg(any(feature = "oauth2", feature = "object-store"))]
pub(crate) fn fails_the_handshake(error: &Error) -> bool {
    matches!(error, Error::AlertReceived(AlertDescription::HandshakeFailure))
}

const NOT_VALID: (&str, &str) = (
    "a certificate that is not valid",
    "check the clock and the root certificates of this machine, or have the certificate corrected",
);

/// The subject of a certificate is also its issuer, and it is not trusted.
#[derive(Debug)]
struct SelfSigned {
    /// Whether it says that it is the certificate of an authority. Such a certificate is not accepted for a
    /// server, even if it is trusted.
    is_authority: bool,
}

impl fmt::Display for SelfSigned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("self-signed certificate")
    }
}

impl std::error::Error for SelfSigned {}

/// Accepts what another verifier accepts, and says more exactly what is wrong with the others.
#[derive(Debug)]
pub(crate) struct Verifier {
    inner: Arc<dyn ServerCertVerifier>,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    /// Returns a verifier that trusts the root certificates of the system.
    ///
    /// On some systems the root certificates are files, so this may block.
    pub(crate) fn of_the_system(provider: Arc<CryptoProvider>) -> Result<Self, Error> {
        let inner = rustls_platform_verifier::Verifier::new(provider.clone())?;
        Ok(Self::new(Arc::new(inner), provider))
    }

    pub(crate) fn new(inner: Arc<dyn ServerCertVerifier>, provider: Arc<CryptoProvider>) -> Self {
        Self { inner, provider }
    }

    /// Returns the reason of a refusal: of the refusals that do not say it, or not exactly.
    fn more_exactly(&self, error: Error, certificate: &CertificateDer<'_>, now: UnixTime) -> Error {
        if !matches!(
            error,
            Error::InvalidCertificate(
                CertificateError::BadSignature
                    | CertificateError::UnknownIssuer
                    | CertificateError::Other(_)
            )
        ) {
            return error;
        }
        let Ok(certificate) = EndEntityCert::try_from(certificate) else { return error };
        // No authority is trusted here, so this always fails. What it fails with is the certificate's own fault.
        let algorithms = self.provider.signature_verification_algorithms.all;
        let usage = KeyUsage::server_auth();
        let alone =
            certificate.verify_for_usage(algorithms, &[], &[], now, usage, None, None).err();
        let is_self_signed = certificate.issuer() == certificate.subject();
        let self_signed = |is_authority| {
            CertificateError::Other(OtherError(Arc::new(SelfSigned { is_authority })))
        };
        match alone {
            // The systems of Apple do not say this.
            Some(webpki::Error::CertExpired { .. }) => CertificateError::Expired.into(),
            Some(webpki::Error::CertNotValidYet { .. }) => CertificateError::NotValidYet.into(),
            Some(webpki::Error::CaUsedAsEndEntity) if is_self_signed => self_signed(true).into(),
            _ if is_self_signed => self_signed(false).into(),
            // An authority with the same name and another key is trusted.
            _ if matches!(error, Error::InvalidCertificate(CertificateError::BadSignature)) => {
                CertificateError::UnknownIssuer.into()
            }
            _ => error,
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.inner
            .verify_server_cert(certificate, intermediates, name, ocsp_response, now)
            .map_err(|error| self.more_exactly(error, certificate, now))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        self.inner.requires_raw_public_keys()
    }

    fn root_hint_subjects(&self) -> Option<&[rustls::DistinguishedName]> {
        self.inner.root_hint_subjects()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_has_its_own_words() {
        let other = |error: Box<dyn std::error::Error + Send + Sync>| {
            CertificateError::Other(OtherError(Arc::from(error)))
        };
        let errors = [
            CertificateError::Expired,
            CertificateError::NotValidYet,
            CertificateError::NotValidForName,
            CertificateError::Revoked,
            CertificateError::UnknownIssuer,
            other(Box::new(SelfSigned { is_authority: false })),
            other(Box::new(SelfSigned { is_authority: true })),
            CertificateError::BadEncoding,
        ];
        let whats: std::collections::BTreeSet<_> =
            errors.iter().map(|error| Fault::of(&error.clone().into()).unwrap().what).collect();
        assert_eq!(whats.len(), errors.len());
        let quoting = other("canary".into()).into();
        assert_eq!(Fault::of(&quoting).unwrap().what, NOT_VALID.0);
        assert_eq!(Fault::of(&Error::HandshakeNotComplete), None);
    }
}
