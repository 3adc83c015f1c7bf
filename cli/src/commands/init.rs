//! init: the store of a new profile.

use tokenkeep::StoreUrl;

use crate::arguments::Slot;
use crate::failure::{Code, DONE, Failure, Outcome};
use crate::profile::{self, Profile};
use crate::selection::parse_url;
use crate::target::{PLAINTEXT, open};
use crate::terminal;

pub(super) async fn init(slot: &Slot) -> Outcome {
    let name = &slot.profile_to_make();
    if let Some(there) = Profile::find(name)? {
        there.sync()?;
        let message = format!(
            "the profile {name} exists already, with the store {}; `tokenkeep migrate` changes it",
            there.store
        );
        return Err(Failure::new(Code::Conflict, message));
    }
    let (store, why, protects) = match &slot.store {
        Some(url) => named(parse_url(url)?).await?,
        None => choose(name).await?,
    };
    let path = Profile::create(name, &store)?;
    terminal::say(&format!("{store}, {why} (pinned in {})", path.display()));
    terminal::say(&protects);
    DONE
}

async fn named(store: StoreUrl) -> Result<(StoreUrl, String, String), Failure> {
    // A recipient that is none is found here, before a server is asked.
    open(&store)?;
    store.prepare_server().await?;
    let protects = if store.is_plaintext() {
        PLAINTEXT
    } else if store.is_shared() {
        "Protects against whoever runs the server or gets its backups: without the key they can delete \
         a record or put an earlier one back, and not read it."
    } else {
        "Protected as that store protects it; `tokenkeep doctor` checks it."
    };
    Ok((store, "because you named it".into(), protects.into()))
}

/// The keychain if it can be used, else an age file.
async fn choose(name: &str) -> Result<(StoreUrl, String, String), Failure> {
    let key = profile::directory()?.join("keys").join(format!("{name}.txt"));
    let record = profile::state_directory()?.join(format!("{name}.age"));
    let mut keychain = StoreUrl::keychain("tokenkeep", name)?;
    if terminal::prompts_allowed() {
        keychain = keychain.allow_prompts();
    }
    let (store, chosen) =
        StoreUrl::choose(keychain, Some(StoreUrl::age_file(&record, &key))).await?;
    let protects = if store.uses_keychain() {
        "Protects against whoever gets the disk or a backup, not against programs of this user \
         while the keychain is unlocked."
            .to_owned()
    } else {
        format!(
            "Protects against whoever gets the tokens' file without the key, {}; keep that out of \
             the same backup.",
            key.display()
        )
    };
    Ok((store, chosen.to_string(), protects))
}
