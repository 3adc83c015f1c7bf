//! Work with tokens that may be refreshed on the way: what is said of that, and what is waited for.

use std::future::Future;
use std::time::Duration;

use tokenkeep::{AuthError, Event, Events, TokenManager};

use crate::failure::{Code, Failure};
use crate::{interrupt, terminal};

/// How long a command waits at its end for a refresh that is under way, and for new tokens that could
/// not be saved: for a server that is started anew, half a minute.
const LONGEST_END: Duration = Duration::from_secs(40);

/// Does this, and then waits until no refresh is under way and its result is saved, whatever came of the
/// work. A signal ends the work, and not the refresh.
pub(crate) async fn session<T>(
    manager: &TokenManager,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let mut events = manager.subscribe();
    let mut not_refreshed = None;
    let all = async {
        let done = tokio::select! {
            biased;
            done = work => done,
            () = interrupt::caught() => Err(interrupted()),
        };
        (done, manager.shutdown(LONGEST_END).await.map_err(lost))
    };
    let (done, ended) = tokio::select! {
        biased;
        () = listen(&mut events, &mut not_refreshed) => unreachable!("the manager is alive"),
        all = all => all,
    };
    if interrupt::let_go() {
        return ended.and(Err(interrupted()));
    }
    match (done, ended) {
        (Ok(done), Ok(())) => {
            if let Some(why) = not_refreshed {
                terminal::say(&format!("note: these tokens were not refreshed: {why}"));
            }
            Ok(done)
        }
        // What is lost is worse than what was not done, so it is said last, and is what this ends with.
        (Err(failure), Err(lost)) => {
            failure.say();
            Err(lost)
        }
        (Err(failure), Ok(())) if failure.is(Code::NoTokens) => {
            Err(failure.within(&manager.store().to_string()))
        }
        (Err(failure), Ok(())) | (Ok(_), Err(failure)) => Err(failure),
    }
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

/// Says at once what may have to be mended while this goes on.
async fn listen(events: &mut Events, not_refreshed: &mut Option<String>) {
    while let Some(event) = events.next().await {
        match event {
            Event::LoginRequired { error } | Event::RefreshFailed { error, .. } => {
                *not_refreshed = Some(Failure::from(error).message().to_owned());
            }
            Event::Refreshed => *not_refreshed = None,
            Event::SaveFailed { error } => terminal::say(&format!(
                "the new tokens could not be saved yet, which is tried again: {}",
                Failure::from(error).message()
            )),
            _ => {}
        }
    }
}
