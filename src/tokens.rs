//! Access tokens and refresh tokens, and when they expire.

mod expiry;
pub(crate) mod foreign;
pub(crate) mod form;
mod into_refresh_token;
pub(crate) mod json;
mod jwt;
pub(crate) mod text;
pub(crate) mod time;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

pub(crate) use expiry::{Buffers, Schedule};
pub use expiry::{EXPIRY_BUFFER, Freshness, REFRESH_BUFFER, SIGN_IN_BUFFER};
pub use into_refresh_token::IntoRefreshToken;

/// Defines one newtype per kind of token. A refresh token that is passed as an access token does not compile.
macro_rules! secret_token {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// A clone shares the secret and copies nothing. The memory is wiped when the last clone is dropped.
        /// `Debug` shows no secret. A comparison takes the same time wherever two tokens of one length
        /// differ. There is no `Display`, `Serialize` or `Deref`.
        #[derive(Clone)]
        pub struct $name(Arc<Handle>);

        impl $name {
            /// Returns the secret text.
            ///
            /// # Security
            ///
            /// This is the only way to get the secret. If the caller copies it, the caller has to wipe the
            /// copy, and to keep it out of logs and argument lists.
            #[must_use]
            pub fn expose_secret(&self) -> &str {
                #[expect(clippy::disallowed_methods, reason = "the one way out")]
                self.0.0.expose_secret()
            }
        }

        impl From<SecretString> for $name {
            fn from(secret: SecretString) -> Self {
                Self(Arc::new(Handle(Arc::new(secret))))
            }
        }

        impl From<&str> for $name {
            fn from(secret: &str) -> Self {
                // The buffer has the exact size, so the secret is never moved.
                Self::from(SecretString::from(Box::<str>::from(secret)))
            }
        }

        impl From<String> for $name {
            /// Copies the secret into a buffer of the exact size and wipes the original. Shrinking the
            /// `String` in place could leave a copy behind.
            fn from(mut secret: String) -> Self {
                let token = Self::from(secret.as_str());
                secret.zeroize();
                token
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "([REDACTED])"))
            }
        }

        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                same_secret(&self.0.0, &other.0.0)
            }
        }

        impl Eq for $name {}
    };
}

/// The reference count that the clones of a token share. It has cache lines of its own: processors fetch two
/// lines of 64 bytes at once, or one of 128.
#[repr(align(128))]
struct Handle(Arc<SecretString>);

secret_token! {
    /// The token that a program sends with each request, in the `Authorization` header.
    AccessToken
}

secret_token! {
    /// The long-lived token that a program sends to the provider to get a new access token.
    RefreshToken
}

impl AccessToken {
    /// Returns the same secret with a reference count of its own. Threads that clone the one do not wait for
    /// threads that clone the other.
    pub(crate) fn clone_unshared(&self) -> Self {
        Self(Arc::new(Handle(self.0.0.clone())))
    }
}

/// An access token, and what the provider sent with it.
///
/// ```
/// use chrono::{Duration, Utc};
/// use tokenkeep::AuthTokens;
///
/// let tokens = AuthTokens::new("eyJhbGciOiJIUzI1NiIs...")
///     .with_refresh_token("refresh_token_value")
///     .with_expires_at(Utc::now() + Duration::hours(1));
///
/// assert!(!tokens.is_expired(Utc::now()));
/// assert!(!format!("{tokens:?}").contains("refresh_token_value"));
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct AuthTokens {
    /// The token for requests.
    pub access_token: AccessToken,
    /// The token to get the next access token with. Servers send none with the client credentials grant.
    pub refresh_token: Option<RefreshToken>,
    /// When the server stops accepting the access token, in UTC, if the server said so. If it did not,
    /// [`expiry`](Self::expiry) reads the token's own claims.
    pub expires_at: Option<DateTime<Utc>>,
    /// When these tokens were obtained, by this machine's clock. [`TokenManager`] fills it in.
    ///
    /// [`TokenManager`]: crate::TokenManager
    pub obtained_at: Option<DateTime<Utc>>,
    /// When the server stops accepting the refresh token, in UTC, if the server said so.
    pub refresh_expires_at: Option<DateTime<Utc>>,
    /// When the refresh token was obtained, if an earlier answer brought it than the access token.
    pub(crate) refresh_obtained_at: Option<DateTime<Utc>>,
    /// Whether the server said that the refresh token does not expire, so that an earlier date does not count. It
    /// is part of an answer, and is not saved.
    pub(crate) refresh_never_expires: bool,
    extra: Arc<BTreeMap<String, Extra>>,
    client_secret: Option<SecretString>,
    backup: bool,
}

/// A value that the provider sent with the tokens.
#[derive(Clone, Debug)]
struct Extra {
    text: SecretString,
    /// Whether the text is JSON. If not, it is the content of a JSON string.
    is_json: bool,
}

impl PartialEq for Extra {
    fn eq(&self, other: &Self) -> bool {
        self.is_json == other.is_json && same_secret(&self.text, &other.text)
    }
}

impl AuthTokens {
    /// Makes tokens that consist of an access token only.
    #[must_use]
    pub fn new(access_token: impl Into<AccessToken>) -> Self {
        Self {
            access_token: access_token.into(),
            refresh_token: None,
            expires_at: None,
            obtained_at: None,
            refresh_expires_at: None,
            refresh_obtained_at: None,
            refresh_never_expires: false,
            extra: Arc::default(),
            client_secret: None,
            backup: false,
        }
    }

    /// Makes tokens that consist of a refresh token only. They count as expired.
    #[must_use]
    pub fn without_access_token(refresh_token: impl Into<RefreshToken>) -> Self {
        Self::new("").with_refresh_token(refresh_token.into())
    }

    /// Returns whether there is an access token.
    #[must_use]
    pub fn has_access_token(&self) -> bool {
        #[expect(clippy::disallowed_methods, reason = "looks at the length only")]
        let text = self.access_token.expose_secret();
        !text.is_empty()
    }

    /// Sets the refresh token. It may be an `Option`.
    #[must_use]
    pub fn with_refresh_token(mut self, refresh_token: impl IntoRefreshToken) -> Self {
        self.refresh_token = refresh_token.into_refresh_token();
        self
    }

    /// Sets when the server stops accepting the access token. It may be an `Option`.
    #[must_use]
    pub fn with_expires_at(mut self, expires_at: impl Into<Option<DateTime<Utc>>>) -> Self {
        self.expires_at = expires_at.into();
        self
    }

    /// Sets when the tokens were obtained, by this machine's clock.
    #[must_use]
    pub fn with_obtained_at(mut self, obtained_at: DateTime<Utc>) -> Self {
        self.obtained_at = Some(obtained_at);
        self
    }

    /// Adds another value that the provider sent: `id_token`, `scope` and the like.
    ///
    /// # Security
    ///
    /// Make the secret from a `&str`. A secret that is made from a `String` with spare capacity may leave a
    /// copy behind.
    #[must_use]
    pub fn with_extra(mut self, name: impl Into<String>, value: SecretString) -> Self {
        let extra = Extra { text: value, is_json: false };
        Arc::make_mut(&mut self.extra).insert(name.into(), extra);
        self
    }

    /// Adds another value that the provider sent and that is not a string: a number, a list.
    ///
    /// The value is kept as its JSON text, and a record contains the same JSON. A text that is not JSON is
    /// kept as a string.
    #[must_use]
    pub fn with_json_extra(mut self, name: impl Into<String>, json: SecretString) -> Self {
        let is_json = json::is_value(&json);
        Arc::make_mut(&mut self.extra).insert(name.into(), Extra { text: json, is_json });
        self
    }

    /// Sets the secret of the client that the tokens were issued to. Use it if these tokens have a client of
    /// their own.
    #[must_use]
    pub fn with_client_secret(mut self, secret: SecretString) -> Self {
        self.client_secret = Some(secret);
        self
    }

    /// Removes the secret of the client, for those who get the tokens and not the client.
    #[must_use]
    pub fn without_client_secret(mut self) -> Self {
        self.client_secret = None;
        self
    }

    /// Returns the secret of the client that the tokens were issued to.
    #[must_use]
    pub fn client_secret(&self) -> Option<&SecretString> {
        self.client_secret.as_ref()
    }

    /// Returns another value that the provider sent, by its name.
    ///
    /// A value that is not a JSON string is returned as its JSON text: `true`, `{"a":1}`.
    #[must_use]
    pub fn extra(&self, name: &str) -> Option<&SecretString> {
        self.extra.get(name).map(|extra| &extra.text)
    }

    /// Returns the ID token of an `OpenID` Connect provider: who signed in. Nothing in it is verified.
    #[must_use]
    pub fn id_token(&self) -> Option<&SecretString> {
        self.extra("id_token")
    }

    /// Returns the granted scopes, separated by spaces, if the provider named them (RFC 6749, 5.1).
    #[must_use]
    pub fn scope(&self) -> Option<&str> {
        self.text("scope")
    }

    /// Returns the type of the access token as the provider wrote it, such as `Bearer` or `bearer`. It is
    /// case-insensitive (RFC 6749, 7.1).
    #[must_use]
    pub fn token_type(&self) -> Option<&str> {
        self.text("token_type")
    }

    /// Returns a value that is no secret, if it is a string.
    fn text(&self, name: &str) -> Option<&str> {
        #[expect(clippy::disallowed_methods, reason = "of fields that hold no secrets")]
        self.extra.get(name).filter(|extra| !extra.is_json).map(|extra| extra.text.expose_secret())
    }

    /// Iterates over all other values that the provider sent, sorted by name.
    pub fn extras(&self) -> impl Iterator<Item = (&str, &SecretString)> {
        self.extra.iter().map(|(name, extra)| (name.as_str(), &extra.text))
    }

    /// Like [`extras`](Self::extras), and also returns whether each text is JSON.
    /// Keeps only the fields with these names.
    pub(crate) fn retain_extras(&mut self, keep: impl Fn(&str) -> bool) {
        Arc::make_mut(&mut self.extra).retain(|name, _| keep(name));
    }

    pub(crate) fn typed_extras(
        &self,
    ) -> impl ExactSizeIterator<Item = (&str, &SecretString, bool)> {
        self.extra.iter().map(|(name, extra)| (name.as_str(), &extra.text, extra.is_json))
    }

    /// Returns whether these tokens are a copy made by [`backup`](crate::transfer::backup).
    ///
    /// Such a copy is never refreshed: if two copies of a rotating refresh token are used, the provider ends
    /// the session. [`restore`](crate::transfer::restore) makes a copy that can be refreshed.
    #[must_use]
    pub fn is_backup(&self) -> bool {
        self.backup
    }

    pub(crate) fn with_backup(mut self, backup: bool) -> Self {
        self.backup = backup;
        self
    }
}

/// Compares every field. Secrets are compared in constant time.
impl PartialEq for AuthTokens {
    fn eq(&self, other: &Self) -> bool {
        let same_client_secret = match (&self.client_secret, &other.client_secret) {
            (Some(ours), Some(theirs)) => same_secret(ours, theirs),
            (ours, theirs) => ours.is_none() && theirs.is_none(),
        };
        self.access_token == other.access_token
            && self.refresh_token == other.refresh_token
            && self.expires_at == other.expires_at
            && self.obtained_at == other.obtained_at
            && self.refresh_expires_at == other.refresh_expires_at
            && self.refresh_obtained_at == other.refresh_obtained_at
            && self.backup == other.backup
            && self.extra == other.extra
            && same_client_secret
    }
}

impl Eq for AuthTokens {}

fn same_secret(one: &SecretString, other: &SecretString) -> bool {
    #[expect(clippy::disallowed_methods, reason = "compared in constant time, not copied")]
    let (one, other) = (one.expose_secret(), other.expose_secret());
    one.as_bytes().ct_eq(other.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "tests look at what they made")]

    use super::*;

    #[test]
    fn debug_shows_no_secret() {
        let tokens = AuthTokens::new("access-canary")
            .with_refresh_token("refresh-canary")
            .with_extra("id_token", "id-canary".into());
        let shown = format!("{tokens:?} {tokens:#?}");
        assert!(!shown.contains("canary"), "{shown}");
        assert!(shown.contains("AccessToken([REDACTED])"));
        assert!(shown.contains("id_token"));
    }

    #[test]
    fn cloning_shares_the_secret() {
        let token = AccessToken::from("secret");
        let clone = token.clone();
        assert!(std::ptr::eq(token.expose_secret(), clone.expose_secret()));
    }

    #[test]
    fn an_unshared_clone_shares_the_secret_but_not_the_reference_count() {
        let token = AccessToken::from("secret");
        let apart = token.clone_unshared();
        assert!(std::ptr::eq(token.expose_secret(), apart.expose_secret()));
        let clones = [token.clone(), token.clone()];
        assert_eq!(Arc::strong_count(&apart.0), 1);
        assert_eq!(Arc::strong_count(&token.0), 1 + clones.len());
    }

    #[test]
    fn a_token_has_the_text_of_its_string() {
        let mut text = String::with_capacity(64);
        text.push_str("secret");
        assert_eq!(RefreshToken::from(text).expose_secret(), "secret");
    }

    #[test]
    fn a_refresh_token_and_an_expiry_may_be_an_option() {
        let at = DateTime::UNIX_EPOCH;
        let whole = AuthTokens::new("a").with_refresh_token("r").with_expires_at(at);
        let same = AuthTokens::new("a").with_refresh_token(Some("r")).with_expires_at(Some(at));
        assert_eq!(whole, same);
        let none = whole.with_refresh_token(None::<String>).with_expires_at(None);
        assert_eq!(none, AuthTokens::new("a"));
    }

    #[test]
    fn what_a_provider_sent_with_the_tokens_has_a_name() {
        let none = AuthTokens::new("a");
        assert!(none.id_token().is_none() && none.scope().is_none() && none.token_type().is_none());
        let tokens = none
            .with_extra("id_token", "i".into())
            .with_extra("scope", "read write".into())
            .with_extra("token_type", "bearer".into());
        assert_eq!(tokens.id_token().unwrap().expose_secret(), "i");
        assert_eq!((tokens.scope(), tokens.token_type()), (Some("read write"), Some("bearer")));
        // A value that is no string has no meaning here.
        assert_eq!(tokens.with_json_extra("token_type", "5".into()).token_type(), None);
    }

    #[test]
    fn equality_compares_every_field() {
        let base = AuthTokens::new("a").with_refresh_token("r").with_extra("scope", "x".into());
        assert_eq!(base, base.clone());
        assert_ne!(
            base,
            AuthTokens::new("b").with_refresh_token("r").with_extra("scope", "x".into())
        );
        assert_ne!(
            base,
            AuthTokens::new("a").with_refresh_token("s").with_extra("scope", "x".into())
        );
        assert_ne!(
            base,
            AuthTokens::new("a").with_refresh_token("r").with_extra("scope", "y".into())
        );
        assert_ne!(base, base.clone().with_extra("id_token", "x".into()));
        assert_ne!(base, base.clone().with_expires_at(DateTime::UNIX_EPOCH));
        assert_ne!(base, base.clone().with_obtained_at(DateTime::UNIX_EPOCH));
        assert_ne!(base, base.clone().with_backup(true));
        assert_ne!(base, base.clone().with_client_secret("x".into()));
        let mut dated = base.clone();
        dated.refresh_expires_at = Some(DateTime::UNIX_EPOCH);
        assert_ne!(base, dated);
        let mut dated = base.clone();
        dated.refresh_obtained_at = Some(DateTime::UNIX_EPOCH);
        assert_ne!(base, dated);
        let number = |text: &str| base.clone().with_json_extra("n", text.into());
        assert_ne!(number("1"), base.clone().with_extra("n", "1".into()));
        assert_eq!(number("one"), base.clone().with_extra("n", "one".into()));
    }
}
