//! The format of a record in its slot: plain JSON, or sealed.

use std::fmt;

use crate::error::StoreError;
use crate::record::codec;
use crate::record::{MAX_STORED, Record};
use crate::store::Revision;
use crate::sys::wipe::Bytes;

/// Encodes and decodes the records of a slot.
pub(crate) trait Format: fmt::Debug + Send + Sync + 'static {
    /// All that is needed to encode a record later, even if the keys can no longer be read then.
    type Sealer: fmt::Debug + Send + Sync + 'static;

    /// Does the work that may take long or raise a prompt, before any lock is taken.
    fn prepare(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Returns what is needed to encode a record later, and the size of the largest record.
    fn reserve(&self, place: &str) -> Result<(Self::Sealer, usize), StoreError>;

    /// Encodes a record. `first` says that the slot is empty.
    fn encode(&self, record: &Record, place: &str, first: bool) -> Result<Bytes, StoreError>;

    /// Encodes a record with what [`reserve`](Self::reserve) returned.
    fn encode_reserved(
        &self,
        record: &Record,
        place: &str,
        sealer: &Self::Sealer,
    ) -> Result<Bytes, StoreError>;

    /// Decodes a record. `revision` is that of the bytes.
    fn decode(&self, bytes: &[u8], revision: &Revision, place: &str) -> Result<Record, StoreError>;

    /// Drops the record that was decoded last, because it is no longer in the slot.
    fn forget_record(&self) {}

    /// Returns whether there is a key elsewhere that belongs to this slot only.
    fn keeps_a_key(&self) -> bool {
        false
    }

    /// Checks whether that key could be removed now.
    fn can_forget(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Removes that key, after the slot was emptied.
    fn forget(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Returns the error for bytes that something else than this crate wrote.
    fn foreign(&self, bytes: &[u8], place: &str) -> Option<StoreError> {
        let _ = (bytes, place);
        None
    }

    /// Returns the most bytes of an encoded record.
    fn limit(&self) -> usize;
}

/// Plain JSON.
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

    fn decode(&self, bytes: &[u8], _: &Revision, place: &str) -> Result<Record, StoreError> {
        codec::decode(bytes, place)
    }

    fn foreign(&self, bytes: &[u8], place: &str) -> Option<StoreError> {
        codec::foreign(bytes, place)
    }

    fn limit(&self) -> usize {
        MAX_STORED
    }
}
