//! The provider of imported tokens: the one that their file names, and the one of the profile.

use tokenkeep::import::{Account, Provider};

use crate::failure::{Code, Failure};
use crate::profile::{Profile, quoted};

/// Returns the host of a URL, with its port.
fn host_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split(['/', '?', '#']).next().unwrap_or_default()
}

/// Fails if the profile would send the tokens to another provider than the file names.
pub(super) fn refuse_other_provider(profile: &Profile, account: &Account) -> Result<(), Failure> {
    let Some(provider) = &profile.provider else { return Ok(()) };
    let Provider { token_url, client_id, issuer, .. } = &account.provider;
    let own = provider.client_name();
    let (url, client) = own.split_once(' ').unwrap_or((&own, ""));
    let is_other = |named: &Option<String>, own: &str| named.as_ref().is_some_and(|it| it != own);
    // Until its metadata is fetched, a profile that names an issuer has no other URL.
    let is_known = !provider.needs_discovery_to_refresh();
    let is_other_url = match (token_url, issuer) {
        (Some(_), _) if is_known => is_other(token_url, url),
        (None, Some(issuer)) => match &provider.issuer {
            Some(own) => own != issuer,
            None => host_of(issuer) != host_of(url),
        },
        _ => false,
    };
    if is_other_url || is_other(client_id, client) {
        return Err(Failure::new(
            Code::Conflict,
            format!(
                "the profile {} refreshes at {url} as the client {client}, and these tokens are of another provider or \
                 client; name another --profile",
                profile.name
            ),
        ));
    }
    Ok(())
}

/// Returns the `[oauth2]` table for an account whose file names its provider.
pub(super) fn table_of(account: &Account) -> Option<String> {
    let provider = &account.provider;
    let client_id = provider.client_id.as_ref()?;
    let mut table = String::from("\n[oauth2]\n");
    let mut add = |name: &str, value: &str| table += &format!("{name} = {}\n", quoted(value));
    match (&provider.token_url, &provider.issuer) {
        (None, None) => return None,
        (Some(url), _) => add("token_url", url),
        (None, Some(issuer)) => add("issuer", issuer),
    }
    add("client_id", client_id);
    if account.tokens.client_secret().is_some() {
        add("client_secret", "record");
    }
    Some(table)
}
