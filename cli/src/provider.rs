//! The provider that issues a profile's tokens: the `[oauth2]` table of its file.

mod certificate;
mod client;
mod key;
mod settings;

use tokenkeep::TokenRefresher;
use tokenkeep::oauth2::{OAuth2Client, OAuth2Error, PrivateKeyJwt, ProviderMetadata};
use tokenkeep::secrecy::SecretString;
use toml::de::DeTable;
use zeroize::Zeroizing;

use self::certificate::Certificate;
use self::client::client;
use self::key::Key;
use self::settings::Settings;
pub(crate) use self::settings::Wrong;

use crate::failure::Failure;

/// An OAuth 2.0 provider, and the client that is registered there.
#[derive(Clone, Debug)]
pub(crate) struct Provider {
    /// The client without its secrets. Without metadata, the issuer stands for the URLs that are unknown.
    client: OAuth2Client,
    /// The issuer, whose metadata has the URLs that the profile does not write.
    pub(crate) issuer: Option<String>,
    metadata: Option<ProviderMetadata>,
    has_token_url: bool,
    /// Whether the profile itself has it.
    writes_revocation_url: bool,
    /// Whether a person can sign in, by browser or by device.
    has_sign_in_url: bool,
    /// The environment variable that holds the client's secret.
    pub(crate) client_secret_env: Option<String>,
    /// The port that the browser is redirected to; 0 is any port.
    pub(crate) redirect_port: u16,
    /// Whether the browser is redirected to a port of this machine.
    pub(crate) has_port: bool,
    pub(crate) has_device_url: bool,
    pub(crate) has_revocation_url: bool,
    /// Whether the scopes include `offline_access`, for which many providers issue a refresh token.
    pub(crate) asks_for_offline_access: bool,
    /// The client gets tokens for itself, so nobody signs in.
    pub(crate) is_own_client: bool,
    assertion: Option<Assertion>,
    certificate: Option<Certificate>,
}

/// The key with which the client authenticates itself instead of with a secret.
#[derive(Clone, Debug)]
struct Assertion {
    key: Key,
    key_id: Option<String>,
    algorithm: Option<String>,
    audience: Option<String>,
}

impl Provider {
    /// Reads the table that begins at position `at`. The metadata counts if it is of the issuer there.
    pub(crate) fn parse(
        table: &DeTable<'_>,
        at: usize,
        metadata: Option<ProviderMetadata>,
    ) -> Result<Self, Wrong> {
        let settings = Settings::of(table, at)?;
        let issuer = settings.text("issuer")?;
        let metadata = metadata.filter(|metadata| issuer == Some(metadata.issuer()));
        let client_secret_env = settings.text("client_secret_env")?.map(str::to_owned);
        let port = settings.get("redirect_port", |value| {
            let port = value.as_integer()?;
            u16::from_str_radix(port.as_str(), port.radix()).ok()
        });
        let port = port?;
        let redirect_uri = settings.text("redirect_uri")?;
        if redirect_uri.is_some() && port.is_some() {
            let what = "redirect_uri is set too; put the port into it";
            return Err(settings.wrong_at("redirect_port", what));
        }
        // Of an issuer, a browser is the first choice: it names its endpoint for devices also for clients that must
        // not use it.
        let only_device = metadata.as_ref().is_some_and(|it| {
            it.authorization_endpoint().is_none() && it.device_authorization_endpoint().is_some()
        }) && settings.text("authorization_url")?.is_none();
        let has_device_url = settings.text("device_authorization_url")?.is_some() || only_device;
        let certificate = Certificate::parse(&settings)?;
        let known = metadata.as_ref().map(|metadata| match &certificate {
            Some(_) => metadata.for_client_certificate(),
            None => metadata.clone(),
        });
        let has_revocation_url = settings.text("revocation_url")?.is_some()
            || known.is_some_and(|metadata| metadata.revocation_endpoint().is_some());
        Ok(Self {
            client: client(&settings, metadata.as_ref())?,
            issuer: issuer.map(str::to_owned),
            has_token_url: settings.text("token_url")?.is_some(),
            writes_revocation_url: settings.text("revocation_url")?.is_some(),
            has_sign_in_url: has_device_url
                || settings.text("authorization_url")?.is_some()
                || metadata.as_ref().is_some_and(|it| it.authorization_endpoint().is_some()),
            metadata,
            client_secret_env,
            redirect_port: port.unwrap_or(0),
            has_port: redirect_uri.is_none_or(|uri| uri.starts_with("http://")),
            has_device_url,
            has_revocation_url,
            asks_for_offline_access: settings.texts("scopes")?.contains(&"offline_access"),
            is_own_client: settings.text("grant_type")?.is_some(),
            assertion: Assertion::parse(&settings)?,
            certificate,
        })
    }

    /// Returns a name for the client and the place where it refreshes.
    pub(crate) fn client_name(&self) -> String {
        TokenRefresher::client(&self.client)
    }

    /// Returns the metadata of the issuer, if it is known.
    pub(crate) fn metadata(&self) -> Option<&ProviderMetadata> {
        self.metadata.as_ref()
    }

    /// Returns whether what the profile does not write is unknown until the issuer's metadata is fetched.
    fn needs_metadata(&self) -> bool {
        self.issuer.is_some() && self.metadata.is_none()
    }

    /// Returns whether the profile itself says where tokens are refreshed.
    pub(crate) fn has_token_url(&self) -> bool {
        self.has_token_url
    }

    /// Returns whether tokens cannot be refreshed before the issuer's metadata is fetched.
    pub(crate) fn needs_discovery_to_refresh(&self) -> bool {
        self.needs_metadata() && !self.has_token_url
    }

    /// Returns whether tokens cannot be revoked before the issuer's metadata is fetched.
    pub(crate) fn needs_discovery_to_revoke(&self) -> bool {
        self.needs_metadata() && !(self.has_token_url && self.writes_revocation_url)
    }

    /// Returns whether nobody can sign in before the issuer's metadata is fetched.
    pub(crate) fn is_undiscovered(&self) -> bool {
        self.needs_discovery_to_refresh()
            || self.needs_metadata() && !self.has_sign_in_url && !self.is_own_client
    }

    /// Returns whether the metadata of the issuer is known, and neither it nor the profile has an endpoint for a sign-in.
    pub(crate) fn offers_no_sign_in(&self) -> bool {
        self.metadata.is_some() && !self.has_sign_in_url && !self.is_own_client
    }

    /// Returns whether tokens are refreshed at the endpoint that the metadata of the issuer names.
    pub(crate) fn refreshes_where_metadata_says(&self) -> bool {
        self.metadata.is_some() && !self.has_token_url
    }

    /// Fetches the metadata of the issuer. Returns `None` if the profile names none.
    pub(crate) async fn discover(&self) -> Result<Option<ProviderMetadata>, OAuth2Error> {
        match &self.issuer {
            Some(issuer) => self.client.discover(issuer).await.map(Some),
            None => Ok(None),
        }
    }

    /// Returns the client with its secret, its key and its certificate. The keychain may ask for it only if
    /// `allow_prompt` says so.
    pub(crate) async fn client(&self, allow_prompt: bool) -> Result<OAuth2Client, Failure> {
        if self.needs_discovery_to_refresh() {
            return Err(Failure::usage(
                "the metadata of the issuer is not known; `tokenkeep login` fetches it",
            ));
        }
        let mut client = self.client.clone();
        if let Some(assertion) = &self.assertion {
            client = client.with_private_key_jwt(assertion.read(allow_prompt).await?);
        }
        if let Some(certificate) = &self.certificate {
            client = certificate.add_to(client, allow_prompt).await?;
        }
        let Some(variable) = &self.client_secret_env else { return Ok(client) };
        match std::env::var(variable) {
            // A secret that comes from a file often ends with the line.
            Ok(secret) if !secret.trim().is_empty() => {
                let secret = Zeroizing::new(secret);
                let secret = secret.trim_end_matches(['\r', '\n']);
                Ok(client.with_secret(SecretString::from(secret)))
            }
            // The message does not name the variable: users often put the secret itself there.
            _ => Err(Failure::usage(
                "the variable that client_secret_env of this profile names is not set, is empty, or is \
                 not text",
            )),
        }
    }
}

impl Assertion {
    fn parse(settings: &Settings<'_>) -> Result<Option<Self>, Wrong> {
        let text = |name: &str| Ok(settings.text(name)?.map(str::to_owned));
        let (key_id, algorithm, audience) = (
            text("client_assertion_key_id")?,
            text("client_assertion_algorithm")?,
            text("client_assertion_audience")?,
        );
        let Some(key) = settings.text("client_assertion_key")? else {
            let is_alone = key_id.is_some() || algorithm.is_some() || audience.is_some();
            return if is_alone {
                Err(settings.wrong("oauth2 names no client_assertion_key to use this with"))
            } else {
                Ok(None)
            };
        };
        let key =
            Key::parse(key).map_err(|what| settings.wrong_at("client_assertion_key", what))?;
        Ok(Some(Self { key, key_id, algorithm, audience }))
    }

    async fn read(&self, allow_prompt: bool) -> Result<PrivateKeyJwt, Failure> {
        let pem = self.key.read(allow_prompt).await?;
        let place = self.key.to_string();
        let within = |error: OAuth2Error| Failure::from(error).within(&place);
        let mut key = PrivateKeyJwt::from_pem(&pem).map_err(within)?;
        if let Some(algorithm) = &self.algorithm {
            key = key.with_algorithm(algorithm).map_err(within)?;
        }
        if let Some(key_id) = &self.key_id {
            key = key.with_key_id(key_id);
        }
        if let Some(audience) = &self.audience {
            key = key.with_audience(audience);
        }
        Ok(key)
    }
}
