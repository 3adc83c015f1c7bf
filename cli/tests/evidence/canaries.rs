//! Made-up secrets, which look like nothing else, and a search for any part of them.

use std::collections::HashMap;
use std::fmt::Write;

use base64::Engine;
use base64::prelude::{BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};

/// The search looks for windows of this many bytes. So it also finds a secret whose beginning was
/// overwritten by an allocator, or whose special characters are escaped.
const WINDOW: usize = 8;

/// A made-up secret.
#[derive(Clone, Debug)]
pub(crate) struct Canary {
    pub(crate) name: &'static str,
    pub(crate) text: String,
}

/// Returns the secret of that name.
pub(crate) fn text(name: &'static str) -> String {
    Canary::new(name).text
}

/// Returns a record with such secrets, as `set` reads it.
pub(crate) fn record() -> String {
    serde_json::json!({
        "access_token": text("mine"),
        "refresh_token": text("my refresh"),
        "expires_at": "2099-01-01T00:00:00Z",
        "id_token": text("extra"),
    })
    .to_string()
}

impl Canary {
    /// Returns the secret of that name: 60 characters, the same in each run.
    pub(crate) fn new(name: &'static str) -> Self {
        let half = |half: u8| Sha256::digest(format!("{name} {half}"));
        let letters = half(0).into_iter().chain(half(1)).map(|byte| {
            let index = usize::from(byte) % LETTERS.len();
            char::from(LETTERS[index])
        });
        Self { name, text: letters.take(60).collect() }
    }

    /// Returns a canary with this text.
    pub(crate) fn of(name: &'static str, text: &str) -> Self {
        Self { name, text: text.to_owned() }
    }

    /// Returns the text in every form in which it might appear.
    pub(crate) fn forms(&self) -> Vec<(&'static str, Vec<u8>)> {
        let text = self.text.as_bytes();
        let mut forms = vec![
            ("plain", text.to_vec()),
            ("UTF-16", self.text.encode_utf16().flat_map(u16::to_le_bytes).collect()),
            ("hex", hex(text).into_bytes()),
            ("HEX", hex(text).to_uppercase().into_bytes()),
        ];
        // The base64 digits depend on the number of bytes before the text. The first and last digits also
        // depend on the bytes around it, so they are left out.
        for before in 0..3 {
            let shifted = [&vec![b' '; before], text].concat();
            for digits in
                [BASE64_STANDARD_NO_PAD.encode(&shifted), BASE64_URL_SAFE_NO_PAD.encode(&shifted)]
            {
                forms.push(("base64", digits.as_bytes()[4..digits.len() - 4].to_vec()));
            }
        }
        if let Some(digits) = self.text.strip_prefix(AGE_KEY) {
            let values = bech32(digits);
            forms.push(("key", bytes_of(&values)));
            forms.push(("bech32 values", values));
            forms.push(("lower case", self.text.to_lowercase().into_bytes()));
        }
        forms
    }
}

const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
const AGE_KEY: &str = "AGE-SECRET-KEY-1";

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// Returns the 5-bit values of an identity's digits, without the checksum.
fn bech32(digits: &str) -> Vec<u8> {
    const ALPHABET: &str = "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L";
    let values = digits.chars().map(|digit| ALPHABET.find(digit).unwrap() as u8);
    values.take(digits.len() - 6).collect()
}

fn bytes_of(values: &[u8]) -> Vec<u8> {
    let bits: Vec<u8> = values.iter().flat_map(|v| (0..5).rev().map(move |n| v >> n & 1)).collect();
    bits.chunks_exact(8).map(|byte| byte.iter().fold(0, |byte, bit| byte << 1 | bit)).collect()
}

/// A part of a form of a canary that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) name: &'static str,
    pub(crate) form: &'static str,
    /// The position of its first byte, and its length.
    pub(crate) at: usize,
    pub(crate) length: usize,
}

/// A search for canaries in every form.
pub(crate) struct Search {
    forms: Vec<(&'static str, &'static str, Vec<u8>)>,
    /// For each window: the index of its form, and its offset in the form.
    windows: HashMap<u64, (usize, usize)>,
    /// Whether any window begins with these two bytes. This excludes most of the memory quickly.
    begins: Vec<bool>,
}

impl Search {
    pub(crate) fn new(canaries: &[Canary]) -> Self {
        let forms: Vec<_> = canaries
            .iter()
            .flat_map(|canary| {
                canary.forms().into_iter().map(|(form, bytes)| (canary.name, form, bytes))
            })
            .collect();
        let (mut windows, mut begins) = (HashMap::new(), vec![false; 1 << 16]);
        for (index, (_, _, bytes)) in forms.iter().enumerate() {
            for (offset, window) in bytes.windows(WINDOW).enumerate() {
                // The prefix of identities is not secret. Each program that reads identities contains it.
                let is_common = AGE_KEY.as_bytes().starts_with(bytes.get(..16).unwrap_or(b"-"))
                    || AGE_KEY
                        .to_lowercase()
                        .as_bytes()
                        .starts_with(bytes.get(..16).unwrap_or(b"-"));
                if is_common && offset < AGE_KEY.len() {
                    continue;
                }
                begins[usize::from(u16::from_le_bytes([window[0], window[1]]))] = true;
                windows.insert(word(window), (index, offset));
            }
        }
        Self { forms, windows, begins }
    }

    /// Finds every part of at least 8 bytes. For output and files.
    pub(crate) fn find(&self, bytes: &[u8]) -> Vec<Found> {
        let mut found = self.find_every(1, WINDOW, bytes);
        // Bytes as `Debug` shows them. Their text is too long for the windows.
        let text = String::from_utf8_lossy(bytes);
        for (name, _, whole) in self.forms.iter().filter(|(_, form, _)| *form == "plain") {
            for numbers in whole.chunks_exact(WINDOW).map(|part| format!("{part:?}")) {
                if let Some(at) = text.find(numbers.trim_matches(['[', ']'])) {
                    found.push(Found { name, form: "numbers", at, length: WINDOW });
                }
            }
        }
        found
    }

    /// Finds every part of at least 16 bytes, 7 times as fast. For memory.
    pub(crate) fn find_long(&self, bytes: &[u8]) -> Vec<Found> {
        self.find_every(8, 16, bytes)
    }

    /// Returns the length of the whole form.
    pub(crate) fn length(&self, found: &Found) -> usize {
        let is_it =
            |(name, form, _): &&(&str, &str, Vec<u8>)| *name == found.name && *form == found.form;
        self.forms.iter().filter(is_it).map(|(_, _, bytes)| bytes.len()).max().unwrap()
    }

    fn find_every(&self, step: usize, least: usize, bytes: &[u8]) -> Vec<Found> {
        let mut found: Vec<Found> = Vec::new();
        let mut at = 0;
        while at + WINDOW <= bytes.len() {
            if self.begins[usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]))]
                && let Some(&(index, offset)) = self.windows.get(&word(&bytes[at..at + WINDOW]))
            {
                let (name, form, whole) = &self.forms[index];
                let same = |a: &(&u8, &u8)| a.0 == a.1;
                let before = bytes[..at].iter().rev().zip(whole[..offset].iter().rev());
                let before = before.take_while(same).count();
                let length =
                    before + bytes[at..].iter().zip(&whole[offset..]).take_while(same).count();
                if length >= least {
                    found.push(Found { name, form, at: at - before, length });
                }
                at = (at - before + length).next_multiple_of(step).max(at + step);
            } else {
                at += step;
            }
        }
        found
    }
}

fn word(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().unwrap())
}
