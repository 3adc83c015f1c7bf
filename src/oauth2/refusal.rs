//! What a provider said about a request that it refused: for the person who has to fix it, and for nothing else.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::{BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD};
use http::StatusCode;
use http::header::AUTHORIZATION;
use oauth2::HttpRequest;
use oauth2::url::Url;
use oauth2::url::form_urlencoded::{byte_serialize, parse};
use secrecy::ExposeSecret;
use zeroize::Zeroizing;

use super::failure::error_code;
use crate::printable::printable;
use crate::tokens::json;

/// The most characters of a description. Microsoft's have about 400.
const LONGEST_DESCRIPTION: usize = 500;

/// The most characters of any other part.
const LONGEST_PART: usize = 200;

/// How much of a text is looked at. The rest is left out.
const LONGEST_TEXT: usize = 4096;

/// Why a provider refused a request, in its own words (RFC 6749, 5.2).
///
/// It is given to the callback of [`OAuth2Client::with_report`](super::OAuth2Client::with_report). No error of
/// this crate contains it.
///
/// # Security
///
/// It is text of another program: show it to a person in quotes, and say whose it is. It has one line, a limited
/// length and no hidden characters. What it repeats of the secrets in the request is replaced by `[secret]`:
/// whole or in parts of at least 8 characters, also percent-encoded or in base64.
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
            let text = printable(&secrets.hidden_in(&text), longest);
            Some(text).filter(|text| !text.trim().is_empty())
        };
        let code = field("error").and_then(|code| error_code(&code).map(str::to_owned));
        if code.as_deref().is_some_and(|code| NO_REFUSALS.contains(&code)) {
            return None;
        }
        let description = shown("error_description", LONGEST_DESCRIPTION)
            .or_else(|| shown("message", LONGEST_DESCRIPTION));
        let uri = field("error_uri").filter(|uri| {
            let is_page = Url::parse(uri).is_ok_and(|url| {
                url.scheme() == "https" && url.username().is_empty() && !uri.contains(' ')
            });
            is_page && printable(uri, LONGEST_PART) == **uri && secrets.hidden_in(uri) == **uri
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

/// The callback that gets refusals, if there is one.
#[derive(Clone, Default)]
pub(super) struct Report(Option<Callback>);

type Callback = Arc<dyn Fn(&Refusal) + Send + Sync>;

impl Report {
    pub(super) fn to(report: impl Fn(&Refusal) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(report)))
    }

    /// Takes a copy of the secrets in a request, so that they can be found in its answer. Takes none if nobody
    /// wants to know.
    pub(super) fn about(&self, request: &HttpRequest) -> Secrets {
        if self.0.is_none() { Secrets::default() } else { Secrets::of(request) }
    }

    /// Reports a refusal.
    pub(super) fn send(&self, refusal: &Refusal) {
        if let Some(report) = &self.0 {
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
        self.0.as_ref()?;
        let outer = json::object(body).ok()?;
        let has = |wanted: &str| outer.iter().any(|(name, _)| name == wanted);
        if status.is_success() && (!has("error") || has("access_token")) {
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
            // A list of numbers is shown as it is.
            let is_shown = |first: char| first == '[' || first.is_ascii_digit();
            let json = || Cow::from(value.get().to_owned());
            text.or_else(|| value.get().starts_with(is_shown).then(json))
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
        f.write_str(if self.0.is_some() { "Report(..)" } else { "Report(none)" })
    }
}

/// Parameters that are no secrets. The value of any other parameter may be one.
const PUBLIC: [&str; 12] = [
    "audience",
    "client_assertion_type",
    "client_id",
    "code_challenge_method",
    "grant_type",
    "redirect_uri",
    "requested_token_type",
    "resource",
    "response_type",
    "scope",
    "subject_token_type",
    "token_type_hint",
];

/// The secrets in a request.
#[derive(Clone, Default)]
pub(super) struct Secrets(Vec<Zeroizing<Vec<u8>>>);

/// A shorter value is no secret, and may be a word of the description.
const SHORTEST_SECRET: usize = 4;

/// How many characters of a secret are recognized. Fewer could be a part of a word.
const SHORTEST_PART: usize = 8;

impl Secrets {
    fn of(request: &HttpRequest) -> Self {
        let mut secrets = Self::default();
        let basic = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        if let Some((_, credentials)) = basic.and_then(|value| value.split_once(' ')) {
            secrets.add(credentials);
            let decoded = BASE64_STANDARD_NO_PAD.decode(credentials.trim_end_matches('='));
            let decoded = Zeroizing::new(decoded.unwrap_or_default());
            if let Some(colon) = decoded.iter().position(|byte| *byte == b':') {
                for (secret, _) in parse(&decoded[colon + 1..]) {
                    secrets.add(&Zeroizing::new(secret.into_owned()));
                }
            }
        }
        for (name, value) in parse(request.body()) {
            let value = Zeroizing::new(value.into_owned());
            if !PUBLIC.contains(&&*name) {
                secrets.add(&value);
            }
        }
        secrets
    }

    fn add(&mut self, secret: &str) {
        if secret.len() >= SHORTEST_SECRET {
            self.0.push(Zeroizing::new(secret.as_bytes().to_vec()));
        }
    }

    /// Returns the text with `[secret]` in place of each secret, and of each part of one.
    fn hidden_in<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let text = text.char_indices().nth(LONGEST_TEXT).map_or(text, |(end, _)| &text[..end]);
        let mut is_secret = vec![false; text.len()];
        for form in self.0.iter().flat_map(|secret| forms(secret)) {
            let part = form.len().min(SHORTEST_PART);
            let mut parts: Zeroizing<Vec<u64>> =
                Zeroizing::new(form.windows(part).map(number).collect());
            parts.sort_unstable();
            for (at, window) in text.as_bytes().windows(part).enumerate() {
                if parts.binary_search(&number(window)).is_ok() {
                    is_secret[at..at + part].fill(true);
                }
            }
        }
        if !is_secret.contains(&true) {
            return text.into();
        }
        let (mut shown, mut was_secret) = (String::with_capacity(text.len()), false);
        for (at, character) in text.char_indices() {
            match is_secret[at] {
                false => shown.push(character),
                true if !was_secret => shown.push_str("[secret]"),
                true => {}
            }
            was_secret = is_secret[at];
        }
        shown.into()
    }
}

/// Returns the forms in which an answer may repeat a secret: as it is, percent-encoded, and in base64 from each of
/// the 3 positions that it can have in a longer text.
fn forms(secret: &[u8]) -> Vec<Zeroizing<Vec<u8>>> {
    let mut forms = vec![Zeroizing::new(secret.to_vec())];
    let mut encoded = Zeroizing::new(String::with_capacity(3 * secret.len()));
    encoded.extend(byte_serialize(secret));
    forms.push(Zeroizing::new(encoded.replace('+', "%20").into_bytes()));
    forms.push(Zeroizing::new(encoded.to_ascii_lowercase().into_bytes()));
    forms.push(Zeroizing::new(std::mem::take(&mut *encoded).into_bytes()));
    if secret.len() < SHORTEST_PART {
        return forms;
    }
    for before in 0..3 {
        let shifted = Zeroizing::new([&[0; 2][..before], secret].concat());
        for engine in [BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD] {
            let text = Zeroizing::new(engine.encode(&*shifted));
            // A character at an end that has bits of other bytes too depends on those.
            let (first, last) = ((8 * before).div_ceil(6), 8 * shifted.len() / 6);
            forms.push(Zeroizing::new(text.as_bytes()[first..last].to_vec()));
        }
    }
    forms
}

/// Returns up to 8 bytes as a number.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests;
