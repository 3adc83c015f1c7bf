//! rekey: changes the keys that open a record.

use std::path::Path;
use std::sync::Arc;

use tokenkeep::store::Lease;
use tokenkeep::transfer::{self, wait_for_lease};
use tokenkeep::{AgeKey, StoreUrl, TokenStore};

use crate::arguments::Rekey;
use crate::context::Context;
use crate::failure::{Code, DONE, Failure, Outcome};
use crate::profile::{Profile, line};
use crate::selection::check_path;
use crate::target::{Target, for_recipients, open};

/// Seals the record to another set of keys.
pub(super) async fn rekey(context: &Context, rekey: &Rekey) -> Outcome {
    for_recipients(&rekey.recipient)?;
    let target = Target::of(context)?;
    if target.profile.is_none() {
        refuse_if_named(&target.url)?;
    }
    let plan = Plan::new(context, &target.url, rekey).await?;
    if let Some(profile) = &target.profile {
        plan.check_profile(profile)?;
    }
    // Opened with the new key: if another machine was first, the old key may be gone.
    let mut lease = wait_for_lease(&open(context, &plan.new)?).await?;
    // The previous holder of the lease may have done the same rekey.
    let target = Target::of(context)?;
    if let Some(profile) = &target.profile {
        // An earlier run may have changed the profile, and may have been killed before the change
        // was durable.
        profile.sync()?;
    }
    let done = if target.url == plan.old {
        plan.carry_out(context, &mut *lease, target).await
    } else {
        let message =
            "the profile was changed meanwhile and names another store; check it, and repeat";
        Err(Failure::new(Code::Conflict, message))
    };
    // If the release fails, the lease ends with this process.
    let _ = lease.release().await;
    done
}

/// Fails if a profile names this store: it would still name keys that no longer open the record.
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

/// Returns the key in an identity file for the store of this URL. Its passphrase is asked for once.
fn identity_file(context: &Context, url: &StoreUrl, path: &Path) -> AgeKey {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let (terminal, protected) = (context.terminal.clone(), path.display().to_string());
    let key =
        AgeKey::identity_file(path).with_passphrase(move || terminal.ask_passphrase(&protected));
    key.with_trusted_group(url.trusted_group())
}

/// How a record is sealed now, and how it will be sealed.
struct Plan {
    old: StoreUrl,
    new: StoreUrl,
    new_key: AgeKey,
    new_recipients: Vec<String>,
}

impl Plan {
    async fn new(context: &Context, old: &StoreUrl, rekey: &Rekey) -> Result<Self, Failure> {
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
        let new = old.with_identity(&identity, recipients)?;
        // An earlier run that was killed may already have written all of this to the profile.
        let was_recorded = rekey.identity.is_some() && new == *old;
        let is_unknown = |recipient: &String| !old.recipients().contains(recipient);
        if !was_recorded && rekey.remove_recipient.iter().any(is_unknown) {
            return Err(Failure::usage(
                "this record is not sealed to a recipient that --remove-recipient names",
            ));
        }

        // Checks both keys, so that an invalid one fails before anything is changed.
        let new_key = identity_file(context, old, &identity);
        let new_recipients = new_key.recipients().await?;
        Ok(Self { old: old.clone(), new, new_key, new_recipients })
    }

    /// Opens the record with all keys that open it now and all that will open it.
    fn open_with_both(&self, context: &Context) -> Result<Arc<dyn TokenStore>, Failure> {
        let identity = self.old.identity_path().expect("an identity file seals it");
        let mut key =
            identity_file(context, &self.old, identity).with_identities_of(self.new_key.clone());
        for recipient in self.new.recipients() {
            key = key.with_recovery_recipient(recipient)?;
        }
        if let Some(path) = self.new.recipients_file() {
            key = key.with_recovery_recipients_file(path);
        }
        Ok(self.old.open_with_key(key)?)
    }

    /// Fails if the profile could not name the new keys. Then the user writes what this command would write:
    /// first the keys of the transition, so that each line names a key that opens the record.
    fn check_profile(&self, profile: &Profile) -> Result<(), Failure> {
        profile.check_changeable(&self.new, |last| {
            let run = "write this line there, and run `tokenkeep rekey` without options";
            if self.new.identity_path() == self.old.identity_path() {
                return format!("{run}: {last}");
            }
            let old = self.old.identity_path().expect("an identity file seals it");
            if self.old.is_shared() {
                // Each identity authenticates the record, so the transition needs the old and the new one.
                return format!(
                    "make an identity file of the lines of both files, name it there, and run `tokenkeep \
                     rekey` without options; then do the same with: {last}"
                );
            }
            let both = self.new.recipients().iter().chain(&self.new_recipients).cloned().collect();
            let first = self.old.with_identity(old, both).map_or(String::new(), |url| line(&url));
            format!("{run}: {first}; then do the same with: {last}")
        })
    }

    async fn carry_out(
        self,
        context: &Context,
        lease: &mut dyn Lease,
        mut target: Target,
    ) -> Outcome {
        let by_both = self.open_with_both(context)?;
        let Self { old, new, new_recipients, .. } = self;
        let repoint = async {
            match &mut target.profile {
                // Written again even if an earlier run wrote it: that run may have been killed
                // before the write was durable.
                Some(profile) => profile.set_store(&new).await,
                None => Ok(()),
            }
        };
        let (by_old, by_new) = (open(context, &old)?, open(context, &new)?);
        transfer::rekey(lease, &by_old, &by_both, &by_new, repoint).await?;
        context.terminal.say(&format!("{new} is sealed to:"));
        for recipient in new_recipients.iter().chain(new.recipients()) {
            context.terminal.print(recipient)?;
        }
        if let Some(path) = new.recipients_file() {
            context.terminal.say(&format!("and to the recipients in {}", path.display()));
        }
        if target.profile.is_none() && new != old {
            context.terminal.say(
                "there is no profile to change; from now on, give the new identity in --store",
            );
        }
        DONE
    }
}
