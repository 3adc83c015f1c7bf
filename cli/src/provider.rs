//! The provider that issues a profile's tokens: the `[oauth2]` table of its file.

use std::collections::BTreeMap;

use tokenkeep::TokenRefresher;
use tokenkeep::oauth2::{OAuth2Client, OAuth2Error};
use tokenkeep::secrecy::SecretString;
use toml::Spanned;
use toml::de::{DeTable, DeValue};
use zeroize::Zeroizing;

use crate::failure::Failure;

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

/// An OAuth 2.0 provider, and the client that is registered there.
#[derive(Clone, Debug)]
pub(crate) struct Provider {
    /// The client without its secret.
    client: OAuth2Client,
    /// The environment variable that holds the client's secret.
    pub(crate) client_secret_env: Option<String>,
    /// The port that the browser is redirected to; 0 is any port.
    pub(crate) redirect_port: u16,
    pub(crate) has_device_url: bool,
}

/// A fault in the text, and its position. It repeats nothing of the text.
pub(crate) struct Wrong {
    pub(crate) at: usize,
    pub(crate) what: String,
}

/// The values by the names of their settings, each with its position, and the position of the
/// table.
struct Settings<'a> {
    values: BTreeMap<&'a str, (usize, &'a DeValue<'a>)>,
    at: usize,
}

impl Provider {
    /// Reads the table that begins at position `at`.
    pub(crate) fn parse(table: &DeTable<'_>, at: usize) -> Result<Self, Wrong> {
        let settings = Settings::of(table, at)?;
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

    /// Returns a name for the client and the place where it refreshes.
    pub(crate) fn client_name(&self) -> String {
        TokenRefresher::client(&self.client)
    }

    /// Returns the client with its secret.
    pub(crate) fn client(&self) -> Result<OAuth2Client, Failure> {
        let client = self.client.clone();
        let Some(variable) = &self.client_secret_env else { return Ok(client) };
        match std::env::var(variable) {
            // A secret that comes from a file often ends with the line.
            Ok(secret) if !secret.trim_end_matches(['\r', '\n']).is_empty() => {
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

impl<'a> Settings<'a> {
    fn of(table: &'a DeTable<'a>, at_all: usize) -> Result<Self, Wrong> {
        let mut values = BTreeMap::new();
        for (key, value) in table {
            let at = key.span().end;
            let name = key.get_ref().as_ref();
            if !SETTINGS.contains(&name) {
                let what = format!("unknown setting; oauth2 has {}", SETTINGS.join(", "));
                return Err(Wrong { at, what });
            }
            values.insert(name, (at, value.get_ref()));
        }
        Ok(Self { values, at: at_all })
    }

    fn get<T>(
        &self,
        name: &str,
        read: impl FnOnce(&'a DeValue<'a>) -> Option<T>,
    ) -> Result<Option<T>, Wrong> {
        let Some(&(at, value)) = self.values.get(name) else { return Ok(None) };
        let what = "this setting has a value of the wrong type";
        read(value).map(Some).ok_or_else(|| Wrong { at, what: what.to_owned() })
    }

    fn text(&self, name: &str) -> Result<Option<&'a str>, Wrong> {
        self.get(name, DeValue::as_str)
    }

    fn client(&self) -> Result<OAuth2Client, Wrong> {
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
        let (Some(token_url), Some(client_id)) = (token_url, client_id) else {
            let what = "oauth2 needs token_url and client_id".to_owned();
            return Err(Wrong { at: self.at, what });
        };
        let wrong = |error: OAuth2Error| match error {
            OAuth2Error::InvalidSetting { setting, .. } => Wrong {
                at: self.values.get(setting).map_or(self.at, |&(at, _)| at),
                what: error.to_string(),
            },
            _ => Wrong { at: self.at, what: error.to_string() },
        };
        let urls = [
            ("authorization_url", OAuth2Client::with_authorization_url as fn(_, &str) -> _),
            ("device_authorization_url", OAuth2Client::with_device_authorization_url),
            ("revocation_url", OAuth2Client::with_revocation_url),
        ];
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
        Ok(client)
    }
}
