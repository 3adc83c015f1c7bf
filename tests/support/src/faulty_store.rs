//! A store that fails when a test says so.

use std::sync::Arc;
use std::time::Duration;

use tokenkeep::store::{Lease, Precondition, Record, Revision, Stored};
use tokenkeep::stores::MemoryStore;
use tokenkeep::{StoreError, TokenStore, async_trait};

/// A memory store with faults that a test sets. An error is returned as long as it is set.
#[derive(Clone, Debug, Default)]
pub struct Faulty {
    pub inner: MemoryStore,
    faults: Arc<std::sync::Mutex<Faults>>,
}

#[derive(Debug, Default)]
pub struct Faults {
    pub save: Option<StoreError>,
    pub intent: Option<StoreError>,
    pub reserve: Option<StoreError>,
    pub renew: Option<StoreError>,
    pub load: Option<StoreError>,
    /// The next save is done, and its answer is lost.
    pub lose_answer: bool,
    /// Saves never end.
    pub hang: bool,
    /// Another holder has the lease now.
    pub lost_lease: bool,
    /// For how long the lease was renewed, each time.
    pub renewals: Vec<Duration>,
}

impl Faulty {
    pub fn set(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.faults.lock().unwrap());
    }

    pub fn renewals(&self) -> Vec<Duration> {
        self.faults.lock().unwrap().renewals.clone()
    }

    pub fn full_disk() -> StoreError {
        let source = Arc::new(std::io::Error::from(std::io::ErrorKind::StorageFull));
        StoreError::Io { action: "write", place: "faulty".into(), source }
    }

    pub fn read_only() -> StoreError {
        StoreError::ReadOnly { place: "faulty".into(), reason: "for the test".into() }
    }
}

impl std::fmt::Display for Faulty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("faulty")
    }
}

#[async_trait]
impl TokenStore for Faulty {
    async fn load(&self) -> Result<Option<Stored>, StoreError> {
        tokio::task::yield_now().await;
        let fault = self.faults.lock().unwrap().load.clone();
        fault.map_or(Ok(()), Err)?;
        self.inner.load().await
    }

    async fn save(
        &self,
        record: &Record,
        precondition: Precondition,
    ) -> Result<Revision, StoreError> {
        tokio::task::yield_now().await;
        let fault = {
            let faults = self.faults.lock().unwrap();
            let is_intent = record.refresh.intent.is_some();
            if is_intent { faults.intent.clone() } else { faults.save.clone() }
        };
        fault.map_or(Ok(()), Err)?;
        let hangs = self.faults.lock().unwrap().hang && record.refresh.intent.is_none();
        if hangs {
            std::future::pending::<()>().await;
        }
        let saved = self.inner.save(record, precondition).await;
        if record.refresh.intent.is_none()
            && std::mem::take(&mut self.faults.lock().unwrap().lose_answer)
        {
            // The client of an object store repeats a write by itself, and then conflicts with its own write.
            return Err(StoreError::Conflict { place: "faulty".into() });
        }
        saved
    }

    async fn clear(&self, precondition: Precondition) -> Result<(), StoreError> {
        self.inner.clear(precondition).await
    }

    async fn try_lease(&self) -> Result<Option<Box<dyn Lease>>, StoreError> {
        tokio::task::yield_now().await;
        let lease = self.inner.try_lease().await?;
        Ok(lease.map(|lease| Box::new(FaultyLease { lease, store: self.clone() }) as _))
    }
}

#[derive(Debug)]
struct FaultyLease {
    lease: Box<dyn Lease>,
    store: Faulty,
}

#[async_trait]
impl Lease for FaultyLease {
    async fn reserve(&mut self) -> Result<(), StoreError> {
        let fault = self.store.faults.lock().unwrap().reserve.clone();
        fault.map_or(Ok(()), Err)?;
        self.lease.reserve().await
    }

    async fn renew(&mut self, time: Duration) -> Result<bool, StoreError> {
        let faults = &mut *self.store.faults.lock().unwrap();
        faults.renewals.push(time);
        match &faults.renew {
            Some(error) => Err(error.clone()),
            None => Ok(!faults.lost_lease),
        }
    }

    async fn release(self: Box<Self>) -> Result<(), StoreError> {
        self.lease.release().await
    }
}
