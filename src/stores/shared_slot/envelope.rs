//! What is sealed: which slot it is of, how many changes there were before it, and the record.

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
    /// Nothing, once the slot was emptied.
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
    // Of its full size, so that it does not grow and leave copies behind.
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
        return unfit("a slot on a server is sealed to an age key, and to no passphrase");
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
    // Whoever runs the server must not choose what opening costs, or have a program started.
    if !seal::is_sealed_to_keys_alone(sealed) {
        return Err(corrupt("it is sealed to something else than age keys"));
    }
    let plain = key.open(sealed, place)?;
    let end = plain.iter().position(|byte| *byte == b'\n');
    let head = end.and_then(|end| str::from_utf8(&plain[..end]).ok());
    let (Some(end), Some(head)) = (end, head) else {
        return Err(corrupt("it does not say which slot it is of"));
    };
    let mut words = head.splitn(3, ' ');
    if words.next() != Some(FORMAT) {
        return Err(corrupt("it is not of a format that this program knows"));
    }
    let generation = words.next().and_then(|word| word.parse().ok());
    let generation = generation.ok_or_else(|| corrupt("its generation is no number"))?;
    if words.next() != Some(name) {
        return Err(corrupt("it is another slot's record, put in this one's place"));
    }
    let record = &plain[end + 1..];
    let record = if record.is_empty() { None } else { Some(codec::decode(record, place)?) };
    Ok(Content { generation, record })
}
