//! Sign-in by a browser on this machine (RFC 8252), with PKCE (RFC 7636).

use std::fmt;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use oauth2::url::form_urlencoded::parse;
use oauth2::{
    AuthUrl, AuthorizationCode, CsrfToken, PkceCodeChallenge, PkceCodeVerifier, RedirectUrl,
};
use subtle::ConstantTimeEq;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use zeroize::Zeroizing;

use super::failure::{Failed, error_code};
use super::{OAuth2Client, OAuth2Error, failed, not_set, on_io};
use crate::tokens::AuthTokens;

const PATH: &str = "/callback";

/// How long a person may take to sign in: 5 minutes, enough to find a second factor.
const DEADLINE: Duration = Duration::from_secs(300);

/// How long one connection may take. A browser sends its request at once. Browsers also open connections that
/// they never use.
const VISIT: Duration = Duration::from_secs(10);

/// How many connections are served at a time. A browser opens 2 or 3. Further connections wait.
const VISITS: usize = 16;

const LONGEST_REQUEST: usize = 16 * 1024;

impl OAuth2Client {
    /// Starts a sign-in by a browser on this machine: the authorization code flow with PKCE (S256), with a
    /// redirect to a port of 127.0.0.1 (RFC 8252, 7.3).
    ///
    /// Register `http://127.0.0.1/callback` as the redirect URL. Most providers accept any port with it:
    /// pass 0 for a free one. If the provider demands the port that was registered, pass that `port`. Send
    /// the person to [`url`](BrowserSignIn::url), then wait for the [`tokens`](BrowserSignIn::tokens).
    ///
    /// # Errors
    ///
    /// [`OAuth2Error::InvalidSetting`] if no authorization URL is set, and [`OAuth2Error::Unavailable`] if
    /// the port is in use.
    pub async fn sign_in_by_browser(&self, port: u16) -> Result<BrowserSignIn, OAuth2Error> {
        let url = self.authorization_url.clone().ok_or_else(|| not_set("authorization_url"))?;
        let (listener, port) = on_io(listen(port)).await?;
        let redirect = RedirectUrl::new(format!("http://127.0.0.1:{port}{PATH}"))
            .expect("an address, a port and a path are a URL");
        let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
        let client = self.client().set_auth_uri(AuthUrl::from_url(url));
        let request = client
            .authorize_url(CsrfToken::new_random)
            .add_scopes(self.scopes.clone())
            .set_redirect_uri(std::borrow::Cow::Borrowed(&redirect))
            .set_pkce_challenge(challenge);
        let added = self.parameters.for_authorize();
        let request =
            added.fold(request, |request, (name, value)| request.add_extra_param(name, value));
        let (url, state) = request.url();
        Ok(BrowserSignIn {
            client: self.clone(),
            listener,
            redirect,
            url: url.into(),
            state,
            verifier,
            deadline: DEADLINE,
        })
    }
}

/// A sign-in that waits for a person in a browser on this machine.
pub struct BrowserSignIn {
    client: OAuth2Client,
    listener: TcpListener,
    redirect: RedirectUrl,
    url: String,
    state: CsrfToken,
    verifier: PkceCodeVerifier,
    deadline: Duration,
}

impl BrowserSignIn {
    /// Returns the URL at which the person signs in. Show it only to that person.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Gives the person this long to sign in, instead of 5 minutes.
    #[must_use]
    pub fn deadline(mut self, time: Duration) -> Self {
        self.deadline = time;
        self
    }

    /// Waits until the browser is redirected to the port, and exchanges the code for tokens.
    ///
    /// # Errors
    ///
    /// [`OAuth2Error::Declined`], [`OAuth2Error::TimedOut`], or the error of the exchange.
    ///
    /// # Security
    ///
    /// A request without the `state` of this sign-in is refused, and the wait continues. Of a request, an
    /// error contains only a registered error code.
    ///
    /// # Cancel safety
    ///
    /// A dropped call ends the sign-in, and closes the port soon after.
    pub async fn tokens(self) -> Result<AuthTokens, OAuth2Error> {
        on_io(self.trade()).await
    }

    async fn trade(self) -> Result<AuthTokens, OAuth2Error> {
        let brought = timeout(self.deadline, answered(self.listener, self.state)).await;
        let code = brought.map_err(|_| OAuth2Error::TimedOut)??;
        let sent = self.client.clock.now();
        let answer = self
            .client
            .client()
            .exchange_code(code)
            .set_pkce_verifier(self.verifier)
            .set_redirect_uri(std::borrow::Cow::Owned(self.redirect))
            .request_async(&self.client.to_token_endpoint())
            .await;
        Ok(answer.map_err(|error| failed(error, self.client.token_url.url()))?.into_tokens(sent))
    }
}

/// Listens on a port of 127.0.0.1, which only this machine can reach.
async fn listen(port: u16) -> Result<(TcpListener, u16), OAuth2Error> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
    listener
        .and_then(|listener| listener.local_addr().map(|address| (listener, address.port())))
        .map_err(|error| OAuth2Error::Unavailable {
            reason: format!("port {port} of 127.0.0.1 cannot be used ({})", error.kind()),
        })
}

/// Shows the redirect URL, and neither the state nor the verifier.
impl fmt::Debug for BrowserSignIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BrowserSignIn")
            .field("redirect", &self.redirect.as_str())
            .finish_non_exhaustive()
    }
}

/// The pause after a connection that could not be accepted.
const PAUSE: Duration = Duration::from_millis(100);

pub(super) type Brought = Result<AuthorizationCode, Failed>;

/// Waits for the request that contains the answer.
async fn answered(listener: TcpListener, state: CsrfToken) -> Brought {
    let (bring, mut brought) = mpsc::channel(1);
    let state = Arc::new(state);
    // Both sets abort their tasks when they are dropped.
    let mut port = JoinSet::new();
    port.spawn(async move {
        let mut visits = JoinSet::new();
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                // The connection broke, or no descriptor is free. The next accept may succeed.
                sleep(PAUSE).await;
                continue;
            };
            // A browser opens connections that it may never use. They must not block the one with the answer.
            let (state, bring) = (state.clone(), bring.clone());
            visits.spawn(async move {
                if let Ok(Some(answer)) = timeout(VISIT, visit(stream, &state)).await {
                    // If there are two answers, the first counts.
                    let _ = bring.try_send(answer);
                }
            });
            while visits.try_join_next().is_some() {}
            if visits.len() >= VISITS {
                visits.join_next().await;
            }
        }
    });
    brought.recv().await.unwrap_or_else(|| {
        Err(Failed::NotSent { reason: "the port for the browser's redirect was closed".into() })
    })
}

/// Reads one request and answers it. Returns its code or error if it belongs to this sign-in.
async fn visit(mut stream: TcpStream, state: &CsrfToken) -> Option<Brought> {
    // The buffer has its full size, so it does not grow and leave copies of the code behind.
    let mut request = Zeroizing::new(Vec::with_capacity(LONGEST_REQUEST));
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        if request.len() >= LONGEST_REQUEST || stream.read_buf(&mut *request).await.ok()? == 0 {
            return None;
        }
    }
    let brought = read(&request, state);
    let (status, says) = match &brought {
        Some(Ok(_)) => ("200 OK", "Thank you. Close this window, and go back to the program."),
        Some(Err(_)) => ("200 OK", "You are not signed in. Go back to the program; it says why."),
        None => ("404 Not Found", "This is not part of a sign-in."),
    };
    let answer = format!(
        "HTTP/1.1 {status}\r\n\
         Content-Type: text/html; charset=utf-8\r\n\
         Content-Length: {}\r\n\
         Cache-Control: no-store\r\n\
         Content-Security-Policy: default-src 'none'\r\n\
         Referrer-Policy: no-referrer\r\n\
         Connection: close\r\n\r\n{says}",
        says.len()
    );
    // If the browser has closed the connection, its answer still counts.
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
    brought
}

/// Returns the code or the error in a request, if it belongs to this sign-in.
pub(super) fn read(request: &[u8], state: &CsrfToken) -> Option<Brought> {
    let line = str::from_utf8(request.split(|&byte| byte == b'\r').next()?).ok()?;
    let target = line.strip_prefix("GET ")?.strip_suffix(" HTTP/1.1")?;
    // No browser sends control characters.
    if target.contains(|character: char| character.is_ascii_control()) {
        return None;
    }
    let (path, query) = target.split_once('?')?;
    if path != PATH {
        return None;
    }
    // No `Url` is made, because it would be one more copy of the code.
    let parameter = |wanted: &str| {
        let (_, value) = parse(query.as_bytes()).find(|(name, _)| name == wanted)?;
        Some(value)
    };
    let ours = state.secret().as_bytes();
    let is_ours: bool = parameter("state")?.as_bytes().ct_eq(ours).into();
    if !is_ours {
        return None;
    }
    if let Some(code) = parameter("code") {
        return Some(Ok(AuthorizationCode::new(code.into_owned())));
    }
    let error = parameter("error")?;
    let code = error_code(&error).unwrap_or_default().to_owned();
    let said = if code.is_empty() { "an error code that is not registered" } else { &code };
    let reason = format!("the provider answered the sign-in with {said}");
    Some(Err(Failed::Refused { code, reason, retry_after: None }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn brought(request: &str) -> Option<Result<String, String>> {
        let brought = read(request.as_bytes(), &CsrfToken::new("right".into()))?;
        Some(brought.map(AuthorizationCode::into_secret).map_err(|failed| failed.to_string()))
    }

    #[test]
    fn only_the_answer_to_this_sign_in_is_accepted() {
        let code = Some(Ok("a+b".to_owned()));
        assert_eq!(brought("GET /callback?code=a%2Bb&state=right HTTP/1.1\r\n\r\n"), code);
        assert_eq!(brought("GET /callback?state=right&x=&code=a%2Bb HTTP/1.1\r\nHost: x"), code);
        for request in [
            "GET /callback?code=a&state=wrong HTTP/1.1\r\n",
            "GET /callback?code=a&state= HTTP/1.1\r\n",
            "GET /callback?code=a HTTP/1.1\r\n",
            "GET /callback?state=right HTTP/1.1\r\n",
            "GET /callback/?code=a&state=right HTTP/1.1\r\n",
            "GET /favicon.ico HTTP/1.1\r\n",
            "GET //callback?code=a&state=right HTTP/1.1\r\n",
            "GET @elsewhere/callback?code=a&state=right HTTP/1.1\r\n",
            "GET http://elsewhere/callback?code=a&state=right HTTP/1.1\r\n",
            "GET /callback?code=a&state=ri\nght HTTP/1.1\r\n",
            "GET /call\tback?code=a&state=right HTTP/1.1\r\n",
            "POST /callback?code=a&state=right HTTP/1.1\r\n",
            "",
        ] {
            assert_eq!(brought(request), None, "{request}");
        }
    }

    #[test]
    fn an_error_shows_only_a_registered_code() {
        let failed = |query: &str| {
            let request = format!("GET /callback?state=right&{query} HTTP/1.1\r\n\r\n");
            brought(&request).unwrap().unwrap_err()
        };
        let denied = failed("error=access_denied&error_description=canary");
        assert!(denied.ends_with("with access_denied"), "{denied}");
        let other = failed("error=canary-1%1b%5b2J");
        assert!(other.ends_with("that is not registered"), "{other}");
    }
}
