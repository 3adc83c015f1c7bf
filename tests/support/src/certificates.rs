//! Certificates for the servers and the clients of tests.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};

/// An authority that no system trusts.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, in PEM.
pub struct Issued {
    pub certificate: String,
    pub key: String,
}

/// The first and the last year in which a certificate is valid.
pub type Years = (i32, i32);

/// Now, for as long as these tests are used.
pub const VALID: Years = (2000, 2999);

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = params(name, &[], VALID);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Returns its own certificate.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// Returns a certificate for a server with this name or address, or for a client.
    pub fn issue(&self, name: &str, years: Years) -> Issued {
        let key = KeyPair::generate().unwrap();
        let certificate = params("issued", &[name], years).signed_by(&key, &self.0).unwrap();
        Issued { certificate: certificate.pem(), key: key.serialize_pem() }
    }
}

/// Returns a self-signed certificate. `is_authority` is what `openssl req -x509` makes.
pub fn self_signed(name: &str, is_authority: bool) -> Issued {
    let key = KeyPair::generate().unwrap();
    let mut params = params("self", &[name], VALID);
    if is_authority {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }
    Issued { certificate: params.self_signed(&key).unwrap().pem(), key: key.serialize_pem() }
}

fn params(subject: &str, names: &[&str], (first, last): Years) -> CertificateParams {
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name.push(DnType::CommonName, subject);
    params.not_before = date_time_ymd(first, 1, 1);
    params.not_after = date_time_ymd(last, 12, 31);
    params
}
