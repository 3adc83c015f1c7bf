//! Sign-in by a browser (RFC 8252), with PKCE (RFC 7636).

pub(super) mod callback;
mod port;
pub(super) mod redirect;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use oauth2::url::Url;
use oauth2::{
    AuthUrl, AuthorizationCode, CsrfToken, PkceCodeChallenge, PkceCodeVerifier, RedirectUrl,
};
use secrecy::{ExposeSecret, SecretString};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;

use self::callback::{Expected, Issuer};
use self::port::{Arrival, Entrance, Page, Port};
use self::redirect::{Listening, Redirect};
use super::endpoint::endpoint;
use super::failure::Failed;
use super::{OAuth2Client, OAuth2Error, failed, on_io};
use crate::tokens::AuthTokens;

/// How long a person may take to sign in: 5 minutes, enough to find a second factor.
const DEADLINE: Duration = Duration::from_secs(300);

impl OAuth2Client {
    /// Sets the redirect URI that is registered for this client, instead of `http://127.0.0.1/callback`.
    ///
    /// - `http` with the host 127.0.0.1, `[::1]` or `localhost` (RFC 8252, 7.3) is for
    ///   [`sign_in_by_browser`](Self::sign_in_by_browser). Without a port, or with port 0, each sign-in takes a free
    ///   one. The port is opened on loopback addresses only, on both of them for `localhost`.
    /// - `https` (7.2) and schemes of programs (7.1) are for [`sign_in_by_paste`](Self::sign_in_by_paste).
    ///
    /// Providers compare the text, so it is sent as it is, with the port added.
    ///
    /// # Errors
    ///
    /// [`OAuth2Error::InvalidSetting`] for any other URI.
    pub fn with_redirect_uri(mut self, uri: &str) -> Result<Self, OAuth2Error> {
        self.redirect = Some(Redirect::parse(uri)?);
        Ok(self)
    }

    /// Sets the issuer of the provider. An answer to a sign-in by browser that names another one is refused
    /// (RFC 9207). If `always_sent`, so is an answer that names none: the provider's metadata then has
    /// `authorization_response_iss_parameter_supported`.
    ///
    /// # Errors
    ///
    /// [`OAuth2Error::InvalidSetting`], as for [`new`](Self::new).
    pub fn with_issuer(mut self, issuer: &str, always_sent: bool) -> Result<Self, OAuth2Error> {
        endpoint("issuer", issuer)?;
        self.issuer = Some(Issuer { url: issuer.to_owned(), is_always_sent: always_sent });
        Ok(self)
    }

    /// Starts a sign-in by a browser on this machine: the authorization code flow with PKCE (S256), with a
    /// redirect to a port of this machine (RFC 8252, 7.3).
    ///
    /// Register `http://127.0.0.1/callback` as the redirect URI, or set [another](Self::with_redirect_uri). Most
    /// providers accept any port with it: pass 0 for a free one. If the provider demands the port that was
    /// registered, pass that `port`, or set it in the redirect URI. Send the person to
    /// [`url`](BrowserSignIn::url), then wait for the [`tokens`](BrowserSignIn::tokens).
    ///
    /// # Errors
    ///
    /// [`OAuth2Error::InvalidSetting`] if no authorization URL is set, or if the redirect URI does not lead to this
    /// machine or there is a second port in it. [`OAuth2Error::Unavailable`] if the port is in use.
    pub async fn sign_in_by_browser(&self, port: u16) -> Result<BrowserSignIn, OAuth2Error> {
        let url =
            self.authorization_url.clone().ok_or_else(|| self.not_set("authorization_url"))?;
        if self.redirect.is_some() && port != 0 {
            let reason = "is set, and a port beside it; put the port into the URI";
            return Err(OAuth2Error::InvalidSetting { setting: "redirect_uri", reason });
        }
        let redirect = self.redirect.clone().unwrap_or_else(Redirect::usual);
        let listening = on_io(redirect.listen(port)).await?;
        Ok(self.sign_in_with(url, listening))
    }

    /// Starts a sign-in by a browser on any machine, without a port on this one. The person [pastes](RedirectPaste)
    /// the address of the page on which the browser ends.
    ///
    /// # Errors
    ///
    /// [`OAuth2Error::InvalidSetting`] if no authorization URL is set.
    pub fn sign_in_by_paste(&self) -> Result<BrowserSignIn, OAuth2Error> {
        let url =
            self.authorization_url.clone().ok_or_else(|| self.not_set("authorization_url"))?;
        let redirect = self.redirect.clone().unwrap_or_else(Redirect::usual);
        Ok(self.sign_in_with(url, redirect.without_port()))
    }

    fn sign_in_with(&self, url: Url, listening: Listening) -> BrowserSignIn {
        let Listening { uri, path, listeners } = listening;
        let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
        let client = self.client().set_auth_uri(AuthUrl::from_url(url));
        let request = client
            .authorize_url(CsrfToken::new_random)
            .add_scopes(self.scopes.clone())
            .set_redirect_uri(Cow::Borrowed(&uri))
            .set_pkce_challenge(challenge);
        let added = self.parameters.for_authorize();
        let request =
            added.fold(request, |request, (name, value)| request.add_extra_param(name, value));
        let (url, state) = request.url();
        let (bring, brought) = mpsc::channel(1);
        // The path cannot be guessed.
        let entrance = Entrance {
            path: format!("/{}", CsrfToken::new_random().secret()),
            leads_to: url.as_str().to_owned(),
            openings: AtomicUsize::default(),
        };
        let expected = Expected {
            path,
            state,
            issuer: self.issuer.clone(),
            report: self.http.report.clone(),
            host: self.authorization_url.as_ref().map_or("", Url::authority).to_owned(),
        };
        BrowserSignIn {
            client: self.clone(),
            listeners,
            redirect: uri,
            url: url.into(),
            expected: Arc::new(expected),
            entrance: Arc::new(entrance),
            bring,
            brought,
            verifier,
            deadline: DEADLINE,
        }
    }
}

/// A sign-in that waits for a person in a browser.
pub struct BrowserSignIn {
    client: OAuth2Client,
    listeners: Vec<TcpListener>,
    redirect: RedirectUrl,
    url: String,
    expected: Arc<Expected>,
    entrance: Arc<Entrance>,
    bring: mpsc::Sender<Arrival>,
    brought: mpsc::Receiver<Arrival>,
    verifier: PkceCodeVerifier,
    deadline: Duration,
}

impl BrowserSignIn {
    /// Returns the URL at which the person signs in. Show it only to that person.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns a URL of this machine that leads to [`url`](Self::url) once, while [`tokens`](Self::tokens) waits.
    /// It is for a program that opens a browser. Returns `None` if the sign-in has no port.
    ///
    /// # Security
    ///
    /// Other users of this machine can see the arguments of programs. A user who sees [`url`](Self::url) there can
    /// answer the sign-in, and sign this program in to an account of their own. Neither PKCE nor `state` prevents that.
    ///
    /// After the browser has opened this URL, it is worth nothing. If it is opened a second time, somebody else may have
    /// opened it first. So the browser says that, and the sign-in ends with [`OAuth2Error::OpenedTwice`]. One case is not
    /// noticed: somebody else opens it first, and has signed in before the browser opens it. Then the browser cannot
    /// reach this URL. A browser that only prefetches does not use it up.
    #[must_use]
    pub fn one_time_url(&self) -> Option<String> {
        let address = self.listeners.first()?.local_addr().ok()?;
        Some(format!("http://{address}{}", self.entrance.path))
    }

    /// Gives the person this long to sign in, instead of 5 minutes.
    #[must_use]
    pub fn deadline(mut self, time: Duration) -> Self {
        self.deadline = time;
        self
    }

    /// Returns what takes the answer to this sign-in if a person pastes it: the browser may be on another machine
    /// than this program, for example if this one is used over ssh. The port and the paste both count: the first
    /// answer ends the wait of [`tokens`](Self::tokens).
    #[must_use]
    pub fn paste(&self) -> RedirectPaste {
        RedirectPaste { expected: self.expected.clone(), bring: self.bring.clone() }
    }

    /// Waits for the answer to the sign-in, and exchanges its code for tokens. Then the browser shows whether
    /// that succeeded.
    ///
    /// # Errors
    ///
    /// [`OAuth2Error::Declined`], [`OAuth2Error::SignInRequired`], [`OAuth2Error::TimedOut`], or the error of the
    /// exchange. [`OAuth2Error::OpenedTwice`] if the [`one_time_url`](Self::one_time_url) was opened a second time.
    /// [`OAuth2Error::Misconfigured`] if an error without the `state` of this sign-in came, whatever it says.
    ///
    /// # Security
    ///
    /// A request without the `state` of this sign-in is refused, and the wait continues. One exception is an error
    /// without any `state`, which some providers send: it ends the sign-in. So a page of another site that finds
    /// the port can end the sign-in too, but only by opening a window that the person sees. Another user of this machine
    /// who finds the port can end it unseen, and the error says that the answer may be from somebody else. They can do
    /// nothing else. Of a request, an error contains only a registered error code.
    ///
    /// # Cancel safety
    ///
    /// A dropped call ends the sign-in, and closes the port soon after.
    pub async fn tokens(self) -> Result<AuthTokens, OAuth2Error> {
        on_io(self.trade()).await
    }

    async fn trade(mut self) -> Result<AuthTokens, OAuth2Error> {
        let listeners = std::mem::take(&mut self.listeners);
        let _port = Port::open(listeners, &self.expected, &self.entrance, &self.bring);
        let arrival = timeout(self.deadline, self.brought.recv()).await;
        let arrival = arrival.map_err(|_| OAuth2Error::TimedOut)?;
        let Arrival { brought, browser } = arrival.expect("this holds a sender");
        let exchange =
            Exchange { client: self.client, redirect: self.redirect, verifier: self.verifier };
        let tokens = match brought {
            Ok(code) => exchange.tokens(code).await.map_err(Failed::of_a_sign_in),
            Err(error) => Err(error),
        };
        // The browser may have come second while somebody else's code was exchanged.
        let tokens = tokens.and_then(|tokens| self.entrance.check().map(|()| tokens));
        // The same request may have come twice, for example if the person reloaded the page.
        let late = self.brought.try_recv().ok().and_then(|late| late.browser);
        for browser in browser.into_iter().chain(late) {
            browser.show(if tokens.is_ok() { Page::Done } else { Page::Declined }).await;
        }
        tokens
    }
}

/// What is needed to exchange a code for tokens.
struct Exchange {
    client: OAuth2Client,
    redirect: RedirectUrl,
    verifier: PkceCodeVerifier,
}

impl Exchange {
    async fn tokens(self, code: AuthorizationCode) -> Result<AuthTokens, Failed> {
        let sent = self.client.clock.now();
        let answer = self
            .client
            .client()
            .exchange_code(code)
            .set_pkce_verifier(self.verifier)
            .set_redirect_uri(Cow::Owned(self.redirect))
            .request_async(&self.client.to_token_endpoint())
            .await;
        let answer = answer.map_err(|error| failed(error, self.client.token_url.url()))?;
        Ok(self.client.received(answer, sent))
    }
}

/// Shows the redirect URI, and neither the state nor the verifier.
impl fmt::Debug for BrowserSignIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BrowserSignIn")
            .field("redirect", &self.redirect.as_str())
            .finish_non_exhaustive()
    }
}

/// Takes the answer to one sign-in from a person. All clones belong to the same sign-in.
#[derive(Clone)]
pub struct RedirectPaste {
    expected: Arc<Expected>,
    bring: mpsc::Sender<Arrival>,
}

impl RedirectPaste {
    /// Takes the address of the page on which the browser ended, or its query alone: `code=...&state=...`.
    ///
    /// [`BrowserSignIn::tokens`] then exchanges the code. If another answer came first, this one is not used.
    ///
    /// # Errors
    ///
    /// [`OAuth2Error::NotThisSignIn`] if the text is not an answer to this sign-in. The sign-in goes on, and
    /// another text can be given.
    ///
    /// # Security
    ///
    /// The address contains a code, which can be used once, and only together with a secret that this program has
    /// and the browser has not (PKCE). No error contains it.
    pub fn submit(&self, address: &SecretString) -> Result<(), OAuth2Error> {
        #[expect(clippy::disallowed_methods, reason = "the code is sent to the provider")]
        let brought = self.expected.read_pasted(address.expose_secret());
        let brought = brought.ok_or(OAuth2Error::NotThisSignIn)?;
        // If it is full or closed, another answer came first.
        let brought = brought.map_err(Failed::of_a_sign_in);
        let _ = self.bring.try_send(Arrival { brought, browser: None });
        Ok(())
    }
}

/// Shows nothing of the sign-in.
impl fmt::Debug for RedirectPaste {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedirectPaste").finish_non_exhaustive()
    }
}
