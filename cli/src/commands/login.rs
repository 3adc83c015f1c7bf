//! login: signs in, which begins a session.

use tokenkeep::TokenStore;

use crate::arguments::Login;
use crate::context::Context;
use crate::failure::{DONE, Failure, Outcome};
use crate::target::Target;
use crate::terminal::FOR_PROVIDER;

const SIGN_IN: &str = "waiting until you have signed in";

pub(super) async fn login(context: &Context, login: &Login) -> Outcome {
    let target = Target::of(context)?;
    let provider = target.provider()?;
    let client = provider.client(context.selection.allow_prompt).await?;
    let manager = target.manager(context)?;
    // A store that cannot be used is found before the user signs in.
    manager.get_tokens().await?;
    drop(manager.store().try_lease().await?);
    let tokens = if provider.is_own_client {
        if login.device || login.browser {
            return Err(Failure::usage(
                "this client gets tokens for itself (grant_type in its profile), so nobody signs in; leave \
                 out --device and --browser",
            ));
        }
        let _asking = context.terminal.waiting_for(FOR_PROVIDER);
        client.sign_in_by_client_credentials().await?
    } else if login.device || (!login.browser && provider.has_device_url) {
        let asking = context.terminal.waiting_for(FOR_PROVIDER);
        let sign_in = client.sign_in_by_device().await?;
        drop(asking);
        context.terminal.say(&format!(
            "open {} on any device, and type the code {}",
            sign_in.verification_url(),
            sign_in.user_code()
        ));
        let _waiting = context.terminal.waiting_for(SIGN_IN);
        context.terminal.show(SIGN_IN);
        sign_in.tokens().await?
    } else {
        let sign_in = client.sign_in_by_browser(provider.redirect_port).await?;
        context.terminal.say(&format!("open this in a browser on this machine: {}", sign_in.url()));
        let _waiting = context.terminal.waiting_for(SIGN_IN);
        context.terminal.show(SIGN_IN);
        sign_in.tokens().await?
    };
    manager.set_tokens(tokens).await?;
    context.terminal.say(&format!("signed in; the tokens are in {}", manager.store()));
    target.warn_of_plaintext(context);
    DONE
}
