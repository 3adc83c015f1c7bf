use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::AgeKey;
use super::unlock::{Opened, Stamp};
use crate::error::StoreError;
use crate::store::Revision;

/// The content that was opened last. If the sealed bytes and the key are still the same, it is not opened again.
///
/// The content is dropped, and so wiped, when another one is opened, when the slot is found empty, and with the
/// store.
pub(crate) struct LastOpened<T> {
    entry: Mutex<Option<Entry<T>>>,
    /// How often something was opened.
    times: AtomicUsize,
}

struct Entry<T> {
    revision: Revision,
    by: Stamp,
    content: T,
}

impl<T: Clone> LastOpened<T> {
    /// Returns the content of the sealed bytes with this revision. Calls `open` and `decode` if it is not the
    /// content that was opened last, or if the key was changed or forgotten since.
    pub(crate) fn get_or_open(
        &self,
        key: &AgeKey,
        revision: &Revision,
        open: impl FnOnce() -> Result<Opened, StoreError>,
        decode: impl FnOnce(&[u8]) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let is_current =
            |last: &&Entry<T>| last.revision == *revision && key.stamp() == Some(last.by);
        // The lock is held until it is known which one it is, so that a logout is not undone.
        let mut last = self.lock();
        if let Some(last) = last.as_ref().filter(is_current) {
            return Ok(last.content.clone());
        }
        // What fails to open must not leave the content of another record here.
        *last = None;
        drop(last);
        self.times.fetch_add(1, Ordering::Relaxed);
        let opened = open()?;
        let content = decode(&opened.plain)?;
        if let Some(by) = opened.by {
            *self.lock() = Some(Entry { revision: revision.clone(), by, content: content.clone() });
        }
        Ok(content)
    }

    /// Drops the content.
    pub(crate) fn forget(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> MutexGuard<'_, Option<Entry<T>>> {
        self.entry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Default for LastOpened<T> {
    fn default() -> Self {
        Self { entry: Mutex::default(), times: AtomicUsize::default() }
    }
}

impl<T> fmt::Debug for LastOpened<T> {
    /// Shows how often something was opened, and nothing of its content.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LastOpened(opened {} times)", self.times.load(Ordering::Relaxed))
    }
}
