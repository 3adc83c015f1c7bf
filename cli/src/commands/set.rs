//! set: reads tokens from standard input or a prompt.

use std::io::{self, IsTerminal, Read};

use tokenkeep::chrono::Utc;
use tokenkeep::secrecy::ExposeSecret;
use tokenkeep::store::MAX_RECORD;
use tokenkeep::tokens::Freshness;
use tokenkeep::{AuthTokens, StoreError};
use tokio::task::spawn_blocking;
use zeroize::Zeroizing;

use crate::context::Context;
use crate::failure::{DONE, Failure, Outcome};
use crate::target::Target;
use crate::terminal::unbuffered_input;

pub(super) async fn set(context: &Context) -> Outcome {
    let target = Target::of(context)?;
    let manager = target.manager(context)?;
    let tokens = if io::stdin().is_terminal() {
        let prompt = "Access token, or a record in one line: ";
        let terminal = context.terminal.clone();
        let typed = spawn_blocking(move || terminal.ask_hidden(prompt)).await;
        let typed = typed.map_err(io::Error::other)?.map_err(|error| match error.kind() {
            io::ErrorKind::Other => Failure::usage(error.to_string()),
            _ => error.into(),
        })?;
        #[expect(clippy::disallowed_methods, reason = "this is where it comes in")]
        read(typed.expose_secret().as_bytes(), "what was typed")?
    } else {
        read_input()?
    };
    let now = Utc::now();
    let tokens = dated(tokens);
    let is_expired = tokens.freshness(now) == Freshness::Expired;
    let next = match tokens.refresh_token {
        Some(_) => "`tokenkeep refresh` gets a new one",
        None => "sign in again",
    };
    // If the same refresh token is stored already and is in doubt, it stays in doubt.
    let there = manager.get_tokens().await;
    let provider = target.profile.as_ref().and_then(|profile| profile.provider.as_ref());
    // The client's secret was sealed with the tokens that these replace.
    let tokens = match there.ok().flatten().as_ref().and_then(AuthTokens::client_secret) {
        Some(secret)
            if provider.is_some_and(|provider| provider.has_secret_in_record)
                && tokens.client_secret().is_none() =>
        {
            tokens.with_client_secret(secret.clone())
        }
        _ => tokens,
    };
    manager.set_tokens(tokens).await?;
    context.terminal.say_to_person(&format!("stored in {}", manager.store()));
    target.warn_of_plaintext(context);
    if is_expired {
        let note = context.advised(&format!("note: this access token has expired; {next}"));
        context.terminal.say(&note);
    }
    DONE
}

/// Sets when the tokens expire, if the token itself says so. Its age is unknown, so its expiry date counts, and its
/// original lifetime does not.
fn dated(mut tokens: AuthTokens) -> AuthTokens {
    if tokens.obtained_at.is_none() && tokens.has_access_token() {
        tokens.expires_at = tokens.expires_at.or_else(|| tokens.expiry());
    }
    tokens
}

/// Reads a record, or a bare access token. An error is about the input, not about stored tokens.
fn read(text: &[u8], place: &str) -> Result<AuthTokens, Failure> {
    let tokens = AuthTokens::from_text(text, place).or_else(|error| match error {
        // The answer of a provider counts its lifetimes from when it was sent, which is now.
        StoreError::NotARecord { .. } => {
            AuthTokens::from_token_response(text, Utc::now()).map_err(|_| error)
        }
        error => Err(error),
    });
    tokens.map_err(|error| match error {
        // Unlike a store, the input has nothing to restore or to clear.
        StoreError::Corrupt { reason, .. } | StoreError::NotARecord { reason, .. } => {
            Failure::usage(format!("{place} holds no tokens: {reason}"))
        }
        StoreError::TooLarge { limit, .. } => Failure::usage(format!(
            "{place} holds no tokens: it is longer than {limit} bytes, the maximum of a record"
        )),
        error => Failure::usage(Failure::from(error).message()),
    })
}

fn read_input() -> Result<AuthTokens, Failure> {
    // One byte more than the maximum, to detect input that is too long. The buffer never grows,
    // because growing leaves copies.
    let mut input = Zeroizing::new(vec![0; MAX_RECORD + 1]);
    let mut filled = 0;
    let mut stdin = unbuffered_input()?;
    while filled < input.len() {
        match stdin.read(&mut input[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                return Err(Failure::usage(format!("cannot read standard input: {error}")));
            }
        }
    }
    read(&input[..filled], "standard input")
}
