//! refresh: gets new tokens now.

use tokenkeep::AuthError;

use crate::context::Context;
use crate::failure::{DONE, Failure, Outcome};
use crate::refreshing::{not_refreshed, with_refresh};
use crate::target::{Target, refuse_environment};

pub(super) async fn refresh(context: &Context) -> Outcome {
    let target = Target::of(context)?;
    refuse_environment(&target.url, &*target.open(context)?)?;
    let manager = target.manager(context)?;
    let refreshed = with_refresh(context, &manager, async {
        match manager.refresh().await {
            Ok(tokens) => Ok(tokens),
            Err(AuthError::NoRefresher) => Err(Failure::usage(
                "this profile has no [oauth2] to refresh with; add token_url and client_id to its file, or \
                 sign in again",
            )),
            Err(error) => Err(not_refreshed(&manager, error).await),
        }
    })
    .await?;
    context
        .terminal
        .say(&format!("refreshed: {}", super::status::sentence(Some(&refreshed), None)));
    DONE
}
