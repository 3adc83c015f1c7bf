//! Work with tokens that may be refreshed on the way: what is said of that, and what is waited for.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use tokenkeep::chrono::Utc;
use tokenkeep::manager::{Event, Events};
use tokenkeep::refresh::RefreshPermit;
use tokenkeep::tokens::Freshness;
use tokenkeep::{
    AccessToken, AuthError, AuthTokens, RefreshFailure, TokenManager, TokenRefresher, async_trait,
};

use crate::context::Context;
use crate::describe::{moment, span};
use crate::failure::{Code, Failure};
use crate::provider::Provider;
use crate::terminal::Terminal;

/// How long a command waits at its end for a refresh that is under way, and for new tokens that could
/// not be saved: for a server that is started anew, half a minute.
const LONGEST_END: Duration = Duration::from_secs(40);

/// Does this, and then waits until no refresh is under way and its result is saved, whatever came of the
/// work. A signal ends the work, and not the refresh.
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
    // What happened in the last step was not heard yet.
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
                context.terminal.say(&format!("warning: these tokens were not refreshed: {why}"));
            }
            Ok(done)
        }
        // What is lost is worse than what was not done, so it is said last, and is what this ends with.
        (Err(failure), Err(lost)) => {
            failure.say(&context.terminal);
            Err(lost)
        }
        (Err(failure), Ok(())) if failure.is(Code::NoTokens) => {
            Err(failure.within(&manager.store().to_string()))
        }
        (Err(failure), Ok(())) | (Ok(_), Err(failure)) => Err(failure),
    }
}

/// Refreshes at the provider of a profile. The client's secret is read when it is needed: a token that is fresh is
/// handed out without it.
pub(crate) struct Refresher {
    pub(crate) provider: Provider,
    pub(crate) context: Context,
}

#[async_trait]
impl TokenRefresher for Refresher {
    async fn refresh(
        &self,
        current: AuthTokens,
        permit: &RefreshPermit,
    ) -> Result<AuthTokens, RefreshFailure> {
        let client = self.provider.client();
        let client = client.map_err(|failure| RefreshFailure::misconfigured(failure.message()))?;
        self.context.interrupts.hold();
        let _waiting = self.context.terminal.waiting_for("waiting for the token endpoint");
        client.refresh(current, permit).await
    }

    fn client(&self) -> String {
        self.provider.client_name()
    }
}

/// Waits for a signal, and says what that waits for.
async fn caught(context: &Context) {
    context.interrupts.caught().await;
    context
        .terminal
        .say("finishing a refresh, so that the session is not lost; once more ends this at once");
}

/// Returns an access token that works. Says of one that does not when it expires: a token that has 3 minutes
/// left counts as expired, and has not.
pub(crate) async fn access_token(manager: &TokenManager) -> Result<AccessToken, Failure> {
    let error = match manager.get_access_token().await {
        Ok(token) => return Ok(token),
        Err(error) => error,
    };
    let now = Utc::now();
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

/// Returns tokens of which the access token is good, refreshed if that is due. It waits until that is over:
/// a refresh token that is being spent would be of no use.
pub(crate) async fn good_tokens(
    context: &Context,
    manager: &TokenManager,
) -> Result<AuthTokens, Failure> {
    with_refresh(context, manager, access_token(manager)).await?;
    Ok(manager.get_tokens().await?.ok_or(AuthError::TokenNotFound)?)
}

/// There is nothing to say: who did it knows.
fn interrupted() -> Failure {
    Failure::new(Code::Other, "")
}

fn lost(error: AuthError) -> Failure {
    match error {
        AuthError::NotSaved(error) => Failure::from(error).within(
            "the new tokens could not be saved and end with this command, so sign in again",
        ),
        error => error.into(),
    }
}

/// Says at once what may have to be fixed while this goes on.
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
            // For longer than who has a good access token waits for a better one.
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
