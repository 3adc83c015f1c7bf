use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use secrecy::SecretString;

use crate::error::StoreError;
use crate::keychain::{Item, Kind};
use crate::private_file::{FileLock, PrivateFile};
use crate::record::MAX_RECORD;
use crate::record::Record;
use crate::record::codec;
use crate::store::{Lease, Precondition, Revision, Stored, TokenStore};
use crate::sys::blocking;
use crate::tokens::AuthTokens;
use crate::tokens::text::utf8;

/// Reads tokens that another program keeps directly in a keychain item. That program may use the `keyring`
/// crate, `secret-tool` with the attributes `service` and `username`, Keychain Access or Credential Manager.
///
/// It is a source for [`migrate`](crate::migrate): tokens can be read and removed, but not saved. The item
/// contains JSON with an `access_token`, or an access token alone.
///
/// # Security
///
/// The other program may change the item after a migration has read it and before it removes it. No
/// keychain can prevent that. Stop the other program before a migration.
#[derive(Clone, Debug)]
pub struct KeychainItemStore {
    item: Item,
    /// The path next to which the lease file is. The path itself is never written.
    state: Arc<PrivateFile>,
}

impl KeychainItemStore {
    /// Makes a store for an item. Nothing is read yet.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`] if a name is empty or begins with `tokenkeep:`, or if this user
    /// has no home directory.
    pub fn new(service: &str, account: &str) -> Result<Self, StoreError> {
        let item = Item::new(service, account, Kind::Foreign)?;
        let state = Arc::new(PrivateFile::new(item.state_file("item")?, MAX_RECORD));
        Ok(Self { item, state })
    }

    /// Lets the keychain ask the user, as
    /// [`KeychainStore::allow_prompts`](crate::stores::KeychainStore::allow_prompts) does.
    #[must_use]
    pub fn allow_prompts(self) -> Self {
        Self { item: self.item.with_prompts(), ..self }
    }

    /// Reads the text of the item as it is, or `None` if there is no such item. It need not be a token: a
    /// client's private key may be there too.
    ///
    /// # Errors
    ///
    /// Those of a load. [`StoreError::Corrupt`] if it is not text.
    ///
    /// # Cancel safety
    ///
    /// Nothing changes.
    pub async fn read_text(&self) -> Result<Option<SecretString>, StoreError> {
        self.run(|store| {
            let Some(bytes) = store.item.read()? else { return Ok(None) };
            let decoded = utf8(&bytes);
            let text = str::from_utf8(&decoded);
            let text = text.map_err(|_| StoreError::Corrupt {
                place: store.to_string(),
                reason: "it is not text".into(),
            })?;
            Ok(Some(SecretString::from(text)))
        })
        .await
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let store = self.clone();
        blocking::run(&self.to_string(), move || work(&store)).await
    }
}

/// Decodes the content of an item.
pub(crate) fn decode(bytes: &[u8], place: &str) -> Result<AuthTokens, StoreError> {
    // Credential Manager keeps passwords, but not other secrets, as UTF-16.
    codec::decode_text(bytes, place)
}

impl fmt::Display for KeychainItemStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.item.fmt(f)
    }
}

#[async_trait]
impl TokenStore for KeychainItemStore {
    async fn load(&self) -> Result<Option<Stored>, StoreError> {
        self.run(|store| {
            let Some(bytes) = store.item.read()? else { return Ok(None) };
            let tokens = decode(&bytes, &store.to_string())?;
            Ok(Some(Stored { record: tokens.into(), revision: Revision::of(&bytes) }))
        })
        .await
    }

    async fn save(&self, _record: &Record, _expect: Precondition) -> Result<Revision, StoreError> {
        Err(read_only(self.to_string()))
    }

    async fn clear(&self, precondition: Precondition) -> Result<(), StoreError> {
        self.run(move |store| {
            let place = store.to_string();
            let deleted = store.item.delete_under(&store.item.lock()?, move |secret| {
                // An item that holds no token, such as a key of this crate, is not removed.
                secret.map(|secret| decode(secret, &place)).transpose()?;
                let current = secret.map(Revision::of);
                let as_expected = match &precondition {
                    Precondition::Anything => true,
                    Precondition::Absent => current.is_none(),
                    Precondition::Unchanged(revision) => current.as_ref() == Some(revision),
                };
                if as_expected {
                    Ok(())
                } else {
                    Err(StoreError::Conflict { place: place.clone() })
                }
            });
            deleted?
        })
        .await
    }

    async fn try_lease(&self) -> Result<Option<Box<dyn Lease>>, StoreError> {
        let lease =
            self.run(|store| store.state.open_to_remove()?.try_lock_beside(".lease")).await?;
        Ok(lease.map(|lock| Box::new(ItemLease { lock, place: self.to_string() }) as _))
    }
}

/// The right to move the tokens away. A refresh is not possible here, because its tokens could not be saved.
#[derive(Debug)]
struct ItemLease {
    lock: FileLock,
    place: String,
}

#[async_trait]
impl Lease for ItemLease {
    async fn reserve(&mut self) -> Result<(), StoreError> {
        Err(read_only(self.place.clone()))
    }

    async fn release(self: Box<Self>) -> Result<(), StoreError> {
        self.lock.unlock().map_err(|error| StoreError::io("unlock", self.place.clone(), error))
    }
}

fn read_only(place: String) -> StoreError {
    StoreError::ReadOnly {
        place,
        reason: "the item belongs to another program; move the tokens to another store with \
                 `migrate`"
            .into(),
    }
}
