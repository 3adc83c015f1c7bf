//! A client that proves with a signature who it is: `private_key_jwt` (RFC 7523, 2.2, and `OpenID` Connect
//! Core, 9).

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use rustls::SignatureScheme;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::sign::SigningKey;
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use super::OAuth2Error;
use super::failure::Failed;
use crate::sys::clock;

/// The value of `client_assertion_type` (RFC 7523, 2.2).
pub(super) const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// How long an assertion is valid. A clock that is a minute slow must not make it look expired, and servers
/// accept an hour at most.
const VALID_FOR: Duration = Duration::from_secs(300);

/// The algorithms (RFC 7518, 3.1, and RFC 8037, 3.1). The first that fits a key is its default.
const ALGORITHMS: [(&str, SignatureScheme); 9] = [
    ("RS256", SignatureScheme::RSA_PKCS1_SHA256),
    ("RS384", SignatureScheme::RSA_PKCS1_SHA384),
    ("RS512", SignatureScheme::RSA_PKCS1_SHA512),
    ("PS256", SignatureScheme::RSA_PSS_SHA256),
    ("PS384", SignatureScheme::RSA_PSS_SHA384),
    ("PS512", SignatureScheme::RSA_PSS_SHA512),
    ("ES256", SignatureScheme::ECDSA_NISTP256_SHA256),
    ("ES384", SignatureScheme::ECDSA_NISTP384_SHA384),
    ("EdDSA", SignatureScheme::ED25519),
];

/// A private key with which a client authenticates itself instead of with a secret.
///
/// The key is PEM: PKCS #8 (`BEGIN PRIVATE KEY`), PKCS #1 (`BEGIN RSA PRIVATE KEY`) or SEC 1
/// (`BEGIN EC PRIVATE KEY`), of RSA, P-256, P-384 or Ed25519. Its public key is registered at the provider.
///
/// # Security
///
/// The signature proves to the provider that this client has the key, and the key is never sent. An assertion
/// is valid for 5 minutes, at one provider. The libraries that sign keep copies of the key and do not wipe
/// them.
#[derive(Clone)]
pub struct PrivateKeyJwt {
    key: Arc<dyn SigningKey>,
    algorithm: &'static str,
    scheme: SignatureScheme,
    key_id: Option<String>,
    audience: Option<String>,
}

impl PrivateKeyJwt {
    /// Reads a key. Its algorithm is RS256, ES256, ES384 or `EdDSA`.
    ///
    /// # Errors
    ///
    /// [`OAuth2Error::InvalidSetting`] if it is no such key. The text contains nothing of it.
    pub fn from_pem(pem: &SecretString) -> Result<Self, OAuth2Error> {
        #[expect(clippy::disallowed_methods, reason = "a key is read from it")]
        let pem = pem.expose_secret();
        if pem.contains("ENCRYPTED") {
            return Err(invalid(
                "is protected by a passphrase; store it without one: `openssl pkey`",
            ));
        }
        let not_pem = "is not a private key in PEM; convert it with `openssl pkey`";
        let der = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| invalid(not_pem))?;
        let not_known =
            "is no key of RSA (2048 bits or more), P-256, P-384 or Ed25519; make another one";
        let key = any_supported_type(&der).map_err(|_| invalid(not_known))?;
        let mut algorithms = ALGORITHMS.iter();
        let &(algorithm, scheme) = algorithms
            .find(|(_, scheme)| key.choose_scheme(&[*scheme]).is_some())
            .ok_or_else(|| invalid(not_known))?;
        Ok(Self { key, algorithm, scheme, key_id: None, audience: None })
    }

    /// Signs with this algorithm: RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384 or `EdDSA`.
    ///
    /// # Errors
    ///
    /// [`OAuth2Error::InvalidSetting`] if the key cannot be used with it.
    pub fn with_algorithm(mut self, algorithm: &str) -> Result<Self, OAuth2Error> {
        let known = ALGORITHMS.iter().find(|(name, _)| *name == algorithm);
        let fits = known.filter(|(_, scheme)| self.key.choose_scheme(&[*scheme]).is_some());
        let Some(&(algorithm, scheme)) = fits else {
            let reason = "is not an algorithm of this key; RSA has RS256 to RS512 and PS256 to PS512, P-256 \
                          has ES256, P-384 has ES384, Ed25519 has EdDSA";
            let setting = "client_assertion_algorithm";
            return Err(OAuth2Error::InvalidSetting { setting, reason });
        };
        (self.algorithm, self.scheme) = (algorithm, scheme);
        Ok(self)
    }

    /// Names the key, for a client that has registered several of them (`kid`).
    #[must_use]
    pub fn with_key_id(mut self, key_id: impl Into<String>) -> Self {
        self.key_id = Some(key_id.into());
        self
    }

    /// Names the provider in the assertion by this text (`aud`), instead of by its issuer or, if that is not
    /// known, by its token URL.
    #[must_use]
    pub fn with_audience(mut self, audience: impl Into<String>) -> Self {
        self.audience = Some(audience.into());
        self
    }

    /// Makes an assertion. It is for one request: providers accept each only once.
    pub(super) fn sign(
        &self,
        client_id: &str,
        provider: &str,
        now: SystemTime,
    ) -> Result<Zeroizing<String>, Failed> {
        let cannot = |reason: &str| Failed::Unsendable {
            reason: format!("the client's assertion cannot be signed: {reason}"),
        };
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(|_| cannot("the system gives no random bytes"))?;
        let issued = clock::date(now).timestamp();
        let mut header = serde_json::json!({ "alg": self.algorithm, "typ": "JWT" });
        if let Some(key_id) = &self.key_id {
            header["kid"] = key_id.as_str().into();
        }
        let claims = serde_json::json!({
            "aud": self.audience.as_deref().unwrap_or(provider),
            "exp": issued.saturating_add_unsigned(VALID_FOR.as_secs()),
            "iat": issued,
            "iss": client_id,
            "jti": BASE64_URL_SAFE_NO_PAD.encode(id),
            "sub": client_id,
        });
        let part = |json: &serde_json::Value| BASE64_URL_SAFE_NO_PAD.encode(json.to_string());
        let signed = format!("{}.{}", part(&header), part(&claims));
        let signer = self.key.choose_scheme(&[self.scheme]);
        let signer = signer.ok_or_else(|| cannot("its key has no such algorithm"))?;
        let signature =
            signer.sign(signed.as_bytes()).map_err(|_| cannot("the key does not work"))?;
        let signature = match self.scheme {
            SignatureScheme::ECDSA_NISTP256_SHA256 => fixed(&signature, 32),
            SignatureScheme::ECDSA_NISTP384_SHA384 => fixed(&signature, 48),
            _ => Some(signature),
        };
        let signature = signature.ok_or_else(|| cannot("the signature has another form"))?;
        Ok(Zeroizing::new(format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))))
    }
}

/// Shows the algorithm, and nothing of the key.
impl fmt::Debug for PrivateKeyJwt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrivateKeyJwt")
            .field("algorithm", &self.algorithm)
            .field("key_id", &self.key_id)
            .finish_non_exhaustive()
    }
}

fn invalid(reason: &'static str) -> OAuth2Error {
    OAuth2Error::InvalidSetting { setting: "client_assertion_key", reason }
}

/// Converts a signature of ECDSA. TLS has two integers in DER, and a JWT has two numbers of a fixed length
/// (RFC 7518, 3.4).
fn fixed(der: &[u8], length: usize) -> Option<Vec<u8>> {
    let integer = |der: &[u8]| -> Option<(Vec<u8>, usize)> {
        let (&[0x02, size], rest) = der.split_first_chunk()? else { return None };
        let digits = rest.get(..usize::from(size))?;
        let start = digits.iter().position(|&digit| digit != 0)?;
        let digits = &digits[start..];
        let mut number = vec![0; length.checked_sub(digits.len())?];
        number.extend_from_slice(digits);
        Some((number, 2 + usize::from(size)))
    };
    // Both curves have signatures of less than 128 bytes, so the length of the whole is one byte.
    let (&[0x30, _], rest) = der.split_first_chunk()? else { return None };
    let (mut both, end) = integer(rest)?;
    both.extend(integer(&rest[end..])?.0);
    Some(both)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "tests look at what they made")]

    use super::*;

    const P256: &str = "-----BEGIN PRIVATE KEY-----\n\
        MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgevZzL1gdAFr88hb2\n\
        OF/2NxApJCzGCEDdfSp6VQO30hyhRANCAAQRWz+jn65BtOMvdyHKcvjBeBSDZH2r\n\
        1RTwjmYSi9R/zpBnuQ4EiMnCqfMPWiZqB4QdbAd0E7oH50VpuZ1P087G\n\
        -----END PRIVATE KEY-----\n";

    fn key() -> PrivateKeyJwt {
        PrivateKeyJwt::from_pem(&SecretString::from(P256)).unwrap()
    }

    #[test]
    fn an_assertion_names_the_client_and_the_provider_and_is_valid_for_5_minutes() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let sign = || key().with_key_id("k1").sign("app", "https://issuer.example", now).unwrap();
        let (one, other) = (sign(), sign());
        let parts: Vec<_> = one.split('.').collect();
        let json = |part: &str| -> serde_json::Value {
            serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
        };
        assert_eq!(json(parts[0]), serde_json::json!({"alg":"ES256","kid":"k1","typ":"JWT"}));
        let claims = json(parts[1]);
        assert_eq!(claims["iss"], "app");
        assert_eq!(claims["sub"], "app");
        assert_eq!(claims["aud"], "https://issuer.example");
        assert_eq!(
            (&claims["iat"], &claims["exp"]),
            (&1_800_000_000.into(), &1_800_000_300.into())
        );
        assert_eq!(BASE64_URL_SAFE_NO_PAD.decode(parts[2]).unwrap().len(), 64);
        assert_ne!(json(other.split('.').nth(1).unwrap())["jti"], claims["jti"]);
    }

    #[test]
    fn a_signature_in_der_becomes_two_numbers_of_a_fixed_length() {
        let der = [0x30, 8, 0x02, 2, 0, 0x80, 0x02, 2, 0x01, 0x02];
        assert_eq!(fixed(&der, 4).unwrap(), [0, 0, 0, 0x80, 0, 0, 1, 2]);
        for der in [&[][..], &[0x30], &[0x30, 2, 0x02, 9], &[0x30, 3, 0x03, 1, 1], &der[..6]] {
            assert_eq!(fixed(der, 4), None, "{der:?}");
        }
        assert_eq!(fixed(&[0x30, 6, 0x02, 1, 1, 0x02, 2, 1, 2], 1), None);
    }

    #[test]
    fn a_text_that_is_no_usable_key_is_refused_and_not_shown() {
        for pem in [
            "",
            "canary",
            "-----BEGIN PRIVATE KEY-----\ncanary\n-----END PRIVATE KEY-----\n",
            "-----BEGIN PRIVATE KEY-----\nY2FuYXJ5\n-----END PRIVATE KEY-----\n",
            "-----BEGIN CERTIFICATE-----\nY2FuYXJ5\n-----END CERTIFICATE-----\n",
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nY2FuYXJ5\n-----END ENCRYPTED PRIVATE KEY-----\n",
        ] {
            let error = PrivateKeyJwt::from_pem(&SecretString::from(pem)).unwrap_err().to_string();
            assert!(error.starts_with("client_assertion_key is "), "{error}");
            assert!(!error.contains("canary") && !error.contains("Y2Fu"), "{error}");
        }
        assert!(!format!("{:?}", key()).contains("evZzL1"));
        for algorithm in ["RS256", "ES384", "none", "HS256", ""] {
            let error = key().with_algorithm(algorithm).unwrap_err().to_string();
            assert!(error.starts_with("client_assertion_algorithm "), "{error}");
        }
    }
}
