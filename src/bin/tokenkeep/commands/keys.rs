//! keygen and rekey: who can open what.

use std::path::Path;

use tokenkeep::secrecy::ExposeSecret;
use tokenkeep::{AgeKey, AuthError, Expect, StoreUrl};

use super::{DONE, Outcome, Target, open};
use crate::arguments::{Keygen, Rekey, Slot};
use crate::failure::{Code, Failure};
use crate::slot::check_path;
use crate::terminal;

pub(super) async fn keygen(keygen: &Keygen) -> Outcome {
    keygen.output.as_deref().map_or(Ok(()), check_path)?;
    let key = match &keygen.output {
        Some(path) if keygen.passphrase => {
            AgeKey::create_protected_identity_file(path, terminal::ask_new_passphrase()?).await?
        }
        Some(path) => AgeKey::create_identity_file(path).await?,
        None => {
            let identity = age::x25519::Identity::generate();
            // With a newline, as it is a file that somebody will append to.
            #[expect(clippy::disallowed_methods, reason = "printing it is what was asked for")]
            terminal::print(identity.to_string().expose_secret())?;
            terminal::say(&format!("Public key: {}", identity.to_public()));
            return DONE;
        }
    };
    for recipient in key.recipients().await? {
        terminal::print(&recipient)?;
    }
    DONE
}

/// Seals the record to another set of keys.
///
/// First it is sealed to the old identity and the new one, then the profile is pointed to the new
/// one, then it is sealed to the new one alone. So whatever the profile names opens the file at
/// every moment, and after a kill the same command completes.
pub(super) async fn rekey(slot: &Slot, rekey: &Rekey) -> Outcome {
    let mut target = Target::of(slot)?;
    let old = target.url.clone();
    let old_identity = old.identity_path().map(Path::to_owned).ok_or_else(|| {
        Failure::usage("only what an identity file seals can be sealed to other keys")
    })?;
    let identity = rekey.identity.clone().unwrap_or_else(|| old_identity.clone());
    check_path(&identity)?;
    let mut recipients = old.recipients().to_vec();
    recipients.retain(|recipient| !rekey.remove_recipient.contains(recipient));
    for recipient in &rekey.recipient {
        if !recipients.contains(recipient) {
            recipients.push(recipient.clone());
        }
    }
    let with = |identity: &Path, recipients| {
        old.with_identity(identity, recipients).expect("an identity file seals it")
    };
    let new = with(&identity, recipients.clone());
    // An earlier run that was killed may have got as far as to note all of this in the profile.
    let was_noted = rekey.identity.is_some() && new == old;
    let is_unknown = |recipient: &String| !old.recipients().contains(recipient);
    if !was_noted && rekey.remove_recipient.iter().any(is_unknown) {
        return Err(Failure::usage("a recipient to remove is none of this record's recipients"));
    }

    // Both, so that this fails before anything is changed if either is no key.
    let protected = std::path::absolute(&identity)?.display().to_string();
    let new_key = AgeKey::identity_file(&identity)
        .with_passphrase(move || terminal::ask_passphrase(&protected));
    let new_recipients = new_key.recipients().await?;
    let mut both = recipients;
    both.extend(new_recipients.iter().cloned());
    let transition = with(&old_identity, both);

    if new != old {
        match reseal(&old, &transition).await {
            // An earlier run got to its end, and had no profile to note that in.
            Err(failure) if failure.is(Code::Unreadable) && target.profile.is_none() => {
                open(&new)?.load().await?;
            }
            resealed => resealed?,
        }
    }
    // Also if an earlier run did: it may have been killed before that was durable.
    if let Some(profile) = &mut target.profile {
        profile.set_store(&new).await?;
    }
    reseal(&new, &new).await?;
    terminal::say(&format!("{new} is sealed to:"));
    for recipient in
        new_recipients.iter().map(String::as_str).chain(new.recipients().iter().map(String::as_str))
    {
        terminal::print(recipient)?;
    }
    if let Some(path) = new.recipients_file() {
        terminal::say(&format!("and to the recipients in {}", path.display()));
    }
    if target.profile.is_none() && new != old {
        terminal::say(
            "there is no profile to change; from now on, give the new identity in --store",
        );
    }
    DONE
}

/// Reads a record through one URL, and writes it through another of the same file.
async fn reseal(from: &StoreUrl, to: &StoreUrl) -> Result<(), Failure> {
    let stored = open(from)?.load().await?.ok_or(AuthError::TokenNotFound)?;
    let to = open(to)?;
    to.save(&stored.tokens, Expect::Unchanged(stored.revision)).await?;
    Ok(())
}
