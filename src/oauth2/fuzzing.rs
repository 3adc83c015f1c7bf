//! Reads answers of a server and requests of a browser without the network.

use std::collections::VecDeque;
use std::future::{self, Future};
use std::pin::pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use ::http::header::{HeaderMap, HeaderValue, RETRY_AFTER};
use ::http::{Response, StatusCode};
use chrono::{DateTime, Utc};
use oauth2::{AuthorizationCode, CsrfToken, HttpResponse};
use zeroize::Zeroizing;

use super::browser::callback::Expected;
use super::device::Exchange;
use super::failure::Failed;
use super::http::Reply;
use super::refusal::Report;
use super::{OAuth2Client, OAuth2Error, failed};
use crate::error::RefreshFailure;
use crate::tokens::AuthTokens;

/// A status and a body.
pub type Answer<'a> = (u16, &'a [u8]);

/// Returns the result of a refresh with this answer.
pub fn refresh(client: &OAuth2Client, answer: Answer<'_>) -> Result<AuthTokens, RefreshFailure> {
    let (token, sent) = (oauth2::RefreshToken::new("spent".into()), client.clock.now());
    let answer = client.client().exchange_refresh_token(&token).request(&|_| judged(answer));
    Ok(client.received(answer.map_err(|error| failed(error, client.token_url.url()))?, sent))
}

/// Returns the URL, the code and the result of a sign-in with these answers. The first one is for the first
/// request, the others are for the polling. After the last answer, requests fail.
pub fn sign_in_by_device(
    client: &OAuth2Client,
    answers: &[Answer<'_>],
) -> Result<(String, String, Result<AuthTokens, OAuth2Error>), OAuth2Error> {
    let answers = answers.iter().map(|&(status, body)| reply((status, body)));
    let answers = Mutex::new(answers.collect::<VecDeque<_>>());
    let exchange: &Exchange = &move |_| {
        let answer = answers.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let none = || Failed::Unsendable { reason: "there is no answer".into() };
        Box::pin(future::ready(answer.ok_or_else(none)))
    };
    let sign_in = at_once(client.sign_in_at(client.token_url.url(), exchange))?;
    let (shown, code) = (sign_in.verification_url().to_owned(), sign_in.user_code().to_owned());
    let tokens = at_once(sign_in.tokens_from(exchange, |_| future::ready(())));
    Ok((shown, code, tokens))
}

/// Returns the result of a future that never waits.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => done,
        Poll::Pending => unreachable!("every answer is there at once"),
    }
}

/// Returns the code or the error in a request to the port of a sign-in, if it belongs to the sign-in.
pub fn callback(request: &[u8], state: &str) -> Option<Result<String, OAuth2Error>> {
    let (path, state) = ("/callback".to_owned(), CsrfToken::new(state.into()));
    let (report, host) = (Report::default(), String::new());
    let brought = Expected { path, state, issuer: None, report, host }.read(request)?;
    Some(brought.map(AuthorizationCode::into_secret).map_err(Into::into))
}

/// Returns the wait that a `Retry-After` header asks for.
pub fn retry_after(value: &[u8], now: DateTime<Utc>) -> Option<Duration> {
    let headers = [(RETRY_AFTER, HeaderValue::from_bytes(value).ok()?)];
    super::retry_after::retry_after(&HeaderMap::from_iter(headers), now)
}

fn judged(answer: Answer<'_>) -> Result<HttpResponse, Failed> {
    reply(answer).judge("issuer.example").map(Response::new)
}

fn reply((status, body): Answer<'_>) -> Reply {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    Reply { status, retry_after: None, body: Zeroizing::new(body.to_vec()) }
}
