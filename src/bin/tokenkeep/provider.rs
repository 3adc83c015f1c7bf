//! Who issues a profile's tokens: the `[oauth2]` of its file.

use std::collections::BTreeMap;

use tokenkeep::secrecy::SecretString;
use tokenkeep::{
    AuthTokens, OAuth2Client, OAuth2Error, RefreshFailure, TokenRefresher, async_trait,
};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::failure::Failure;
use crate::profile::Profile;

const SETTINGS: [&str; 9] = [
    "authorization_url",
    "client_id",
    "client_secret_env",
    "client_secret_in_body",
    "device_authorization_url",
    "redirect_port",
    "revocation_url",
    "scopes",
    "token_url",
];

/// An OAuth 2.0 provider, and this client as it is registered there.
#[derive(Clone, Debug)]
pub(crate) struct Provider {
    /// Without its secret, and only if there is enough to make one.
    client: Option<OAuth2Client>,
    /// The variable that holds the client's secret.
    pub(crate) client_secret_env: Option<String>,
    /// The port that the browser comes back to; 0 is any.
    pub(crate) redirect_port: u16,
    pub(crate) has_device_url: bool,
}

/// What is wrong in the text, and where. It repeats nothing of it.
pub(crate) struct Wrong {
    pub(crate) at: usize,
    pub(crate) what: String,
}

/// The values by their settings, each with its place.
struct Settings<'a>(BTreeMap<&'a str, (usize, &'a DeValue<'a>)>);

impl Provider {
    pub(crate) fn parse(table: &DeTable<'_>) -> Result<Self, Wrong> {
        let settings = Settings::of(table)?;
        let client_secret_env = settings.text("client_secret_env")?.map(str::to_owned);
        let port = settings.get("redirect_port", |value| {
            let port = value.as_integer()?;
            u16::from_str_radix(port.as_str(), port.radix()).ok()
        });
        let has_device_url = settings.text("device_authorization_url")?.is_some();
        Ok(Self {
            client: settings.client()?,
            client_secret_env,
            redirect_port: port?.unwrap_or(0),
            has_device_url,
        })
    }

    /// Whether there is a token endpoint, and a client to name there.
    pub(crate) fn is_complete(&self) -> bool {
        self.client.is_some()
    }

    /// The client, with its secret.
    pub(crate) fn client(&self) -> Result<OAuth2Client, Failure> {
        let client = self.client.clone().ok_or_else(|| {
            Failure::usage("[oauth2] of this profile has no token_url, or no client_id")
        })?;
        let Some(variable) = &self.client_secret_env else { return Ok(client) };
        match std::env::var(variable) {
            Ok(secret) if !secret.is_empty() => Ok(client.with_secret(SecretString::from(secret))),
            _ => Err(Failure::usage(format!(
                "{variable}, which the profile names for the client's secret, is not set, or not text"
            ))),
        }
    }
}

/// The provider of a profile, if it can refresh.
pub(crate) fn refresher_of(profile: &Profile) -> Option<Provider> {
    profile.provider.clone().filter(Provider::is_complete)
}

/// The secret is read when it is needed: a token that is fresh is handed out without it.
#[async_trait]
impl TokenRefresher for Provider {
    async fn refresh(&self, current: AuthTokens) -> Result<AuthTokens, RefreshFailure> {
        let client = self.client();
        let client = client.map_err(|failure| RefreshFailure::misconfigured(failure.message()))?;
        client.refresh(current).await
    }
}

impl<'a> Settings<'a> {
    fn of(table: &'a DeTable<'a>) -> Result<Self, Wrong> {
        let mut settings = BTreeMap::new();
        for (key, value) in table {
            let at = key.span().end;
            let name = key.get_ref().as_ref();
            if !SETTINGS.contains(&name) {
                let what = format!("unknown setting; oauth2 has {}", SETTINGS.join(", "));
                return Err(Wrong { at, what });
            }
            settings.insert(name, (at, value.get_ref()));
        }
        Ok(Self(settings))
    }

    fn get<T>(
        &self,
        name: &str,
        read: impl FnOnce(&'a DeValue<'a>) -> Option<T>,
    ) -> Result<Option<T>, Wrong> {
        let Some(&(at, value)) = self.0.get(name) else { return Ok(None) };
        let what = "this setting has a value of the wrong type";
        read(value).map(Some).ok_or_else(|| Wrong { at, what: what.to_owned() })
    }

    fn text(&self, name: &str) -> Result<Option<&'a str>, Wrong> {
        self.get(name, DeValue::as_str)
    }

    fn client(&self) -> Result<Option<OAuth2Client>, Wrong> {
        let texts = |value: &'a DeValue<'a>| -> Option<Vec<&'a str>> {
            value
                .as_array()?
                .iter()
                .map(|value: &Spanned<DeValue<'a>>| value.get_ref().as_str())
                .collect()
        };
        let scopes = self.get("scopes", texts)?.unwrap_or_default();
        let in_body = self.get("client_secret_in_body", DeValue::as_bool)?.unwrap_or(false);
        let (token_url, client_id) = (self.text("token_url")?, self.text("client_id")?);
        let wrong = |error: OAuth2Error| match error {
            OAuth2Error::InvalidSetting { setting, .. } => {
                Wrong { at: self.0.get(setting).map_or(0, |&(at, _)| at), what: error.to_string() }
            }
            _ => Wrong { at: 0, what: error.to_string() },
        };
        let urls = [
            ("authorization_url", OAuth2Client::with_authorization_url as fn(_, &str) -> _),
            ("device_authorization_url", OAuth2Client::with_device_authorization_url),
            ("revocation_url", OAuth2Client::with_revocation_url),
        ];
        let (Some(token_url), Some(client_id)) = (token_url, client_id) else { return Ok(None) };
        let mut client = OAuth2Client::new(token_url, client_id).map_err(wrong)?;
        client = client.with_scopes(scopes);
        if in_body {
            client = client.with_secret_in_body();
        }
        for (name, with) in urls {
            if let Some(url) = self.text(name)? {
                client = with(client, url).map_err(wrong)?;
            }
        }
        Ok(Some(client))
    }
}
