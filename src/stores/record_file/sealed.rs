use super::Format;
use crate::error::StoreError;
use crate::key::seal::{MAX_SEALED, TOO_MANY, sealed_size};
use crate::key::{AgeKey, Sealer};
use crate::record::codec;
use crate::record::{MAX_STORED, Record};
use crate::sys::wipe::Bytes;

/// Records that are sealed with a key.
#[derive(Debug)]
pub(crate) struct Sealed {
    pub(crate) key: AgeKey,
    /// Whether the key belongs to this slot only, and is removed when the slot is emptied.
    pub(crate) own_key: bool,
}

impl Sealed {
    fn seal(&self, record: &Record, place: &str, sealer: &Sealer) -> Result<Bytes, StoreError> {
        let sealed = sealer.seal(&codec::encode(record, place)?, place)?;
        if sealed.len() > MAX_SEALED {
            // A larger file could not be read again.
            return Err(self.too_many_recipients());
        }
        Ok(sealed)
    }

    fn too_many_recipients(&self) -> StoreError {
        StoreError::InvalidKey { place: self.key.to_string(), reason: TOO_MANY.to_owned() }
    }
}

impl Format for Sealed {
    type Sealer = Sealer;

    fn prepare(&self) -> Result<(), StoreError> {
        self.key.prepare()
    }

    fn reserve(&self, place: &str) -> Result<(Sealer, usize), StoreError> {
        self.key.prepare()?;
        let sealer = self.key.sealer(place, false)?;
        let size = sealed_size(MAX_STORED, sealer.recipients());
        if size > MAX_SEALED {
            return Err(self.too_many_recipients());
        }
        Ok((sealer, size))
    }

    fn encode(&self, record: &Record, place: &str, first: bool) -> Result<Bytes, StoreError> {
        self.seal(record, place, &self.key.sealer(place, first)?)
    }

    fn encode_reserved(
        &self,
        record: &Record,
        place: &str,
        sealer: &Sealer,
    ) -> Result<Bytes, StoreError> {
        self.seal(record, place, sealer)
    }

    fn decode(&self, bytes: &[u8], place: &str) -> Result<Record, StoreError> {
        codec::decode(&self.key.open(bytes, place)?, place)
    }

    fn keeps_a_key(&self) -> bool {
        self.own_key
    }

    fn can_forget(&self) -> Result<(), StoreError> {
        self.key.can_forget()
    }

    fn forget(&self) -> Result<(), StoreError> {
        self.key.forget()
    }

    fn limit(&self) -> usize {
        MAX_SEALED
    }
}
