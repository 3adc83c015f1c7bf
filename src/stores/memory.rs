use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use crate::error::StoreError;
use crate::record::codec;
use crate::record::{Record, Throttle};
use crate::store::{Lease, Precondition, Revision, Stored, TokenStore};

/// Keeps tokens in this process only. Clones share one slot.
///
/// # Security
///
/// Nothing is written to a disk, except what the system swaps out. The tokens are lost when the process ends.
#[derive(Clone, Default)]
pub struct MemoryStore(Arc<Mutex<Slot>>);

#[derive(Default)]
struct Slot {
    record: Option<Record>,
    /// Counts the changes, so that no state has the revision of an earlier one.
    revision: u64,
    leased: bool,
    /// The throttle of the empty slot.
    throttle: Option<Throttle>,
}

impl MemoryStore {
    /// Makes an empty slot.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Slot> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    fn revision(&self) -> Revision {
        Revision::new(self.revision.to_be_bytes())
    }

    fn check(&self, precondition: &Precondition) -> Result<(), StoreError> {
        let as_expected = match precondition {
            Precondition::Absent => self.record.is_none(),
            Precondition::Anything => true,
            Precondition::Unchanged(revision) => {
                self.record.is_some() && self.revision() == *revision
            }
        };
        if as_expected { Ok(()) } else { Err(StoreError::Conflict { place: PLACE.into() }) }
    }
}

const PLACE: &str = "memory";

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MemoryStore").field(&self.lock().record).finish()
    }
}

impl fmt::Display for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PLACE)
    }
}

#[async_trait]
impl TokenStore for MemoryStore {
    async fn load(&self) -> Result<Option<Stored>, StoreError> {
        let slot = self.lock();
        Ok(slot.record.clone().map(|record| Stored { record, revision: slot.revision() }))
    }

    async fn save(
        &self,
        record: &Record,
        precondition: Precondition,
    ) -> Result<Revision, StoreError> {
        // A record that no other store could save is refused here too.
        codec::encode(record, PLACE)?;
        let mut slot = self.lock();
        slot.check(&precondition)?;
        slot.record = Some(record.clone());
        slot.throttle = None;
        slot.revision += 1;
        Ok(slot.revision())
    }

    async fn clear(&self, precondition: Precondition) -> Result<(), StoreError> {
        let mut slot = self.lock();
        slot.check(&precondition)?;
        slot.throttle = None;
        if slot.record.take().is_some() {
            slot.revision += 1;
        }
        Ok(())
    }

    async fn try_lease(&self) -> Result<Option<Box<dyn Lease>>, StoreError> {
        let mut slot = self.lock();
        if slot.leased {
            return Ok(None);
        }
        slot.leased = true;
        Ok(Some(Box::new(MemoryLease(self.clone()))))
    }

    fn slot(&self) -> String {
        format!("{PLACE} {:p}", Arc::as_ptr(&self.0))
    }
}

#[derive(Debug)]
struct MemoryLease(MemoryStore);

#[async_trait]
impl Lease for MemoryLease {
    async fn throttle(&mut self) -> Option<Throttle> {
        self.0.lock().throttle.clone()
    }

    async fn keep_throttle(&mut self, throttle: &Throttle) -> Result<(), StoreError> {
        let mut slot = self.0.lock();
        if slot.record.is_none() {
            slot.throttle = Some(throttle.clone());
        }
        Ok(())
    }

    async fn release(self: Box<Self>) -> Result<(), StoreError> {
        Ok(())
    }
}

impl Drop for MemoryLease {
    fn drop(&mut self) {
        self.0.lock().leased = false;
    }
}
