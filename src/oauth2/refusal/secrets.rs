//! The secrets that an answer may repeat, and how they are found in what a provider says.

use std::ops::Range;

use base64::Engine;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use http::StatusCode;
use http::header::AUTHORIZATION;
use oauth2::HttpRequest;
use oauth2::url::form_urlencoded::{byte_serialize, parse};
use secrecy::ExposeSecret;
use zeroize::Zeroizing;

use super::super::failure::{error_code, is_known};
use crate::printable::is_hidden;
use crate::tokens::json;

/// How much of a text is looked at. The rest is left out.
const LONGEST_TEXT: usize = 4096;

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
pub(in crate::oauth2) struct Secrets(Vec<Zeroizing<Vec<u8>>>);

/// A shorter value is no secret, and may be a word of the description.
const SHORTEST_SECRET: usize = 4;

/// How many characters of a secret are recognized. Fewer could be a part of a word.
const SHORTEST_PART: usize = 8;

/// A row of characters that is at least as long may be a secret that is not in the request, or an encoded one.
const LONG: usize = 20;

impl Secrets {
    pub(super) fn of(request: &HttpRequest) -> Self {
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

    /// Adds the secrets of another list.
    pub(super) fn extend(&mut self, others: &Self) {
        self.0.extend(others.0.iter().cloned());
    }

    pub(super) fn add(&mut self, secret: &str) {
        if secret.len() >= SHORTEST_SECRET {
            self.0.push(Zeroizing::new(secret.as_bytes().to_vec()));
        }
    }

    /// Returns the text if it looks like an error code, and repeats no secret. A code with a meaning is none.
    pub(super) fn code<'t>(&self, text: &'t str) -> Option<&'t str> {
        error_code(text).filter(|code| {
            is_known(code) || !self.found_in(&code.chars().collect::<Vec<_>>()).contains(&true)
        })
    }

    /// Replaces the error code of an answer if it repeats a secret, by one that no provider can have registered.
    pub(in crate::oauth2) fn remove_from_code(
        &self,
        status: StatusCode,
        body: &mut Zeroizing<Vec<u8>>,
    ) {
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
    pub(super) fn replaced_in(&self, text: &str) -> String {
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
