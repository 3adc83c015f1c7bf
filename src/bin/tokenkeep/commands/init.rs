use tokenkeep::{AgeKey, KeychainState, StoreError, StoreUrl, probe_keychain};

use super::{DONE, Outcome};
use crate::arguments::Slot;
use crate::failure::{Code, Failure};
use crate::profile::{self, Profile};
use crate::slot::parse_url;
use crate::terminal;

pub(super) async fn init(slot: &Slot) -> Outcome {
    let name = &slot.profile_to_make();
    if let Ok(there) = Profile::load(name) {
        let message = format!(
            "the profile {name} exists already, with the store {}; `tokenkeep migrate` changes it",
            there.store
        );
        return Err(Failure::new(Code::Conflict, message));
    }
    let (store, why, protects) = match &slot.store {
        Some(url) => named(parse_url(url)?),
        None => choose(name).await?,
    };
    let path = Profile::create(name, &store)?;
    terminal::say(&format!("{store}, {why} (pinned in {})", path.display()));
    terminal::say(&protects);
    DONE
}

fn named(store: StoreUrl) -> (StoreUrl, String, String) {
    let protects = if store.is_plaintext() {
        "WARNING: plaintext. Any program of this user, every backup and whoever gets the disk can \
         read the tokens."
    } else {
        "Protected as that store protects it; `tokenkeep doctor` checks it."
    };
    (store, "because you named it".into(), protects.into())
}

/// The keychain if it can be used, else an age file. Never plaintext, and never something else
/// because a keychain is locked: that would leave tokens where nobody looks for them.
async fn choose(name: &str) -> Result<(StoreUrl, String, String), Failure> {
    let state = probe_keychain().await;
    match state {
        KeychainState::Available => {
            let store = format!("keychain:tokenkeep/{name}").parse()?;
            let protects = "Protects against whoever gets the disk or a backup, not against programs \
                            of this user while the keychain is unlocked.";
            Ok((store, "because the keychain works".into(), protects.into()))
        }
        KeychainState::Locked | KeychainState::NotAnswering => Err(Failure::new(
            Code::Inaccessible,
            format!(
                "the keychain is {state}; {}, or name a store with --store",
                state.advice().unwrap_or_default()
            ),
        )),
        _ => {
            let key = profile::directory()?.join("keys").join(format!("{name}.txt"));
            let record = profile::state_directory()?.join(format!("{name}.age"));
            match AgeKey::create_identity_file(&key).await {
                Ok(_) => {}
                // Left by an `init` that did not get to its end.
                Err(StoreError::Io { source, .. })
                    if source.kind() == std::io::ErrorKind::AlreadyExists =>
                {
                    AgeKey::identity_file(&key).recipients().await?;
                }
                Err(error) => return Err(error.into()),
            }
            let store = StoreUrl::age_file(&record, &key);
            let why = format!("because the keychain cannot be used here: {state}");
            let protects = format!(
                "Protects against whoever gets the tokens' file without the key, {}; keep that out \
                 of the same backup.",
                key.display()
            );
            Ok((store, why, protects))
        }
    }
}
