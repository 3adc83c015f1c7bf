//! get: prints a token to standard output.

use tokenkeep::chrono::Timelike;
use tokenkeep::secrecy::{ExposeSecret, SecretString};
use tokenkeep::{AuthError, AuthTokens, TokenManager};
use zeroize::Zeroizing;

use crate::arguments::{Field, Get};
use crate::context::Context;
use crate::failure::{Code, DONE, Failure, Outcome};
use crate::refreshing::{access_token, with_refresh};
use crate::target::Target;

pub(super) async fn get(context: &Context, get: &Get) -> Outcome {
    if get.header && get.field != Field::Access {
        return Err(Failure::usage(
            "a header contains the access token, but --field names another value; leave out one",
        ));
    }
    let manager = Target::of(context)?.manager(context)?;
    // Printed before everything is saved: the access token is good even if saving fails.
    with_refresh(context, &manager, print(context, &manager, get)).await
}

#[expect(clippy::disallowed_methods, reason = "printing them is what it is for")]
async fn print(context: &Context, manager: &TokenManager, get: &Get) -> Outcome {
    match get.field {
        Field::Access => {
            let token = access_token(manager).await?;
            if !get.header {
                context.terminal.print_secret(token.expose_secret())?;
                return DONE;
            }
            if !token.expose_secret().bytes().all(|byte| byte.is_ascii_graphic()) {
                let reason =
                    "the access token has characters that a header cannot contain; sign in again";
                return Err(Failure::new(Code::Unreadable, reason));
            }
            let header = Zeroizing::new(["Authorization: Bearer ", token.expose_secret()].concat());
            context.terminal.print_secret(&header)?;
        }
        Field::Refresh => {
            let tokens = manager.get_tokens().await?.ok_or(AuthError::TokenNotFound)?;
            let token = tokens.refresh_token.ok_or_else(Failure::no_refresh_token)?;
            context.terminal.print_secret(token.expose_secret())?;
        }
        Field::Json => {
            let tokens = manager.get_tokens().await?.ok_or(AuthError::TokenNotFound)?;
            let record: SecretString = in_seconds(tokens).to_record("standard output")?;
            context.terminal.print_secret(record.expose_secret())?;
        }
    }
    DONE
}

/// Returns the same tokens with their times in whole seconds, as people and other programs write
/// them.
fn in_seconds(mut tokens: AuthTokens) -> AuthTokens {
    let times = [&mut tokens.expires_at, &mut tokens.obtained_at, &mut tokens.refresh_expires_at];
    for time in times.into_iter().flatten() {
        *time = time.with_nanosecond(0).unwrap_or(*time);
    }
    tokens
}
