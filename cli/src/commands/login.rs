//! login: signs in, which begins a session.

mod open;
mod paste;

use tokenkeep::chrono::Utc;
use tokenkeep::oauth2::{OAuth2Client, OAuth2Error};
use tokenkeep::secrecy::SecretString;
use tokenkeep::{AuthTokens, TokenManager, TokenStore};

use self::open::open;
use self::paste::Pasting;
use crate::arguments::Login;
use crate::context::Context;
use crate::describe::{moment, of_empty_slot, wait};
use crate::failure::{Code, DONE, Failure, Outcome};
use crate::provider::Provider;
use crate::target::Target;
use crate::terminal::FOR_PROVIDER;

const SIGN_IN: &str = "waiting until you have signed in";

pub(super) async fn login(context: &Context, login: &Login) -> Outcome {
    let mut target = Target::of(context)?;
    target.fetch_metadata(context).await?;
    let provider = target.provider()?;
    let client = provider.client(context.selection.allow_prompt).await?;
    let mut client = context.reporting(client);
    // A store that cannot be used is found before the user signs in.
    let there = check_store(context, &target).await?;
    let secret = match provider.has_secret_in_record {
        true => Some(secret_of(there.as_ref())?),
        false => None,
    };
    if let Some(secret) = &secret {
        client = client.with_secret(secret.clone());
    }
    let by_browser = login.browser || login.paste || !(login.device || provider.prefers_device());
    let tokens = if provider.is_own_client {
        by_itself(context, login, &target, &client).await?
    } else if by_browser {
        by_browser_of(context, login, provider, &client).await?
    } else {
        by_device(context, login, provider, &client).await?
    };
    let tokens = match secret {
        Some(secret) => tokens.with_client_secret(secret),
        None => tokens,
    };
    let stays = tokens.refresh_token.is_some() || provider.is_own_client;
    let saved = save(context, &target, tokens).await.map_err(|failure| {
        failure.followed_by(
            "the new tokens are not saved, and the provider may accept them until they expire",
        )
    })?;
    if !stays {
        context.terminal.say(&format!("WARNING: {}", without_refresh_token(provider)));
    }
    saved.keep_metadata(context);
    saved.warn_of_plaintext(context);
    DONE
}

/// Fails if tokens could not be saved now. Returns the tokens that are there.
async fn check_store(context: &Context, target: &Target) -> Result<Option<AuthTokens>, Failure> {
    let manager = target.manager(context)?;
    let there = manager.get_tokens().await?;
    let store = manager.store();
    if there.is_none() && target.url.uses_keychain() {
        // A keychain makes its key with the first tokens.
        drop(store.try_lease().await?);
        return Ok(None);
    }
    tokenkeep::refresh::check_replaceable(&**store).await?;
    Ok(there)
}

/// Returns the secret of the client that is sealed with these tokens.
fn secret_of(tokens: Option<&AuthTokens>) -> Result<SecretString, Failure> {
    tokens.and_then(AuthTokens::client_secret).cloned().ok_or_else(|| {
        Failure::usage(
            "client_secret of this profile is \"record\", and the store holds no tokens with a client's secret; \
             import them again, or write client_secret_env instead",
        )
    })
}

/// Saves the tokens in the store that the profile names now. Another process may have changed the profile during the
/// sign-in, or may do so during the wait for a store. Returns what the tokens are in.
async fn save(context: &Context, before: &Target, tokens: AuthTokens) -> Result<Target, Failure> {
    let client = before.client();
    let mut target = before.read_again(context)?;
    let mut left: Option<TokenManager> = None;
    loop {
        if target.client() != client {
            let message = "the profile was changed meanwhile and names another client or provider; sign in again";
            return Err(Failure::new(Code::Conflict, message));
        }
        let manager = target.manager(context)?;
        manager.set_tokens(tokens.clone()).await?;
        // What was written into the store that the profile names no longer.
        if let Some(left) = left.take().filter(|left| left.store().slot() != manager.store().slot())
        {
            left.clear().await?;
        }
        let now = match target.read_again(context) {
            Ok(now) => Some(now),
            Err(removed) if removed.is(Code::Conflict) => {
                manager.clear().await?;
                return Err(removed);
            }
            // The tokens are saved. The next command says what is wrong with the profile.
            Err(_) => None,
        };
        match now {
            Some(now) if now.url != target.url => (target, left) = (now, Some(manager)),
            now => {
                let store = manager.store();
                context.terminal.say(&format!("signed in; the tokens are in {store}"));
                return Ok(now.unwrap_or(target));
            }
        }
    }
}

/// Gets tokens for the client itself.
async fn by_itself(
    context: &Context,
    login: &Login,
    target: &Target,
    client: &OAuth2Client,
) -> Result<AuthTokens, Failure> {
    if login.device || login.browser || login.paste || login.open {
        return Err(Failure::usage(
            "this client gets tokens for itself (grant_type in its profile), so nobody signs in; use `tokenkeep \
             login` without options",
        ));
    }
    // What another process was told holds here too.
    let store = target.open(context)?;
    let record = match store.load().await? {
        Some(stored) => stored.record,
        None => of_empty_slot(&*store).await,
    };
    if let Some((until, reason)) = wait(&record, &target.client(), Utc::now()) {
        let until = moment(until);
        let message =
            format!("the provider asked to wait until {until} ({reason}); try again then");
        return Err(Failure::new(Code::Other, message));
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
        // Other users of this machine can see arguments, so the code is in none.
        open(context, provider, url);
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
        client.sign_in_by_browser(provider.redirect_port).await.map_err(|error| match error {
            // Nothing was sent yet, so it is the port.
            OAuth2Error::Unavailable { .. } => {
                Failure::from(error).followed_by("`tokenkeep login --paste` needs no port")
            }
            error => error.into(),
        })?
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
