//! A client that signs in like axiomtrade-rs. It is also the refresher of a `TokenManager`.

use std::error::Error;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, COOKIE, HeaderMap, HeaderValue, RETRY_AFTER, SET_COOKIE};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, Response, Url};
use tokenkeep::chrono::{DateTime, Utc};
use tokenkeep::refresh::RefreshPermit;
use tokenkeep::secrecy::{ExposeSecret, SecretString};
use tokenkeep::{AccessToken, AuthTokens, RefreshFailure, TokenRefresher, async_trait};
use zeroize::Zeroizing;

const ACCESS: &str = "auth-access-token";
const REFRESH: &str = "auth-refresh-token";
const OTP: &str = "auth-otp-login-token";

/// The limit for the DNS lookup, the connection and the TLS handshake. It is shorter than [`ANSWER`]. So if
/// it is reached, it is certain that nothing was sent.
const CONNECT: Duration = Duration::from_secs(10);

/// The limit from the start to the last byte of the answer. It is shorter than the 30 s that the manager
/// gives a refresh.
const ANSWER: Duration = Duration::from_secs(25);

/// The largest body that is read. Every answer of this API is smaller.
const LONGEST_BODY: usize = 256 * 1024;

/// The longest time that the server can ask to wait: 1 hour.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// A client of one server. It sends secrets to no other server. Clones share its connections.
#[derive(Clone)]
pub(crate) struct AuthClient {
    http: Client,
    base: Url,
    answer: Duration,
}

/// The result of a login.
#[derive(Debug)]
pub(crate) struct LoginResult {
    pub(crate) tokens: AuthTokens,
}

/// A login that waits for the one-time code. The server sends the code by mail.
pub(crate) struct PendingLogin<'c> {
    client: &'c AuthClient,
    email: String,
    password: SecretString,
    otp_token: SecretString,
}

/// How an exchange failed. A message repeats only the status of the server's answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ClientError {
    /// 403, 429 or 503.
    #[error("{reason}; try again later")]
    Busy { status: u16, reason: String, retry_after: Option<Duration> },
    #[error("the base URL {reason}")]
    InvalidBase { reason: &'static str },
    /// The request was sent, and no answer says whether it was carried out.
    #[error("{reason}")]
    NoAnswer { reason: String },
    #[error("{reason}; try again later")]
    NotSent { reason: String },
    #[error("{reason}")]
    Refused { reason: String },
    #[error("{reason}")]
    Unsendable { reason: String },
    #[error("{reason}")]
    Wrong { reason: String },
}

impl AuthClient {
    /// Returns a client of the server at this URL. The URL must be `https`, or `http` with a loopback
    /// address. A host name is not enough for `http`, because it may resolve to another machine.
    pub(crate) fn new(base: &str) -> Result<Self, ClientError> {
        let invalid = |reason| ClientError::InvalidBase { reason };
        let mut base = Url::parse(base).map_err(|_| invalid("is not a valid URL"))?;
        let is_secure = base.scheme() == "https";
        let is_local = base.scheme() == "http" && is_loopback(&base);
        if !(is_secure || is_local) {
            return Err(invalid("must be https, or http to 127.0.0.1 or [::1]"));
        }
        if !base.username().is_empty() || base.password().is_some() {
            return Err(invalid("must not have a user name or a password"));
        }
        if base.query().is_some() || base.fragment().is_some() {
            return Err(invalid("must not have a query or a fragment"));
        }
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path())); // otherwise `join` replaces its last part
        }
        // This fails if the process has a provider already. Any provider is good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = Client::builder()
            .https_only(is_secure)
            // 307 and 308 send the whole request again, to another URL.
            .redirect(Policy::none())
            // A proxy that the environment names is another host.
            .no_proxy()
            // The manager decides whether to send a refresh token twice.
            .retry(reqwest::retry::never())
            // If a request fails on a kept connection, it is not known whether the server read it. If a new
            // connection fails, nothing was sent.
            .pool_max_idle_per_host(0)
            .connect_timeout(CONNECT)
            .build()
            .map_err(|_| invalid("cannot be used: this machine has no root certificates"))?;
        Ok(Self { http, base, answer: ANSWER })
    }

    /// Begins a login. The password must be hashed and in Base64, as axiomtrade-rs sends it.
    pub(crate) async fn login(
        &self,
        email: &str,
        password: &str,
    ) -> Result<PendingLogin<'_>, ClientError> {
        let body = serde_json::json!({ "email": email, "b64Password": password });
        let response = self.send(Method::POST, "login-password-v2", None, Some(body)).await?;
        let body = self.body(self.judge(response)?).await?;
        // The error of serde_json is dropped, because it may quote the answer.
        let mut answer: serde_json::Value =
            serde_json::from_slice(&body).map_err(|_| self.wrong("did not answer with JSON"))?;
        let serde_json::Value::String(otp_token) = answer["otpJwtToken"].take() else {
            return Err(self.wrong("answered without an otpJwtToken"));
        };
        Ok(PendingLogin {
            client: self,
            email: email.to_owned(),
            password: SecretString::from(password),
            otp_token: SecretString::from(Zeroizing::new(otp_token).as_str()),
        })
    }

    /// Exchanges the refresh token for new tokens. If the server sends no new refresh token, the old one
    /// stays.
    pub(crate) async fn refresh_tokens(
        &self,
        current: &AuthTokens,
    ) -> Result<AuthTokens, ClientError> {
        let Some(token) = &current.refresh_token else {
            return Err(ClientError::Refused { reason: "there is no refresh token".into() });
        };
        #[expect(clippy::disallowed_methods, reason = "sent to the server that issued it")]
        let cookie = (REFRESH, token.expose_secret());
        let response = self.send(Method::POST, "refresh-access-token", Some(cookie), None).await?;
        let response = self.judge(response)?;
        let mut new = current.clone(); // other fields of the session stay
        self.take_cookies(response.headers(), &mut new)?;
        Ok(new)
    }

    /// Makes a request with the access token, and returns the body of the answer.
    pub(crate) async fn get(&self, path: &str, token: &AccessToken) -> Result<String, ClientError> {
        #[expect(clippy::disallowed_methods, reason = "sent to the server that issued it")]
        let cookie = (ACCESS, token.expose_secret());
        let response = self.send(Method::GET, path, Some(cookie), None).await?;
        let body = self.body(self.judge(response)?).await?;
        std::str::from_utf8(&body)
            .map(str::to_owned)
            .map_err(|_| self.wrong("did not answer with text"))
    }

    #[cfg(test)]
    pub(crate) fn answer_within(mut self, time: Duration) -> Self {
        self.answer = time;
        self
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        cookie: Option<(&str, &str)>,
        json: Option<serde_json::Value>,
    ) -> Result<Response, ClientError> {
        // A path may be a URL of another server.
        let url = self.base.join(path).ok().filter(|url| url.origin() == self.base.origin());
        let url = url.ok_or_else(|| self.unsendable("is not the server of that path"))?;
        let mut request = self.http.request(method, url).timeout(self.answer);
        if let Some((name, value)) = cookie {
            let header = cookie_header(name, value);
            request = request.header(
                COOKIE,
                header.ok_or_else(|| self.unsendable("cannot get this token as a cookie"))?,
            );
        }
        if let Some(json) = json {
            request = request.header(CONTENT_TYPE, "application/json").body(json.to_string());
        }
        request.send().await.map_err(|error| self.failed(&error))
    }

    /// Returns the response if its status is a success, and an error for any other status.
    fn judge(&self, response: Response) -> Result<Response, ClientError> {
        let status = response.status();
        let reason = format!("{} answered {}", self.place(), status.as_u16());
        match status.as_u16() {
            200..=299 => Ok(response),
            300..=399 => {
                let advice = "a redirect, which is not followed; set the URL that it leads to";
                Err(ClientError::NoAnswer { reason: format!("{reason}, {advice}") })
            }
            401 => Err(ClientError::Refused { reason }),
            // A firewall on the way answers 403. This server itself answers 401.
            status @ (403 | 429 | 503) => {
                let retry_after = retry_after(response.headers(), Utc::now());
                Err(ClientError::Busy { status, reason, retry_after })
            }
            // A gateway on the way may answer this after the server has spent a refresh token.
            408 | 500..=599 => Err(ClientError::NoAnswer { reason }),
            _ => Err(ClientError::Wrong { reason: format!("{reason}; check the URL") }),
        }
    }

    /// Takes the tokens from the headers of an answer. It does not wait for the body, which may fail: the
    /// headers contain the only copy of a rotated refresh token.
    fn take_cookies(
        &self,
        headers: &HeaderMap,
        tokens: &mut AuthTokens,
    ) -> Result<(), ClientError> {
        let access = cookie(headers, ACCESS)
            .ok_or_else(|| self.no_answer("answered without the cookie auth-access-token"))?;
        tokens.access_token = AccessToken::from(access);
        if let Some(refresh) = cookie(headers, REFRESH) {
            tokens.refresh_token = Some(refresh.into());
        }
        // The claims of the token say when it expires. The manager sets when it was obtained.
        tokens.expires_at = None;
        tokens.obtained_at = None;
        Ok(())
    }

    async fn body(&self, mut response: Response) -> Result<Zeroizing<Vec<u8>>, ClientError> {
        let mut body = Zeroizing::new(Vec::new());
        while let Some(chunk) = response.chunk().await.map_err(|error| self.failed(&error))? {
            if chunk.len() > LONGEST_BODY - body.len() {
                return Err(self.wrong("answered with more than 256 KiB"));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    /// Returns why there is no answer. The text of `error` is not used, because it may quote an answer.
    fn failed(&self, error: &reqwest::Error) -> ClientError {
        let place = self.place();
        if error.is_connect() {
            return ClientError::NotSent { reason: format!("{place} cannot be reached") };
        }
        let mut cause = error.source();
        while let Some(error) = cause {
            if error.downcast_ref().is_some_and(hyper::Error::is_parse) {
                return self.wrong("did not answer with valid HTTP");
            }
            cause = error.source();
        }
        self.no_answer(if error.is_timeout() {
            "did not answer in time"
        } else {
            "closed the connection too early"
        })
    }

    fn no_answer(&self, what: &str) -> ClientError {
        ClientError::NoAnswer { reason: format!("{} {what}", self.place()) }
    }

    fn unsendable(&self, what: &str) -> ClientError {
        ClientError::Unsendable { reason: format!("{} {what}", self.place()) }
    }

    fn wrong(&self, what: &str) -> ClientError {
        ClientError::Wrong { reason: format!("{} {what}", self.place()) }
    }

    fn place(&self) -> String {
        self.base.origin().ascii_serialization()
    }
}

impl PendingLogin<'_> {
    /// Completes the login.
    pub(crate) async fn enter_code(self, code: &str) -> Result<LoginResult, ClientError> {
        #[expect(clippy::disallowed_methods, reason = "sent to the server that issued it")]
        let cookie = (OTP, self.otp_token.expose_secret());
        #[expect(clippy::disallowed_methods, reason = "sent to the server that it is for")]
        let password = self.password.expose_secret();
        let body =
            serde_json::json!({ "code": code, "email": self.email, "b64Password": password });
        let client = self.client;
        let response = client.send(Method::POST, "login-otp", Some(cookie), Some(body)).await?;
        let response = client.judge(response)?;
        let mut tokens = AuthTokens::new("");
        client.take_cookies(response.headers(), &mut tokens)?;
        if tokens.refresh_token.is_none() {
            return Err(client.wrong("answered without the cookie auth-refresh-token"));
        }
        Ok(LoginResult { tokens })
    }
}

#[async_trait]
impl TokenRefresher for AuthClient {
    async fn refresh(
        &self,
        current: AuthTokens,
        permit: &RefreshPermit,
    ) -> Result<AuthTokens, RefreshFailure> {
        // The check should be made after connecting. But `reqwest` connects and writes in one step. Here the
        // store is a file, and the lease of a file has no deadline.
        permit.check()?;
        Ok(self.refresh_tokens(&current).await?)
    }
}

/// Says whether the refresh token may be spent. `unspent` is set only if it is proven that the server did not
/// spend the token.
impl From<ClientError> for RefreshFailure {
    fn from(error: ClientError) -> Self {
        match error {
            // A server answers 429 before it does any work.
            ClientError::Busy { status, reason, retry_after } => {
                Self::Transient { reason, retry_after, unspent: status == 429 }
            }
            ClientError::InvalidBase { .. } => Self::misconfigured(error.to_string()),
            ClientError::NoAnswer { reason } => Self::ambiguous(reason),
            ClientError::NotSent { reason } => Self::transient(reason),
            ClientError::Refused { reason } => Self::rejected(reason),
            ClientError::Unsendable { reason } => Self::misconfigured(reason),
            ClientError::Wrong { reason } => Self::misconfigured(reason).maybe_spent(),
        }
    }
}

impl fmt::Debug for AuthClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AuthClient({})", self.place())
    }
}

impl fmt::Debug for PendingLogin<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PendingLogin({}, [REDACTED])", self.client.place())
    }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(host) => host.parse().is_ok_and(|address: Ipv6Addr| address.is_loopback()),
        None => host.parse().is_ok_and(|address: Ipv4Addr| address.is_loopback()),
    }
}

/// Returns the header, or `None` if the value cannot be sent in a cookie: a `;` would begin another cookie.
fn cookie_header(name: &str, value: &str) -> Option<HeaderValue> {
    if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_graphic() && byte != b';') {
        return None;
    }
    let text = Zeroizing::new(format!("{name}={value}"));
    // The HTTP client keeps copies of this header and of the answer, and does not wipe them.
    let mut header = HeaderValue::from_str(&text).ok()?;
    header.set_sensitive(true);
    Some(header)
}

/// Returns the value that an answer sets for a cookie. If it is set several times, the last value counts. An
/// empty value deletes the cookie, and counts as none.
///
/// The name ends at the first `=`. A value in Base64 may contain other `=`.
fn cookie<'h>(headers: &'h HeaderMap, wanted: &str) -> Option<&'h str> {
    let mut cookies = headers.get_all(SET_COOKIE).iter().filter_map(|header| {
        let (pair, _attributes) =
            header.to_str().ok().map(|it| it.split_once(';').unwrap_or((it, "")))?;
        let (name, value) = pair.split_once('=')?;
        (name.trim() == wanted).then_some(value.trim())
    });
    cookies.next_back().filter(|value| !value.is_empty())
}

/// Returns the time in `Retry-After` (RFC 9110, 10.2.3). The header contains seconds or a date.
fn retry_after(headers: &HeaderMap, now: DateTime<Utc>) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let date = DateTime::parse_from_rfc2822(text).ok()?;
            // A date in the past means no wait.
            (date.to_utc() - now).to_std().unwrap_or_default()
        }
    };
    Some(wait.min(LONGEST_RETRY_AFTER))
}
