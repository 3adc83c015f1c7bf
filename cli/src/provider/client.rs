//! The client that the settings of a profile describe, without its secrets.

use std::time::Duration;

use tokenkeep::oauth2::{OAuth2Client, OAuth2Error, ProviderMetadata};
use toml::de::DeValue;

use super::settings::{Settings, Wrong};

type With = fn(OAuth2Client, &str) -> Result<OAuth2Client, OAuth2Error>;

/// The field of an issuer's metadata that stands for a setting.
pub(super) type Known = fn(&ProviderMetadata) -> Option<&str>;

const URLS: [(&str, With, Known); 3] = [
    (
        "authorization_url",
        OAuth2Client::with_authorization_url,
        ProviderMetadata::authorization_endpoint,
    ),
    (
        "device_authorization_url",
        OAuth2Client::with_device_authorization_url,
        ProviderMetadata::device_authorization_endpoint,
    ),
    ("revocation_url", OAuth2Client::with_revocation_url, ProviderMetadata::revocation_endpoint),
];

/// Makes the client. What the settings say counts more than the metadata of the issuer.
pub(super) fn client(
    settings: &Settings<'_>,
    metadata: Option<&ProviderMetadata>,
) -> Result<OAuth2Client, Wrong> {
    // Some providers have endpoints of their own for clients with a certificate.
    let has_certificate = settings.text("client_certificate")?.is_some();
    let with_certificate = metadata.filter(|_| has_certificate);
    let with_certificate = with_certificate.map(ProviderMetadata::for_client_certificate);
    let metadata = with_certificate.as_ref().or(metadata);
    let wrong = |error: OAuth2Error| match &error {
        OAuth2Error::InvalidSetting { setting, .. } => {
            settings.wrong_at(setting, error.to_string())
        }
        _ => settings.wrong(&error.to_string()),
    };
    let issuer = settings.text("issuer")?;
    let token_url = settings.text("token_url")?.or(metadata.map(ProviderMetadata::token_endpoint));
    let (Some(token_url), Some(client_id)) = (token_url.or(issuer), settings.text("client_id")?)
    else {
        return Err(settings.wrong("oauth2 needs client_id, and token_url or issuer"));
    };
    if client_id.is_empty() {
        let what = "client_id is empty; write the id under which your client is registered";
        return Err(settings.wrong_at("client_id", what));
    }
    if let Some(issuer) = issuer {
        check_issuer(issuer).map_err(wrong)?;
    }
    let mut client = OAuth2Client::new(token_url, client_id)
        .map_err(wrong)?
        .with_scopes(settings.texts("scopes")?)
        .with_refresh_scopes(settings.texts("refresh_scopes")?)
        .with_resources(settings.text_or_texts("resource")?)
        .map_err(wrong)?
        .with_authorize_parameters(settings.pairs("authorize_parameters")?)
        .map_err(wrong)?
        .with_device_parameters(settings.pairs("device_parameters")?)
        .map_err(wrong)?
        .with_token_parameters(settings.pairs("token_parameters")?)
        .map_err(wrong)?;
    if let Some(lifetime) = settings.get("expires_after", seconds)? {
        client = client.with_default_lifetime(lifetime);
    }
    let in_body = settings.get("client_secret_in_body", DeValue::as_bool)?;
    if in_body.unwrap_or_else(|| metadata.is_some_and(ProviderMetadata::needs_secret_in_body)) {
        client = client.with_secret_in_body();
    }
    match settings.get("proxy", DeValue::as_bool)? {
        None => {}
        Some(false) => client = client.without_proxy(),
        Some(true) => {
            let what = "proxy takes only `false`; the environment names the proxy";
            return Err(settings.wrong_at("proxy", what));
        }
    }
    match settings.text("grant_type")? {
        None => {}
        Some("client_credentials") => client = client.with_client_credentials(),
        Some(_) => {
            let what = "grant_type can only be \"client_credentials\"; for a person, leave it out";
            return Err(settings.wrong_at("grant_type", what));
        }
    }
    for (name, with, known) in URLS {
        if let Some(url) = settings.text(name)?.or_else(|| metadata.and_then(known)) {
            client = with(client, url).map_err(wrong)?;
        }
    }
    let texts: [(_, With); 2] = [
        ("audience", OAuth2Client::with_audience),
        ("redirect_uri", OAuth2Client::with_redirect_uri),
    ];
    for (name, with) in texts {
        if let Some(text) = settings.text(name)? {
            client = with(client, text).map_err(wrong)?;
        }
    }
    if let Some(issuer) = issuer {
        let is_always_sent = metadata.is_some_and(ProviderMetadata::always_sends_issuer);
        client = client.with_issuer(issuer, is_always_sent).map_err(wrong)?;
    }
    Ok(client)
}

/// Fails if no metadata could be fetched from this issuer.
fn check_issuer(issuer: &str) -> Result<(), OAuth2Error> {
    // An issuer is checked before the metadata is looked at.
    match ProviderMetadata::from_json(issuer, b"") {
        Err(error @ OAuth2Error::InvalidSetting { .. }) => Err(error),
        _ => Ok(()),
    }
}

/// Reads a number of seconds that is not 0.
fn seconds(value: &DeValue<'_>) -> Option<Duration> {
    let number = value.as_integer()?;
    let seconds = u32::from_str_radix(number.as_str(), number.radix()).ok()?;
    (seconds > 0).then(|| Duration::from_secs(seconds.into()))
}
