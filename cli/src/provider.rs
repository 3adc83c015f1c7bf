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
use self::client::{Known, client};
use self::key::Key;
use self::settings::Settings;
pub(crate) use self::settings::Wrong;

use crate::failure::Failure;

/// Where a URL of the provider comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UrlSource {
    /// The profile itself has it.
    Profile,
    /// The metadata of the issuer names it.
    Metadata,
    /// Nothing names it, or the metadata is not known yet.
    Unknown,
}

/// An OAuth 2.0 provider, and the client that is registered there.
#[derive(Clone, Debug)]
pub(crate) struct Provider {
    /// The client without its secrets. Without metadata, the issuer stands for the URLs that are unknown.
    client: OAuth2Client,
    /// The issuer, whose metadata has the URLs that the profile does not write.
    pub(crate) issuer: Option<String>,
    metadata: Option<ProviderMetadata>,
    authorization_url: UrlSource,
    device_url: UrlSource,
    revocation_url: UrlSource,
    pub(crate) token_url: UrlSource,
    /// The environment variable that holds the client's secret.
    pub(crate) client_secret_env: Option<String>,
    /// Whether the record of the tokens holds it.
    pub(crate) has_secret_in_record: bool,
    /// The port that the browser is redirected to; 0 is any port.
    pub(crate) redirect_port: u16,
    /// Whether the browser is redirected to a port of this machine.
    pub(crate) has_port: bool,
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
        let has_secret_in_record = match settings.text("client_secret")? {
            None => false,
            Some("record") if client_secret_env.is_none() => true,
            Some("record") => {
                let what = "client_secret_env is set too; leave out one of them";
                return Err(settings.wrong_at("client_secret", what));
            }
            // It may be the secret itself, so it is not repeated.
            Some(_) => {
                let what = "client_secret takes only \"record\", for a secret that is sealed with the tokens; never \
                            write the secret here";
                return Err(settings.wrong_at("client_secret", what));
            }
        };
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
        let certificate = Certificate::parse(&settings)?;
        let known = metadata.as_ref().map(|metadata| match &certificate {
            Some(_) => metadata.for_client_certificate(),
            None => metadata.clone(),
        });
        let source = |name: &str, endpoint: Known| {
            Ok(match (settings.text(name)?, known.as_ref().and_then(endpoint)) {
                (Some(_), _) => UrlSource::Profile,
                (None, Some(_)) => UrlSource::Metadata,
                (None, None) => UrlSource::Unknown,
            })
        };
        Ok(Self {
            client: client(&settings, metadata.as_ref())?,
            issuer: issuer.map(str::to_owned),
            authorization_url: source(
                "authorization_url",
                ProviderMetadata::authorization_endpoint,
            )?,
            device_url: source(
                "device_authorization_url",
                ProviderMetadata::device_authorization_endpoint,
            )?,
            revocation_url: source("revocation_url", ProviderMetadata::revocation_endpoint)?,
            token_url: source("token_url", |metadata| Some(metadata.token_endpoint()))?,
            metadata,
            client_secret_env,
            has_secret_in_record,
            redirect_port: port.unwrap_or(0),
            has_port: redirect_uri.is_none_or(|uri| uri.starts_with("http://")),
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

    /// Returns whether tokens cannot be refreshed before the issuer's metadata is fetched.
    pub(crate) fn needs_discovery_to_refresh(&self) -> bool {
        self.token_url == UrlSource::Unknown
    }

    /// Returns whether tokens cannot be revoked before the issuer's metadata is fetched.
    pub(crate) fn needs_discovery_to_revoke(&self) -> bool {
        self.needs_metadata() && [self.token_url, self.revocation_url].contains(&UrlSource::Unknown)
    }

    /// Returns whether nobody can sign in before the issuer's metadata is fetched.
    pub(crate) fn is_undiscovered(&self) -> bool {
        self.needs_discovery_to_refresh()
            || self.needs_metadata() && !self.has_sign_in_url() && !self.is_own_client
    }

    /// Returns whether a person can sign in, by browser or by device.
    fn has_sign_in_url(&self) -> bool {
        [self.authorization_url, self.device_url].iter().any(|url| *url != UrlSource::Unknown)
    }

    /// Returns whether a device is the first choice for a sign-in. For an issuer it is a browser: many issuers name an
    /// endpoint for devices also for clients that must not use it.
    pub(crate) fn prefers_device(&self) -> bool {
        match self.device_url {
            UrlSource::Profile => true,
            UrlSource::Metadata => self.authorization_url == UrlSource::Unknown,
            UrlSource::Unknown => false,
        }
    }

    /// Returns whether it is known where tokens are revoked.
    pub(crate) fn has_revocation_url(&self) -> bool {
        self.revocation_url != UrlSource::Unknown
    }

    /// Returns whether the metadata of the issuer is known, and neither it nor the profile has an endpoint for a sign-in.
    pub(crate) fn offers_no_sign_in(&self) -> bool {
        self.metadata.is_some() && !self.has_sign_in_url() && !self.is_own_client
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
        if self.has_secret_in_record {
            return Ok(client.with_secret_of_tokens());
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
