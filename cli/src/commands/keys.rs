//! keygen and rekey: who can open what.

use std::path::Path;

use tokenkeep::secrecy::ExposeSecret;
use tokenkeep::store::Precondition;
use tokenkeep::transfer::{TransferError, wait_for_lease};
use tokenkeep::{AgeKey, StoreUrl};

use super::backup::for_recipients;
use super::{DONE, Outcome, Target, open};
use crate::arguments::{Keygen, Rekey, Slot};
use crate::failure::{Code, Failure};
use crate::profile::Profile;
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

/// Seals the record to another set of keys, while nobody refreshes it: what came of that would be sealed to
/// the keys that it had before.
pub(super) async fn rekey(slot: &Slot, rekey: &Rekey) -> Outcome {
    for_recipients(&rekey.recipient)?;
    let target = Target::of(slot)?;
    if target.profile.is_none() {
        refuse_if_named(&target.url)?;
    }
    let plan = Plan::new(&target.url, rekey).await?;
    // By the new key: the old one may be gone already, where another machine came first.
    let lease = wait_for_lease(&open(&plan.new)?).await?;
    // Whoever had it before may have done the same.
    let target = Target::of(slot)?;
    let done = if target.url == plan.old {
        plan.carry_out(target).await
    } else {
        let message =
            "the profile names another store than a moment ago; see what it is, and repeat";
        Err(Failure::new(Code::Conflict, message))
    };
    // If that fails, the end of this process gives it up.
    let _ = lease.release().await;
    done
}

/// A profile would go on naming keys that no longer open the record.
fn refuse_if_named(url: &StoreUrl) -> Result<(), Failure> {
    let slot = url.open()?.slot();
    for (name, profile) in Profile::all()? {
        let is_same = |profile: Profile| Some(profile.store.open().ok()?.slot() == slot);
        if profile.ok().and_then(is_same) == Some(true) {
            let message = format!("the profile {name} names this store; use --profile {name}");
            return Err(Failure::usage(message));
        }
    }
    Ok(())
}

/// How a record is sealed now, and how it is to be.
struct Plan {
    old: StoreUrl,
    /// With all that opens it now, and all that is to open it.
    transition: StoreUrl,
    new: StoreUrl,
    new_recipients: Vec<String>,
}

impl Plan {
    async fn new(old: &StoreUrl, rekey: &Rekey) -> Result<Self, Failure> {
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
        let was_noted = rekey.identity.is_some() && new == *old;
        let is_unknown = |recipient: &String| !old.recipients().contains(recipient);
        if !was_noted && rekey.remove_recipient.iter().any(is_unknown) {
            return Err(Failure::usage(
                "a recipient to remove is none of this record's recipients",
            ));
        }

        // Both, so that this fails before anything is changed if either is no key.
        let protected = std::path::absolute(&identity)?.display().to_string();
        let new_key = AgeKey::identity_file(&identity)
            .with_passphrase(move || terminal::ask_passphrase(&protected));
        let new_recipients = new_key.recipients().await?;
        let mut both = recipients;
        both.extend(new_recipients.iter().cloned());
        let transition = with(&old_identity, both);
        Ok(Self { old: old.clone(), transition, new, new_recipients })
    }

    /// First it is sealed to the old identity and the new one, then the profile is pointed to the new
    /// one, then it is sealed to the new one alone. So whatever the profile names opens the file at
    /// every moment, and after a kill the same command completes.
    async fn carry_out(self, mut target: Target) -> Outcome {
        let Self { old, transition, new, new_recipients } = self;
        if new != old
            && let Err(failure) = reseal(&old, &transition).await
        {
            // Somebody sealed it to the new key before: an earlier run that had no profile to note that in, or
            // another machine that shares it.
            let is_sealed = open(&new)?.load().await.is_ok_and(|stored| stored.is_some());
            if !is_sealed {
                return Err(failure);
            }
        }
        // Also if an earlier run did: it may have been killed before that was durable.
        if let Some(profile) = &mut target.profile {
            profile.set_store(&new).await?;
        }
        reseal(&new, &new).await?;
        terminal::say(&format!("{new} is sealed to:"));
        for recipient in new_recipients.iter().chain(new.recipients()) {
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
}

/// Reads a record through one URL, and writes it through another of the same file.
async fn reseal(from: &StoreUrl, to: &StoreUrl) -> Result<(), Failure> {
    let stored = open(from)?.load().await?;
    let stored = stored.ok_or_else(|| TransferError::Empty { place: from.to_string() })?;
    let to = open(to)?;
    to.save(&stored.record, Precondition::Unchanged(stored.revision)).await?;
    Ok(())
}
