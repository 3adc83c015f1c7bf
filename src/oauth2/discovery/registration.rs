//! Clients that register themselves: OAuth 2.0 Dynamic Client Registration (RFC 7591).

use serde_json::json;

use super::super::endpoint::endpoint;
use super::super::http::Http;
use super::super::{OAuth2Error, on_io};
use super::ProviderMetadata;
use super::document::Document;

/// The maximum length of a client's id. Ids that are documents (client id metadata) are URLs, and shorter.
const LONGEST_ID: usize = 2048;

impl ProviderMetadata {
    /// Returns whether clients can register themselves (RFC 7591).
    #[must_use]
    pub fn registers_clients(&self) -> bool {
        self.registration_endpoint.is_some()
    }

    /// Registers a client that has no secret and signs in by browser, and returns its id. The name is shown to the
    /// person who signs in.
    ///
    /// The provider keeps the client. Register once, and keep the id.
    ///
    /// # Errors
    ///
    /// - [`OAuth2Error::InvalidSetting`] if the metadata names no endpoint for this that may be used,
    /// - [`OAuth2Error::Unavailable`] if the provider cannot be reached or cannot answer now,
    /// - [`OAuth2Error::Misconfigured`] if it refuses, or if it wants the client to have a secret.
    ///
    /// # Cancel safety
    ///
    /// The client may have been registered or not. Without its id it is of no use to anybody.
    pub async fn register_client(
        &self,
        name: &str,
        redirect_uri: &str,
        scopes: &[&str],
    ) -> Result<String, OAuth2Error> {
        const SETTING: &str = "registration_endpoint";

        let Some(url) = &self.registration_endpoint else {
            let reason = "is not in the metadata: this provider registers no clients by itself";
            return Err(OAuth2Error::InvalidSetting { setting: SETTING, reason });
        };
        let url = endpoint(SETTING, url)?;
        let client = json!({
            "application_type": "native",
            "client_name": name,
            "grant_types": ["authorization_code", "refresh_token"],
            "redirect_uris": [redirect_uri],
            "response_types": ["code"],
            "scope": scopes.join(" "),
            "token_endpoint_auth_method": "none",
        });
        let registered = on_io(async move {
            let host = url.authority();
            let answer = Http::new().post_json(&url, client.to_string()).await?.judge(host)?;
            let document = Document::new(format!("the answer of {host}"), answer);
            let fields = document.fields()?;
            let id: String = fields.get("client_id")?.unwrap_or_default();
            let is_readable = |byte: u8| (b' '..=b'~').contains(&byte);
            // RFC 6749, A.1.
            if id.is_empty() || id.len() > LONGEST_ID || !id.bytes().all(is_readable) {
                return Err(document.wrong("it has no client_id that can be used"));
            }
            let method: Option<String> = fields.get("token_endpoint_auth_method")?;
            let secret: Option<String> = fields.get("client_secret")?;
            if secret.is_some_and(|secret| !secret.is_empty()) && method.as_deref() != Some("none")
            {
                return Err(document
                    .wrong("the client has a secret, which would be lost; register one yourself"));
            }
            Ok(id)
        });
        registered.await
    }
}
