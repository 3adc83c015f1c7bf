//! The contract between tokens and the places that keep them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sha2::{Digest, Sha256};

use crate::error::StoreError;
pub use crate::record::{
    Intent, InvalidIntent, MAX_RECORD, Record, RefreshState, Rejection, Throttle,
};

/// One slot that holds one record of tokens, or nothing.
///
/// Another profile or account is another store. `Display` names the slot for people, without
/// anything secret in it.
///
/// # Contract
///
/// - [`save`](Self::save) and [`clear`](Self::clear) compare and change in one atomic step: of any
///   number of tasks, processes and machines that save over the same [`Revision`], exactly one
///   succeeds and the others get [`StoreError::Conflict`].
/// - A save that changes nothing but the [`RefreshState`] of a record is a save like any other. A manager
///   counts on that: it saves an [`Intent`] before it sends a refresh token, by the steps that will save
///   the successor, so that a slot which cannot be written is found while the token is unspent.
/// - What is reported is durable: also a conflict, and that an emptied slot was empty already, because
///   whoever made it so may have been killed before it was. [`migrate`](crate::migrate) relies on it.
/// - A record that cannot be read (damaged, undecryptable, of a newer version) is an error of its
///   own kind for `load`. No `save` overwrites it, and only `clear(Precondition::Anything)` removes it.
/// - `Ok(None)` means that the slot is known to be empty, and nothing else does.
/// - [`try_lease`](Self::try_lease) and the two writers do not exclude each other: a login or a
///   logout never waits for a refresh.
/// - A backend that blocks keeps off the executor's threads by itself.
///
/// `tokenkeep::conformance` (feature `conformance`) holds this contract as tests that any store
/// can run.
///
/// # Security
///
/// A store keeps what it was given from everyone else as well as its medium can, and says in its
/// own documentation how well that is. No error and no `Debug` output contains a secret.
///
/// # Cancellation
///
/// A future of this trait may be dropped at any point. A dropped `save` or `clear` has happened or
/// has not; it is never half done. What it left running is over before the next call through the
/// same store begins, so that a logout is not overtaken by a login that was given up before it.
#[async_trait]
pub trait TokenStore: fmt::Debug + fmt::Display + Send + Sync + 'static {
    /// Reads the slot: `None` when it is empty. Takes no lock and creates nothing.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`] that tells why the slot could not be read.
    async fn load(&self) -> Result<Option<Stored>, StoreError>;

    /// Fills the slot if it is as `precondition` says.
    ///
    /// # Errors
    ///
    /// [`StoreError::Conflict`] if it is not; the errors of [`load`](Self::load) if it holds
    /// something that cannot be read; [`StoreError::ReadOnly`] or [`StoreError::Denied`] if it
    /// cannot be written.
    async fn save(
        &self,
        record: &Record,
        precondition: Precondition,
    ) -> Result<Revision, StoreError>;

    /// Empties the slot if it is as `precondition` says. Emptying an empty slot succeeds, unless a
    /// revision was expected in it: who asks for that wants to know that somebody was faster.
    ///
    /// # Errors
    ///
    /// [`StoreError::Conflict`] if it is not.
    async fn clear(&self, precondition: Precondition) -> Result<(), StoreError>;

    /// Claims the sole right to spend the slot's refresh token: `None` while someone else has it.
    ///
    /// # Errors
    ///
    /// [`StoreError::ReadOnly`] or [`StoreError::Denied`] if nothing can be written beside the slot.
    async fn try_lease(&self) -> Result<Option<Box<dyn Lease>>, StoreError>;

    /// Returns whether somebody has the lease now. Stores that can look at it without taking it do.
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

    /// Reads the slot like [`load`](Self::load), even if others can read it too.
    ///
    /// Only what takes tokens out of such a place calls this, or says that they are there. Stores that
    /// cannot tell who else reads them keep the default.
    ///
    /// # Errors
    ///
    /// Those of [`load`](Self::load), but for [`StoreError::Exposed`] by mere permissions.
    async fn load_exposed(&self) -> Result<Option<Stored>, StoreError> {
        self.load().await
    }

    /// Names the slot such that two stores of one slot give the same name.
    ///
    /// A transfer uses it to refuse early, and with a clear message, to copy a slot onto itself.
    /// What keeps tokens from getting lost if two names of one slot differ all the same is that
    /// one slot gives only one lease.
    fn slot(&self) -> String {
        self.to_string()
    }
}

/// What [`TokenStore::load`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The tokens, and what is known about refreshing them.
    pub record: Record,
    /// The state of the slot that holds them.
    pub revision: Revision,
}

/// What a slot must look like for a write to go ahead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Precondition {
    /// The slot is empty.
    Absent,
    /// The slot is empty, or holds a record that can be read.
    Anything,
    /// The slot is still in the state that this revision was read from.
    Unchanged(Revision),
}

/// One state of one slot. Opaque, and meaningless to any other slot.
#[derive(Clone, PartialEq, Eq)]
pub struct Revision(Arc<[u8]>);

impl Revision {
    /// Wraps whatever a backend tells states apart by: a counter, a digest, an `ETag`.
    #[must_use]
    pub fn new(bytes: impl Into<Arc<[u8]>>) -> Self {
        Self(bytes.into())
    }

    /// Makes the digest of a content: it differs whenever the content does, whoever wrote it.
    pub(crate) fn of(content: &[u8]) -> Self {
        Self::new(Sha256::digest(content).as_slice())
    }

    /// Returns what the backend put in.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Revision {
    /// Shows the first bytes only: enough to tell two apart, too few to test a guess against.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Revision(")?;
        for byte in self.0.iter().take(4) {
            write!(f, "{byte:02x}")?;
        }
        f.write_str(if self.0.len() > 4 { "…)" } else { ")" })
    }
}

/// The sole right to spend a slot's refresh token, held for the seconds of a refresh.
///
/// Dropping a lease gives it up too, without blocking and without spawning anything: the process
/// that dies holds nothing. [`release`](Self::release) tells whether it worked.
///
/// # Cancellation
///
/// A call that is dropped may be carried out all the same, and the lease is not given up before that.
#[async_trait]
pub trait Lease: fmt::Debug + Send + Sync {
    /// Makes sure that the record which ends this refresh can be saved, whatever becomes of the disk and of
    /// the keys meanwhile: the next save of a record without an intent, through the store that gave this
    /// lease. A manager reserves before it saves the intent. Stores that cannot run out of room keep the
    /// default.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`] that says why the slot could not be replaced: there is no room, it is a mount
    /// point, its lock cannot be had, the recipients that it is sealed to cannot be read.
    async fn reserve(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Returns what went wrong in a save that used what was reserved, and succeeded all the same: a key or
    /// a list of recipients that could no longer be read. It is returned once.
    fn take_warning(&mut self) -> Option<StoreError> {
        None
    }

    /// Returns how long this lease lasts from now, as far as this process can know: `None` if it lasts
    /// until it is given up or the process ends.
    fn time_left(&self) -> Option<Duration> {
        None
    }

    /// Makes sure that the lease lasts for this long from now, and returns whether it is still this
    /// holder's. Leases that last until they are given up keep the default.
    ///
    /// A manager asks before it sends a refresh token: nobody else may send it until the answer has come
    /// and is saved.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`] that tells why it could not be renewed. It may have passed on meanwhile.
    async fn renew(&mut self, time: Duration) -> Result<bool, StoreError> {
        let _ = time;
        Ok(true)
    }

    /// Gives the lease up.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`] that tells why others may still find it taken.
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
