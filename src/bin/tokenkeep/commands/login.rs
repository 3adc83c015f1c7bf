//! login and clear: where a session begins, and where it ends.

use super::{DONE, Outcome, Target};
use crate::arguments::{Clear, Login, Slot};
use crate::failure::Failure;
use crate::profile::Profile;
use crate::provider::Provider;
use crate::terminal;

pub(super) async fn login(slot: &Slot, login: &Login) -> Outcome {
    let target = Target::of(slot)?;
    let provider = provider(&target)?;
    let client = provider.client()?;
    let manager = target.manager()?;
    // A store that cannot be used is better found before somebody signs in than after.
    manager.get_tokens().await?;
    drop(manager.store().try_lease().await?);
    let tokens = if login.device || (!login.browser && provider.has_device_url) {
        let sign_in = client.sign_in_by_device().await?;
        terminal::say(&format!(
            "open {} on any device, and type the code {}",
            sign_in.verification_url(),
            sign_in.user_code()
        ));
        terminal::start_working("waiting until you have signed in");
        sign_in.tokens().await?
    } else {
        let sign_in = client.sign_in_by_browser(provider.redirect_port).await?;
        terminal::say(&format!("open this in a browser on this machine: {}", sign_in.url()));
        terminal::start_working("waiting until you have signed in");
        sign_in.tokens().await?
    };
    manager.set_tokens(tokens).await?;
    terminal::say(&format!("signed in; the tokens are in {}", manager.store()));
    DONE
}

pub(super) async fn clear(slot: &Slot, clear: &Clear) -> Outcome {
    let target = Target::of(slot)?;
    let manager = target.manager()?;
    if clear.revoke {
        let client = provider(&target)?.client()?;
        if let Some(tokens) = manager.get_tokens().await? {
            client.revoke(&tokens).await?;
        }
    }
    manager.clear().await?;
    DONE
}

fn provider(target: &Target) -> Result<&Provider, Failure> {
    let profile = target.profile.as_ref().ok_or_else(|| {
        Failure::usage("a --store has no provider; name a --profile that has [oauth2] in its file")
    })?;
    let missing = |Profile { name, path, .. }: &Profile| {
        let path = path.display();
        Failure::usage(format!(
            "the profile {name} names no provider; add [oauth2] with token_url and client_id to {path}"
        ))
    };
    profile.provider.as_ref().filter(|it| it.is_complete()).ok_or_else(|| missing(profile))
}
