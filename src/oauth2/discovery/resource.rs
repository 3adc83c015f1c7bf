//! Which providers issue the tokens for a server: OAuth 2.0 Protected Resource Metadata (RFC 9728).

use oauth2::url::Url;

use super::super::http::Http;
use super::super::{OAuth2Error, on_io};
use super::document::{Document, LONGEST_SEARCH};
use super::identifier;

/// A server that accepts tokens, such as an MCP server, and the issuers of these tokens.
///
/// The issuer is for [`ProviderMetadata::discover`](super::ProviderMetadata::discover).
///
/// # Security
///
/// The server decides at which issuer a person signs in. Show the issuer to that person. Its text is ASCII, and leads to
/// the host that it names. If the server is `https`, its issuers are too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProtectedResource {
    resource: String,
    issuers: Vec<String>,
}

impl ProtectedResource {
    /// Fetches what a server says about its tokens.
    ///
    /// For `https://mcp.example/api` it is looked for at `/.well-known/oauth-protected-resource/api` (RFC 9728, 3.1).
    /// If there is nothing, it is looked for at `/.well-known/oauth-protected-resource`, as the Model Context
    /// Protocol demands.
    ///
    /// # Errors
    ///
    /// As for [`ProviderMetadata::discover`](super::ProviderMetadata::discover). A document about another resource
    /// is an error (RFC 9728, 3.3).
    ///
    /// # Cancel safety
    ///
    /// Only public documents are read. The call can be repeated.
    pub async fn discover(resource: &str) -> Result<Self, OAuth2Error> {
        let url = identifier("resource", resource)?;
        let (wanted, places) = (resource.to_owned(), places_of(&url));
        let found = on_io(async move {
            let document = Document::fetch(&Http::new(), &places, LONGEST_SEARCH).await?;
            Self::read(&wanted, &url, &document)
        });
        found.await
    }

    pub(super) fn read(wanted: &str, url: &Url, document: &Document) -> Result<Self, OAuth2Error> {
        let fields = document.fields()?;
        let resource: String = fields.get("resource")?.unwrap_or_default();
        let origin = url.origin().ascii_serialization();
        // What a server says about all of its paths is at its root.
        let is_about_all = resource.strip_suffix('/').unwrap_or(&resource) == origin;
        if resource != wanted && !is_about_all {
            return Err(
                document.wrong("it is about another resource; write the resource as it does")
            );
        }
        let issuers: Vec<String> = fields.get("authorization_servers")?.unwrap_or_default();
        for issuer in &issuers {
            let found = identifier("authorization_servers", issuer)
                .map_err(|wrong| document.wrong(wrong.to_string()))?;
            document.check_scheme("authorization_servers", &found, url)?;
        }
        Ok(Self { resource, issuers })
    }

    /// Returns the name of the resource. Send it as the parameter `resource` (RFC 8707).
    #[must_use]
    pub fn resource(&self) -> &str {
        &self.resource
    }

    /// Returns the issuers whose tokens the server accepts. There may be none.
    #[must_use]
    pub fn issuers(&self) -> &[String] {
        &self.issuers
    }
}

fn places_of(resource: &Url) -> Vec<Url> {
    const ROOT: &str = "/.well-known/oauth-protected-resource";

    let path = resource.path().trim_end_matches('/');
    let mut paths = vec![format!("{ROOT}{path}")];
    if !path.is_empty() {
        paths.push(ROOT.to_owned());
    }
    let at = |path: String| {
        let mut url = resource.clone();
        url.set_path(&path);
        url
    };
    paths.into_iter().map(at).collect()
}
