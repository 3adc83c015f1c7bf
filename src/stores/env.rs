use std::env::{self, VarError};
use std::fmt;

use async_trait::async_trait;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, Zeroizing};

use crate::error::StoreError;
use crate::record::Record;
use crate::store::{Lease, Precondition, Revision, Stored, TokenStore};
use crate::sys::wipe::with_wiped_stack;
use crate::tokens::form::check_bare_token;
use crate::tokens::{AccessToken, AuthTokens, RefreshToken};

/// Reads tokens from two environment variables, `PREFIX_ACCESS_TOKEN` and `PREFIX_REFRESH_TOKEN`. It is
/// read-only.
///
/// An empty variable counts as not set, and spaces around a value are dropped. A refresh token without an
/// access token is an error.
///
/// # Security
///
/// The children of a process inherit its environment. On Linux, any process of the same user can read it.
#[derive(Clone, Debug)]
pub struct EnvStore {
    prefix: String,
}

impl EnvStore {
    /// Makes a store for the variables whose names start with this prefix, such as `AXIOM`.
    #[must_use]
    pub fn new(prefix: impl Into<String>) -> Self {
        Self { prefix: prefix.into() }
    }

    pub(crate) fn read(&self) -> Result<Option<AuthTokens>, StoreError> {
        let access = self.variable("ACCESS_TOKEN")?;
        let refresh = self.variable("REFRESH_TOKEN")?;
        for (name, token) in [("ACCESS_TOKEN", &access), ("REFRESH_TOKEN", &refresh)] {
            #[expect(clippy::disallowed_methods, reason = "looks at its form only")]
            let check = |token: &SecretString| check_bare_token(token.expose_secret());
            // Searching a text leaves parts of it on the stack.
            let checked = with_wiped_stack(|| token.as_ref().map(check));
            if let Some(Err(reason)) = checked {
                return Err(StoreError::NotARecord {
                    place: format!("environment variable {}_{name}", self.prefix),
                    reason: format!("it {reason}"),
                    advice: "set it to the token alone".into(),
                });
            }
        }
        let Some(access) = access else {
            return match refresh {
                None => Ok(None),
                Some(_) => Err(StoreError::Corrupt {
                    place: self.to_string(),
                    reason: "there is a refresh token and no access token".into(),
                }),
            };
        };
        let mut tokens = AuthTokens::new(AccessToken::from(access));
        tokens.refresh_token = refresh.map(RefreshToken::from);
        Ok(Some(tokens))
    }

    fn variable(&self, name: &str) -> Result<Option<SecretString>, StoreError> {
        let name = format!("{}_{name}", self.prefix);
        match env::var(&name).map(Zeroizing::new) {
            Ok(value) if value.trim().is_empty() => Ok(None),
            Ok(value) => Ok(Some(SecretString::from(Box::<str>::from(value.trim())))),
            Err(VarError::NotPresent) => Ok(None),
            Err(VarError::NotUnicode(value)) => {
                value.into_encoded_bytes().zeroize();
                Err(StoreError::Corrupt {
                    place: format!("environment variable {name}"),
                    reason: "it is not UTF-8 text".into(),
                })
            }
        }
    }

    fn read_only(&self) -> StoreError {
        StoreError::ReadOnly {
            place: self.to_string(),
            reason: "a program cannot keep tokens in its environment; use another store".into(),
        }
    }
}

impl fmt::Display for EnvStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "environment variables {}_*", self.prefix)
    }
}

#[async_trait]
impl TokenStore for EnvStore {
    async fn load(&self) -> Result<Option<Stored>, StoreError> {
        let Some(tokens) = self.read()? else { return Ok(None) };
        #[expect(clippy::disallowed_methods, reason = "only their digest is kept")]
        let texts = [
            tokens.access_token.expose_secret(),
            tokens.refresh_token.as_ref().map_or("", RefreshToken::expose_secret),
        ];
        let mut digest = Sha256::new();
        for text in texts {
            digest.update(Sha256::digest(text));
        }
        let revision = Revision::new(digest.finalize().as_slice());
        Ok(Some(Stored { record: tokens.into(), revision }))
    }

    async fn save(&self, _record: &Record, _expect: Precondition) -> Result<Revision, StoreError> {
        Err(self.read_only())
    }

    async fn clear(&self, _expect: Precondition) -> Result<(), StoreError> {
        Err(self.read_only())
    }

    async fn try_lease(&self) -> Result<Option<Box<dyn Lease>>, StoreError> {
        Err(self.read_only())
    }
}
