//! What is in a row, and which state of it is the latest.

use std::sync::{Arc, MutexGuard};
use std::time::SystemTime;

use super::envelope::{self, Content, Envelope};
use super::{Engine, Found, Inner, lock};
use crate::error::StoreError;
use crate::store::Revision;
use crate::sys::blocking;

/// The latest state that this process knows of.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) generation: u64,
    pub(super) revision: Revision,
}

impl Seen {
    /// Returns whether this state is not later than `known`. It is an earlier generation, or another state
    /// with the same generation: then an earlier state was put back, and somebody saved over it.
    fn is_before(&self, known: &Self) -> bool {
        self.generation < known.generation
            || (self.generation == known.generation && self.revision != known.revision)
    }
}

/// A row, and its opened content. The content is `None` if nothing was ever saved.
pub(super) struct Look<V> {
    pub(super) found: Option<Found<V>>,
    pub(super) opened: Result<Option<Opened>, StoreError>,
}

/// The content of a row, and its revision.
pub(super) struct Opened {
    pub(super) content: Content,
    pub(super) revision: Revision,
}

impl<E: Engine> Inner<E> {
    /// Reads the row and opens its content.
    pub(super) async fn look(self: &Arc<Self>) -> Result<Look<E::Version>, StoreError> {
        // This is read first: a state that another task sees during this read must not count.
        let known = self.seen().clone();
        let found = self.engine.read().await?;
        let record = found.as_ref().map(|found| found.row.record.clone());
        let Some(record) = record.filter(|record| !record.is_empty()) else {
            // An emptied slot is a row that says so. If there is no row, somebody removed it.
            self.last.forget();
            let opened = if known.is_some() { Err(self.rolled_back()) } else { Ok(None) };
            return Ok(Look { found, opened });
        };
        let inner = self.clone();
        let opened = blocking::run(&self.engine.to_string(), move || {
            let opened = inner.open(&record)?;
            let generation = opened.content.generation;
            let state = Seen { generation, revision: opened.revision.clone() };
            if known.is_some_and(|known| state.is_before(&known)) {
                return Err(inner.rolled_back());
            }
            inner.see(state);
            Ok(Some(opened))
        })
        .await;
        Ok(Look { found, opened })
    }

    /// Opens the content of a row. What was opened last is not opened again.
    pub(super) fn open(&self, bytes: &[u8]) -> Result<Opened, StoreError> {
        let (place, revision) = (self.engine.to_string(), Revision::of(bytes));
        let envelope = Envelope::parse(bytes, &place).inspect_err(|_| self.last.forget())?;
        let record = self.last.get_or_open(
            &self.key,
            &revision,
            || envelope.open(&self.key, &self.name, &place),
            |plain| envelope::decode(plain, &place),
        )?;
        Ok(Opened { content: Content { generation: envelope.generation, record }, revision })
    }

    /// Remembers a state, unless a later one is known.
    pub(super) fn see(&self, state: Seen) {
        let mut seen = self.seen();
        if seen.as_ref().is_none_or(|seen| seen.generation <= state.generation) {
            *seen = Some(state);
        }
    }

    pub(super) fn seen(&self) -> MutexGuard<'_, Option<Seen>> {
        lock(&self.seen)
    }

    fn rolled_back(&self) -> StoreError {
        StoreError::RolledBack { place: self.engine.to_string() }
    }

    /// Returns the next generation: larger than this one, and than all that this process has seen. It is at
    /// least the time in milliseconds. So if the server lost all its data, a new login is still later than
    /// what other processes remember.
    pub(super) fn next_generation(&self, found: u64) -> u64 {
        let known = self.seen().as_ref().map_or(0, |seen| seen.generation).max(found);
        let now = self.clock.now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(now.as_millis()).unwrap_or(u64::MAX).max(known.saturating_add(1))
    }
}
