//! How to write a store: one row of a table in memory is one slot. `conformance` tests it.
//!
//! `cargo run --example custom_store --features conformance`

#![allow(clippy::disallowed_methods, reason = "this is where records are read and written")]
#![allow(clippy::print_stdout, reason = "an example prints its results")]

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use tokenkeep::secrecy::{ExposeSecret, SecretString};
use tokenkeep::store::{Lease, Precondition, Record, Revision, Stored};
use tokenkeep::{AuthTokens, StoreError, TokenManager, TokenStore, async_trait, conformance};

/// A database with one table. It is in memory, which is enough for this example.
#[derive(Clone, Default)]
struct Table(Arc<Mutex<HashMap<String, Row>>>);

#[derive(Default)]
struct Row {
    record: Option<SecretString>,
    /// Counts every change.
    revision: u64,
    leased: bool,
}

/// One row is one slot.
#[derive(Clone)]
struct RowStore {
    table: Table,
    key: String,
}

impl RowStore {
    fn new(table: &Table, key: &str) -> Self {
        Self { table: table.clone(), key: key.to_owned() }
    }

    /// Runs a transaction on the row.
    fn row<T>(&self, work: impl FnOnce(&mut Row) -> T) -> T {
        let mut rows: MutexGuard<'_, _> = self.table.0.lock().expect("no holder panics");
        work(rows.entry(self.key.clone()).or_default())
    }

    fn compare(&self, row: &Row, precondition: &Precondition) -> Result<(), StoreError> {
        let as_expected = match precondition {
            Precondition::Absent => row.record.is_none(),
            // A record that cannot be read is not overwritten.
            Precondition::Anything => self.decode(row).is_ok(),
            Precondition::Unchanged(revision) => {
                row.record.is_some() && *revision == row.revision()
            }
        };
        if as_expected {
            return Ok(());
        }
        self.decode(row)?;
        Err(StoreError::Conflict { place: self.to_string() })
    }

    fn decode(&self, row: &Row) -> Result<Option<Record>, StoreError> {
        let Some(record) = &row.record else { return Ok(None) };
        Record::decode(record.expose_secret().as_bytes(), &self.to_string()).map(Some)
    }
}

impl Row {
    fn revision(&self) -> Revision {
        Revision::new(self.revision.to_be_bytes())
    }
}

impl fmt::Display for RowStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "row {}", self.key)
    }
}

impl fmt::Debug for RowStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RowStore({})", self.key)
    }
}

#[async_trait]
impl TokenStore for RowStore {
    async fn load(&self) -> Result<Option<Stored>, StoreError> {
        self.row(|row| {
            let record = self.decode(row)?;
            Ok(record.map(|record| Stored { record, revision: row.revision() }))
        })
    }

    async fn save(
        &self,
        record: &Record,
        precondition: Precondition,
    ) -> Result<Revision, StoreError> {
        let record = record.encode(&self.to_string())?;
        self.row(|row| {
            self.compare(row, &precondition)?;
            row.record = Some(record);
            row.revision += 1;
            Ok(row.revision())
        })
    }

    async fn clear(&self, precondition: Precondition) -> Result<(), StoreError> {
        self.row(|row| {
            if precondition != Precondition::Anything {
                self.compare(row, &precondition)?;
            }
            row.record = None;
            row.revision += 1;
            Ok(())
        })
    }

    async fn try_lease(&self) -> Result<Option<Box<dyn Lease>>, StoreError> {
        let was_leased = self.row(|row| std::mem::replace(&mut row.leased, true));
        Ok(if was_leased { None } else { Some(Box::new(RowLease(self.clone()))) })
    }
}

#[derive(Debug)]
struct RowLease(RowStore);

#[async_trait]
impl Lease for RowLease {
    async fn release(self: Box<Self>) -> Result<(), StoreError> {
        Ok(()) // `drop` releases it
    }
}

impl Drop for RowLease {
    fn drop(&mut self) {
        self.0.row(|row| row.leased = false);
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let table = Table::default();

    // In your crate, call this in a test. It panics and names the rule that the store breaks.
    conformance::check(|| RowStore::new(&table, "checked")).await;
    println!("the store keeps the contract");

    let manager = TokenManager::builder().store(RowStore::new(&table, "alice")).build();
    manager.set_tokens(AuthTokens::new("access").with_refresh_token("refresh")).await?;
    println!("{manager:?} returns {:?}", manager.get_access_token().await?);
    Ok(())
}
