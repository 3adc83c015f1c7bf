//! What a provider publishes about itself: `OpenID` Connect Discovery 1.0, and authorization server metadata
//! (RFC 8414). And what a server with protected resources publishes: its authorization servers (RFC 9728).

mod document;
mod registration;
mod resource;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use oauth2::url::Url;
use serde_json::json;

use self::document::{Document, LONGEST_SEARCH};
pub use self::resource::ProtectedResource;
use super::endpoint::endpoint;
use super::http::Http;
use super::{OAuth2Client, OAuth2Error, on_io};

/// The field with the endpoints for clients with a certificate (RFC 8705, 5).
const MTLS_ALIASES: &str = "mtls_endpoint_aliases";

/// The endpoints that are used and may have an alias there.
const ALIASED: [&str; 3] =
    ["device_authorization_endpoint", "revocation_endpoint", "token_endpoint"];

/// What a provider says about itself: its endpoints, and what it supports.
///
/// [`discover`](Self::discover) fetches it. [`to_json`](Self::to_json) and [`from_json`](Self::from_json) keep it,
/// so that a program needs no discovery to refresh tokens. [`OAuth2Client::from_metadata`] makes a client from it.
/// [`register_client`](Self::register_client) registers one.
///
/// ```no_run
/// use tokenkeep::oauth2::{OAuth2Client, OAuth2Error, ProviderMetadata};
///
/// async fn client() -> Result<OAuth2Client, OAuth2Error> {
///     let metadata = ProviderMetadata::discover("https://issuer.example").await?;
///     Ok(OAuth2Client::from_metadata(&metadata, "app")?.with_scopes(["openid", "offline_access"]))
/// }
/// ```
///
/// # Security
///
/// - The issuer in the document must be the one that was asked for, character by character (RFC 8414, 3.3).
///   Otherwise a server could give out the endpoints of another one.
/// - Each endpoint must be one that [`OAuth2Client`] accepts. If the issuer is `https`, its endpoints are too. Without
///   such a token endpoint, the document is refused. Another endpoint that must not be used counts as missing.
/// - An issuer is refused if it is written otherwise than a browser shows it, for example with a blank before it, or
///   with letters outside ASCII in its host. Such texts look like another issuer.
/// - A server that names its code challenge methods and not S256 is refused if it has an authorization endpoint.
///   Without PKCE, a stolen authorization code is enough to sign in (RFC 9700, 2.1.1).
/// - No redirect is followed. A document may have 256 KiB, and a search may take 20 seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderMetadata {
    issuer: String,
    token_endpoint: String,
    authorization_endpoint: Option<String>,
    device_authorization_endpoint: Option<String>,
    revocation_endpoint: Option<String>,
    registration_endpoint: Option<String>,
    /// The endpoints for clients with a certificate, by the names of the usual ones.
    mtls_aliases: BTreeMap<&'static str, String>,
    always_sends_issuer: bool,
    /// `None` means `client_secret_basic` (RFC 8414, 2).
    auth_methods: Option<Vec<String>>,
    challenge_methods: Option<Vec<String>>,
    scopes: Option<Vec<String>>,
}

impl ProviderMetadata {
    /// Fetches the metadata of an issuer.
    ///
    /// It is looked for at up to 3 places of the issuer's host. For `https://issuer.example/tenant`:
    ///
    /// 1. `/tenant/.well-known/openid-configuration` (`OpenID` Connect Discovery 1.0, 4),
    /// 2. `/.well-known/oauth-authorization-server/tenant` (RFC 8414, 3),
    /// 3. `/.well-known/openid-configuration/tenant` (RFC 8414, 5).
    ///
    /// The next place is tried only if there is nothing at this one: an answer of 3xx or 4xx without `Retry-After`, or a
    /// page that is not JSON.
    ///
    /// # Errors
    ///
    /// - [`OAuth2Error::InvalidSetting`] for an issuer that is no URL for an endpoint, or has a query,
    /// - [`OAuth2Error::Unavailable`] if the host cannot be reached or cannot answer now,
    /// - [`OAuth2Error::Misconfigured`] if there is no metadata, if it is of another issuer, or if it names no token
    ///   endpoint that may be used.
    ///
    /// # Cancel safety
    ///
    /// Only public documents are read. The call can be repeated.
    pub async fn discover(issuer: &str) -> Result<Self, OAuth2Error> {
        Self::discover_with(Http::new(), issuer).await
    }

    async fn discover_with(http: Http, issuer: &str) -> Result<Self, OAuth2Error> {
        let url = identifier("issuer", issuer)?;
        let (issuer, places) = (issuer.to_owned(), places_of(&url));
        let found = on_io(async move {
            Self::read(&issuer, &url, &Document::fetch(&http, &places, LONGEST_SEARCH).await?)
        });
        found.await
    }

    /// Reads the metadata of this issuer, from the text that [`to_json`](Self::to_json) returned or that the
    /// provider published. Checks all that [`discover`](Self::discover) checks.
    ///
    /// # Errors
    ///
    /// [`OAuth2Error::InvalidSetting`] and [`OAuth2Error::Misconfigured`], as for [`discover`](Self::discover). No
    /// error quotes the text.
    pub fn from_json(issuer: &str, json: &[u8]) -> Result<Self, OAuth2Error> {
        let url = identifier("issuer", issuer)?;
        let place = format!("the metadata of {}", url.authority());
        Self::read(issuer, &url, &Document::new(place, json.to_vec()))
    }

    fn read(issuer: &str, url: &Url, document: &Document) -> Result<Self, OAuth2Error> {
        let fields = document.fields()?;
        let found: Option<String> = fields.get("issuer")?;
        is_issuer(issuer, found.as_deref().unwrap_or_default())
            .map_err(|what| document.wrong(what))?;
        let token_endpoint = fields
            .endpoint("token_endpoint", url)?
            .ok_or_else(|| document.wrong("token_endpoint is missing"))?;
        // What is not needed and cannot be used counts as missing: it must not spoil the rest.
        let endpoint = |name| fields.endpoint(name, url).unwrap_or_default();
        let aliases = fields.inner(MTLS_ALIASES);
        let aliases = aliases.as_ref().and_then(|aliases| aliases.fields().ok());
        let alias = |name| aliases.as_ref()?.endpoint(name, url).unwrap_or_default();
        let mtls_aliases =
            ALIASED.into_iter().filter_map(|name| Some((name, alias(name)?))).collect();
        let metadata = Self {
            issuer: issuer.to_owned(),
            token_endpoint,
            authorization_endpoint: endpoint("authorization_endpoint"),
            device_authorization_endpoint: endpoint("device_authorization_endpoint"),
            revocation_endpoint: endpoint("revocation_endpoint"),
            registration_endpoint: endpoint("registration_endpoint"),
            mtls_aliases,
            always_sends_issuer: fields.flag("authorization_response_iss_parameter_supported"),
            auth_methods: fields.optional("token_endpoint_auth_methods_supported"),
            challenge_methods: fields.optional("code_challenge_methods_supported"),
            scopes: fields.optional("scopes_supported"),
        };
        let has_no_s256 = |methods: &Vec<String>| !methods.iter().any(|method| method == "S256");
        if metadata.authorization_endpoint.is_some()
            && metadata.challenge_methods.as_ref().is_some_and(has_no_s256)
        {
            return Err(document.wrong(
                "code_challenge_methods_supported has no S256, without which a sign-in by browser is not safe; \
                 set the URLs yourself, and no authorization URL",
            ));
        }
        Ok(metadata)
    }

    /// Returns what is used of the metadata, as a JSON object with the names of RFC 8414. It contains no secret.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut fields = json!({
            "authorization_endpoint": self.authorization_endpoint,
            "authorization_response_iss_parameter_supported": self.always_sends_issuer,
            "code_challenge_methods_supported": self.challenge_methods,
            "device_authorization_endpoint": self.device_authorization_endpoint,
            "issuer": self.issuer,
            "registration_endpoint": self.registration_endpoint,
            "revocation_endpoint": self.revocation_endpoint,
            "scopes_supported": self.scopes,
            "token_endpoint": self.token_endpoint,
            "token_endpoint_auth_methods_supported": self.auth_methods,
        });
        if !self.mtls_aliases.is_empty() {
            fields[MTLS_ALIASES] = json!(self.mtls_aliases);
        }
        if let Some(fields) = fields.as_object_mut() {
            fields.retain(|_, value| !value.is_null());
        }
        format!("{fields:#}\n")
    }

    /// Returns the same metadata for a client with a certificate: some providers have endpoints of their own for
    /// these (RFC 8705, 5).
    #[must_use]
    pub fn for_client_certificate(&self) -> Self {
        let alias = |name| self.mtls_aliases.get(name).cloned();
        let mut metadata = self.clone();
        if let Some(url) = alias("token_endpoint") {
            metadata.token_endpoint = url;
        }
        let others = [
            ("device_authorization_endpoint", &mut metadata.device_authorization_endpoint),
            ("revocation_endpoint", &mut metadata.revocation_endpoint),
        ];
        for (name, endpoint) in others {
            *endpoint = alias(name).or(endpoint.take());
        }
        metadata
    }

    /// Returns the issuer, as it was asked for.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Returns the URL for [`OAuth2Client::new`].
    #[must_use]
    pub fn token_endpoint(&self) -> &str {
        &self.token_endpoint
    }

    /// Returns the URL for [`OAuth2Client::with_authorization_url`].
    #[must_use]
    pub fn authorization_endpoint(&self) -> Option<&str> {
        self.authorization_endpoint.as_deref()
    }

    /// Returns the URL for [`OAuth2Client::with_device_authorization_url`].
    #[must_use]
    pub fn device_authorization_endpoint(&self) -> Option<&str> {
        self.device_authorization_endpoint.as_deref()
    }

    /// Returns the URL for [`OAuth2Client::with_revocation_url`].
    #[must_use]
    pub fn revocation_endpoint(&self) -> Option<&str> {
        self.revocation_endpoint.as_deref()
    }

    /// Returns whether each answer to a sign-in by browser names the issuer (RFC 9207).
    #[must_use]
    pub fn always_sends_issuer(&self) -> bool {
        self.always_sends_issuer
    }

    /// Returns whether the provider accepts a client's secret in the body and not by HTTP Basic. A provider that
    /// does not say accepts HTTP Basic (RFC 8414, 2).
    #[must_use]
    pub fn needs_secret_in_body(&self) -> bool {
        let has = |wanted| {
            let methods = self.auth_methods.as_ref();
            methods.is_some_and(|methods| methods.iter().any(|method| method == wanted))
        };
        has("client_secret_post") && !has("client_secret_basic")
    }

    /// Returns whether the provider lists this scope. It may know scopes that it does not list.
    #[must_use]
    pub fn offers_scope(&self, scope: &str) -> bool {
        self.scopes.as_ref().is_some_and(|scopes| scopes.iter().any(|offered| offered == scope))
    }
}

impl OAuth2Client {
    /// Makes a client from a provider's metadata and the id under which the client is registered.
    ///
    /// It has all endpoints that the metadata names. A secret is sent in the body if the provider accepts it only
    /// there.
    ///
    /// # Errors
    ///
    /// [`OAuth2Error::InvalidSetting`], as for [`new`](Self::new).
    pub fn from_metadata(
        metadata: &ProviderMetadata,
        client_id: impl Into<String>,
    ) -> Result<Self, OAuth2Error> {
        let mut client = Self::new(metadata.token_endpoint(), client_id)?
            .with_issuer(metadata.issuer(), metadata.always_sends_issuer())?;
        if let Some(url) = metadata.authorization_endpoint() {
            client = client.with_authorization_url(url)?;
        }
        if let Some(url) = metadata.device_authorization_endpoint() {
            client = client.with_device_authorization_url(url)?;
        }
        if let Some(url) = metadata.revocation_endpoint() {
            client = client.with_revocation_url(url)?;
        }
        if metadata.needs_secret_in_body() {
            client = client.with_secret_in_body();
        }
        Ok(client)
    }

    /// Fetches the metadata of an issuer as this client connects: by its proxy and with its certificate.
    /// Otherwise the same as [`ProviderMetadata::discover`].
    ///
    /// # Errors
    ///
    /// As for [`ProviderMetadata::discover`].
    ///
    /// # Cancel safety
    ///
    /// As for [`ProviderMetadata::discover`].
    pub async fn discover(&self, issuer: &str) -> Result<ProviderMetadata, OAuth2Error> {
        ProviderMetadata::discover_with(self.http.clone(), issuer).await
    }
}

/// Parses the URL of an issuer or of a resource. Both are compared, sent and shown as they are written. So the text must
/// be the one to which the URL leads: a parser drops blanks and line ends, for example, and translates hosts.
fn identifier(setting: &'static str, text: &str) -> Result<Url, OAuth2Error> {
    let url = endpoint(setting, text)?;
    if url.query().is_some() {
        let reason = "has a query (?), which it must not have; remove it";
        return Err(OAuth2Error::InvalidSetting { setting, reason });
    }
    let is = |text: &str| url.as_str() == text || url.as_str().strip_suffix('/') == Some(text);
    // Some issuers name the port that they need not name.
    if !is(text) && !is(&text.replacen(":443", "", 1)) {
        let reason = "is not written as URLs are: without blanks, line ends and backslashes, in small letters up to \
                      the path, and with letters outside ASCII encoded; correct it";
        return Err(OAuth2Error::InvalidSetting { setting, reason });
    }
    Ok(url)
}

/// Returns where the metadata of an issuer may be.
fn places_of(issuer: &Url) -> Vec<Url> {
    let path = issuer.path().trim_end_matches('/');
    let mut places = vec![
        format!("{path}/.well-known/openid-configuration"),
        format!("/.well-known/oauth-authorization-server{path}"),
        format!("/.well-known/openid-configuration{path}"),
    ];
    if path.is_empty() {
        places.pop();
    }
    let at = |path: String| {
        let mut url = issuer.clone();
        url.set_path(&path);
        url
    };
    places.into_iter().map(at).collect()
}

/// Checks the issuer that a document names. It is compared as text: two URLs that most programs take for the same
/// are different issuers (RFC 8414, 3.3).
fn is_issuer(wanted: &str, found: &str) -> Result<(), &'static str> {
    if found == wanted {
        return Ok(());
    }
    let is_same_but_for_slash = found.trim_end_matches('/') == wanted.trim_end_matches('/');
    Err(match found {
        "" => "it does not name its issuer",
        // Microsoft's, for `common` and `organizations`.
        _ if found.contains('{') => {
            "its issuer is a template; write the id of the tenant into the issuer, or set the URLs yourself"
        }
        _ if is_same_but_for_slash && found.ends_with('/') => {
            "its issuer ends with a slash; write the issuer with it"
        }
        _ if is_same_but_for_slash => {
            "its issuer ends without a slash; write the issuer without it"
        }
        _ => "it is of another issuer; write the issuer exactly as the provider does",
    })
}
