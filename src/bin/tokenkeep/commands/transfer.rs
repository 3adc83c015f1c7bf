//! migrate, backup, restore: tokens on their way.

use std::io::{IsTerminal, stderr};
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
use crate::terminal;

/// Stands for a profile's name in the target of `migrate --all`.
const NAME: &str = "{profile}";

pub(super) async fn migrate(slot: &Slot, migrate: &arguments::Migrate) -> Outcome {
    if migrate.all {
        return migrate_all(migrate).await;
    }
    let mut profile = match (&migrate.from, &slot.store) {
        (None, None) => Some(Profile::load(&slot.profile)?),
        _ => None,
    };
    let from: StoreUrl = match (&migrate.from, &slot.store, &profile) {
        (Some(url), _, _) | (None, Some(url), _) => url.parse()?,
        (None, None, Some(profile)) => profile.store.clone(),
        (None, None, None) => unreachable!("without a URL there is a profile"),
    };
    let to = migrate.to.parse()?;
    migrate_one(&from, &to, migrate, profile.as_mut()).await?;
    DONE
}

/// Moves every profile, goes on past those that fail, and says which they were.
async fn migrate_all(migrate: &arguments::Migrate) -> Outcome {
    if !migrate.to.contains(NAME) {
        return Err(Failure::usage(format!("with --all, --to needs a {NAME} in it")));
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
        let moved = async {
            let mut profile = profile?;
            let to: StoreUrl = migrate.to.replace(NAME, &name).parse()?;
            if profile.store == to {
                return Ok(()); // by an earlier run
            }
            let from = profile.store.clone();
            match migrate_one(&from, &to, migrate, Some(&mut profile)).await {
                // Nothing to move is no reason to leave the profile behind.
                Err(failure) if failure.is(Code::NoTokens) && !migrate.dry_run => {
                    profile.set_store(&to)
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
    if migrate.dry_run {
        let found = |is_there: bool| if is_there { "holds tokens" } else { "is empty" };
        let source_has = source.load_exposed().await?.is_some();
        let target_has = target.load().await?.is_some();
        terminal::say(&format!("would move from {source}, which {}", found(source_has)));
        terminal::say(&format!("to {target}, which {}", found(target_has)));
        return Ok(());
    }
    if migrate.keep_source {
        copy(&*source, &*target).await?;
        terminal::say(
            "both have the tokens now; once one of them refreshes, the other's are worth nothing",
        );
        return Ok(());
    }
    let migration = tokenkeep::migrate(&source, &target).await?;
    if let Some(warning) = migration.warning {
        terminal::say(&format!("warning: {warning}"));
    }
    if !migration.moved {
        terminal::say("they had moved already");
    }
    if let Some(profile) = profile {
        profile.set_store(to)?;
    }
    Ok(())
}

async fn copy(from: &dyn TokenStore, to: &dyn TokenStore) -> Result<(), Failure> {
    if from.slot() == to.slot() {
        let (from, to) = (from.to_string(), to.to_string());
        return Err(TransferError::SameSlot { from, to }.into());
    }
    let tokens = from.load_exposed().await?.ok_or(AuthError::TokenNotFound)?.tokens;
    to.save(&tokens, Expect::Absent).await?;
    match to.load().await? {
        Some(there) if there.tokens == tokens => Ok(()),
        _ => Err(TransferError::Unverified { place: to.to_string() }.into()),
    }
}

pub(super) async fn backup(slot: &Slot, backup: &arguments::Backup) -> Outcome {
    let from = Target::of(slot)?.open()?;
    if backup.passphrase || !backup.recipient.is_empty() {
        refuse_url(&backup.to)?;
    }
    let to: Arc<dyn TokenStore> = if backup.passphrase {
        let passphrase = terminal::ask_new_passphrase()?;
        let key = AgeKey::passphrase(move || Ok(passphrase.clone()));
        Arc::new(AgeFileStore::new(&backup.to, key))
    } else if backup.recipient.is_empty() {
        open(&backup.to.parse().map_err(|_| {
            Failure::usage(
                "say who can open the backup: --recipient AGE1…, --passphrase, or a store URL as its \
                 target (plaintext:PATH if you mean that)",
            )
        })?)?
    } else {
        Arc::new(AgeFileStore::new(&backup.to, for_recipients(&backup.recipient)?))
    };
    tokenkeep::backup(&from, &to).await?;
    terminal::say(&format!("copied to {}", backup.to));
    DONE
}

/// What says how a file is sealed goes with a file's path; a store URL says it itself.
fn refuse_url(file: &str) -> Result<(), Failure> {
    if file.parse::<StoreUrl>().is_ok() {
        return Err(Failure::usage("a store URL says itself how it is sealed; give a file's path"));
    }
    Ok(())
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
    let from: Arc<dyn TokenStore> = match (restore.from.parse::<StoreUrl>(), &restore.identity) {
        (_, Some(identity)) => {
            refuse_url(&restore.from)?;
            let key = AgeKey::identity_file(identity).with_passphrase(terminal::ask_passphrase);
            Arc::new(AgeFileStore::new(&restore.from, key))
        }
        (Ok(url), None) => open(&url)?,
        (Err(_), None) => {
            Arc::new(AgeFileStore::new(&restore.from, AgeKey::passphrase(terminal::ask_passphrase)))
        }
    };
    let overwrite = if restore.overwrite { Overwrite::Always } else { Overwrite::IfOlder };
    tokenkeep::restore(&from, &to, overwrite).await?;
    terminal::say(&format!("restored to {to}"));
    DONE
}
