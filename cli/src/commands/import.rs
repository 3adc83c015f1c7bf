//! import: tokens that other programs keep. `import` lists them, and `migrate --from import:…` takes them over.

mod places;

use std::sync::Arc;

use serde_json::json;
use sha2::{Digest, Sha256};
use tokenkeep::chrono::{DateTime, Utc};
use tokenkeep::import::{Account, Fate, Provider, Source};
use tokenkeep::stores::ImportStore;
use tokenkeep::tokens::Freshness;
use tokenkeep::transfer::{Import, TransferError, import, is_copy_of};
use tokenkeep::{AuthTokens, StoreError, StoreUrl, TokenStore};

use self::places::Place;
use super::init;
use crate::arguments;
use crate::context::Context;
use crate::describe::{describe, for_shell, moment};
use crate::failure::{Code, DONE, Failure, Outcome};
use crate::profile::{NewProvider, Profile, quoted};
use crate::selection::{NAME, Selection, parse_url};
use crate::target::{check_key, open, refuse_environment, warn_of_plaintext};

/// Lists the tokens of other programs in the usual places of this machine.
pub(super) async fn list(context: &Context, json: bool) -> Outcome {
    if context.selection.is_given() {
        return Err(Failure::usage(
            "this looks for tokens of other programs; `tokenkeep status` is about a profile",
        ));
    }
    let mut rows = Vec::new();
    for place in places::usual() {
        let Some(url) = place.url(place.format) else { continue };
        let found = match opened(context, &url) {
            Ok(store) => store.source().await,
            Err(failure) => return Err(failure),
        };
        match &found {
            Ok(None) => continue,
            // Without a keychain there is nothing in it.
            Err(StoreError::Unavailable { .. }) if place.is_item() => continue,
            _ => {}
        }
        if json {
            rows.push(as_json(&place, found));
            continue;
        }
        match found {
            Ok(Some(source)) => say_source(context, &place, &source)?,
            Ok(None) => {}
            Err(error) => context.terminal.say(&error.to_string()),
        }
        rows.push(serde_json::Value::Null);
    }
    if json {
        context.terminal.print_json(&json!(rows))?;
    } else if rows.is_empty() {
        context.terminal.say(
            "there are none in the usual places; `tokenkeep migrate --from import:auto:PATH` takes them from any file",
        );
    }
    DONE
}

fn say_source(context: &Context, place: &Place, source: &Source) -> Result<(), Failure> {
    let url = place.url(Some(source.format)).map(|url| url.to_text()).unwrap_or_default();
    context.terminal.print(&format!("{}: {place}", source.format.program()))?;
    for account in &source.accounts {
        context.terminal.print(&format!("  {}: {}", account.name, in_words(&account.tokens)))?;
    }
    let choice = if source.accounts.len() > 1 { " --account NAME" } else { "" };
    context
        .terminal
        .print(&format!("  take it: tokenkeep migrate --from {}{choice}", for_shell(url)))?;
    Ok(())
}

fn as_json(place: &Place, found: Result<Option<Source>, StoreError>) -> serde_json::Value {
    let now = Utc::now();
    match found {
        Ok(Some(source)) => json!({
            "place": place.to_string(),
            "format": source.format.name(),
            "url": place.url(Some(source.format)).map(|url| url.to_text()),
            "accounts": source.accounts.iter().map(|account| json!({
                "name": account.name,
                "tokens": describe(Some(&account.tokens), now),
            })).collect::<Vec<_>>(),
            "error": null,
        }),
        Ok(None) => serde_json::Value::Null,
        Err(error) => json!({
            "place": place.to_string(),
            "format": place.format.map(tokenkeep::import::Format::name),
            "accounts": [],
            "error": error.to_string(),
        }),
    }
}

/// Returns what there is, without secrets.
fn in_words(tokens: &AuthTokens) -> String {
    let now = Utc::now();
    let access = match (tokens.has_access_token(), tokens.expiry()) {
        (false, _) => "no access token".into(),
        (true, None) => "an access token whose expiry is not known".into(),
        (true, Some(expiry)) if tokens.freshness(now) == Freshness::Expired => {
            format!("an access token that expired at {}", moment(expiry))
        }
        (true, Some(expiry)) => format!("an access token that expires at {}", moment(expiry)),
    };
    let refresh =
        if tokens.refresh_token.is_some() { "a refresh token" } else { "no refresh token" };
    format!("{access}, {refresh}")
}

/// Takes tokens from the file or the keychain item of another program.
pub(super) async fn take(
    context: &Context,
    migrate: &arguments::Migrate,
    url: &StoreUrl,
) -> Outcome {
    if migrate.keep_source {
        return Err(Failure::usage(if migrate.take_over {
            "`--keep-source` cannot be used with `--take-over`; without both, this makes a copy"
        } else {
            "an import makes a copy, and the source stays anyway; leave out --keep-source"
        }));
    }
    let mut store = opened(context, url)?;
    if let Some(text) = &migrate.obtained_at {
        let at = obtained_at(text, &store)?;
        store = store.with_obtained_at(at);
    }
    let source = store.source().await?;
    let source =
        source.ok_or_else(|| Failure::from(TransferError::Empty { place: store.to_string() }))?;
    let chosen = chosen(&source, &store, migrate)?;
    if migrate.take_over {
        refuse_shared_sessions(&chosen)?;
    }
    let names = profile_names(context, &source, &chosen);
    let mut plans = Vec::new();
    for (account, name) in chosen.iter().zip(names) {
        plans.push(Plan::new(context, migrate, account, name).await?);
    }
    if migrate.dry_run {
        show_fields(context, &store, &source);
    } else {
        say_what_is_unknown(context, &store, &source);
    }
    let is_one = plans.len() == 1;
    let mut failed = Vec::new();
    for plan in plans {
        let name = plan.account.name.clone();
        let done = match migrate.dry_run {
            true => plan.show(context, migrate, &store).await,
            false => plan.run(context, migrate, &store, &source).await,
        };
        match done {
            Err(failure) if is_one => return Err(failure),
            Err(failure) => {
                context.terminal.say(&format!("{name}: {}", failure.message()));
                failed.push(for_shell(name));
            }
            Ok(()) => {}
        }
    }
    if failed.is_empty() {
        return DONE;
    }
    let message = format!("{} of the accounts were not taken: {}", failed.len(), failed.join(", "));
    Err(Failure::new(Code::Other, message))
}

/// Returns the name of the profile of each account, if there are several. No two have the same, and an account has the
/// same one each time.
fn profile_names(context: &Context, source: &Source, chosen: &[&Account]) -> Vec<Option<String>> {
    if chosen.len() == 1 {
        return vec![None];
    }
    let base = context.selection.profile.clone();
    let base = base.unwrap_or_else(|| source.format.name().into());
    let plain: Vec<_> =
        chosen.iter().map(|account| profile_name(&base, &account.name, "")).collect();
    let is_unique = |name: &Result<String, String>| {
        name.is_ok() && plain.iter().filter(|other| *other == name).count() == 1
    };
    let names = chosen.iter().zip(&plain).map(|(account, name)| match name {
        Ok(unique) if is_unique(name) => unique.clone(),
        _ => {
            // What is left out of the name tells these accounts apart.
            let digest = Sha256::digest(&account.name);
            let digest =
                format!("-{:02x}{:02x}{:02x}{:02x}", digest[0], digest[1], digest[2], digest[3]);
            profile_name(&base, &account.name, &digest).unwrap_or_else(|cut| cut)
        }
    });
    names.map(Some).collect()
}

fn opened(context: &Context, url: &StoreUrl) -> Result<ImportStore, Failure> {
    let url =
        if context.selection.allow_prompt { url.clone().allow_prompts() } else { url.clone() };
    Ok(url.import().expect("it is the URL of an import")?)
}

/// Reads a date, or `file` for the time at which the file was written.
fn obtained_at(text: &str, store: &ImportStore) -> Result<DateTime<Utc>, Failure> {
    if text == "file" {
        let path = store.path().ok_or_else(|| {
            Failure::usage("a keychain item has no time; give --obtained-at as a date")
        })?;
        let modified = path.metadata().and_then(|metadata| metadata.modified());
        return modified.map(Into::into).map_err(|error| Failure::io("read", path, &error));
    }
    text.parse().map_err(|_| {
        Failure::usage("--obtained-at takes a date such as 2026-01-31T12:00:00Z, or `file`")
    })
}

/// Returns the accounts to take.
fn chosen<'a>(
    source: &'a Source,
    store: &ImportStore,
    migrate: &arguments::Migrate,
) -> Result<Vec<&'a Account>, Failure> {
    if migrate.all {
        return Ok(source.accounts.iter().collect());
    }
    if let Some(account) = source.account(migrate.account.as_deref()) {
        return Ok(vec![account]);
    }
    let names: Vec<_> =
        source.accounts.iter().map(|account| for_shell(account.name.clone())).collect();
    let names = names.join(", ");
    Err(Failure::usage(match &migrate.account {
        Some(_) => format!("{store} has no account of this name; it has {names}"),
        None => format!(
            "{store} holds {} accounts: {names}; choose one with --account, or make a profile of each with --all",
            source.accounts.len()
        ),
    }))
}

/// Fails if two accounts have one refresh token: two live copies of it would end the session.
fn refuse_shared_sessions(chosen: &[&Account]) -> Result<(), Failure> {
    for (index, account) in chosen.iter().enumerate() {
        let token = &account.tokens.refresh_token;
        let is_same = |other: &&&Account| token.is_some() && other.tokens.refresh_token == *token;
        if let Some(other) = chosen[..index].iter().find(is_same) {
            let (one, other) = (for_shell(other.name.clone()), for_shell(account.name.clone()));
            return Err(Failure::usage(format!(
                "{one} and {other} share one refresh token, and two live copies of it would sign each other out; take \
                 over one of them with --account"
            )));
        }
    }
    Ok(())
}

/// Shows what would become of each field.
fn show_fields(context: &Context, store: &ImportStore, source: &Source) {
    let width = source.fields.iter().map(|field| field.name.len()).max().unwrap_or(0);
    context.terminal.say(&format!("{store} is of {}:", source.format.program()));
    for field in &source.fields {
        context.terminal.say(&format!("  {:width$}  {}", field.name, field.fate));
    }
}

/// Says once which times are not known.
fn say_what_is_unknown(context: &Context, store: &ImportStore, source: &Source) {
    let is_expiry = |name: &str| name.to_ascii_lowercase().contains("expir");
    let unknown =
        source.fields.iter().find(|field| field.fate == Fate::Unknown && is_expiry(&field.name));
    if let Some(field) = unknown {
        context.terminal.say(&format!(
            "note: {} in {store} stands for an expiry that is not known",
            field.name
        ));
    }
}

/// Where one account goes.
struct Plan<'a> {
    account: &'a Account,
    /// The store. A dry run does not choose one for a new profile.
    to: Option<StoreUrl>,
    /// The profile, if there is one already, or its name.
    profile: Option<Result<Profile, String>>,
    /// The provider that the profile gets.
    table: Option<String>,
}

impl<'a> Plan<'a> {
    /// `name` is that of the profile, if it is one of many.
    async fn new(
        context: &Context,
        migrate: &arguments::Migrate,
        account: &'a Account,
        name: Option<String>,
    ) -> Result<Self, Failure> {
        let named = match context.selection.selected()? {
            Selection::Store(_) => {
                return Err(Failure::usage(
                    "name the store to import to with --to, or a profile with --profile",
                ));
            }
            Selection::Profile(name) => name,
        };
        if name.is_some() && migrate.to.as_ref().is_some_and(|to| !to.contains(NAME)) {
            return Err(Failure::usage(format!(
                "with --all, the path in --to needs a {NAME} in it"
            )));
        }
        let name = match name {
            Some(name) => Some(name),
            // As for any other source, a store that is named alone gets the tokens and no profile.
            None if migrate.to.is_some() && !context.selection.is_given() => None,
            None => Some(named),
        };
        let to = migrate
            .to
            .as_ref()
            .map(|to| parse_url(&to.replace(NAME, name.as_deref().unwrap_or_default())));
        let to = to.transpose()?;
        let Some(name) = name else {
            return Ok(Self { account, to, profile: None, table: None });
        };
        let there = Profile::find(&name)?;
        let has_provider = there.as_ref().is_some_and(|profile| profile.provider.is_some());
        let mut table = table_of(account).filter(|_| !has_provider);
        if let Some(Err(failure)) = table.as_deref().map(Profile::draft) {
            // The file may name a URL to which no token may be sent.
            let reason = failure.message();
            context.terminal.say(&format!("WARNING: the profile gets no provider: {reason}"));
            table = None;
        }
        let (to, profile) = match (there, to) {
            (Some(profile), Some(to)) if profile.store != to => {
                return Err(Failure::new(
                    Code::Conflict,
                    format!(
                        "the profile {name} has another store, {}; leave out --to, or name another --profile",
                        profile.store
                    ),
                ));
            }
            (Some(profile), _) => {
                refuse_other_provider(&profile, account)?;
                (Some(profile.store.clone()), Ok(profile))
            }
            // A dry run makes no key.
            (None, to) if migrate.dry_run => (to, Err(name)),
            (None, Some(to)) => {
                let (to, _, _) = init::named(context, to).await?;
                (Some(to), Err(name))
            }
            (None, None) => {
                let (to, _, _) = init::choose(context, &name).await?;
                (Some(to), Err(name))
            }
        };
        Ok(Self { account, to, profile: Some(profile), table })
    }

    async fn show(
        &self,
        context: &Context,
        migrate: &arguments::Migrate,
        store: &ImportStore,
    ) -> Result<(), Failure> {
        let target = match &self.to {
            Some(to) => self.target(context, to, migrate, store).await?.to_string(),
            None => "the store that `init` chooses".into(),
        };
        let kind = if migrate.take_over { "take over" } else { "copy" };
        let profile = match &self.profile {
            None => String::new(),
            Some(Ok(profile)) => format!(", for the profile {}", profile.name),
            Some(Err(name)) => format!(", for a new profile {name}"),
        };
        let name = &self.account.name;
        context.terminal.say(&format!("would {kind} {name} to {target}{profile}"));
        if let Some(table) = &self.table {
            context.terminal.say(&format!("with this provider:\n{}", table.trim()));
        }
        Ok(())
    }

    /// Opens the target. Fails if the import would fail there, before a profile is made.
    async fn target(
        &self,
        context: &Context,
        to: &StoreUrl,
        migrate: &arguments::Migrate,
        store: &ImportStore,
    ) -> Result<Arc<dyn TokenStore>, Failure> {
        let target = open(context, to)?;
        refuse_environment(to, &*target)?;
        check_key(context, to).await?;
        let from = store.clone().with_account(&self.account.name);
        if let Some(there) = target.load().await?
            && !is_replaceable(&there.record.tokens, &from, self.account, migrate.take_over)
        {
            return Err(TransferError::Occupied { place: target.to_string() }.into());
        }
        Ok(target)
    }

    async fn run(
        self,
        context: &Context,
        migrate: &arguments::Migrate,
        store: &ImportStore,
        source: &Source,
    ) -> Result<(), Failure> {
        let to = self.to.clone().expect("only a dry run has none");
        let target = self.target(context, &to, migrate, store).await?;
        let refreshes = self.table.is_some()
            || matches!(&self.profile, Some(Ok(profile)) if profile.provider.is_some());
        let uses_no_secret = self.account.tokens.client_secret().is_some()
            && matches!(&self.profile, Some(Ok(profile)) if profile.provider.as_ref().is_some_and(|it| {
                !it.has_secret_in_record && it.client_secret_env.is_none()
            }));
        let provider = self.table.map(|table| NewProvider { table, metadata: None });
        // The profile is there before the tokens, so that a run that is killed leaves none that nothing names.
        let profile = match self.profile {
            None => None,
            Some(Ok(mut profile)) => {
                if let Some(provider) = provider {
                    profile.add(provider).await?;
                }
                Some(profile.name)
            }
            Some(Err(name)) => {
                let path = Profile::create(&name, &to, provider).await?;
                context.terminal.say(&format!("made the profile {name} ({})", path.display()));
                Some(name)
            }
        };
        let from = store.clone().with_account(&self.account.name);
        let kind = if migrate.take_over { Import::TakeOver } else { Import::Copy };
        let imported = import(&from, &target, kind).await?;
        if let Some(warning) = &imported.warning {
            context.terminal.say(&format!("warning: {warning}"));
        }
        warn_of_plaintext(context, &to);
        let program = source.format.program();
        let name = &self.account.name;
        if !migrate.take_over {
            let with = profile.map_or_else(
                || format!(" --store {}", for_shell(to.to_string())),
                |name| format!(" --profile {name}"),
            );
            context.terminal.say(&format!(
                "copied {name} to {target}, as a backup: `tokenkeep get{with}` prints its access token, and nothing \
                 refreshes it; run this again with --take-over to make it live here, which signs out {program}"
            ));
            return Ok(());
        }
        context.terminal.say(&format!("took {name} over to {target}"));
        let after = if imported.removed {
            format!("removed {store}")
        } else {
            let stays = imported.stays.unwrap_or_default();
            format!("{store} stays as it is: {stays}")
        };
        context.terminal.say(&after);
        if uses_no_secret {
            context.terminal.say(
                "WARNING: the file brings the secret of the client, and the profile does not use it: write \
                 client_secret = \"record\" into its [oauth2] if the provider wants it",
            );
        }
        if self.account.tokens.refresh_token.is_some() {
            context.terminal.say(&if refreshes {
                format!(
                    "these tokens are live here now: once they are refreshed, those of {program} are invalid at many \
                     providers; do not use both"
                )
            } else {
                "nothing refreshes them here yet: the file names no provider that this command can use; add one with \
                 `tokenkeep init --provider`, or --issuer, and the id of the client that they were issued to"
                    .to_owned()
            });
        }
        Ok(())
    }
}

/// Returns whether an import may replace these tokens: an earlier copy of the same account, or the same tokens.
fn is_replaceable(
    there: &AuthTokens,
    from: &ImportStore,
    account: &Account,
    take_over: bool,
) -> bool {
    is_copy_of(there, from) || take_over && *there == account.tokens
}

/// Returns the host of a URL, with its port.
fn host_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split(['/', '?', '#']).next().unwrap_or_default()
}

/// Fails if the profile would send the tokens to another provider than the file names.
fn refuse_other_provider(profile: &Profile, account: &Account) -> Result<(), Failure> {
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
fn table_of(account: &Account) -> Option<String> {
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

/// The most characters of the name of a profile.
const LONGEST_NAME: usize = 64;

/// Returns the name of a profile for an account. The error is a name in which something of the account is missing.
fn profile_name(base: &str, account: &str, end: &str) -> Result<String, String> {
    let (mut name, mut is_whole) = (format!("{base}-"), true);
    for character in account.chars().flat_map(char::to_lowercase) {
        let fits = character.is_ascii_lowercase() || character.is_ascii_digit();
        is_whole &= character.is_ascii();
        if fits {
            name.push(character);
        } else if !name.ends_with('-') {
            name.push('-');
        }
    }
    is_whole &= name.len() + end.len() <= LONGEST_NAME;
    name.truncate(LONGEST_NAME - end.len());
    let name = format!("{}{end}", name.trim_end_matches('-'));
    if is_whole { Ok(name) } else { Err(name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_profile_is_made_of_the_account() {
        for (account, expected) in [
            ("me@example.com", Ok("msal-me-example-com".to_owned())),
            ("Me (https://graph/.default)", Ok("msal-me-https-graph-default".to_owned())),
            ("ü", Err("msal".to_owned())),
        ] {
            assert_eq!(profile_name("msal", account, ""), expected);
        }
        let long = profile_name("msal", &"x".repeat(100), "-12345678").unwrap_err();
        assert!(long.len() == 64 && long.ends_with("-12345678"), "{long}");
    }
}
