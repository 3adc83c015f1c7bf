//! The TLS settings of a connection.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::failure::unavailable;
use super::limits::{Limited, Limits};
use super::socket::Socket;
use crate::error::StoreError;
use crate::net::certificate::Verifier;
use crate::private_file::PrivateFile;
use crate::sys::blocking;

/// The most bytes of a file with root certificates. All that Debian trusts are 220 KB.
const LONGEST_ROOTS: usize = 1 << 20;

/// Connects by TLS to a server, which has to prove its name.
#[derive(Clone)]
pub(super) struct Tls {
    settings: MakeRustlsConnect,
    host: String,
}

type Connector = <MakeRustlsConnect as MakeTlsConnect<Socket>>::TlsConnect;
type Connected = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream;

impl Tls {
    /// Reads the trusted root certificates: those in a file, or else those of the system.
    pub(super) async fn to(
        host: String,
        place: String,
        roots: Option<PathBuf>,
    ) -> Result<Self, StoreError> {
        let read = move || config(&place, roots.as_deref());
        let config = blocking::run("the trusted certificates", read).await?;
        Ok(Self { settings: MakeRustlsConnect::new(config), host })
    }

    pub(super) fn connector(&self) -> Connector {
        let mut settings = self.settings.clone();
        let made = MakeTlsConnect::<Socket>::make_tls_connect(&mut settings, &self.host);
        let Ok(connector) = made;
        connector
    }

    /// Returns a connector that limits what the server can send inside of TLS.
    pub(super) fn limited(&self, limits: Arc<Limits>) -> LimitedTls {
        LimitedTls { connector: self.connector(), limits }
    }
}

/// A connector that limits what the server can send inside of TLS.
pub(super) struct LimitedTls {
    connector: Connector,
    limits: Arc<Limits>,
}

impl TlsConnect<Socket> for LimitedTls {
    type Stream = Limited<Connected>;
    type Error = Box<dyn Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Stream, Self::Error>> + Send>>;

    fn connect(self, socket: Socket) -> Self::Future {
        Box::pin(async {
            let stream = self.connector.connect(socket).await?;
            Ok(Limited::new(stream, self.limits))
        })
    }
}

fn config(place: &str, roots: Option<&Path>) -> Result<ClientConfig, StoreError> {
    let failed = |reason: &str| {
        unavailable(place, reason, "name a PEM file with the root certificate of the server")
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = match roots {
        None => Verifier::of_the_system(provider.clone())
            .map_err(|_| failed("the certificates that this system trusts cannot be read"))?,
        Some(path) => {
            let pem = PrivateFile::new(path, LONGEST_ROOTS).read_trusted()?;
            let pem = pem.ok_or_else(|| failed(&format!("{} does not exist", path.display())))?;
            let roots = parse(&pem).filter(|roots| !roots.is_empty());
            let none = || failed(&format!("{} holds no certificates", path.display()));
            let roots = Arc::new(roots.ok_or_else(none)?);
            let inner = WebPkiServerVerifier::builder_with_provider(roots, provider.clone());
            let inner = inner.build().map_err(|error| failed(&error.to_string()))?;
            Verifier::new(inner, provider.clone())
        }
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(&error.to_string()))?;
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
    Ok(builder.with_no_client_auth())
}

/// Parses PEM. Returns `None` if anything in it is not a certificate.
fn parse(pem: &[u8]) -> Option<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        roots.add(certificate.ok()?).ok()?;
    }
    Some(roots)
}
