//! clear: removes the tokens, which ends the session.

use std::sync::Arc;

use tokenkeep::chrono::SecondsFormat;
use tokenkeep::store::{Precondition, Stored};
use tokenkeep::{StoreError, StoreUrl, TokenStore};

use crate::arguments::Clear;
use crate::context::Context;
use crate::failure::{Code, DONE, Failure, Outcome};
use crate::target::{Target, open};
use crate::terminal::FOR_PROVIDER;

pub(super) async fn clear(context: &Context, clear: &Clear) -> Outcome {
    let mut target = Target::of(context)?;
    let undiscovered = match clear.revoke {
        true => {
            let undiscovered = target.discover_if_needed(context).await.err();
            check_revocation(&target)?;
            undiscovered
        }
        false => None,
    };
    let manager = target.manager(context)?;
    let (mut copy, mut remedy) = (None, None);
    if let Some(to) = moving_to(&target) {
        match copy_of(&*target.open(context)?, open(context, to)?).await {
            Ok(found) => copy = found,
            Err(failure) => remedy = Some(failure),
        }
    }
    let mut may_live = Vec::new();
    let mut revoked = None;
    if clear.revoke {
        let provider = undiscovered.map_or_else(|| target.provider(), Err);
        let client = match provider {
            Ok(provider) => provider.client(context.selection.allow_prompt).await,
            Err(failure) => Err(failure),
        };
        match client {
            Ok(client) => revoked = Some(context.reporting(client)),
            // A logout does not wait until the provider is set up.
            Err(failure) => may_live.push(failure),
        }
    }
    let is_copy_alone = copy.is_some() && !matches!(manager.get_tokens().await, Ok(Some(_)));
    let cleared = match &revoked {
        None => manager.clear().await,
        Some(client) => {
            let _waiting = context.terminal.waiting_for(FOR_PROVIDER);
            let logout = manager.revoke_and_clear(|tokens| {
                let client = client.clone();
                async move { client.revoke(&tokens).await }
            });
            logout.await.map(|logout| {
                may_live.extend(logout.not_revoked.into_iter().map(Failure::from));
                may_live.extend(logout.unknown.map(Failure::from));
                if let Some(at) = logout.cut_off {
                    let at = at.to_rfc3339_opts(SecondsFormat::Secs, true);
                    let reason = format!(
                        "a refresh that began at {at} was cut off, and what it may have brought stays alive"
                    );
                    may_live.push(Failure::new(Code::Other, reason));
                }
                if logout.refresh_under_way {
                    let reason = "another process is refreshing them, and what it gets stays alive";
                    may_live.push(Failure::new(Code::Other, reason));
                }
            })
        }
    };
    if let Some((store, copy)) = copy {
        if let Some(client) = revoked.filter(|_| is_copy_alone)
            && let Err(error) = client.revoke(&copy.record.tokens).await
        {
            may_live.push(error.into());
        }
        store.clear(Precondition::Unchanged(copy.revision)).await?;
    }
    if let Err(error) = cleared {
        may_live.into_iter().for_each(|failure| context.advise(failure).say(&context.terminal));
        return Err(not_cleared(&**manager.store(), &target.url, error.into()).await);
    }
    if let Some(failure) = remedy {
        return Err(failure);
    }
    if let Some(profile) = &mut target.profile.filter(|profile| profile.moving_to.is_some()) {
        profile.forget_move().await?;
    }
    match may_live.pop() {
        None => {
            let revoked = if clear.revoke { "revoked and " } else { "" };
            context.terminal.say_to_person(&format!(
                "signed out; the tokens are {revoked}removed from {}",
                manager.store()
            ));
            DONE
        }
        Some(failure) => {
            may_live.iter().for_each(|failure| failure.say(&context.terminal));
            // No token is left to try again with.
            let reason = failure.message().trim_end_matches("; try again later").to_owned();
            Err(failure.with_message(reason).within(
                "the tokens are removed here, and may be accepted until they expire, or until the session is \
                 ended in the settings of the provider",
            ))
        }
    }
}

/// Fails if nothing could be revoked, before anything is removed.
fn check_revocation(target: &Target) -> Result<(), Failure> {
    let provider = target.provider()?;
    // The metadata of an issuer that cannot be reached may name the URL. A logout does not wait for it.
    if provider.has_revocation_url() || provider.is_undiscovered() {
        return Ok(());
    }
    let place = target.profile.as_ref().map(|profile| profile.path.display().to_string());
    let place = place.unwrap_or_default();
    Err(Failure::usage(format!(
        "nothing is removed: {place} has no revocation_url, and without it no token can be revoked; add it, or run \
         `tokenkeep clear` without --revoke"
    )))
}

/// Returns why a slot was not emptied, and how much of it was.
pub(super) async fn not_cleared(
    store: &dyn TokenStore,
    url: &StoreUrl,
    failure: Failure,
) -> Failure {
    match store.load().await {
        Ok(None) if url.uses_keychain() => failure
            .within("the tokens are removed and their key is not, so run this again after that"),
        _ => failure,
    }
}

/// Returns the target of a migration that was cut off.
fn moving_to(target: &Target) -> Option<&StoreUrl> {
    target.profile.as_ref()?.moving_to.as_ref()
}

/// Returns the copy that a migration left at its target when it was cut off. The copy belongs to
/// this session if it equals the tokens at the source, or if the source holds none.
pub(super) async fn copy_of(
    source: &dyn TokenStore,
    target: Arc<dyn TokenStore>,
) -> Result<Option<(Arc<dyn TokenStore>, Stored)>, Failure> {
    let looked = async {
        let Some(copy) = target.load_exposed().await? else { return Ok(None) };
        let here = source.load_exposed().await?;
        Ok::<_, StoreError>(
            here.is_none_or(|here| here.record.tokens == copy.record.tokens).then_some(copy),
        )
    };
    let copy = looked.await.map_err(|error| {
        Failure::from(error).within(&format!(
            "a migration that was cut off may have left a copy of the tokens in {target}, so clear that \
             too"
        ))
    })?;
    Ok(copy.map(|copy| (target, copy)))
}
