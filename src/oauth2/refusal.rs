//! What a provider said about a request that it refused: for the person who has to fix it, and for nothing else.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use http::StatusCode;
use http::header::AUTHORIZATION;
use oauth2::HttpRequest;
use oauth2::url::Url;
use oauth2::url::form_urlencoded::{byte_serialize, parse};
use secrecy::ExposeSecret;
use zeroize::Zeroizing;

use super::failure::{error_code, is_known};
use crate::printable::{is_hidden, printable};
use crate::tokens::{AccessToken, json};

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
        secrets.0.extend(self.known.0.iter().cloned());
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

/// The secrets that an answer may repeat: a copy of those in the request, and others that are known.
#[derive(Clone, Default)]
pub(super) struct Secrets(Vec<Zeroizing<Vec<u8>>>);

/// A shorter value is no secret, and may be a word of the description.
const SHORTEST_SECRET: usize = 4;

/// How many characters of a secret are recognized. Fewer could be a part of a word.
const SHORTEST_PART: usize = 8;

/// A row of characters that is at least as long may be a secret that is not in the request, or an encoded one.
const LONG: usize = 20;

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

    /// Returns the text if it looks like an error code, and repeats no secret. A code with a meaning is none.
    fn code<'t>(&self, text: &'t str) -> Option<&'t str> {
        error_code(text).filter(|code| {
            is_known(code) || !self.found_in(&code.chars().collect::<Vec<_>>()).contains(&true)
        })
    }

    /// Replaces the error code of an answer if it repeats a secret, by one that no provider can have registered.
    pub(super) fn remove_from_code(&self, status: StatusCode, body: &mut Zeroizing<Vec<u8>>) {
        let fields = json::object(body).unwrap_or_default();
        let error = fields.iter().find(|(name, _)| name == "error");
        let Some(error) = error.and_then(|(_, error)| json::secret(error)) else { return };
        #[expect(clippy::disallowed_methods, reason = "looked at only")]
        let error = error.expose_secret();
        let has_tokens =
            status.is_success() && fields.iter().any(|(name, _)| name == "access_token");
        if error_code(error) != self.code(error) && !has_tokens {
            *body = Zeroizing::new(br#"{"error":"?"}"#.to_vec());
        }
    }

    /// Returns the visible text with `[secret]` in place of each word that repeats a secret or looks like one.
    fn replaced_in(&self, text: &str) -> String {
        // What is left out later would separate the parts of a secret.
        let is_visible = |it: &char| matches!(it, '\n' | '\r' | '\t') || !is_hidden(*it);
        let text: Vec<char> = text.chars().filter(is_visible).take(LONGEST_TEXT).collect();
        let mut is_secret = self.found_in(&text);
        let (mut start, mut last_end) = (0, None);
        for word in text.chunk_by(|a, b| a.is_ascii_graphic() == b.is_ascii_graphic()) {
            let end = start + word.len();
            if word[0].is_ascii_graphic()
                && (is_secret[start..end].contains(&true) || looks_like_a_secret(word))
            {
                // Words that follow one another are replaced together.
                let gap =
                    last_end.filter(|end| text[*end..start].iter().all(|it| it.is_whitespace()));
                is_secret[gap.unwrap_or(start)..end].fill(true);
                last_end = Some(end);
            }
            start = end;
        }
        let (mut shown, mut was_secret) = (String::with_capacity(text.len()), false);
        for (character, is_secret) in text.into_iter().zip(is_secret) {
            match is_secret {
                false => shown.push(character),
                true if !was_secret => shown.push_str("[secret]"),
                true => {}
            }
            was_secret = is_secret;
        }
        shown
    }

    /// Returns for each character whether it repeats a part of a secret, or stands within one.
    fn found_in(&self, text: &[char]) -> Vec<bool> {
        let mut is_secret = vec![false; text.len()];
        let mut folded = Vec::with_capacity(text.len());
        for (at, character) in text.iter().enumerate() {
            folded.extend(fold(*character).map(|character| (at, character)));
        }
        let (places, folded): (Vec<_>, Vec<_>) = folded.into_iter().unzip();
        for secret in &self.0 {
            for form in forms(secret) {
                for found in parts_in(&folded, &form) {
                    is_secret[places[found.start]..=places[found.end - 1]].fill(true);
                }
            }
            // One that has few letters and digits.
            let mut exact = Zeroizing::new(Vec::with_capacity(secret.len()));
            exact.extend(String::from_utf8_lossy(secret).chars());
            for found in parts_in(text, &exact) {
                is_secret[found].fill(true);
            }
        }
        is_secret
    }
}

/// Returns where the text repeats a part of this form of a secret, forwards or backwards.
fn parts_in<'t>(text: &'t [char], form: &'t [char]) -> impl Iterator<Item = Range<usize>> + 't {
    let part = form.len().clamp(1, SHORTEST_PART);
    let mut parts: Vec<_> = form.windows(part).collect();
    if form.len() < SHORTEST_SECRET {
        parts.clear();
    }
    parts.sort_unstable();
    text.windows(part).enumerate().filter_map(move |(at, window)| {
        let mut backwards = ['\0'; SHORTEST_PART];
        backwards[..part].copy_from_slice(window);
        backwards[..part].reverse();
        let is_part = [window, &backwards[..part]].iter().any(|it| parts.binary_search(it).is_ok());
        is_part.then(|| at..at + part)
    })
}

/// Returns the forms in which an answer may repeat a secret, folded: as it is, percent-encoded, in hexadecimal and
/// in decimal numbers, and in base64 from each of the 3 positions that it can have in a longer text.
fn forms(secret: &[u8]) -> Vec<Zeroizing<Vec<char>>> {
    let folded = |text: &str| {
        let mut folded = Zeroizing::new(Vec::with_capacity(text.len()));
        folded.extend(text.chars().flat_map(fold));
        folded
    };
    let mut forms = vec![folded(&String::from_utf8_lossy(secret))];
    let mut text = Zeroizing::new(String::with_capacity(3 * secret.len()));
    text.extend(byte_serialize(secret));
    forms.push(folded(&text));
    text.clear();
    secret.iter().for_each(|byte| text.extend([byte >> 4, byte & 15].map(hexadecimal)));
    forms.push(folded(&text));
    text.clear();
    secret.iter().for_each(|byte| text.push_str(&byte.to_string()));
    forms.push(folded(&text));
    for before in 0..3 {
        let shifted = Zeroizing::new([&[0; 2][..before], secret].concat());
        let text = Zeroizing::new(BASE64_STANDARD_NO_PAD.encode(&*shifted));
        // A character at an end that has bits of other bytes too depends on those.
        let (first, last) = ((8 * before).div_ceil(6), 8 * shifted.len() / 6);
        forms.push(folded(&text[first..last]));
    }
    forms
}

/// Returns what of a character is compared: a letter in lower case, a digit, or nothing.
fn fold(character: char) -> impl Iterator<Item = char> {
    character.to_lowercase().filter(|character| character.is_alphanumeric())
}

fn hexadecimal(digit: u8) -> char {
    char::from_digit(digit.into(), 16).unwrap_or_default()
}

/// Returns whether a word may be a secret or an encoded one: it has escapes, or a long part that is neither made of
/// words nor a UUID.
fn looks_like_a_secret(word: &[char]) -> bool {
    let is_escaped = word.windows(2).any(|pair| match pair {
        ['%', digit] => digit.is_ascii_hexdigit(),
        [first, _] => *first == '\\',
        _ => false,
    });
    let has_entity = word.iter().skip_while(|it| **it != '&').any(|it| *it == ';');
    let separates = |it: &char| !it.is_ascii_alphanumeric() && !matches!(it, '-' | '_' | '+');
    is_escaped || has_entity || word.split(separates).any(is_long_and_no_words)
}

fn is_long_and_no_words(part: &[char]) -> bool {
    let capitals = part.iter().filter(|it| it.is_ascii_uppercase()).count();
    let has = |kind: fn(&char) -> bool| part.iter().any(kind);
    let are_words = !has(char::is_ascii_digit)
        && (4 * capitals <= part.len() || !has(char::is_ascii_lowercase));
    part.len() >= LONG && !are_words && !is_uuid(part)
}

fn is_uuid(part: &[char]) -> bool {
    part.split(|it| *it == '-').map(<[_]>::len).eq([8, 4, 4, 4, 12])
        && part.iter().all(|it| it.is_ascii_hexdigit() || *it == '-')
}

#[cfg(test)]
mod tests;
