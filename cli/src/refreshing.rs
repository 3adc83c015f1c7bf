//! Work with tokens that may be refreshed meanwhile: what is reported, and what the command waits
//! for.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use tokenkeep::chrono::Utc;
use tokenkeep::manager::{Event, Events};
use tokenkeep::oauth2::OAuth2Error;
use tokenkeep::refresh::RefreshPermit;
use tokenkeep::tokens::Freshness;
use tokenkeep::{
    AccessToken, AuthError, AuthTokens, RefreshFailure, TokenManager, TokenRefresher, async_trait,
};
use tokio::sync::OnceCell;

use crate::context::Context;
use crate::describe::{moment, span};
use crate::failure::{Code, Failure};
use crate::profile::Profile;
use crate::provider::{Provider, UrlSource};
use crate::terminal::Terminal;

/// How long a command waits at its end for a refresh that is under way, and for new tokens that
/// could not be saved. A server that restarts may need 30 s.
const LONGEST_END: Duration = Duration::from_secs(40);

/// Does the work. Then waits until no refresh is under way and the result of the last one is saved,
/// even if the work failed. A signal ends the work, but not the refresh.
pub(crate) async fn with_refresh<T>(
    context: &Context,
    manager: &TokenManager,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let mut events = manager.subscribe();
    let mut not_refreshed = None;
    let all = async {
        let done = tokio::select! {
            biased;
            done = work => done,
            () = caught(context) => Err(interrupted()),
        };
        let mut end = pin!(manager.shutdown(LONGEST_END));
        let ended = tokio::select! {
            biased;
            ended = &mut end => ended,
            () = caught(context) => end.await,
        };
        (done, ended.map_err(lost))
    };
    let (done, ended) = tokio::select! {
        biased;
        () = listen(&context.terminal, &mut events, &mut not_refreshed) => unreachable!("the manager is alive"),
        all = all => all,
    };
    // The events of the last step were not handled yet.
    tokio::select! {
        biased;
        () = listen(&context.terminal, &mut events, &mut not_refreshed) => unreachable!("the manager is alive"),
        () = std::future::ready(()) => {}
    }
    if context.interrupts.let_go() {
        return ended.and(Err(interrupted()));
    }
    match (done, ended) {
        (Ok(done), Ok(())) => {
            if let Some(why) = not_refreshed {
                let why = context.advised(&why);
                context.terminal.say(&format!("warning: these tokens were not refreshed: {why}"));
            }
            Ok(done)
        }
        // Lost tokens are worse than failed work. So their failure is said last, and the command
        // ends with it.
        (Err(failure), Err(lost)) => {
            context.advise(failure).say(&context.terminal);
            Err(lost)
        }
        (Err(failure), Ok(())) if failure.is(Code::NoTokens) => {
            Err(failure.within(&manager.store().to_string()))
        }
        (Err(failure), Ok(())) | (Ok(_), Err(failure)) => Err(failure),
    }
}

/// Refreshes at the provider of a profile. Reads the client's secret only for a refresh: a fresh
/// token is returned without it.
pub(crate) struct Refresher {
    provider: Provider,
    profile: Profile,
    context: Context,
    /// The provider with the URLs that were fetched because nobody had kept them.
    discovered: OnceCell<Provider>,
}

impl Refresher {
    pub(crate) fn new(profile: &Profile, provider: &Provider, context: &Context) -> Self {
        Self {
            provider: provider.clone(),
            profile: profile.clone(),
            context: context.clone(),
            discovered: OnceCell::new(),
        }
    }

    /// Returns the provider with its URLs. Fetches them if the profile was written by hand and names an issuer, and
    /// no `token_url`.
    async fn provider(&self) -> Result<&Provider, RefreshFailure> {
        if !self.provider.needs_discovery_to_refresh() {
            return Ok(&self.provider);
        }
        let discover = async || {
            let mut profile = self.profile.clone();
            profile.discover(&self.context.terminal).await.map_err(|error| match error {
                OAuth2Error::Unavailable { retry_after, .. } => {
                    let (reason, unspent) = (error.to_string(), true);
                    RefreshFailure::Transient { reason, retry_after, unspent }
                }
                error => RefreshFailure::misconfigured(error.to_string()),
            })?;
            Ok(profile.provider.unwrap_or_else(|| self.provider.clone()))
        };
        self.discovered.get_or_try_init(discover).await
    }
}

#[async_trait]
impl TokenRefresher for Refresher {
    async fn refresh(
        &self,
        current: AuthTokens,
        permit: &RefreshPermit,
    ) -> Result<AuthTokens, RefreshFailure> {
        let provider = self.provider().await?;
        let client = provider.client(self.context.selection.allow_prompt).await;
        let client = client.map_err(|failure| RefreshFailure::misconfigured(failure.message()))?;
        let client = self.context.reporting(client);
        self.context.interrupts.hold();
        let _waiting = self.context.terminal.waiting_for("waiting for the token endpoint");
        let refreshed = client.refresh(current, permit).await;
        refreshed.map_err(|failure| match failure {
            RefreshFailure::Misconfigured { reason, status: status @ Some(404), unspent }
                if provider.token_url == UrlSource::Metadata =>
            {
                let reason = format!(
                    "{reason}; this endpoint is from the kept metadata of the issuer, which may be old; `tokenkeep \
                     login` fetches it again"
                );
                RefreshFailure::Misconfigured { reason, status, unspent }
            }
            failure => failure,
        })
    }

    fn client(&self) -> String {
        self.discovered.get().unwrap_or(&self.provider).client_name()
    }

    fn needs_refresh_token(&self) -> bool {
        !self.provider.is_own_client
    }
}

/// Waits for a signal, and says what the end of the process waits for.
async fn caught(context: &Context) {
    context.interrupts.caught().await;
    context
        .terminal
        .say("finishing a refresh, so that the session is not lost; once more ends this at once");
}

/// Returns whether the tokens are a copy that has expired. It was served until then.
async fn is_expired_copy(error: &AuthError, manager: &TokenManager) -> bool {
    match error {
        AuthError::IsBackup => true,
        // Without a provider, nothing could refresh them anyway.
        AuthError::TokenExpired => {
            matches!(manager.get_tokens().await, Ok(Some(tokens)) if tokens.is_backup())
        }
        _ => false,
    }
}

/// Returns an access token that works. Otherwise the failure says when the access token expires: a
/// token that has 3 minutes left counts as expired, but still works.
pub(crate) async fn access_token(manager: &TokenManager) -> Result<AccessToken, Failure> {
    let error = match manager.get_access_token().await {
        Ok(token) => return Ok(token),
        Err(error) => error,
    };
    if is_expired_copy(&error, manager).await {
        return Err(Failure::new(Code::Expired, "the access token has expired").followed_by(
            "these tokens are a copy, which is never refreshed; `tokenkeep restore` puts a backup back into use, \
             and `tokenkeep migrate --from import:... --take-over` does so with tokens of another program",
        ));
    }
    let now = Utc::now();
    if let AuthError::LoginRequired { .. } = error
        && has_no_refresh_token(manager).await
    {
        return Err(no_refresh_token("the access token has expired"));
    }
    if let AuthError::TokenExpired = error
        && let Ok(Some(tokens)) = manager.get_tokens().await
        && tokens.freshness(now) == Freshness::Expiring
        && let Some(expiry) = tokens.expiry()
    {
        return Err(Failure::new(
            Code::Expired,
            format!(
                "the access token is about to expire, in {} ({}), and counts as expired; refresh it or sign \
                 in again",
                span(expiry - now),
                moment(expiry)
            ),
        ));
    }
    Err(error.into())
}

/// Returns whether the slot holds tokens that cannot be refreshed.
async fn has_no_refresh_token(manager: &TokenManager) -> bool {
    matches!(manager.get_tokens().await, Ok(Some(tokens)) if tokens.refresh_token.is_none())
}

/// Makes the failure for tokens that need a sign-in because they have no refresh token.
fn no_refresh_token(state: &str) -> Failure {
    Failure::new(
        Code::Expired,
        format!(
            "{state}, and there is no refresh token; sign in again; many providers issue a refresh token only if              it is asked for, by the scope offline_access or by access_type=offline"
        ),
    )
}

/// Returns why tokens were not refreshed on request. If they have no refresh token, says how long the access token
/// can be used.
pub(crate) async fn not_refreshed(manager: &TokenManager, error: AuthError) -> Failure {
    let AuthError::LoginRequired { .. } = error else { return error.into() };
    let now = Utc::now();
    match manager.get_tokens().await {
        Ok(Some(tokens)) if tokens.refresh_token.is_none() => match tokens.expiry() {
            _ if tokens.freshness(now) == Freshness::Expired => {
                no_refresh_token("the access token has expired")
            }
            Some(expiry) => Failure::new(
                Code::NoTokens,
                format!(
                    "there is no refresh token; the access token stays valid until {}",
                    moment(expiry)
                ),
            ),
            None => Failure::new(
                Code::NoTokens,
                "there is no refresh token; the access token has no known expiry",
            ),
        },
        _ => error.into(),
    }
}

/// Returns tokens with a good access token, refreshed if a refresh is due. Waits until the refresh
/// is over: a refresh token that is being spent would be of no use.
pub(crate) async fn good_tokens(
    context: &Context,
    manager: &TokenManager,
) -> Result<AuthTokens, Failure> {
    with_refresh(context, manager, access_token(manager)).await?;
    Ok(manager.get_tokens().await?.ok_or(AuthError::TokenNotFound)?)
}

/// No message: the user who sent the signal knows about it.
fn interrupted() -> Failure {
    Failure::new(Code::Other, "")
}

fn lost(error: AuthError) -> Failure {
    match error {
        AuthError::NotSaved(error) => Failure::from(error).within(
            "the new tokens could not be saved and are lost when this command ends; sign in again",
        ),
        error => error.into(),
    }
}

/// Reports at once what the user may have to fix while the work continues.
async fn listen(terminal: &Terminal, events: &mut Events, not_refreshed: &mut Option<String>) {
    while let Some(event) = events.next().await {
        match event {
            Event::LoginRequired { error } | Event::RefreshFailed { error, .. } => {
                *not_refreshed = Some(Failure::from(error).message().to_owned());
            }
            Event::SavedWithEarlierKey { error } => terminal.say(&format!(
                "warning: the new tokens were saved for those who could open the old ones: {}",
                Failure::from(error).message()
            )),
            Event::Refreshed => *not_refreshed = None,
            Event::SaveFailed { error } => terminal.say(&format!(
                "the new tokens could not be saved yet, which is tried again: {}",
                Failure::from(error).message()
            )),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use tokenkeep::chrono::{TimeDelta, Utc};
    use tokenkeep::stores::MemoryStore;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_refresh_token_that_is_being_spent_is_given_to_nobody() {
        let refresh = |_: AuthTokens| async {
            // Longer than a caller with a good access token waits for a new one.
            tokio::time::sleep(Duration::from_secs(8)).await;
            Ok(AuthTokens::new("new").with_refresh_token("new"))
        };
        let builder = TokenManager::builder().store(MemoryStore::new()).timer(tokio::time::sleep);
        let manager = builder.refresh_with(refresh).build();
        let now = Utc::now();
        let mut due = AuthTokens::new("spent").with_refresh_token("spent");
        due.obtained_at = Some(now - TimeDelta::hours(1));
        manager.set_tokens(due.with_expires_at(now + TimeDelta::minutes(10))).await.unwrap();
        let context = Context::for_tests();
        let tokens = good_tokens(&context, &manager).await.unwrap();
        assert_eq!(tokens.access_token, "new".into());
        assert_eq!(tokens.refresh_token, Some("new".into()));
    }
}
