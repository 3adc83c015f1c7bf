use std::fmt;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::Mutex;

use super::platform::Dir;
use super::{Exposure, FileSlot, Locked, intent, read_whole, temporary};
use crate::blocking;
use crate::error::StoreError;
use crate::store::{Intent, Lease};

/// The most bytes of an intent; it takes some 130.
const MAX_INTENT: usize = 1024;

/// A lock on the slot's lease file.
pub(super) struct FileLease {
    slot: Arc<FileSlot>,
    /// Held by whatever a dropped future left running, too: the lease is not given up before that
    /// is over.
    lock: Arc<Locked>,
    order: Arc<Mutex<()>>,
}

impl FileLease {
    pub(super) fn new(slot: Arc<FileSlot>, lock: Locked) -> Self {
        Self { slot, lock: Arc::new(lock), order: Arc::default() }
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&FileSlot) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (slot, lock) = (self.slot.clone(), self.lock.clone());
        let turn = self.order.clone().lock_owned().await;
        blocking::run(&self.slot.place(), move || {
            let _held = (lock, turn);
            work(&slot)
        })
        .await
    }
}

impl fmt::Debug for FileLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileLease({})", self.slot.path().display())
    }
}

#[async_trait]
impl Lease for FileLease {
    async fn intent(&self) -> Result<Option<Intent>, StoreError> {
        self.run(|slot| {
            let (parent, name) = slot.split()?;
            let Some(dir) = Dir::open(parent, Exposure::Accepted)? else { return Ok(None) };
            let name = intent(name);
            let Some(file) = dir.open_file(&name, Exposure::Accepted)? else { return Ok(None) };
            let path = parent.join(&name);
            let text = read_whole(file, &path, MAX_INTENT)?;
            let intent = str::from_utf8(&text).ok().and_then(|text| text.parse().ok());
            intent.map(Some).ok_or_else(|| unreadable(&path))
        })
        .await
    }

    async fn write_intent(&mut self, note: &Intent) -> Result<(), StoreError> {
        let line = format!("{note}\n");
        self.run(move |slot| {
            let (parent, name) = slot.split()?;
            slot.write(&Dir::create(parent)?, &intent(name), line.as_bytes())
        })
        .await
    }

    async fn remove_intent(&mut self) -> Result<(), StoreError> {
        self.run(|slot| {
            let (parent, name) = slot.split()?;
            let Some(dir) = Dir::open(parent, Exposure::Accepted)? else { return Ok(()) };
            // The second one is what a process leaves that is killed while it writes the first.
            for name in [intent(name), temporary(&intent(name))] {
                match dir.remove(&name).and_then(|()| dir.sync()) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        return Err(StoreError::io("remove the intent of", slot.place(), error));
                    }
                    _ => {}
                }
            }
            Ok(())
        })
        .await
    }

    async fn release(self: Box<Self>) -> Result<(), StoreError> {
        let _turn = self.order.lock().await;
        self.lock.unlock().map_err(|error| StoreError::io("unlock", self.slot.place(), error))
    }
}

fn unreadable(path: &Path) -> StoreError {
    StoreError::Corrupt {
        place: path.display().to_string(),
        reason: "it is not an intent of a version that this program knows".into(),
    }
}
