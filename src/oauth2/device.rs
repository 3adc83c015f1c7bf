//! Sign-in by a code on another device (RFC 8628).

mod answer;
mod poll;

use std::fmt;
use std::future::Future;
use std::time::{Duration, SystemTime};

use futures_timer::Delay;
use http::Response;
use oauth2::url::Url;
use oauth2::{
    DeviceAuthorizationUrl, DeviceCodeErrorResponseType, HttpRequest, RequestTokenError,
    StandardDeviceAuthorizationResponse,
};

pub(super) use self::poll::Exchange;
use self::poll::Poll;
use super::endpoint::endpoint;
use super::failure::Failed;
use super::form::FormClient;
use super::{OAuth2Client, OAuth2Error, failed, on_io, unreadable};
use crate::sys::clock;
use crate::tokens::AuthTokens;

/// The most characters of a code. Nobody would type more.
const LONGEST_CODE: usize = 64;

/// The most characters of a URL. Browsers accept more, and nobody would copy it.
const LONGEST_URL: usize = 2048;

/// The shortest pause between two polls, also if the code expires sooner.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);

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
        let url = url.ok_or_else(|| self.not_set("device_authorization_url"))?;
        let forms = self.forms(self.http.clone(), self.parameters.for_device());
        self.sign_in_at(&url, &*sending(forms, url.authority())).await
    }

    /// Starts a sign-in at this URL. Sends the request with `exchange`.
    pub(super) async fn sign_in_at(
        &self,
        url: &Url,
        exchange: &Exchange,
    ) -> Result<DeviceSignIn, OAuth2Error> {
        let place = url.authority();
        let sent = self.clock.now();
        let http = |request: HttpRequest| {
            let replied = exchange(request);
            async move {
                let body = replied.await?.judge(place)?;
                let answer = answer::standard(&body).ok_or_else(|| unreadable(place))?;
                Ok::<_, Failed>(Response::new(answer.to_vec()))
            }
        };
        let client = self
            .client()
            .set_device_authorization_url(DeviceAuthorizationUrl::from_url(url.clone()));
        let request = client.exchange_device_code().add_scopes(self.scopes.clone());
        let answer = request.request_async(&http).await.map_err(|error| failed(error, url))?;
        DeviceSignIn::begin(self, answer, sent, url)
    }
}

/// Returns what sends forms to a server with this name.
fn sending(forms: FormClient, place: &str) -> Box<Exchange> {
    let place = place.to_owned();
    Box::new(move |request| {
        let (forms, place) = (forms.clone(), place.clone());
        Box::pin(on_io(async move { forms.send(request, &place).await }))
    })
}

/// A sign-in that waits for a person on another device.
pub struct DeviceSignIn {
    client: OAuth2Client,
    answer: StandardDeviceAuthorizationResponse,
    /// When the code was requested.
    sent: SystemTime,
    verification_url: String,
    verification_url_complete: Option<String>,
}

impl DeviceSignIn {
    /// Starts a sign-in from the answer of the provider at `url`, if a person can use it.
    fn begin(
        client: &OAuth2Client,
        answer: StandardDeviceAuthorizationResponse,
        sent: SystemTime,
        url: &Url,
    ) -> Result<Self, OAuth2Error> {
        // A terminal obeys control characters, and letters of other alphabets look like those that a person
        // has to type. So only a plain code and a plain URL are accepted.
        let code = answer.user_code().secret();
        let is_code = code.len() <= LONGEST_CODE
            && code.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"- ".contains(&byte));
        let Some(verification_url) = page(answer.verification_uri()).filter(|_| is_code) else {
            let reason = format!("{} answered, but its answer cannot be used", url.authority());
            return Err(OAuth2Error::Misconfigured { reason });
        };
        let complete = answer.verification_uri_complete();
        let verification_url_complete = complete.and_then(|url| page(url.secret()));
        let client = client.clone();
        Ok(Self { client, answer, sent, verification_url, verification_url_complete })
    }

    /// Returns the URL at which the person types the code: `https`, or a loopback address.
    #[must_use]
    pub fn verification_url(&self) -> &str {
        &self.verification_url
    }

    /// Returns the URL that contains the code, if the provider sent one that is as safe as
    /// [`verification_url`](Self::verification_url) (RFC 8628, 3.3.1). Show the code too, so that the person can
    /// compare it.
    #[must_use]
    pub fn verification_url_complete(&self) -> Option<&str> {
        self.verification_url_complete.as_deref()
    }

    /// Returns the code that the person types there: at most 64 ASCII letters, digits,
    /// hyphens and spaces.
    #[must_use]
    pub fn user_code(&self) -> &str {
        self.answer.user_code().secret()
    }

    /// Returns how long the code is valid from when it was requested, at most 1 day. A provider that does not say
    /// it gets 15 minutes.
    #[must_use]
    pub fn expires_in(&self) -> Duration {
        self.answer.expires_in()
    }

    /// Polls the provider, as often as it allows, until the person has signed in.
    ///
    /// The provider's interval counts, or 5 seconds if it names none. `slow_down` and 429 add 5 seconds to each
    /// later pause (RFC 8628, 3.5), and `Retry-After` is kept. A failed connection, 403 without an error code, any
    /// 5xx, a success without readable tokens and any answer with `Retry-After` and without an error code are retried
    /// until the code expires. 5 other answers in a row that have no error code, such as 401, 404 or a redirect, end
    /// the sign-in.
    ///
    /// # Errors
    ///
    /// [`OAuth2Error::Declined`], [`OAuth2Error::SignInRequired`], [`OAuth2Error::TimedOut`], or the error of the last
    /// exchange.
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
        let place = self.client.token_url.url().authority();
        let exchange = sending(self.client.to_token_endpoint(), place);
        self.tokens_from(&*exchange, sleep).await
    }

    /// Like [`tokens_with_sleep`](Self::tokens_with_sleep), but sends requests with `exchange`.
    pub(super) async fn tokens_from<F: Future<Output = ()> + Send>(
        self,
        exchange: &Exchange,
        sleep: impl Fn(Duration) -> F + Send + Sync,
    ) -> Result<AuthTokens, OAuth2Error> {
        let (clock, url) = (&self.client.clock, self.client.token_url.url());
        let poll = Poll::new(clock, exchange, url.authority(), self.answer.interval());
        let client = self.client.client();
        let left = || {
            let since = clock.now().duration_since(self.sent).unwrap_or_default();
            self.answer.expires_in().saturating_sub(since)
        };
        let answer = client
            .exchange_device_access_token(&self.answer)
            .set_time_fn(|| clock::date(clock.now()))
            // The pause is this crate's. It ends when the code does.
            .request_async(
                &poll,
                |_| sleep(poll.pause().min(left()).max(SHORTEST_PAUSE)),
                Some(left()),
            )
            .await;
        let last = poll.into_state();
        match (answer, last.failed) {
            (Ok(answer), _) => {
                Ok(self.client.received(answer, last.sent.unwrap_or_else(|| clock.now())))
            }
            (Err(_), Some(failed)) => Err(failed.of_a_sign_in()),
            (Err(RequestTokenError::ServerResponse(response)), None)
                if *response.error() == DeviceCodeErrorResponseType::ExpiredToken =>
            {
                Err(OAuth2Error::TimedOut)
            }
            (Err(error), None) => Err(failed(error, url).into()),
        }
    }
}

/// Returns a URL that a person can open. It may have a fragment, because nothing secret is sent there.
fn page(text: &str) -> Option<String> {
    let (address, fragment) = match text.split_once('#') {
        Some((address, fragment)) => (address, Some(fragment)),
        None => (text, None),
    };
    let mut url = endpoint("verification_uri", address).ok()?;
    url.set_fragment(fragment);
    Some(url.into()).filter(|url: &String| url.len() <= LONGEST_URL)
}

/// Shows no code. Anyone who has it can sign this program in to their own account.
impl fmt::Debug for DeviceSignIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceSignIn")
            .field("verification_url", &self.verification_url)
            .finish_non_exhaustive()
    }
}
