//! The contract of a token store.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sha2::{Digest, Sha256};

use crate::error::StoreError;
pub use crate::record::{
    Intent, InvalidIntent, MAX_RECORD, Record, RefreshState, Rejection, Throttle,
};

/// One slot that holds one record, or nothing.
///
/// Each account or profile has a store of its own. `Display` names the slot for people, and contains no
/// secret.
///
/// # Contract
///
/// - [`save`](Self::save) and [`clear`](Self::clear) compare and change in one atomic step. If several tasks,
///   processes or machines save over the same [`Revision`], exactly one succeeds. The others get
///   [`StoreError::Conflict`].
/// - A save that changes only the [`RefreshState`] of a record is a save like any other. A manager relies on
///   this: before it sends a refresh token, it saves an [`Intent`], in the same way in which it will save the
///   new tokens. So it finds a slot that cannot be written while the token is unspent.
/// - What a call reports is durable. This includes a conflict, and `Ok` for clearing a slot that was empty
///   already: the process that emptied it may have been killed before its change was durable.
///   [`migrate`](crate::migrate) relies on this.
/// - If a record cannot be read, because it is damaged, undecryptable or of a newer version, `load` fails
///   with an error for that case. No `save` overwrites it. Only `clear(Precondition::Anything)` removes it.
/// - `Ok(None)` means that the slot is known to be empty. Nothing else means that.
/// - A lease does not block writers: a login or a logout never waits for a refresh.
/// - A store that blocks does so on threads of its own, not on those of the executor.
///
/// The module `tokenkeep::conformance` (feature `conformance`) tests this contract for any store.
///
/// # Security
///
/// A store protects its tokens from everyone else, as well as its medium allows. Its documentation says how
/// well. No error and no `Debug` output contains a secret.
///
/// # Cancel safety
///
/// A future of this trait may be dropped at any point. A dropped `save` or `clear` has happened completely or
/// not at all. If it is still running, it finishes before the next call on the same store starts. So a login
/// that was dropped cannot undo a logout that was called after it.
#[async_trait]
pub trait TokenStore: fmt::Debug + fmt::Display + Send + Sync + 'static {
    /// Returns the record in the slot, or `None` if the slot is empty. Takes no lock and creates nothing.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`] that says why the slot cannot be read.
    async fn load(&self) -> Result<Option<Stored>, StoreError>;

    /// Saves a record in the slot if the slot meets `precondition`.
    ///
    /// # Errors
    ///
    /// [`StoreError::Conflict`] if it does not; the errors of [`load`](Self::load) if the slot holds
    /// something that cannot be read; [`StoreError::ReadOnly`] or [`StoreError::Denied`] if the slot cannot
    /// be written.
    async fn save(
        &self,
        record: &Record,
        precondition: Precondition,
    ) -> Result<Revision, StoreError>;

    /// Empties the slot if the slot meets `precondition`.
    ///
    /// Succeeds for an empty slot, except with [`Precondition::Unchanged`]: then another task or process has
    /// changed the slot.
    ///
    /// # Errors
    ///
    /// [`StoreError::Conflict`] if it does not.
    async fn clear(&self, precondition: Precondition) -> Result<(), StoreError>;

    /// Takes the lease: the sole right to send the slot's refresh token. Returns `None` while another holder
    /// has it.
    ///
    /// # Errors
    ///
    /// [`StoreError::ReadOnly`] or [`StoreError::Denied`] if the lock cannot be created next to the slot.
    async fn try_lease(&self) -> Result<Option<Box<dyn Lease>>, StoreError>;

    /// Returns whether the lease is taken now.
    ///
    /// The default takes the lease for a moment. A store that can look without taking it should do that.
    ///
    /// # Errors
    ///
    /// Those of [`try_lease`](Self::try_lease).
    async fn is_leased(&self) -> Result<bool, StoreError> {
        match self.try_lease().await? {
            Some(lease) => lease.release().await.map(|()| false),
            None => Ok(true),
        }
    }

    /// Reads the slot like [`load`](Self::load), even if other users can read it too.
    ///
    /// It is called only to move tokens away from such a place, or to report that they are there. Keep the
    /// default if the store does not know who else can read it.
    ///
    /// # Errors
    ///
    /// Those of [`load`](Self::load), without the [`StoreError::Exposed`] for permissions.
    async fn load_exposed(&self) -> Result<Option<Stored>, StoreError> {
        self.load().await
    }

    /// Returns a name of the slot that is the same for every store of this slot.
    ///
    /// A transfer compares these names, to refuse early to copy a slot onto itself. If two names of one slot
    /// differ, no tokens are lost: a transfer takes the leases of both slots, and one slot gives only one.
    fn slot(&self) -> String {
        self.to_string()
    }
}

/// A record and its revision, as [`TokenStore::load`] returns them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The record.
    pub record: Record,
    /// The state of the slot that holds it.
    pub revision: Revision,
}

/// The condition under which a write changes the slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Precondition {
    /// The slot is empty.
    Absent,
    /// The slot is empty, or holds a record that can be read. [`clear`](TokenStore::clear) accepts also a
    /// record that cannot be read.
    Anything,
    /// The slot is still in the state that this revision names.
    Unchanged(Revision),
}

/// The name of one state of one slot. It is opaque, and means nothing for another slot.
#[derive(Clone, PartialEq, Eq)]
pub struct Revision(Arc<[u8]>);

impl Revision {
    /// Wraps the bytes by which a backend distinguishes states: a counter, a digest, an `ETag`.
    #[must_use]
    pub fn new(bytes: impl Into<Arc<[u8]>>) -> Self {
        Self(bytes.into())
    }

    /// Returns the digest of a content. Two different contents have two different digests.
    pub(crate) fn of(content: &[u8]) -> Self {
        Self::new(Sha256::digest(content).as_slice())
    }

    /// Returns the bytes that the backend gave to [`new`](Self::new).
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Revision {
    /// Shows the first 4 bytes only: enough to distinguish two revisions, too few to test a guess against.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Revision(")?;
        for byte in self.0.iter().take(4) {
            write!(f, "{byte:02x}")?;
        }
        f.write_str(if self.0.len() > 4 { "…)" } else { ")" })
    }
}

/// The sole right to send a slot's refresh token. It is held for the seconds of a refresh.
///
/// A lease is also given up when it is dropped. Dropping does not block and spawns nothing, so a process that
/// ends holds no lease. [`release`](Self::release) also returns whether that worked.
///
/// # Cancel safety
///
/// A dropped call may still be carried out. The lease is not given up before that.
#[async_trait]
pub trait Lease: fmt::Debug + Send + Sync {
    /// Reserves what saving the new tokens will need, so that the save succeeds even if the disk fills up or
    /// the keys become unreadable.
    ///
    /// The reservation is for the next save of a record without an intent, on the store that gave this lease.
    /// A manager reserves before it saves the intent. A store that cannot run out of room keeps the default.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`] that says why the slot could not be replaced: there is no room, it is a mount
    /// point, its lock cannot be taken, the recipients that it is sealed to cannot be read.
    async fn reserve(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Returns what went wrong in a save that succeeded because of the reservation: a key or a list of
    /// recipients could no longer be read. Each warning is returned once.
    fn take_warning(&mut self) -> Option<StoreError> {
        None
    }

    /// Returns how long this lease lasts from now, as far as this process knows. Returns `None` if it lasts
    /// until it is given up or the process ends.
    fn time_left(&self) -> Option<Duration> {
        None
    }

    /// Extends the lease so that it lasts at least this long from now. Returns whether this holder still has
    /// it. A lease that lasts until it is given up keeps the default.
    ///
    /// A manager calls this before it sends a refresh token. No other holder may send the token until the
    /// answer has come and is saved.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`] that says why the lease could not be renewed. Another holder may have it by then.
    async fn renew(&mut self, time: Duration) -> Result<bool, StoreError> {
        let _ = time;
        Ok(true)
    }

    /// Returns what an earlier holder kept with [`keep_throttle`](Self::keep_throttle), if no record was saved and the
    /// slot was not cleared since.
    ///
    /// A manager calls this before it asks for the first tokens of an empty slot.
    async fn throttle(&mut self) -> Option<Throttle> {
        None
    }

    /// Keeps a throttle for the next holders while the slot is empty. A record keeps its throttle itself, in its
    /// [`RefreshState`]. It contains no secret.
    ///
    /// By default nothing is kept. Then each process asks a server that wants it to wait once.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`] that says why it could not be kept. A manager ignores it.
    async fn keep_throttle(&mut self, throttle: &Throttle) -> Result<(), StoreError> {
        let _ = throttle;
        Ok(())
    }

    /// Gives the lease up.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`] that says why others may still find it taken.
    async fn release(self: Box<Self>) -> Result<(), StoreError>;
}

macro_rules! by_pointer {
    ($pointer:ident) => {
        #[async_trait]
        impl<S: TokenStore + ?Sized> TokenStore for $pointer<S> {
            async fn load(&self) -> Result<Option<Stored>, StoreError> {
                (**self).load().await
            }

            async fn save(
                &self,
                record: &Record,
                precondition: Precondition,
            ) -> Result<Revision, StoreError> {
                (**self).save(record, precondition).await
            }

            async fn clear(&self, precondition: Precondition) -> Result<(), StoreError> {
                (**self).clear(precondition).await
            }

            async fn try_lease(&self) -> Result<Option<Box<dyn Lease>>, StoreError> {
                (**self).try_lease().await
            }

            async fn is_leased(&self) -> Result<bool, StoreError> {
                (**self).is_leased().await
            }

            async fn load_exposed(&self) -> Result<Option<Stored>, StoreError> {
                (**self).load_exposed().await
            }

            fn slot(&self) -> String {
                (**self).slot()
            }
        }
    };
}

by_pointer!(Arc);
by_pointer!(Box);
