//! The sealed content of a row: the slot's name, the generation, and the record.

use zeroize::Zeroizing;

use crate::error::StoreError;
use crate::key::seal::{self, MAX_SEALED};
use crate::key::{AgeKey, Sealer};
use crate::record::codec;
use crate::record::{MAX_STORED, Record};
use crate::sys::wipe::Bytes;

const FORMAT: &str = "tokenkeep-slot/1";

/// A state of a slot.
#[derive(Clone)]
pub(super) struct Content {
    pub(super) generation: u64,
    /// The record, or `None` if the slot was emptied.
    pub(super) record: Option<Record>,
}

/// Seals `FORMAT GENERATION NAME`, a line end, and the record.
pub(super) fn seal(
    key: &AgeKey,
    sealer: &Sealer,
    content: &Content,
    name: &str,
    place: &str,
) -> Result<Vec<u8>, StoreError> {
    let head = format!("{FORMAT} {} {name}\n", content.generation);
    let record = match &content.record {
        Some(record) => codec::encode(record, place)?,
        None => Zeroizing::default(),
    };
    // The buffer has its full size, so it does not grow and leave copies behind.
    let mut plain: Bytes = Zeroizing::new(Vec::with_capacity(head.len() + record.len()));
    plain.extend_from_slice(head.as_bytes());
    plain.extend_from_slice(&record);
    let sealed = sealer.seal(&plain, place)?;
    let unfit = |reason: &str| {
        Err(StoreError::InvalidKey { place: key.to_string(), reason: reason.to_owned() })
    };
    if sealed.len() > MAX_SEALED {
        return unfit(seal::TOO_MANY);
    }
    if !seal::is_sealed_to_keys_alone(&sealed) {
        return unfit("a slot on a server cannot be sealed to a passphrase; use an age key");
    }
    Ok(sealed.to_vec())
}

/// Checks whether the largest record could be sealed and read again.
pub(super) fn check_size(key: &AgeKey, sealer: &Sealer, name: &str) -> Result<(), StoreError> {
    let head = FORMAT.len() + name.len() + 24;
    if seal::sealed_size(MAX_STORED + head, sealer.recipients()) <= MAX_SEALED {
        return Ok(());
    }
    Err(StoreError::InvalidKey { place: key.to_string(), reason: seal::TOO_MANY.to_owned() })
}

pub(super) fn open(
    key: &AgeKey,
    sealed: &[u8],
    name: &str,
    place: &str,
) -> Result<Content, StoreError> {
    let corrupt =
        |reason: &str| StoreError::Corrupt { place: place.to_owned(), reason: reason.to_owned() };
    if sealed.len() > MAX_SEALED {
        return Err(StoreError::TooLarge { place: place.to_owned(), limit: MAX_SEALED });
    }
    // The operator of the server must not be able to choose the cost of opening, or to start a plugin.
    if !seal::is_sealed_to_keys_alone(sealed) {
        return Err(corrupt("it is not sealed to age keys only"));
    }
    let plain = key.open(sealed, place)?;
    let end = plain.iter().position(|byte| *byte == b'\n');
    let head = end.and_then(|end| str::from_utf8(&plain[..end]).ok());
    let (Some(end), Some(head)) = (end, head) else {
        return Err(corrupt("the name of its slot is missing"));
    };
    let mut words = head.splitn(3, ' ');
    if words.next() != Some(FORMAT) {
        return Err(corrupt("its format is unknown to this program"));
    }
    let generation = words.next().and_then(|word| word.parse().ok());
    let generation = generation.ok_or_else(|| corrupt("its generation is not a number"))?;
    if words.next() != Some(name) {
        return Err(corrupt("it is the record of another slot"));
    }
    let record = &plain[end + 1..];
    let record = if record.is_empty() { None } else { Some(codec::decode(record, place)?) };
    Ok(Content { generation, record })
}
