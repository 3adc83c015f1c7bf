//! How a record lies in its slot: as plain JSON, or sealed.

#[cfg(feature = "age")]
mod sealed;

use std::fmt;

#[cfg(feature = "age")]
pub(crate) use self::sealed::Sealed;
use crate::codec::{self, Bytes};
use crate::error::StoreError;
use crate::store::MAX_RECORD;
use crate::tokens::AuthTokens;

/// Turns records into what lies in a slot, and back.
pub(crate) trait Format: fmt::Debug + Send + Sync + 'static {
    /// Does whatever may take long or ask someone, before any lock is taken.
    fn prepare(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Encodes a record. `first` says that the slot is empty.
    fn encode(&self, tokens: &AuthTokens, place: &str, first: bool) -> Result<Bytes, StoreError>;

    /// Decodes a record.
    fn decode(&self, bytes: &[u8], place: &str) -> Result<AuthTokens, StoreError>;

    /// Tells whether a key is kept elsewhere for this slot alone.
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
    fn encode(&self, tokens: &AuthTokens, place: &str, _first: bool) -> Result<Bytes, StoreError> {
        codec::encode(tokens, place)
    }

    fn decode(&self, bytes: &[u8], place: &str) -> Result<AuthTokens, StoreError> {
        codec::decode(bytes, place)
    }

    fn limit(&self) -> usize {
        MAX_RECORD
    }
}
