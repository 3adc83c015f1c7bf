//! The authenticated content of a row. docs/authentication.md describes it.
//!
//! It is a line, and after it a whole age file: `FORMAT GENERATION MAC [MAC…]`, a line end, the age file.

#[cfg(test)]
mod tests;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use crate::error::StoreError;
use crate::key::mac::{self, MacKey, Tag, Writer};
use crate::key::seal::{self, MAX_SEALED};
use crate::key::{AgeKey, Opened};
use crate::record::codec;
use crate::record::{MAX_STORED, Record};
use crate::sys::wipe::Bytes;

/// Names the format in the line, and is the first part of what a MAC covers.
const FORMAT: &str = "tokenkeep-slot/2";

/// The most bytes of the line: the format, 20 digits, and the MACs with 43 characters each.
const LONGEST_LINE: usize = FORMAT.len() + 21 + mac::MOST * 44;

/// The most bytes of a row's content. An age file of the largest record has 81 KB.
pub(crate) const MAX_CONTENT: usize = MAX_SEALED;

const _: () =
    assert!(LONGEST_LINE + 1 + seal::sealed_size(MAX_STORED, seal::MAX_RECIPIENTS) <= MAX_CONTENT);

/// A state of a slot.
#[derive(Clone)]
pub(super) struct Content {
    pub(super) generation: u64,
    /// The record, or `None` if the slot was emptied.
    pub(super) record: Option<Record>,
}

/// What a MAC covers.
struct Statement<'a> {
    generation: u64,
    slot: &'a str,
    age_file: &'a [u8],
}

impl Statement<'_> {
    /// Calls `f` with the parts whose concatenation is authenticated. Different statements have different
    /// concatenations: every part except the last has a fixed size, or a size that comes before it.
    fn with_parts<T>(&self, f: impl FnOnce(&[&[u8]]) -> T) -> T {
        let size = u64::try_from(self.slot.len()).expect("a name is short");
        f(&[
            FORMAT.as_bytes(),
            &self.generation.to_be_bytes(),
            &size.to_be_bytes(),
            self.slot.as_bytes(),
            self.age_file,
        ])
    }
}

/// Seals a state, and authenticates it with each identity of the writer.
pub(super) fn seal(
    writer: &Writer,
    content: &Content,
    slot: &str,
    place: &str,
) -> Result<Vec<u8>, StoreError> {
    let plain = match &content.record {
        Some(record) => codec::encode(record, place)?,
        None => Bytes::default(),
    };
    let age_file = writer.sealer.seal(&plain, place)?;
    let statement = Statement { generation: content.generation, slot, age_file: &age_file };
    let mut envelope = format!("{FORMAT} {}", content.generation);
    for key in &writer.mac_keys {
        envelope.push(' ');
        STANDARD_NO_PAD.encode_string(statement.with_parts(|parts| key.tag(parts)), &mut envelope);
    }
    envelope.push('\n');
    let mut envelope = envelope.into_bytes();
    envelope.extend_from_slice(&age_file);
    Ok(envelope)
}

/// An envelope, not opened yet.
pub(super) struct Envelope<'a> {
    pub(super) generation: u64,
    tags: Vec<Tag>,
    age_file: &'a [u8],
}

impl<'a> Envelope<'a> {
    /// Splits an envelope. Nothing in it is known to be authentic yet.
    pub(super) fn parse(bytes: &'a [u8], place: &str) -> Result<Self, StoreError> {
        let corrupt = |reason: &str| StoreError::Corrupt {
            place: place.to_owned(),
            reason: reason.to_owned(),
        };
        if bytes.len() > MAX_CONTENT {
            return Err(StoreError::TooLarge { place: place.to_owned(), limit: MAX_CONTENT });
        }
        if seal::is_sealed(bytes) {
            return Err(StoreError::NotAuthentic {
                place: place.to_owned(),
                reason: "it has no MAC".into(),
                advice:
                    "if a build before 0.1 saved it, clear it and sign in again; otherwise find \
                         out who wrote it"
                        .into(),
            });
        }
        let end = bytes.iter().take(LONGEST_LINE + 1).position(|byte| *byte == b'\n');
        let line = end.and_then(|end| str::from_utf8(&bytes[..end]).ok());
        let (Some(end), Some(line)) = (end, line) else {
            return Err(corrupt("its format is unknown to this program"));
        };
        let mut words = line.split(' ');
        if words.next() != Some(FORMAT) {
            return Err(corrupt("its format is unknown to this program"));
        }
        // There is one way to write a number, so there is one way to write an envelope.
        let number = |word: &&str| word.parse().ok().filter(|it: &u64| it.to_string() == **word);
        let generation = words.next().as_ref().and_then(number);
        let generation = generation.ok_or_else(|| corrupt("its generation is not a number"))?;
        let tag = |word: &str| Tag::try_from(STANDARD_NO_PAD.decode(word).ok()?).ok();
        let tags: Option<Vec<Tag>> = words.map(tag).collect();
        let tags = tags.filter(|tags| !tags.is_empty());
        let tags = tags.ok_or_else(|| corrupt("one of its MACs is not in base64"))?;
        let age_file = &bytes[end + 1..];
        // A holder of the key must not be able to choose the cost of opening, or to start a plugin.
        if !seal::is_sealed_to_keys_alone(age_file) {
            return Err(corrupt("it is not sealed to age keys only"));
        }
        Ok(Self { generation, tags, age_file })
    }

    /// Opens the age file if a MAC was made with one of the identities of this key, for this slot. Otherwise
    /// nothing is decrypted.
    pub(super) fn open(&self, key: &AgeKey, slot: &str, place: &str) -> Result<Opened, StoreError> {
        let statement = Statement { generation: self.generation, slot, age_file: self.age_file };
        let is_by =
            |key: &MacKey| statement.with_parts(|parts| key.has_made_one_of(&self.tags, parts));
        key.open_authentic(self.age_file, place, is_by)?.ok_or_else(|| StoreError::NotAuthentic {
            place: place.to_owned(),
            reason: format!(
                "no MAC in it was made with {key}, so somebody without this key wrote it or changed \
                 it, or it is the record of another slot"
            ),
            advice: "check that this is the key of the fleet; if it is, find out who can write to the \
                     server"
                .into(),
        })
    }
}

/// Decodes what an age file contains: a record, or nothing if the slot was emptied.
pub(super) fn decode(plain: &[u8], place: &str) -> Result<Option<Record>, StoreError> {
    if plain.is_empty() { Ok(None) } else { codec::decode(plain, place).map(Some) }
}
