//! login: signs in, which begins a session.

mod open;
mod paste;

use tokenkeep::oauth2::OAuth2Client;
use tokenkeep::{AuthTokens, TokenStore};

use self::open::open;
use self::paste::Pasting;
use crate::arguments::Login;
use crate::context::Context;
use crate::failure::{DONE, Failure, Outcome};
use crate::provider::Provider;
use crate::target::Target;
use crate::terminal::FOR_PROVIDER;

const SIGN_IN: &str = "waiting until you have signed in";

pub(super) async fn login(context: &Context, login: &Login) -> Outcome {
    let mut target = Target::of(context)?;
    target.discover(context).await?;
    let provider = target.provider()?;
    let client = provider.client(context.selection.allow_prompt).await?;
    let client = context.reporting(client);
    let manager = target.manager(context)?;
    // A store that cannot be used is found before the user signs in.
    manager.get_tokens().await?;
    drop(manager.store().try_lease().await?);
    let by_browser = login.browser || login.paste || !(login.device || provider.has_device_url);
    let tokens = if provider.is_own_client {
        by_itself(context, login, &client).await?
    } else if by_browser {
        by_browser_of(context, login, provider, &client).await?
    } else {
        by_device(context, login, provider, &client).await?
    };
    let stays = tokens.refresh_token.is_some() || provider.is_own_client;
    manager.set_tokens(tokens).await?;
    context.terminal.say(&format!("signed in; the tokens are in {}", manager.store()));
    if !stays {
        context.terminal.say(&format!("WARNING: {}", without_refresh_token(provider)));
    }
    target.warn_of_plaintext(context);
    DONE
}

/// Gets tokens for the client itself.
async fn by_itself(
    context: &Context,
    login: &Login,
    client: &OAuth2Client,
) -> Result<AuthTokens, Failure> {
    if login.device || login.browser || login.paste || login.open {
        return Err(Failure::usage(
            "this client gets tokens for itself (grant_type in its profile), so nobody signs in; use `tokenkeep \
             login` without options",
        ));
    }
    let _asking = context.terminal.waiting_for(FOR_PROVIDER);
    Ok(client.sign_in_by_client_credentials().await?)
}

async fn by_device(
    context: &Context,
    login: &Login,
    provider: &Provider,
    client: &OAuth2Client,
) -> Result<AuthTokens, Failure> {
    let terminal = &context.terminal;
    let asking = terminal.waiting_for(FOR_PROVIDER);
    let sign_in = client.sign_in_by_device().await?;
    drop(asking);
    let (url, code) = (sign_in.verification_url(), sign_in.user_code());
    terminal.say(&format!("open {url} on any device, and type the code {code}"));
    let complete = sign_in.verification_url_complete();
    if let Some(complete) = complete {
        terminal.say(&format!("or open {complete} and check that it shows this code"));
    }
    if login.open {
        open(context, provider, complete.unwrap_or(url));
    }
    let _waiting = terminal.waiting_for(SIGN_IN);
    terminal.show(SIGN_IN);
    Ok(sign_in.tokens().await?)
}

async fn by_browser_of(
    context: &Context,
    login: &Login,
    provider: &Provider,
    client: &OAuth2Client,
) -> Result<AuthTokens, Failure> {
    let terminal = &context.terminal;
    let has_port = provider.has_port && !login.paste;
    let reads = paste::Source::of(terminal, login.paste);
    if reads.is_none() && !has_port {
        return Err(Failure::usage(
            "the redirect_uri of this profile leads to no port of this machine; run this in a terminal, or with \
             --paste and the address of the page on which the browser ends in standard input",
        ));
    }
    let sign_in = if has_port {
        client.sign_in_by_browser(provider.redirect_port).await?
    } else {
        client.sign_in_by_paste()?
    };
    terminal.say(&format!("open this in a browser: {}", sign_in.url()));
    if login.open {
        open(context, provider, sign_in.one_time_url().as_deref().unwrap_or(sign_in.url()));
    }
    let _waiting = terminal.waiting_for(SIGN_IN);
    let Some(source) = reads else {
        terminal.show(SIGN_IN);
        return Ok(sign_in.tokens().await?);
    };
    // It ends when this function does, however that is.
    let mut pasting = Pasting::start(source, terminal, sign_in.paste(), !has_port)?;
    tokio::select! {
        tokens = sign_in.tokens() => Ok(tokens?),
        failure = pasting.failed() => Err(failure),
    }
}

/// Returns what to do about a sign-in that ends when its access token does.
fn without_refresh_token(provider: &Provider) -> String {
    let advice = if provider.asks_for_offline_access {
        "offline_access was asked for, so this client may not be allowed to have one; check its registration"
    } else {
        "many providers need offline_access in scopes, and Google needs access_type = \"offline\" in authorize_parameters"
    };
    format!(
        "the provider issued no refresh token, so you have to sign in again when the access token expires; {advice}"
    )
}
