//! MSAL of Microsoft: maps of access tokens, refresh tokens, ID tokens and accounts.
//!
//! Source: <https://github.com/AzureAD/microsoft-authentication-library-for-python> (`token_cache.py`).

use std::collections::BTreeMap;

use super::fields::{Fields, Reason};
use super::text::Document;
use super::{Account, Fate, Format, Options, Provider, Read, Shape};
use crate::tokens::{AuthTokens, RefreshToken};

pub(super) const SHAPE: Shape = Shape {
    format: Format::Msal,
    name: "msal",
    program: "a program that uses MSAL (the Azure command, for example)",
    fits: |document| {
        document.object().is_some_and(|it| {
            (it.has_object("AccessToken") || it.has_object("RefreshToken"))
                && !it.has("access_token")
        })
    },
    read,
    sign_out: "`az logout`, or sign out in the program that wrote it",
};

/// The entries of a map, such as `AccessToken`.
fn entries<'a>(document: &Fields<'a>, name: &str) -> Result<Vec<Fields<'a>>, Reason> {
    let Some(map) = document.object(name)? else { return Ok(Vec::new()) };
    let keys: Vec<_> = map.names().map(str::to_owned).collect();
    keys.iter().filter_map(|key| map.object(key).transpose()).collect()
}

fn read(document: &Document<'_>, _: &Options) -> Result<Read, Reason> {
    let fields = document.object().ok_or("it is not a JSON object")?;
    let mut names = BTreeMap::new();
    for account in entries(fields, "Account")? {
        if let (Some(id), Some(name)) = (
            account.plain("home_account_id", Fate::Account)?,
            account.plain("username", Fate::Account)?,
        ) {
            names.insert(id, name);
        }
    }
    // A service signs in as its client, without an account.
    let name_of = |(id, client): &(String, String)| {
        let id = if id.is_empty() { client } else { id };
        names.get(id).unwrap_or(id).clone()
    };
    let mut refresh_tokens = BTreeMap::new();
    for entry in entries(fields, "RefreshToken")? {
        let id = entry.plain("home_account_id", Fate::Account)?.unwrap_or_default();
        let client = entry.plain("client_id", Fate::Provider)?.unwrap_or_default();
        if let Some(secret) = entry.token("secret", Fate::RefreshToken)? {
            refresh_tokens.insert((id, client), secret);
        }
    }
    let mut id_tokens = BTreeMap::new();
    for entry in entries(fields, "IdToken")? {
        let id = entry.plain("home_account_id", Fate::Account)?.unwrap_or_default();
        let client = entry.plain("client_id", Fate::Provider)?.unwrap_or_default();
        if let Some(secret) = entry.text("secret", Fate::Extra)? {
            id_tokens.insert((id, client), secret);
        }
    }
    let mut accounts = Vec::new();
    let mut used = Vec::new();
    for entry in entries(fields, "AccessToken")? {
        let id = entry.plain("home_account_id", Fate::Account)?.unwrap_or_default();
        let client = entry.plain("client_id", Fate::Provider)?.unwrap_or_default();
        let mut tokens = AuthTokens::new(
            entry
                .token("secret", Fate::AccessToken)?
                .ok_or("an entry of its AccessToken has no secret")?,
        );
        tokens.expires_at = entry.time("expires_on", Fate::Expiry)?;
        tokens.obtained_at = entry.time("cached_at", Fate::Obtained)?;
        let key = (id.clone(), client.clone());
        if let Some(token) = refresh_tokens.get(&key) {
            tokens = tokens.with_refresh_token(RefreshToken::from(token.clone()));
        }
        if let Some(token) = id_tokens.get(&key) {
            tokens = tokens.with_extra("id_token", token.clone());
        }
        let scope = entry.plain("target", Fate::Account)?;
        if let Some(scope) = &scope {
            tokens = tokens.with_extra("scope", scope.as_str().into());
        }
        let provider = provider(&entry, client)?;
        let name = match scope {
            Some(scope) => format!("{} ({scope})", name_of(&key)),
            None => name_of(&key),
        };
        used.push(key);
        accounts.push(Account { name, tokens: entry.rest(tokens, None)?, provider });
    }
    for (key, token) in &refresh_tokens {
        if !used.contains(key) {
            let tokens = AuthTokens::without_access_token(RefreshToken::from(token.clone()));
            let provider = Provider { client_id: Some(key.1.clone()), ..Provider::default() };
            accounts.push(Account { name: name_of(key), tokens, provider });
        }
    }
    Ok(Read { accounts, has_more: true })
}

/// An entry names the host and the tenant, and from these follows the endpoint
/// (<https://learn.microsoft.com/entra/identity-platform/v2-protocols>).
fn provider(entry: &Fields<'_>, client: String) -> Result<Provider, Reason> {
    let (host, tenant) =
        (entry.plain("environment", Fate::Provider)?, entry.plain("realm", Fate::Provider)?);
    let token_url =
        host.zip(tenant).map(|(host, tenant)| format!("https://{host}/{tenant}/oauth2/v2.0/token"));
    Ok(Provider { token_url, client_id: Some(client), issuer: None })
}
