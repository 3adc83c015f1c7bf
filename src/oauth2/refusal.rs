//! What a provider said about a request that it refused: for the person who has to fix it, and for nothing else.

mod secrets;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use http::StatusCode;
use oauth2::HttpRequest;
use oauth2::url::Url;
use secrecy::ExposeSecret;

use self::secrets::Secrets;
use crate::printable::printable;
use crate::tokens::{AccessToken, json};

/// The most characters of a description. Microsoft's have about 400.
const LONGEST_DESCRIPTION: usize = 500;

/// The most characters of any other part.
const LONGEST_PART: usize = 200;

/// Why a provider refused a request, in its own words (RFC 6749, 5.2).
///
/// It is given to the callback of [`OAuth2Client::with_report`](super::OAuth2Client::with_report). No error of
/// this crate contains it.
///
/// # Security
///
/// It is text of another program: show it to a person in quotes, and say whose it is. It has one line, a limited
/// length and no hidden characters. `[secret]` replaces two kinds of words:
///
/// - What repeats a secret of the request, or the access token that a refresh replaces: the whole secret, or at
///   least 8 of its letters and digits. It may be in upper or lower case, backwards, split by spaces or other
///   characters, percent-encoded, in hexadecimal or decimal numbers, or in base64.
/// - What looks like a secret: escapes (`%2F`, `&#47;`, `&amp;`, `\u002f`), or 20 or more letters, digits, `-`,
///   `_` and `+` in a row. Shown are a UUID, and a row without a digit in which at most a quarter of the
///   characters are capitals, or all letters are.
///
/// A provider that wants to can write a secret so that this does not recognize it, such as with one word for each
/// letter. It knows the secret anyway.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refusal {
    /// The host of the provider.
    pub host: String,
    /// The status of the answer, or `None` for the error that a browser brought.
    pub status: Option<u16>,
    /// The error code, such as `invalid_grant`, if it looks like one that is registered.
    pub code: Option<String>,
    /// What the provider says in words: `error_description`, or `message`.
    pub description: Option<String>,
    /// A page about the error, if it is an `https` URL.
    pub uri: Option<String>,
    /// Other names and values that help: Microsoft's `suberror`, `error_codes`, `trace_id`, `correlation_id`
    /// and `timestamp`, and Google's `error_subtype`.
    pub details: Vec<(&'static str, String)>,
}

const DETAILS: [&str; 6] =
    ["suberror", "error_subtype", "error_codes", "trace_id", "correlation_id", "timestamp"];

/// Errors that are a part of the device flow, and refuse nothing (RFC 8628, 3.5).
const NO_REFUSALS: [&str; 2] = ["authorization_pending", "slow_down"];

impl Refusal {
    /// Reads the fields of an answer or of a redirect. Returns `None` if they say nothing more than a code.
    fn read<'a>(
        host: &str,
        status: Option<u16>,
        secrets: &Secrets,
        field: impl Fn(&str) -> Option<Cow<'a, str>>,
    ) -> Option<Self> {
        let shown = |name: &str, longest: usize| {
            let text = field(name)?;
            let text = printable(&secrets.replaced_in(&text), longest);
            Some(text).filter(|text| !text.trim().is_empty())
        };
        let code = field("error").and_then(|code| secrets.code(&code).map(str::to_owned));
        if code.as_deref().is_some_and(|code| NO_REFUSALS.contains(&code)) {
            return None;
        }
        let description = shown("error_description", LONGEST_DESCRIPTION)
            .or_else(|| shown("message", LONGEST_DESCRIPTION));
        let uri = field("error_uri").filter(|uri| {
            let is_page = Url::parse(uri).is_ok_and(|url| {
                url.scheme() == "https" && url.username().is_empty() && !uri.contains(' ')
            });
            is_page && printable(uri, LONGEST_PART) == **uri && secrets.replaced_in(uri) == **uri
        });
        let details: Vec<_> = DETAILS
            .into_iter()
            .filter_map(|name| Some((name, shown(name, LONGEST_PART)?)))
            .collect();
        if description.is_none() && uri.is_none() && details.is_empty() {
            return None;
        }
        let host = host.to_owned();
        Some(Self { host, status, code, description, uri: uri.map(Into::into), details })
    }
}

/// Writes one line: the host, the code, the description in quotes, and everything else.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, code, description, uri, details, .. } = self;
        write!(f, "{host} says")?;
        if let Some(code) = code {
            write!(f, " {code}")?;
        }
        if let Some(description) = description {
            write!(f, " \"{description}\"")?;
        }
        for (name, value) in details {
            write!(f, ", {name} \"{value}\"")?;
        }
        if let Some(uri) = uri {
            write!(f, ", see {uri}")?;
        }
        Ok(())
    }
}

/// The callback that gets refusals, if there is one, and what is not reported besides the secrets of a request.
#[derive(Clone, Default)]
pub(super) struct Report {
    callback: Option<Callback>,
    known: Secrets,
}

type Callback = Arc<dyn Fn(&Refusal) + Send + Sync>;

impl Report {
    pub(super) fn to(report: impl Fn(&Refusal) + Send + Sync + 'static) -> Self {
        Self { callback: Some(Arc::new(report)), known: Secrets::default() }
    }

    /// Adds a token that is not in the requests, but that a provider may repeat.
    pub(super) fn knowing(mut self, token: &AccessToken) -> Self {
        #[expect(clippy::disallowed_methods, reason = "looked for, and wiped")]
        self.known.add(token.expose_secret());
        self
    }

    /// Returns a copy of the secrets that the answer to a request may repeat.
    pub(super) fn secrets(&self, request: &HttpRequest) -> Secrets {
        let mut secrets = Secrets::of(request);
        secrets.extend(&self.known);
        secrets
    }

    /// Reports a refusal.
    pub(super) fn send(&self, refusal: &Refusal) {
        if let Some(report) = &self.callback {
            report(refusal);
        }
    }

    /// Reports what an answer says, if it is a refusal.
    pub(super) fn answer(&self, host: &str, status: StatusCode, body: &[u8], secrets: &Secrets) {
        if let Some(refusal) = self.read(host, status, body, secrets) {
            self.send(&refusal);
        }
    }

    /// Reads what an answer to a refused request says, if anybody wants to know.
    fn read(
        &self,
        host: &str,
        status: StatusCode,
        body: &[u8],
        secrets: &Secrets,
    ) -> Option<Refusal> {
        self.callback.as_ref()?;
        let outer = json::object(body).ok()?;
        let has = |wanted: &str| outer.iter().any(|(name, _)| name == wanted);
        // Some providers send an error with a success, and some send tokens with the status of a failure.
        let (is_success, has_error, has_tokens) =
            (status.is_success(), has("error"), has("access_token"));
        if !has_error && (is_success || has_tokens) || is_success && has_tokens {
            return None;
        }
        // Google's and Facebook's APIs answer with an object in `error`.
        let inner = outer.iter().find(|(name, _)| name == "error");
        let inner = inner.and_then(|(_, error)| json::object(error.get().as_bytes()).ok());
        let fields = || outer.iter().chain(inner.iter().flatten());
        let mut secrets = secrets.clone();
        for (name, value) in fields() {
            // An answer with an error has no tokens, unless it is a strange one.
            if name.contains("token")
                && let Some(token) = json::secret(value)
            {
                #[expect(clippy::disallowed_methods, reason = "looked for, and wiped")]
                secrets.add(token.expose_secret());
            }
        }
        let field = |wanted: &str| {
            let (_, value) = fields().find(|(name, _)| name == wanted)?;
            #[expect(
                clippy::disallowed_methods,
                reason = "what it repeats of a secret is replaced"
            )]
            let text = json::secret(value).map(|text| Cow::from(text.expose_secret().to_owned()));
            // Numbers, and lists of them, are shown as they are.
            let is_shown = |byte: u8| byte.is_ascii_digit() || b"[], \n".contains(&byte);
            let json = || Cow::from(value.get().to_owned());
            text.or_else(|| value.get().bytes().all(is_shown).then(json))
        };
        Refusal::read(host, Some(status.as_u16()), &secrets, field)
    }

    /// Reports the error that a browser brought back from the provider (RFC 6749, 4.1.2.1). `secrets` are what
    /// the URL of the sign-in contained.
    pub(super) fn redirected<'a>(
        &self,
        host: &str,
        secrets: &[&str],
        parameter: impl Fn(&str) -> Option<Cow<'a, str>>,
    ) {
        let mut all = Secrets::default();
        secrets.iter().for_each(|secret| all.add(secret));
        if let Some(refusal) = Refusal::read(host, None, &all, parameter) {
            self.send(&refusal);
        }
    }
}

impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.callback.is_some() { "Report(..)" } else { "Report(none)" })
    }
}
