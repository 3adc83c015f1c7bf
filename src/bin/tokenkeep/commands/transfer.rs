//! migrate, backup, restore: tokens on their way.

use std::io::{IsTerminal, stderr};
use std::path::Path;
use std::sync::Arc;

use indicatif::{ProgressBar, ProgressStyle};
use tokenkeep::secrecy::SecretString;
use tokenkeep::{
    AgeFileStore, AgeKey, AuthError, Expect, Overwrite, StoreUrl, TokenStore, TransferError,
};

use super::{DONE, Outcome, Target, open};
use crate::arguments::{self, Slot};
use crate::failure::{Code, Failure};
use crate::profile::Profile;
use crate::slot::{check_path, parse_url, parse_url_or_path};
use crate::terminal;

/// Stands for a profile's name in the target of `migrate --all`.
const NAME: &str = "{profile}";

pub(super) async fn migrate(slot: &Slot, migrate: &arguments::Migrate) -> Outcome {
    if migrate.all {
        return migrate_all(migrate).await;
    }
    let (from, mut profile) = match &migrate.from {
        Some(url) => (parse_url(url)?, None),
        None => {
            let target = Target::of(slot)?;
            (target.url, target.profile)
        }
    };
    let to = parse_url(&migrate.to)?;
    migrate_one(&from, &to, migrate, profile.as_mut()).await?;
    DONE
}

/// Moves every profile, goes on past those that fail, and says which they were.
async fn migrate_all(migrate: &arguments::Migrate) -> Outcome {
    // Not in an option: each needs a slot of its own.
    if !migrate.to.split('?').next().is_some_and(|slot| slot.contains(NAME)) {
        return Err(Failure::usage(format!("with --all, the path in --to needs a {NAME} in it")));
    }
    let profiles = Profile::all()?;
    let bar = if stderr().is_terminal() && !migrate.dry_run {
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}");
        ProgressBar::new(profiles.len() as u64).with_style(style.expect("it is a template"))
    } else {
        ProgressBar::hidden()
    };
    let mut failed = Vec::new();
    for (name, profile) in profiles {
        bar.set_message(name.clone());
        bar.tick();
        let moved = async {
            let mut profile = profile?;
            let to = parse_url(&migrate.to.replace(NAME, &name))?;
            if profile.store == to {
                return profile.sync(); // by an earlier run
            }
            let from = profile.store.clone();
            match migrate_one(&from, &to, migrate, Some(&mut profile)).await {
                // Nothing to move is no reason to leave the profile behind.
                Err(failure) if failure.is(Code::NoTokens) && !migrate.dry_run => {
                    match open(&to)?.load().await? {
                        None => profile.set_store(&to),
                        Some(_) => Err(TransferError::Occupied { place: to.to_string() }.into()),
                    }
                }
                done => done,
            }
        };
        if let Err(failure) = moved.await {
            bar.suspend(|| terminal::say(&format!("{name}: {}", failure.message())));
            failed.push(name);
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    if failed.is_empty() {
        return DONE;
    }
    let message = format!("{} of the profiles did not move: {}", failed.len(), failed.join(", "));
    Err(Failure::new(Code::Other, message))
}

async fn migrate_one(
    from: &StoreUrl,
    to: &StoreUrl,
    migrate: &arguments::Migrate,
    profile: Option<&mut Profile>,
) -> Result<(), Failure> {
    let (source, target) = (open(from)?, open(to)?);
    refuse_same_slot(&*source, &*target)?;
    if migrate.dry_run {
        let tokens = source.load_exposed().await?.ok_or(AuthError::TokenNotFound)?.tokens;
        match target.load().await? {
            Some(there) if there.tokens != tokens => {
                return Err(TransferError::Occupied { place: target.to_string() }.into());
            }
            _ => terminal::say(&format!("would move from {source}\nto {target}")),
        }
        return Ok(());
    }
    if migrate.keep_source {
        copy(&*source, &*target).await?;
        terminal::say(
            "both have the tokens now; once one of them refreshes, the other's are worth nothing",
        );
        return Ok(());
    }
    // The note tells a later run that what it finds at the target was moved there by this one, and
    // is not somebody else's.
    let was_begun = profile.as_ref().is_none_or(|profile| profile.moving_to.as_ref() == Some(to));
    let mut profile = profile;
    if let Some(profile) = &mut profile
        && source.load_exposed().await?.is_some()
    {
        profile.begin_move(to)?;
    }
    let migration = match tokenkeep::migrate(&source, &target).await {
        Ok(migration) if !migration.moved && !was_begun => {
            return Err(AuthError::TokenNotFound.into());
        }
        Err(error @ TransferError::Occupied { .. }) => {
            if let Some(profile) = profile {
                profile.end_move()?;
            }
            return Err(error.into());
        }
        migrated => migrated?,
    };
    if let Some(warning) = migration.warning {
        terminal::say(&format!("warning: {warning}"));
    }
    let done = if migration.moved { "moved to" } else { "an earlier run had moved them to" };
    terminal::say(&format!("{done} {target}"));
    if let Some(profile) = profile {
        profile.set_store(to)?;
    }
    Ok(())
}

async fn copy(from: &dyn TokenStore, to: &dyn TokenStore) -> Result<(), Failure> {
    let tokens = from.load_exposed().await?.ok_or(AuthError::TokenNotFound)?.tokens;
    to.save(&tokens, Expect::Absent).await?;
    match to.load().await? {
        Some(there) if there.tokens == tokens => Ok(()),
        _ => Err(TransferError::Unverified { place: to.to_string() }.into()),
    }
}

fn refuse_same_slot(from: &dyn TokenStore, to: &dyn TokenStore) -> Result<(), Failure> {
    if from.slot() == to.slot() {
        let (from, to) = (from.to_string(), to.to_string());
        return Err(TransferError::SameSlot { from, to }.into());
    }
    Ok(())
}

pub(super) async fn backup(slot: &Slot, backup: &arguments::Backup) -> Outcome {
    let from = Target::of(slot)?.open()?;
    let url = parse_url_or_path(&backup.to)?;
    let is_sealed_here = backup.passphrase || !backup.recipient.is_empty();
    let to: Arc<dyn TokenStore> = match url {
        Some(_) if is_sealed_here => return Err(says_itself()),
        Some(url) => open(&url)?,
        None if backup.passphrase => {
            let passphrase = terminal::ask_new_passphrase()?;
            let key = AgeKey::passphrase(move || Ok(passphrase.clone()));
            Arc::new(AgeFileStore::new(&backup.to, key))
        }
        None if is_sealed_here => {
            Arc::new(AgeFileStore::new(&backup.to, for_recipients(&backup.recipient)?))
        }
        None => {
            return Err(Failure::usage(
                "say who can open the backup: --recipient AGE1…, --passphrase, or a store URL as its \
                 target (plaintext:PATH if you mean that)",
            ));
        }
    };
    if backup.overwrite {
        from.load().await?.ok_or(AuthError::TokenNotFound)?;
        to.clear(Expect::Anything).await?;
    } else if is_sealed_here && Path::new(&backup.to).exists() {
        // It can be opened by others and not by us, so what it is cannot be told.
        let message = format!("{} exists; --overwrite replaces it", backup.to);
        return Err(Failure::new(Code::Conflict, message));
    }
    tokenkeep::backup(&from, &to).await?;
    terminal::say(&format!("copied to {to}"));
    DONE
}

fn says_itself() -> Failure {
    Failure::usage("a store URL says itself how it is sealed; give a file's path")
}

/// A key that seals to these recipients. What it seals is read back with an identity that exists in
/// this process only, and is forgotten with it.
fn for_recipients(recipients: &[String]) -> Result<AgeKey, Failure> {
    let identity: SecretString = age::x25519::Identity::generate().to_string();
    let mut key = AgeKey::custom("the recipients' key", move || Ok(identity.clone()));
    for recipient in recipients {
        key = key.with_recovery_recipient(recipient)?;
    }
    Ok(key)
}

pub(super) async fn restore(slot: &Slot, restore: &arguments::Restore) -> Outcome {
    let to = Target::of(slot)?.open()?;
    let protected = restore.identity.as_deref().unwrap_or(Path::new(&restore.from));
    check_path(protected)?;
    let protected = protected.display().to_string();
    let ask = move || terminal::ask_passphrase(&protected);
    let from: Arc<dyn TokenStore> = match (parse_url_or_path(&restore.from)?, &restore.identity) {
        (Some(_), Some(_)) => return Err(says_itself()),
        (Some(url), None) => open(&url)?,
        (None, Some(identity)) => {
            let key = AgeKey::identity_file(identity).with_passphrase(ask);
            Arc::new(AgeFileStore::new(&restore.from, key))
        }
        (None, None) => Arc::new(AgeFileStore::new(&restore.from, AgeKey::passphrase(ask))),
    };
    let overwrite = if restore.overwrite { Overwrite::Always } else { Overwrite::IfOlder };
    tokenkeep::restore(&from, &to, overwrite).await?;
    terminal::say(&format!("restored to {to}"));
    DONE
}
