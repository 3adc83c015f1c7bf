//! backup and restore: copy tokens to a backup and back.

use std::path::Path;
use std::sync::Arc;

use tokenkeep::private_file::PrivateFile;
use tokenkeep::secrecy::{ExposeSecret, SecretSlice};
use tokenkeep::store::Precondition;
use tokenkeep::stores::AgeFileStore;
use tokenkeep::transfer::{Overwrite, TransferError};
use tokenkeep::{AgeKey, TokenStore};

use crate::arguments;
use crate::context::Context;
use crate::failure::{Code, DONE, Failure, Outcome};
use crate::selection::{check_path, parse_url_or_path};
use crate::target::{Target, for_recipients, open, warn_of_plaintext};

pub(super) async fn backup(context: &Context, backup: &arguments::Backup) -> Outcome {
    let from = Target::of(context)?.open(context)?;
    let url = parse_url_or_path(&backup.to)?;
    let is_sealed_here = backup.passphrase || !backup.recipient.is_empty();
    let to: Arc<dyn TokenStore> = match url {
        Some(_) if is_sealed_here => return Err(says_itself()),
        Some(ref url) => open(context, url)?,
        None if backup.passphrase => {
            let passphrase = context.terminal.ask_new_passphrase()?;
            let key = AgeKey::passphrase(move || Ok(passphrase.clone()));
            Arc::new(AgeFileStore::new(&backup.to, key))
        }
        None if is_sealed_here => {
            Arc::new(AgeFileStore::new(&backup.to, for_recipients(&backup.recipient)?))
        }
        None => {
            return Err(Failure::usage(
                "say who can open the backup: --recipient AGE1..., --passphrase, or a store URL as its \
                 target (plaintext:PATH if you mean that)",
            ));
        }
    };
    if backup.overwrite {
        if from.load().await?.is_none() {
            return Err(TransferError::Empty { place: from.to_string() }.into());
        }
        to.clear(Precondition::Anything).await?;
    } else if is_sealed_here && Path::new(&backup.to).exists() {
        // Others can open this file, but this process cannot. So its content cannot be checked.
        let message = format!("{} exists; --overwrite replaces it", backup.to);
        return Err(Failure::new(Code::Conflict, message));
    }
    let backup = tokenkeep::transfer::backup(&from, &to).await?;
    context.terminal.say(&format!("copied to {to}"));
    if let Some(url) = &url {
        warn_of_plaintext(context, url);
    }
    if let Some(warning) = backup.warning {
        context.terminal.say(&format!("warning: {warning}"));
    }
    DONE
}

fn says_itself() -> Failure {
    Failure::usage("a store URL already defines how it is sealed; give the path of a file instead")
}

pub(super) async fn restore(context: &Context, restore: &arguments::Restore) -> Outcome {
    let target = Target::of(context)?;
    let to = target.open(context)?;
    let url = parse_url_or_path(&restore.from)?;
    let protected = restore.identity.as_deref().unwrap_or(Path::new(&restore.from));
    check_path(protected)?;
    if url.is_none() {
        look_at(&restore.from)?;
    }
    let protected = protected.display().to_string();
    let terminal = context.terminal.clone();
    let ask = move || terminal.ask_passphrase(&protected);
    let from: Arc<dyn TokenStore> = match (url, &restore.identity) {
        (Some(_), Some(_)) => return Err(says_itself()),
        (Some(url), None) => open(context, &url)?,
        (None, Some(identity)) => {
            let key = AgeKey::identity_file(identity).with_passphrase(ask);
            Arc::new(AgeFileStore::new(&restore.from, key))
        }
        (None, None) => Arc::new(AgeFileStore::new(&restore.from, AgeKey::passphrase(ask))),
    };
    let overwrite = if restore.overwrite { Overwrite::Always } else { Overwrite::IfOlder };
    tokenkeep::transfer::restore(&from, &to, overwrite).await.map_err(|error| match error {
        TransferError::Newer { place } => {
            let message =
                format!("{place} holds newer tokens than the backup; --overwrite replaces them");
            Failure::new(Code::Conflict, message)
        }
        error => error.into(),
    })?;
    context.terminal.say(&format!("restored to {to}"));
    target.warn_of_plaintext(context);
    DONE
}

/// The maximum size in bytes of a file that is looked at. A backup is smaller.
const LONGEST: usize = 1 << 20;

/// Fails if the file does not exist or is not sealed. Called before any prompt for a passphrase.
fn look_at(path: &str) -> Result<(), Failure> {
    #[expect(clippy::disallowed_methods, reason = "only its first byte is looked at")]
    let is_record = |text: &SecretSlice<u8>| text.expose_secret().first() == Some(&b'{');
    match PrivateFile::new(path, LONGEST).read() {
        Ok(None) => Err(Failure::new(Code::NoTokens, format!("there is no file {path}"))),
        Ok(Some(text)) if is_record(&text) => Err(Failure::usage(format!(
            "{path} is not sealed; to restore it anyway, give plaintext:{path}"
        ))),
        // The store reports any other fault of the file.
        _ => Ok(()),
    }
}
