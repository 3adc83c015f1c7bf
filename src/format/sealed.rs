use super::Format;
use crate::codec::{self, Bytes};
use crate::error::StoreError;
use crate::key::AgeKey;
use crate::seal::MAX_SEALED;
use crate::tokens::AuthTokens;

/// Records sealed with a key.
#[derive(Debug)]
pub(crate) struct Sealed {
    pub(crate) key: AgeKey,
    /// Whether the key is this slot's alone, and goes when the slot is emptied.
    pub(crate) own_key: bool,
}

impl Format for Sealed {
    fn prepare(&self) -> Result<(), StoreError> {
        self.key.prepare()
    }

    fn encode(&self, tokens: &AuthTokens, place: &str, first: bool) -> Result<Bytes, StoreError> {
        let sealed = self.key.seal(&codec::encode(tokens, place)?, place, first)?;
        if sealed.len() > MAX_SEALED {
            // It could not be read again.
            let reason = "it has too many recovery recipients".to_owned();
            return Err(StoreError::InvalidKey { place: self.key.to_string(), reason });
        }
        Ok(sealed)
    }

    fn decode(&self, bytes: &[u8], place: &str) -> Result<AuthTokens, StoreError> {
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
