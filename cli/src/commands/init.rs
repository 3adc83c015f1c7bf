//! init: chooses the store of a new profile, and the provider.

mod provider;

use tokenkeep::{StoreError, StoreUrl};

use self::provider::WantedProvider;
use crate::arguments::Init;
use crate::context::Context;
use crate::failure::{Code, DONE, Failure, Outcome};
use crate::profile::{self, Profile};
use crate::selection::parse_url;
use crate::target::{PLAINTEXT, check_key, open, open_without_asking, refuse_environment};

pub(super) async fn init(context: &Context, init: &Init) -> Outcome {
    if let Some(None) = init.provider
        && !init.describes_a_client()
    {
        return provider::list(context);
    }
    let name = &context.selection.profile_to_make()?;
    let wanted = WantedProvider::of(init)?;
    if let Some(there) = Profile::find(name)? {
        return add_to(context, there, wanted).await;
    }
    // An issuer that cannot be used is found before a key is made.
    let found = match &wanted {
        Some(wanted) => Some((wanted, wanted.find(context).await?)),
        None => None,
    };
    // So is a store that cannot be used, before a client is registered.
    let (store, why, protects) = match &context.selection.store {
        Some(url) => named(context, parse_url(url)?).await?,
        None => choose(context, name).await?,
    };
    check(context, &store).await?;
    if init.register {
        refuse_environment(&store, &*open_without_asking(context, &store)?)?;
    }
    let provider = match found {
        Some((wanted, found)) => Some(wanted.to_new(context, name, found).await?),
        None => None,
    };
    let path = Profile::create(name, &store, provider).await?;
    context.terminal.say(&format!("{store}, {why} (pinned in {})", path.display()));
    context.terminal.say(&protects);
    if let Some(wanted) = wanted {
        wanted.say_what_comes_next(context, name);
    }
    DONE
}

/// Adds a provider to a profile that has a store and no provider. Changes nothing else of a profile.
async fn add_to(
    context: &Context,
    mut profile: Profile,
    wanted: Option<WantedProvider<'_>>,
) -> Outcome {
    let name = profile.name.clone();
    let Some(wanted) = wanted.filter(|_| context.selection.store.is_none()) else {
        profile.sync()?;
        let message = format!(
            "the profile {name} exists already, with the store {}; `tokenkeep migrate` changes it",
            profile.store
        );
        return Err(Failure::new(Code::Conflict, message));
    };
    if profile.provider.is_some() {
        let message = format!(
            "the profile {name} has a provider already; change its [oauth2] in {}",
            profile.path.display()
        );
        return Err(Failure::new(Code::Conflict, message));
    }
    let found = wanted.find(context).await?;
    // A store that cannot be used is found before a client is registered in vain.
    if wanted.registers() {
        let store = open_without_asking(context, &profile.store)?;
        refuse_environment(&profile.store, &*store)?;
        check(context, &profile.store).await?;
        // A sign-in reads what is there, and overwrites nothing that cannot be read.
        match store.load().await {
            Err(StoreError::Locked { .. }) => {}
            loaded => drop(loaded?),
        }
    }
    let provider = wanted.to_new(context, &name, found).await?;
    profile.add(provider).await?;
    let path = profile.path.display();
    context.terminal.say(&format!("added the provider to the profile {name} ({path})"));
    wanted.say_what_comes_next(context, &name);
    DONE
}
/// Fails if tokens could not be saved in this store now. A store that does not work is not pinned.
async fn check(context: &Context, store: &StoreUrl) -> Result<(), Failure> {
    check_key(context, store).await?;
    // What is on a server was tried already. A keychain makes its key with the first tokens.
    if store.path().is_none() || store.uses_keychain() {
        return Ok(());
    }
    match tokenkeep::refresh::check_replaceable(&*open_without_asking(context, store)?).await {
        // The key is protected by a passphrase, which `set` asks for.
        Err(StoreError::Locked { .. }) => Ok(()),
        checked => Ok(checked?),
    }
}

pub(super) async fn named(
    context: &Context,
    store: StoreUrl,
) -> Result<(StoreUrl, String, String), Failure> {
    // An invalid recipient is found here, before a request to a server.
    open(context, &store)?;
    let asking = context.selection.allow_prompt;
    let tried = if asking { store.clone().allow_prompts() } else { store.clone() };
    tried.try_keychain().await?;
    store.prepare_server().await?;
    let protects = if store.is_plaintext() {
        PLAINTEXT
    } else if store.is_shared() {
        "Protects the tokens from the people who run the server or have its backups. Without the key they can \
         delete a record or put an earlier one back, but cannot read it."
    } else {
        "The tokens are as safe as that store is; `tokenkeep doctor` checks it."
    };
    Ok((store, "because you named it".into(), protects.into()))
}

/// Chooses the keychain if it can be used, else an age file.
pub(super) async fn choose(
    context: &Context,
    name: &str,
) -> Result<(StoreUrl, String, String), Failure> {
    let key = profile::key_of(name)?;
    let record = profile::state_directory()?.join(format!("{name}.age"));
    let mut keychain = StoreUrl::keychain("tokenkeep", name)?;
    if context.selection.allow_prompt {
        keychain = keychain.allow_prompts();
    }
    let (store, chosen) =
        StoreUrl::choose(keychain, Some(StoreUrl::age_file(&record, &key)?)).await?;
    let protects = if store.uses_keychain() {
        "Protects the tokens from a thief of the disk or of a backup, but not from programs of this user \
         while the keychain is unlocked."
            .to_owned()
    } else {
        format!(
            "Protects the tokens from a thief of their file who does not have the key, {}; keep the key out of \
             the same backup.",
            key.display()
        )
    };
    Ok((store, chosen.to_string(), protects))
}
