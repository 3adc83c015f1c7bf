mod connection;
mod failure;
mod limits;
mod password;
mod server;
mod socket;
mod tls;

use std::fmt::{self, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio_postgres::types::Type;

use self::connection::{Again, Connection};
use self::failure::unavailable;
use crate::error::StoreError;
use crate::key::AgeKey;
use crate::net::io_runtime;
use crate::printable::OneLine;
use crate::stores::shared_slot::{Engine, Found, Hold, Row, SharedSlot, keep_in_shared_slot};

/// Creates the table of all slots. The schema is not named: it depends on the role's search path.
const CREATE_TABLE: &str = "\
CREATE TABLE IF NOT EXISTS tokenkeep (
    slot        text PRIMARY KEY,
    revision    text NOT NULL,
    record      bytea NOT NULL,
    fence       bigint NOT NULL,
    holder      text,
    lease_until timestamptz
)";

const HAS_TABLE: &str = "SELECT to_regclass('tokenkeep') IS NOT NULL";

const READ: &str = "\
SELECT revision, record, fence, holder, coalesce(lease_until <= clock_timestamp(), true)
FROM tokenkeep WHERE slot = $1";

const INSERT: &str = "\
INSERT INTO tokenkeep (slot, revision, record, fence, holder, lease_until)
VALUES ($1, $2, $3, $4, $5, clock_timestamp() + $6 * interval '1 millisecond')
ON CONFLICT (slot) DO NOTHING
RETURNING revision";

const UPDATE: &str = "\
UPDATE tokenkeep SET revision = $2, record = $3, fence = $4, holder = $5, lease_until = CASE
    WHEN $5 IS NULL THEN NULL
    WHEN $6 IS NULL THEN lease_until
    ELSE clock_timestamp() + $6 * interval '1 millisecond'
END
WHERE slot = $1 AND revision = $7
RETURNING revision";

/// Keeps the tokens of a whole fleet in one row of a PostgreSQL table. This store needs the feature
/// `postgres`: `cargo add tokenkeep --features postgres`. [Fleets](crate::docs::fleets#postgresql) shows
/// how to set it up.
///
/// All replicas share the row and the lease in it. One replica refreshes, and the others use the new tokens.
///
/// The lease is a deadline by the server's clock, which its holder renews. No transaction is kept open, and
/// no statement is prepared. So the store works behind a pooler in transaction mode. A lost connection is
/// made again.
///
/// [`create_table`](Self::create_table) creates the table. This SQL does the same:
///
/// ```sql
/// CREATE TABLE tokenkeep (
///     slot        text PRIMARY KEY,
///     revision    text NOT NULL,    -- names this state of the row
///     record      bytea NOT NULL,   -- age ciphertext, authenticated
///     fence       bigint NOT NULL,  -- counts the holders of the lease
///     holder      text,             -- who has it
///     lease_until timestamptz       -- until when, by this server's clock
/// );
/// GRANT SELECT, INSERT, UPDATE ON tokenkeep TO app;
/// ```
///
/// It works on any executor. One thread of this crate does the network I/O of the whole process.
///
/// # Security
///
/// - A connection to another machine uses TLS, with a certificate for the name of the host (libpq's
///   `verify-full`). A connection to an address of this machine (127.0.0.0/8, `[::1]`, a socket) uses none,
///   unless it is not a socket and root certificates are named.
/// - The password comes from the file that `$PGPASSFILE` names, or from `~/.pgpass`. The driver keeps a
///   copy of it, which is not wiped. Without TLS it is used for SCRAM only, and never sent.
/// - The server behind a socket must run as root, as this user, or as the owner of the socket's directory,
///   which nobody else may be able to replace. It may run as any user if nobody else can write there.
/// - An answer of the server has at most 1 MiB. An error shows at most 200 characters of the server's text,
///   without control characters.
/// - The row contains age ciphertext, a count of its changes, and MACs of both and of the slot's name, made with
///   the identities of the key ([how](crate::docs::authentication)). The operator of the server can delete a
///   record, or put an earlier one back. They cannot read or write one, and cannot use the record of one slot
///   for another. What they put there is refused with [`StoreError::NotAuthentic`].
/// - A process that has seen a later state refuses an earlier one with [`StoreError::RolledBack`]. A process
///   that has just started cannot detect it.
/// - Everyone who has one of the identities can write a record. A recovery recipient can only read.
/// - The store keeps the record that it opened last in memory, and does not decrypt it again.
///
/// A save is as durable as the server's `synchronous_commit` says.
#[derive(Debug)]
pub struct PostgresStore(SharedSlot<Postgres>);

#[derive(Debug)]
struct Postgres {
    connection: Arc<Connection>,
    slot: String,
}

impl PostgresStore {
    /// Makes a store for a slot in a database: `postgres://USER@HOST:PORT/DATABASE`.
    ///
    /// The URL may have several hosts, separated by commas. The first one that accepts writes is used. If
    /// another host takes over, one of the next two calls finds it.
    ///
    /// `slot` is the name of the row. All replicas use the same slot and the same `key`. No connection is
    /// made yet.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`] if the URL is not valid or contains a password or options, or if the
    /// name of the slot is empty or contains control characters; [`StoreError::InvalidKey`] if the key is a
    /// passphrase alone.
    pub fn new(url: &str, slot: &str, key: AgeKey) -> Result<Self, StoreError> {
        if slot.is_empty() || slot.contains(char::is_control) {
            return Err(unavailable(
                "a slot in PostgreSQL",
                "its name is empty or contains control characters",
                "give it another name, such as that of the account",
            ));
        }
        let engine =
            Postgres { connection: Arc::new(Connection::new(url)?), slot: slot.to_owned() };
        SharedSlot::new(engine, key, slot).map(Self)
    }

    /// Trusts only the root certificates in this PEM file, like libpq's `sslrootcert`. By default, those of
    /// the system are trusted. The file is read for each connection. It has at most 1 MiB.
    ///
    /// # Security
    ///
    /// Connecting fails with [`StoreError::Exposed`] if others can write to the file, because they could
    /// trust a server of their own.
    ///
    /// # Panics
    ///
    /// Panics if the store was used before.
    #[must_use]
    pub fn with_root_certificates(mut self, path: impl Into<PathBuf>) -> Self {
        let connection = Arc::get_mut(&mut self.0.configure().connection);
        connection.expect("a store is set up before it is used").trust(path.into());
        self
    }

    /// Creates the table if it does not exist. This needs the right to create tables in the schema. No other
    /// call needs that right.
    ///
    /// # Errors
    ///
    /// [`StoreError::Denied`] without that right, [`StoreError::Unavailable`] if the server cannot be
    /// reached.
    ///
    /// # Cancel safety
    ///
    /// The server may still create the table. The call can be repeated.
    pub async fn create_table(&self) -> Result<(), StoreError> {
        let connection = self.0.engine().connection.clone();
        let made = io_runtime::run(async move { create_table(&connection).await }).await;
        made.map_err(|error| error.unavailable(&self.to_string()))?
    }
}

async fn create_table(connection: &Connection) -> Result<(), StoreError> {
    // `CREATE TABLE IF NOT EXISTS` needs the right even if the table exists.
    let found = connection.query(HAS_TABLE, &[], Again::Once).await?;
    if found.is_some_and(|row| row.try_get(0).unwrap_or(false)) {
        return Ok(());
    }
    connection.query(CREATE_TABLE, &[], Again::Never).await.map(drop)
}

impl fmt::Display for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.engine().fmt(f)
    }
}

impl fmt::Display for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(OneLine(f), "slot {} in {}", self.slot, self.connection)
    }
}

keep_in_shared_slot!(PostgresStore);

#[async_trait]
impl Engine for Postgres {
    /// The revision.
    type Version = String;

    async fn read(&self) -> Result<Option<Found<String>>, StoreError> {
        let row = self.connection.query(READ, &[(&self.slot, Type::TEXT)], Again::Once).await?;
        let Some(row) = row else { return Ok(None) };
        let read = || -> Result<Found<String>, tokio_postgres::Error> {
            let revision: String = row.try_get(0)?;
            let fence: i64 = row.try_get(2)?;
            let (holder, is_over): (Option<String>, _) = (row.try_get(3)?, row.try_get(4)?);
            let hold = holder.map(|holder| Hold { holder, lasts: None, is_over });
            let record = row.try_get(1)?;
            let fence = u64::try_from(fence).unwrap_or_default();
            let row = Row { revision: revision.clone(), record, fence, hold };
            Ok(Found { row, version: revision, written: None })
        };
        read().map(Some).map_err(|_| StoreError::Unavailable {
            place: self.to_string(),
            reason: "its table tokenkeep has unexpected columns".into(),
            advice: "create it with the SQL in the documentation of PostgresStore".into(),
        })
    }

    async fn replace(&self, over: Option<&String>, row: &Row) -> Result<bool, StoreError> {
        let millis = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        let fence = i64::try_from(row.fence).unwrap_or(i64::MAX);
        let holder = row.hold.as_ref().map(|hold| &*hold.holder);
        let lasts = row.hold.as_ref().and_then(|hold| hold.lasts).map(millis);
        let mut parameters: Vec<(&(dyn tokio_postgres::types::ToSql + Sync), Type)> = vec![
            (&self.slot, Type::TEXT),
            (&row.revision, Type::TEXT),
            (&row.record, Type::BYTEA),
            (&fence, Type::INT8),
            (&holder, Type::TEXT),
            (&lasts, Type::INT8),
        ];
        if over.is_some() {
            parameters.push((&over, Type::TEXT));
        }
        let statement = if over.is_some() { UPDATE } else { INSERT };
        match self.connection.query(statement, &parameters, Again::Never).await {
            Err(StoreError::Conflict { .. }) => Ok(false),
            written => written.map(|row| row.is_some()),
        }
    }

    fn slot(&self) -> String {
        format!("{} {}", self.connection.url(), self.slot)
    }
}
