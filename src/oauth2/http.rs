//! Sends one request and reads one answer: no redirects, no retries, no cookies, and a new connection for
//! each request.

mod arrived;
mod certificate;
mod connect;
mod head;
#[cfg(test)]
mod tests;

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue, USER_AGENT,
};
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use oauth2::url::Url;
use oauth2::{AsyncHttpClient, HttpRequest, HttpResponse};
use rustls::sign::SingleCertAndKey;
use secrecy::ExposeSecret;
use serde_json::value::RawValue;
use tokio::time::{Instant, timeout};
use zeroize::Zeroizing;

use self::arrived::Arrived;
pub(super) use self::certificate::client_certificate;
use self::connect::{connect, tcp};
use self::head::Lenient;
use super::answer::Answer;
use super::failure::{Failed, error_code, needs_a_sign_in};
use super::hard_close::HardClose;
use super::refusal::Report;
use super::retry_after::retry_after;
use super::unsendable;
use crate::net::certificate::refuses_the_client;
use crate::net::tls::USER;
use crate::net::unreached::Unreached;
use crate::refresh::RefreshPermit;
use crate::tokens::json;

/// The limit for resolving the name, connecting and the TLS handshake together. Together with [`ANSWER`] it
/// is shorter than the 30 s that a refresh has by default. So a refresh fails with the error of this
/// module, which says whether the request was sent.
const CONNECT: Duration = Duration::from_secs(10);

/// The limit from the first byte that is sent to the last byte that is received.
const ANSWER: Duration = Duration::from_secs(15);

/// The limit for connecting while the old access token is good. Nothing is lost if the refresh begins again.
const CONNECT_WHILE_GOOD: Duration = Duration::from_secs(5);

/// The limit for connecting and the answer together while the old access token is good. Its user waits for that,
/// and for the second try after it: for less than 20 s in all.
const WHOLE_WHILE_GOOD: Duration = ANSWER;

/// The time for reading an answer that has arrived already when [`ANSWER`] is over.
const LAST_LOOK: Duration = Duration::from_millis(500);

/// The longest head of an answer. It also limits how much is read at a time: between two reads, deadlines are
/// checked.
///
/// A proxy with single sign-on may set cookies of more than 32 KiB.
const LONGEST_HEAD: usize = 64 << 10;

/// The most headers of an answer. As many short ones fit into [`LONGEST_HEAD`].
const MOST_HEADERS: usize = 4096;

/// The most bytes of a body. A record holds 64 KiB of tokens, and an answer may have other fields besides.
const LONGEST_BODY: usize = 256 << 10;

/// Sends the requests that the `oauth2` crate makes.
#[derive(Clone, Debug)]
pub(super) struct Http {
    connect: Duration,
    answer: Duration,
    /// The limit for connecting and the answer together.
    whole: Duration,
    permit: RefreshPermit,
    pub(super) report: Report,
    /// Whether it uses the proxy of the environment.
    pub(super) by_proxy: bool,
    /// The certificate of the client, and its key.
    pub(super) certificate: Option<Arc<SingleCertAndKey>>,
}

/// Values of `error` that name no error: texts, or JSON that is no text.
const NO_ERRORS: [&str; 10] =
    ["", "0", "[]", "false", "none", "null", "ok", "success", "undefined", "{}"];

/// Returns whether a value of `error` names no error. Some providers write one into each answer.
fn names_no_error(value: &RawValue) -> bool {
    let text = json::secret(value);
    #[expect(clippy::disallowed_methods, reason = "compared with a few words only")]
    let text = text.as_ref().map_or(value.get(), |text| text.expose_secret());
    NO_ERRORS.iter().any(|word| text.trim().eq_ignore_ascii_case(word))
}

/// The parts of an answer that are used.
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) retry_after: Option<Duration>,
    pub(super) body: Zeroizing<Vec<u8>>,
}

impl Http {
    pub(super) fn new() -> Self {
        let (permit, report) = (RefreshPermit::unlimited(), Report::default());
        let (connect, answer, whole) = (CONNECT, ANSWER, CONNECT + ANSWER);
        Self { connect, answer, whole, permit, report, by_proxy: true, certificate: None }
    }

    /// Returns a client whose requests may be sent only while the permit lasts.
    pub(super) fn permitted(&self, permit: RefreshPermit) -> Self {
        Self { permit, ..self.clone() }
    }

    /// Returns a client that delays a caller with a good token only shortly.
    pub(super) fn while_good(&self) -> Self {
        Self { connect: CONNECT_WHILE_GOOD, whole: WHOLE_WHILE_GOOD, ..self.clone() }
    }

    /// Returns the limit for an answer after this time for connecting. The time in which this process was stopped
    /// does not count, so that a request that is sent always has time for its answer.
    fn time_to_answer(&self, connecting: Duration) -> Duration {
        self.answer.min(self.whole.saturating_sub(connecting.min(self.connect)))
    }

    /// Sends a request, and returns the answer if it is a success.
    pub(super) async fn exchange(&self, request: HttpRequest) -> Result<HttpResponse, Failed> {
        let place = request.uri().authority().map_or_else(String::new, ToString::to_string);
        let body = self.send(request, &place).await?.judge(&place)?;
        // The Content-Type is dropped. Tokens with a wrong one must not be lost.
        Ok(Response::new(body))
    }

    /// Fetches a public document.
    pub(super) async fn get(&self, url: &Url) -> Result<Reply, Failed> {
        let request = http::Request::get(url.as_str()).header(ACCEPT, "application/json");
        let request = request.body(Vec::new()).map_err(|_| unsendable())?;
        self.transfer(request, url.authority()).await
    }

    /// Sends a JSON document.
    pub(super) async fn post_json(&self, url: &Url, json: String) -> Result<Reply, Failed> {
        let request = http::Request::post(url.as_str())
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/json");
        let request = request.body(json.into_bytes()).map_err(|_| unsendable())?;
        self.transfer(request, url.authority()).await
    }

    /// Sends a form to the server with this name, and returns the answer, whatever it says. If it is a refusal,
    /// reports it.
    pub(super) async fn send(&self, request: HttpRequest, place: &str) -> Result<Reply, Failed> {
        let secrets = self.report.secrets(&request);
        let mut reply = self.transfer(request, place).await?;
        self.report.answer(place, reply.status, &reply.body, &secrets);
        secrets.remove_from_code(reply.status, &mut reply.body);
        Ok(reply)
    }

    async fn transfer(&self, request: HttpRequest, place: &str) -> Result<Reply, Failed> {
        let began = Instant::now();
        let connection = connect(self, request.uri(), place).await?;
        let limit = self.time_to_answer(began.elapsed());
        let request = prepared(request);
        let left = self.permit.time_to_answer();
        let hard = left.map(|left| HardClose::within(tcp(&connection), left)).transpose();
        let hard = hard.map_err(|error| {
            not_sent(
                place,
                &format!("is connected, but its socket cannot be set up ({})", error.kind()),
            )
        })?;
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(LONGEST_HEAD)
            // The connection has one answer, so nothing can be smuggled in by a header that is read leniently. A
            // strict reader would lose the new tokens.
            .max_headers(MOST_HEADERS)
            .allow_obsolete_multiline_headers_in_responses(true)
            .allow_spaces_after_header_name_in_responses(true)
            .ignore_invalid_headers_in_responses(true)
            .handshake(Lenient::new(connection))
            .await
            .map_err(|_| not_sent(place, "closed the connection at once"))?;
        let arrived = Mutex::new(None);
        let answer = async {
            self.permit.check().map_err(Failed::NotPermitted)?;
            let response = sender.send_request(request).await;
            let response = response.map_err(|error| failed_to_answer(place, &error))?;
            let early = read(response, place, &arrived).await?;
            Ok(early.map(|error| failed_to_answer(place, &error)))
        };
        // The connection does the I/O. It belongs to this future and ends with it.
        let (mut connection, mut answer) = (pin!(connection), pin!(answer));
        let mut is_open = true;
        let both = poll_fn(|context| {
            // In this order, the request is written in the same poll in which the permit is checked.
            let answered = answer.as_mut().poll(context);
            is_open = is_open && connection.as_mut().poll(context).is_pending();
            answered
        });
        let mut both = pin!(both);
        // `LAST_LOOK` is included, so the exchange is over when the permit ends.
        let whole = limit + LAST_LOOK;
        let whole = left.map_or(whole, |left| left.min(whole));
        let first = whole.saturating_sub(LAST_LOOK);
        let ended = match timeout(first, both.as_mut()).await {
            Ok(ended) => ended,
            // The answer may have arrived while this process was stopped.
            Err(_) => timeout(whole - first, both).await.unwrap_or_else(|_| {
                let seconds = whole.as_secs();
                let reason = format!("{place} did not answer within {seconds} seconds");
                Ok(Some(Failed::NoAnswer { reason }))
            }),
        };
        let answered = ended.and_then(|early| match (locked(&arrived).take(), early) {
            (Some(arrived), early) => arrived.ended(early, place),
            (None, Some(failed)) => Err(failed),
            (None, None) => unreachable!("an answer that ended has begun"),
        });
        if let (Ok(_), Some(hard)) = (&answered, hard) {
            hard.lift();
        }
        answered
    }
}

impl<'c> AsyncHttpClient<'c> for Http {
    type Error = Failed;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, Failed>> + Send + 'c>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(self.exchange(request))
    }
}

/// Converts a request into the form of HTTP/1.1. Its body is wiped.
fn prepared(request: HttpRequest) -> http::Request<Full<Bytes>> {
    let (mut parts, body) = request.into_parts();
    if let Some(host) = parts.uri.authority().and_then(|it| HeaderValue::from_str(it.as_str()).ok())
    {
        parts.headers.insert(HOST, host);
    }
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    parts.uri = target.parse().unwrap_or_default();
    parts.headers.insert(USER_AGENT, HeaderValue::from_static(USER));
    parts.headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    if let Some(secret) = parts.headers.get_mut(AUTHORIZATION) {
        secret.set_sensitive(true);
    }
    http::Request::from_parts(parts, Full::new(Bytes::from_owner(Zeroizing::new(body))))
}

fn not_sent(place: &str, what: &str) -> Failed {
    Failed::NotSent { reason: format!("{place} {what}") }
}

fn failed_to_answer(place: &str, error: &hyper::Error) -> Failed {
    if error.is_parse() {
        return Failed::NotHttp {
            reason: format!("{place} does not speak HTTP/1.1; check the URL"),
        };
    }
    // With TLS 1.3, a server checks the client's certificate after the client has begun to send.
    if refuses_the_certificate(error) {
        return Failed::NotAdmitted { reason: Unreached::because(place, error).to_string() };
    }
    if error.is_canceled() {
        return not_sent(place, "closed the connection before anything was sent");
    }
    Failed::NoAnswer { reason: format!("{place} broke the connection") }
}

fn refuses_the_certificate(error: &hyper::Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref() {
            return refuses_the_client(error);
        }
        let io = error.downcast_ref::<std::io::Error>();
        cause = match io.and_then(std::io::Error::get_ref) {
            // `source` of an I/O error skips the error that it wraps.
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    false
}

/// Reads an answer. Returns the error, if it ended too early.
async fn read(
    response: Response<Incoming>,
    place: &str,
    arrived: &Mutex<Option<Arrived>>,
) -> Result<Option<hyper::Error>, Failed> {
    let (head, mut body) = response.into_parts();
    *locked(arrived) = Some(Arrived::new(&head));
    while let Some(frame) = body.frame().await {
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) => return Ok(Some(error)),
        };
        if let (Ok(data), Some(arrived)) = (frame.into_data(), locked(arrived).as_mut()) {
            arrived.add(&data, place)?;
        }
    }
    Ok(None)
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Reply {
    /// Returns the body if it has tokens, and else what [`judge`](Self::judge) says. A success without them may be the
    /// page of a gateway, which may ask to wait.
    pub(super) fn judge_tokens(self, place: &str) -> Result<Vec<u8>, Failed> {
        let (status, retry_after) = (self.status.as_u16(), self.retry_after);
        let mut body = Zeroizing::new(self.judge(place)?);
        if Answer::is_partly_in(&body) {
            return Ok(std::mem::take(&mut *body));
        }
        let reason = format!("{place} answered {status}, but its answer cannot be read");
        Err(match retry_after {
            Some(_) => Failed::Answered { status, reason, retry_after },
            None => Failed::Unreadable { reason },
        })
    }

    /// Returns the error code, if there is an error. It is empty if it is not registered.
    pub(super) fn error_code(&self) -> Option<String> {
        let fields = json::object(&self.body).unwrap_or_default();
        let (_, value) = fields.iter().find(|(name, _)| name == "error")?;
        if names_no_error(value) {
            return None;
        }
        let text = json::secret(value);
        #[expect(clippy::disallowed_methods, reason = "only what looks like a code is kept")]
        let code = text.as_ref().and_then(|text| error_code(text.expose_secret().trim()));
        Some(code.unwrap_or_default().to_owned())
    }

    /// Returns the body if the answer is a success, or if it has tokens and no error: they may be the only copy.
    pub(super) fn judge(mut self, place: &str) -> Result<Vec<u8>, Failed> {
        let status = self.status.as_u16();
        let said = format!("{place} answered {status}");
        let retry_after = self.retry_after;
        let answered = |reason| Err(Failed::Answered { status, reason, retry_after });
        let code = self.error_code();
        if code.is_none() && !self.status.is_success() && Answer::is_in(&self.body) {
            return Ok(std::mem::take(&mut *self.body));
        }
        match status {
            408 | 425 | 429 => return answered(said),
            // Nothing but the provider writes such a code, whatever the status is.
            404 | 500..=599 if code.as_deref().is_some_and(needs_a_sign_in) => {}
            500..=599 => return answered(said),
            300..=399 => {
                let advice = "a redirect, which is not followed; set the URL that it leads to";
                return answered(format!("{said}, {advice}"));
            }
            404 => return answered(format!("{said}; check the URL")),
            _ => {}
        }
        match code {
            // Some providers, GitHub among them, send an error with status 200.
            Some(code) if !self.status.is_success() || !Answer::is_in(&self.body) => {
                let reason = match code.as_str() {
                    "" => format!("{said} and an error code that is not registered"),
                    "invalid_client" | "unauthorized_client" => {
                        format!("{said} {code}; check the client's id and secret")
                    }
                    _ => format!("{said} {code}"),
                };
                Err(Failed::Refused { code, reason, retry_after })
            }
            _ if self.status.is_success() => Ok(std::mem::take(&mut *self.body)),
            _ => answered(format!("{said} and no error code; check the URL")),
        }
    }
}
