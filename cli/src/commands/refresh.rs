//! refresh: gets new tokens now.

use tokenkeep::AuthError;

use crate::context::Context;
use crate::failure::{DONE, Failure, Outcome};
use crate::refreshing::with_refresh;
use crate::target::{Target, refuse_environment};

pub(super) async fn refresh(context: &Context) -> Outcome {
    let target = Target::of(context)?;
    refuse_environment(&target.url, &*target.open(context)?)?;
    let manager = target.manager(context)?;
    let refreshed = with_refresh(context, &manager, async {
        manager.refresh().await.map_err(|error| match error {
            AuthError::NoRefresher => Failure::usage(
                "this profile has no [oauth2] to refresh with; add token_url and client_id to its \
                 file, or sign in again and give the new tokens to `tokenkeep set`",
            ),
            error => error.into(),
        })
    })
    .await?;
    context
        .terminal
        .say(&format!("refreshed: {}", super::status::sentence(Some(&refreshed), None)));
    DONE
}
