//! Sign-in by a code on another device (RFC 8628).

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use futures_timer::Delay;
use http::{Response, StatusCode};
use oauth2::url::Url;
use oauth2::{
    AsyncHttpClient, DeviceAuthorizationUrl, DeviceCodeErrorResponseType, HttpRequest,
    HttpResponse, RequestTokenError, StandardDeviceAuthorizationResponse,
};

use super::endpoint::endpoint;
use super::failure::Failed;
use super::{OAuth2Client, OAuth2Error, failed, not_set, on_io};
use crate::sys::clock;
use crate::tokens::AuthTokens;

/// The longest interval between two requests that is accepted from a provider.
const LONGEST_INTERVAL: Duration = Duration::from_secs(300);

/// The most characters of a code. Nobody would type more.
const LONGEST_CODE: usize = 64;

impl OAuth2Client {
    /// Starts a sign-in by a code that a person types on any device (RFC 8628).
    ///
    /// Show the person [`verification_url`](DeviceSignIn::verification_url) and
    /// [`user_code`](DeviceSignIn::user_code), then wait for the [`tokens`](DeviceSignIn::tokens).
    ///
    /// # Errors
    ///
    /// [`OAuth2Error::InvalidSetting`] if no device authorization URL is set. Otherwise the error says how
    /// the exchange failed.
    ///
    /// # Cancel safety
    ///
    /// If a code was just issued, it is lost, and expires.
    pub async fn sign_in_by_device(&self) -> Result<DeviceSignIn, OAuth2Error> {
        let url = self.device_authorization_url.clone();
        let url = url.ok_or_else(|| not_set("device_authorization_url"))?;
        let (client, at) = (self.clone(), url.clone());
        let answer = on_io(async move { client.device_code(at).await }).await?;
        DeviceSignIn::begin(self, answer, &url)
    }

    async fn device_code(&self, url: Url) -> Result<StandardDeviceAuthorizationResponse, Failed> {
        let client = self
            .client()
            .set_device_authorization_url(DeviceAuthorizationUrl::from_url(url.clone()));
        let request = client.exchange_device_code().add_scopes(self.scopes.clone());
        let forms = self.forms(self.http.clone(), self.parameters.for_device());
        request.request_async(&forms).await.map_err(|error| failed(error, &url))
    }
}

const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);

/// The longest pause after failed connections: the limit of the exponential backoff of RFC 8628 (3.5).
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);

/// A sign-in that waits for a person on another device.
pub struct DeviceSignIn {
    client: OAuth2Client,
    answer: StandardDeviceAuthorizationResponse,
    verification_url: String,
}

impl DeviceSignIn {
    /// Starts a sign-in from the answer of the provider at `url`, if a person can use it.
    pub(super) fn begin(
        client: &OAuth2Client,
        answer: StandardDeviceAuthorizationResponse,
        url: &Url,
    ) -> Result<Self, OAuth2Error> {
        // A terminal obeys control characters, and letters of other alphabets look like those that a person
        // has to type. So only a plain code and a plain URL are accepted.
        let code = answer.user_code().secret();
        let is_code = !code.is_empty()
            && code.len() <= LONGEST_CODE
            && code.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"- ".contains(&byte));
        let verification_url = endpoint("verification_uri", answer.verification_uri()).ok();
        let Some(verification_url) =
            verification_url.filter(|_| is_code && answer.interval() <= LONGEST_INTERVAL)
        else {
            let reason = format!("{} answered 200, but its answer cannot be used", url.authority());
            return Err(OAuth2Error::Misconfigured { reason });
        };
        Ok(Self { client: client.clone(), answer, verification_url: verification_url.into() })
    }

    /// Returns the URL at which the person types the code.
    #[must_use]
    pub fn verification_url(&self) -> &str {
        &self.verification_url
    }

    /// Returns the code that the person types there: at most 64 ASCII letters, digits,
    /// hyphens and spaces.
    #[must_use]
    pub fn user_code(&self) -> &str {
        self.answer.user_code().secret()
    }

    /// Returns how long the code is valid.
    #[must_use]
    pub fn expires_in(&self) -> Duration {
        self.answer.expires_in()
    }

    /// Polls the provider, as often as it allows, until the person has signed in. Failed connections are
    /// retried.
    ///
    /// # Errors
    ///
    /// [`OAuth2Error::Declined`], [`OAuth2Error::TimedOut`], or the error of the exchange.
    ///
    /// # Security
    ///
    /// Anyone who types the code can sign this program in. Show it only to the person at this program.
    ///
    /// # Cancel safety
    ///
    /// A dropped call ends the sign-in. If tokens were just issued, they are lost, and expire.
    pub async fn tokens(self) -> Result<AuthTokens, OAuth2Error> {
        self.tokens_with_sleep(Delay::new).await
    }

    /// Like [`tokens`](Self::tokens), but waits between two requests with `sleep`. The caller's executor runs
    /// it.
    ///
    /// # Errors
    ///
    /// Those of [`tokens`](Self::tokens).
    ///
    /// # Cancel safety
    ///
    /// The same as for [`tokens`](Self::tokens).
    pub async fn tokens_with_sleep<F: Future<Output = ()> + Send>(
        self,
        sleep: impl Fn(Duration) -> F + Send + Sync,
    ) -> Result<AuthTokens, OAuth2Error> {
        let forms = self.client.to_token_endpoint();
        let exchange: &Exchange = &move |request| {
            let forms = forms.clone();
            Box::pin(on_io(async move { forms.exchange(request).await }))
        };
        self.tokens_from(exchange, sleep).await
    }

    /// Like [`tokens_with_sleep`](Self::tokens_with_sleep), but sends requests with `exchange`.
    pub(super) async fn tokens_from<F: Future<Output = ()> + Send>(
        self,
        exchange: &Exchange,
        sleep: impl Fn(Duration) -> F + Send + Sync,
    ) -> Result<AuthTokens, OAuth2Error> {
        let poll = Poll { client: &self.client, exchange, last: Mutex::default() };
        let client = self.client.client();
        let now = || clock::date(self.client.clock.now());
        // If the provider names no interval, there is still a pause between two requests.
        let sleep = |time: Duration| sleep(time.max(SHORTEST_INTERVAL));
        let answer = client
            .exchange_device_access_token(&self.answer)
            // The interval of the provider holds after a failed connection too.
            .set_max_backoff_interval(self.answer.interval().max(LONGEST_BACKOFF))
            .set_time_fn(now)
            .request_async(&poll, sleep, None)
            .await;
        let last = poll.last.into_inner().unwrap_or_else(PoisonError::into_inner);
        match (answer, last.ended) {
            (Ok(answer), _) => {
                let sent = last.sent.unwrap_or_else(|| self.client.clock.now());
                Ok(answer.into_tokens(sent))
            }
            (Err(_), Some(failed)) => Err(failed.into()),
            (Err(RequestTokenError::ServerResponse(response)), None)
                if *response.error() == DeviceCodeErrorResponseType::ExpiredToken =>
            {
                Err(OAuth2Error::TimedOut)
            }
            (Err(error), None) => Err(failed(error, self.client.token_url.url()).into()),
        }
    }
}

/// Shows no code. Anyone who has it can sign this program in to their own account.
impl fmt::Debug for DeviceSignIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceSignIn")
            .field("verification_url", &self.verification_url)
            .finish_non_exhaustive()
    }
}

type Answered = Pin<Box<dyn Future<Output = Result<HttpResponse, Failed>> + Send>>;

/// Sends a request, and returns the answer if it is a success.
pub(super) type Exchange = dyn Fn(HttpRequest) -> Answered + Send + Sync;

/// Adapts an exchange to the polling of the `oauth2` crate. That crate sends the next request after an error
/// of the exchange, and stops after an answer without a known code.
struct Poll<'a> {
    client: &'a OAuth2Client,
    exchange: &'a Exchange,
    last: Mutex<Last>,
}

/// The last request.
#[derive(Default)]
struct Last {
    sent: Option<SystemTime>,
    /// The failure that ended the polling.
    ended: Option<Failed>,
}

impl Poll<'_> {
    fn last(&self) -> MutexGuard<'_, Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<'c> AsyncHttpClient<'c> for Poll<'_> {
    type Error = Failed;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, Failed>> + Send + 'c>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(async {
            self.last().sent = Some(self.client.clock.now());
            let code = match (self.exchange)(request).await {
                Err(Failed::Refused { code, .. })
                    if code == "authorization_pending" || code == "slow_down" =>
                {
                    code
                }
                Err(failed)
                    if matches!(failed, Failed::Refused { .. }) || !failed.is_temporary() =>
                {
                    self.last().ended = Some(failed);
                    String::new()
                }
                done => return done,
            };
            let mut response = Response::new(format!(r#"{{"error":"{code}"}}"#).into_bytes());
            *response.status_mut() = StatusCode::BAD_REQUEST;
            Ok(response)
        })
    }
}
