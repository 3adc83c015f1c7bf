//! `migrate --from import:…`: takes tokens from the file or the keychain item of another program.

use tokenkeep::StoreUrl;
use tokenkeep::chrono::{DateTime, Utc};
use tokenkeep::import::{Account, Fate, Source};
use tokenkeep::stores::ImportStore;
use tokenkeep::transfer::TransferError;

use super::names::profile_names;
use super::opened;
use super::plan::Plan;
use crate::arguments;
use crate::context::Context;
use crate::describe::for_shell;
use crate::failure::{Code, DONE, Failure, Outcome};

/// Takes tokens from the file or the keychain item of another program.
pub(crate) async fn take(
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
