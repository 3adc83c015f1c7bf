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
    match &get.field {
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
            let tokens = manager.get_tokens().await?;
            let scheme = scheme(tokens.as_ref().and_then(AuthTokens::token_type))?;
            let header =
                Zeroizing::new(["Authorization: ", scheme, " ", token.expose_secret()].concat());
            context.terminal.print_secret(&header)?;
        }
        Field::Refresh => {
            let tokens = manager.get_tokens().await?.ok_or(AuthError::TokenNotFound)?;
            let token = tokens.refresh_token.ok_or_else(Failure::no_refresh_token)?;
            context.terminal.print_secret(token.expose_secret())?;
        }
        Field::Id => {
            let tokens = manager.get_tokens().await?.ok_or(AuthError::TokenNotFound)?;
            let token = tokens.id_token().ok_or_else(|| {
                let reason = "there is no ID token; add the scope openid, and sign in again";
                Failure::new(Code::NoTokens, reason)
            })?;
            context.terminal.print_secret(token.expose_secret())?;
        }
        Field::Extra(name) => {
            let tokens = manager.get_tokens().await?.ok_or(AuthError::TokenNotFound)?;
            let value = tokens.extra(name).filter(|_| !is_client_secret(name));
            let value = value.ok_or_else(|| no_such_field(&tokens))?;
            context.terminal.print_secret(value.expose_secret())?;
        }
        Field::Json => {
            let tokens = manager.get_tokens().await?.ok_or(AuthError::TokenNotFound)?;
            let record: SecretString =
                in_seconds(tokens).without_client_secret().to_record("standard output")?;
            context.terminal.print_secret(record.expose_secret())?;
        }
    }
    DONE
}

/// Returns whether another program kept the secret of its client under this name. It is for no one who asks for tokens.
fn is_client_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase().replace(['_', '-', '.'], "");
    ["clientsecret", "consumersecret", "appsecret"].iter().any(|secret| name.contains(secret))
}

/// Names the fields that there are. The name that was given may be a token, by mistake.
fn no_such_field(tokens: &AuthTokens) -> Failure {
    let names = ["access", "refresh", "id", "json"].into_iter();
    let names: Vec<_> = names.chain(tokens.extras().map(|(name, _)| name)).take(50).collect();
    Failure::usage(format!(
        "these tokens have no field of that name; they have {}",
        names.join(", ")
    ))
}

/// Returns the scheme for a token of this type (RFC 6749, 7.1). Without a type, it is `Bearer`.
fn scheme(token_type: Option<&str>) -> Result<&str, Failure> {
    let token_type = token_type.unwrap_or_default().trim();
    // RFC 9110, 5.6.2.
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    match &*token_type.to_ascii_lowercase() {
        // The last two are Slack's, whose APIs take bearer tokens.
        "" | "bearer" | "bot" | "user" => Ok("Bearer"),
        // RFC 9449, RFC 8705, a draft of OAuth 2.0, and RFC 8693, 2.2.1.
        "dpop" | "pop" | "mac" | "n_a" => Err(Failure::new(
            Code::Other,
            format!(
                "the token type is {token_type}, which no fixed header can carry; get the access token alone, and \
                 send it with a program that knows this type"
            ),
        )),
        _ if token_type.bytes().all(fits) => Ok(token_type),
        _ => Err(Failure::new(
            Code::Unreadable,
            "the token type has characters that a header cannot contain; get the access token alone",
        )),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_has_the_token_type_that_the_provider_named() {
        for (token_type, expected) in [
            (None, Some("Bearer")),
            (Some(""), Some("Bearer")),
            (Some("bearer"), Some("Bearer")),
            (Some("BEARER "), Some("Bearer")),
            (Some("bot"), Some("Bearer")),
            (Some("token"), Some("token")),
            (Some("JWT"), Some("JWT")),
            (Some("Zoho-oauthtoken"), Some("Zoho-oauthtoken")),
            // They need a proof with each request.
            (Some("DPoP"), None),
            (Some("mac"), None),
            (Some("N_A"), None),
            (Some("a b"), None),
            (Some("a\r\nX: y"), None),
            (Some("ä"), None),
        ] {
            assert_eq!(scheme(token_type).ok(), expected, "{token_type:?}");
        }
    }
}
