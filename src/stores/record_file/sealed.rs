use super::Format;
use crate::error::StoreError;
use crate::key::seal::{MAX_SEALED, is_sealed, sealed_size};
use crate::key::{AgeKey, LastOpened, Sealer};
use crate::record::codec;
use crate::record::{MAX_STORED, Record};
use crate::store::Revision;
use crate::sys::wipe::Bytes;

/// Records that are sealed with a key.
#[derive(Debug)]
pub(crate) struct Sealed {
    key: AgeKey,
    /// Whether the key belongs to this slot only, and is removed when the slot is emptied.
    own_key: bool,
    last: LastOpened<Record>,
}

impl Sealed {
    pub(crate) fn new(key: AgeKey) -> Self {
        Self { key, own_key: false, last: LastOpened::default() }
    }

    /// Makes a format with a key that belongs to this slot only.
    #[cfg(feature = "keychain")]
    pub(crate) fn with_own_key(key: AgeKey) -> Self {
        Self { own_key: true, ..Self::new(key) }
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
        Ok((sealer, size))
    }

    fn encode(&self, record: &Record, place: &str, first: bool) -> Result<Bytes, StoreError> {
        let sealer = self.key.sealer(place, first)?;
        self.encode_reserved(record, place, &sealer)
    }

    fn encode_reserved(
        &self,
        record: &Record,
        place: &str,
        sealer: &Sealer,
    ) -> Result<Bytes, StoreError> {
        sealer.seal(&codec::encode(record, place)?, place)
    }

    fn decode(&self, bytes: &[u8], revision: &Revision, place: &str) -> Result<Record, StoreError> {
        if let Some(error) = self.foreign(bytes, place) {
            return Err(error);
        }
        let open = || self.key.open(bytes, place);
        self.last.get_or_open(&self.key, revision, open, |plain| codec::decode(plain, place))
    }

    fn forget_record(&self) {
        self.last.forget();
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

    fn foreign(&self, bytes: &[u8], place: &str) -> Option<StoreError> {
        if is_sealed(bytes) {
            return None;
        }
        match codec::decode(bytes, place) {
            Err(error @ StoreError::NotARecord { .. }) => Some(error),
            Ok(_) => Some(StoreError::NotARecord {
                place: place.to_owned(),
                reason: "it is not sealed with age".into(),
                advice: "nothing here changes it; move its tokens with `tokenkeep migrate --from plaintext:PATH`"
                    .into(),
            }),
            Err(_) => None,
        }
    }

    fn limit(&self) -> usize {
        MAX_SEALED
    }
}
