//! How a record lies in its slot: as plain JSON, or sealed.

use std::fmt;

use crate::error::StoreError;
use crate::record::codec;
use crate::record::{MAX_STORED, Record};
use crate::sys::wipe::Bytes;

/// Turns records into what lies in a slot, and back.
pub(crate) trait Format: fmt::Debug + Send + Sync + 'static {
    /// All that it takes to encode a record later, whatever becomes of the keys meanwhile.
    type Sealer: fmt::Debug + Send + Sync + 'static;

    /// Does whatever may take long or ask someone, before any lock is taken.
    fn prepare(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Gets what it takes to encode a record later, and the size of the largest one.
    fn reserve(&self, place: &str) -> Result<(Self::Sealer, usize), StoreError>;

    /// Encodes a record. `first` says that the slot is empty.
    fn encode(&self, record: &Record, place: &str, first: bool) -> Result<Bytes, StoreError>;

    /// Encodes a record with what was reserved for it.
    fn encode_reserved(
        &self,
        record: &Record,
        place: &str,
        sealer: &Self::Sealer,
    ) -> Result<Bytes, StoreError>;

    /// Decodes a record.
    fn decode(&self, bytes: &[u8], place: &str) -> Result<Record, StoreError>;

    /// Returns whether a key is kept elsewhere for this slot alone.
    fn keeps_a_key(&self) -> bool {
        false
    }

    /// Finds out whether that key could be let go of now.
    fn can_forget(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Lets go of that key: the slot was just emptied.
    fn forget(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// The most bytes that an encoded record has.
    fn limit(&self) -> usize;
}

/// The JSON itself.
#[derive(Debug)]
pub(crate) struct Plain;

impl Format for Plain {
    type Sealer = ();

    fn reserve(&self, _place: &str) -> Result<((), usize), StoreError> {
        Ok(((), MAX_STORED))
    }

    fn encode(&self, record: &Record, place: &str, _first: bool) -> Result<Bytes, StoreError> {
        codec::encode(record, place)
    }

    fn encode_reserved(&self, record: &Record, place: &str, (): &()) -> Result<Bytes, StoreError> {
        codec::encode(record, place)
    }

    fn decode(&self, bytes: &[u8], place: &str) -> Result<Record, StoreError> {
        codec::decode(bytes, place)
    }

    fn limit(&self) -> usize {
        MAX_STORED
    }
}
