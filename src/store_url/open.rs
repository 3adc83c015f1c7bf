//! Opens the store of a URL.

#[cfg(not(all(
    feature = "age",
    feature = "keychain",
    feature = "object-store",
    feature = "postgres"
)))]
use std::fmt;
use std::sync::Arc;

#[cfg(feature = "object-store")]
use super::Bucket;
use super::{Ask, Kind, StoreUrl};
#[cfg(feature = "postgres")]
use super::{Database, encoded};
#[cfg(feature = "age")]
use super::{Key, Seal};
use crate::error::StoreError;
#[cfg(feature = "age")]
use crate::key::AgeKey;
#[cfg(feature = "keychain")]
use crate::keychain::{KeychainState, probe_keychain};
use crate::store::TokenStore;
#[cfg(feature = "age")]
use crate::stores::AgeFileStore;
use crate::stores::EnvStore;
#[cfg(feature = "keychain")]
use crate::stores::KeychainStore;
use crate::stores::MemoryStore;
use crate::stores::PlaintextStore;
#[cfg(feature = "postgres")]
use crate::stores::PostgresStore;
#[cfg(feature = "object-store")]
use crate::stores::bucket::BucketStore;
#[cfg(feature = "keychain")]
use crate::stores::keychain_item::KeychainItemStore;
#[cfg(feature = "age")]
use crate::sys::blocking;

impl StoreUrl {
    pub(super) fn open_asking(
        &self,
        ask: Option<&Arc<Ask>>,
    ) -> Result<Arc<dyn TokenStore>, StoreError> {
        #[cfg(not(feature = "age"))]
        let _ = ask;
        match &self.kind {
            #[cfg(feature = "age")]
            Kind::Age { seal, .. } => self.open_sealed(self.key(seal, ask)?),
            #[cfg(feature = "object-store")]
            Kind::Bucket(Bucket { seal, .. }) => self.open_sealed(self.key(seal, ask)?),
            Kind::Env { prefix } => Ok(Arc::new(EnvStore::new(prefix))),
            #[cfg(feature = "import")]
            Kind::Import(foreign) => Ok(Arc::new(self.open_foreign(foreign)?)),
            #[cfg(feature = "keychain")]
            Kind::Keychain(item) => {
                let store = KeychainStore::new(&item.service, &item.account)?;
                Ok(Arc::new(if self.prompts { store.allow_prompts() } else { store }))
            }
            #[cfg(feature = "keychain")]
            Kind::KeychainItem(item) => {
                let store = KeychainItemStore::new(&item.service, &item.account)?;
                Ok(Arc::new(if self.prompts { store.allow_prompts() } else { store }))
            }
            Kind::Memory => Ok(Arc::new(MemoryStore::new())),
            Kind::Plaintext { path } => {
                let store = PlaintextStore::new(path);
                Ok(Arc::new(store.with_trusted_group(self.trusted_group)))
            }
            #[cfg(feature = "postgres")]
            Kind::Postgres(Database { seal, .. }) => self.open_sealed(self.key(seal, ask)?),
            #[cfg(not(all(
                feature = "age",
                feature = "keychain",
                feature = "object-store",
                feature = "postgres"
            )))]
            _ => Err(not_built(self)),
        }
    }

    #[cfg(feature = "age")]
    pub(super) fn open_sealed(&self, key: AgeKey) -> Result<Arc<dyn TokenStore>, StoreError> {
        match &self.kind {
            Kind::Age { path, .. } => {
                let store = AgeFileStore::new(path, key);
                Ok(Arc::new(store.with_trusted_group(self.trusted_group)))
            }
            #[cfg(feature = "object-store")]
            Kind::Bucket(bucket) => Ok(Arc::new(bucket.open(key)?)),
            #[cfg(not(feature = "object-store"))]
            Kind::Bucket(_) => Err(not_built(self)),
            #[cfg(feature = "postgres")]
            Kind::Postgres(database) => Ok(Arc::new(database.open(key)?)),
            #[cfg(not(feature = "postgres"))]
            Kind::Postgres(_) => Err(not_built(self)),
            _ => Err(StoreError::InvalidKey {
                place: key.to_string(),
                reason: format!("{self} is not sealed to a key that a URL names"),
            }),
        }
    }

    /// Checks whether a record could be sealed now: whether the key and the recovery recipients can be
    /// read, or whether the keychain can be used. It creates nothing and asks nobody.
    ///
    /// # Errors
    ///
    /// The error that sealing a record would fail with. [`StoreError::Locked`] for a key that is protected
    /// by a passphrase.
    #[cfg(feature = "age")]
    pub async fn check_key(&self) -> Result<(), StoreError> {
        #[cfg(feature = "keychain")]
        if self.uses_keychain() {
            let state = probe_keychain().await;
            match if self.prompts { state.with_prompts() } else { state } {
                KeychainState::Available => {}
                state => return Err(state.explain(self.to_string())),
            }
        }
        let Some(seal) = self.seal() else { return Ok(()) };
        let key = self.key(seal, None)?;
        if self.uses_keychain() {
            // The key in the keychain may not exist yet.
            return blocking::run(&self.to_string(), move || key.recovery().map(drop)).await;
        }
        key.recipients().await.map(drop)
    }

    /// Prepares a server for this slot: creates the table of a database, or tests whether a bucket supports
    /// conditional writes. For any other slot there is nothing to do.
    ///
    /// # Errors
    ///
    /// Those of [`open`](Self::open), of `PostgresStore::create_table` and of
    /// `BucketStore::try_conditional_writes`.
    ///
    /// # Cancel safety
    ///
    /// The server may still do it. The call can be repeated.
    pub async fn prepare_server(&self) -> Result<(), StoreError> {
        match &self.kind {
            #[cfg(feature = "object-store")]
            Kind::Bucket(bucket) => {
                bucket.open(self.key(&bucket.seal, None)?)?.try_conditional_writes().await
            }
            #[cfg(feature = "postgres")]
            Kind::Postgres(database) => {
                database.open(self.key(&database.seal, None)?)?.create_table().await
            }
            _ => self.open().map(drop),
        }
    }
}

#[cfg(feature = "object-store")]
impl Bucket {
    fn open(&self, key: AgeKey) -> Result<BucketStore, StoreError> {
        let Self { scheme, name, key: object, endpoint, without_proxy, .. } = self;
        let mut store = BucketStore::new(&format!("{scheme}://{name}/{object}"), key)?;
        if *without_proxy {
            store = store.without_proxy();
        }
        Ok(match endpoint {
            Some(endpoint) => store.with_endpoint(endpoint)?,
            None => store,
        })
    }
}

#[cfg(feature = "postgres")]
impl Database {
    fn open(&self, key: AgeKey) -> Result<PostgresStore, StoreError> {
        let Self { user, hosts, name, slot, roots, .. } = self;
        let url = format!("postgres://{}@{hosts}/{}", encoded(user), encoded(name));
        let store = PostgresStore::new(&url, slot, key)?;
        Ok(match roots {
            Some(roots) => store.with_root_certificates(roots),
            None => store,
        })
    }
}

#[cfg(feature = "age")]
impl StoreUrl {
    fn key(&self, seal: &Seal, ask: Option<&Arc<Ask>>) -> Result<AgeKey, StoreError> {
        let mut key = seal.key.open(self.prompts)?;
        for recipient in &seal.recipients {
            key = key.with_recovery_recipient(recipient)?;
        }
        if let Some(path) = &seal.recipients_file {
            key = key.with_recovery_recipients_file(path);
        }
        key = key.with_trusted_group(self.trusted_group);
        if let Some(ask) = ask.cloned() {
            key = key.with_passphrase(move || ask());
        }
        Ok(key)
    }
}

#[cfg(feature = "age")]
impl Key {
    #[cfg_attr(not(feature = "keychain"), expect(unused_variables, reason = "no keychain asks"))]
    fn open(&self, prompts: bool) -> Result<AgeKey, StoreError> {
        match self {
            Self::Credential(name) => Ok(AgeKey::credential(name)),
            Self::File(path) => Ok(AgeKey::identity_file(path)),
            #[cfg(feature = "keychain")]
            Self::Keychain(item) => {
                let key = AgeKey::keychain(&item.service, &item.account)?;
                Ok(if prompts { key.allow_prompts() } else { key })
            }
            #[cfg(not(feature = "keychain"))]
            Self::Keychain(item) => Err(not_built(item)),
        }
    }
}

#[cfg(not(all(
    feature = "age",
    feature = "keychain",
    feature = "object-store",
    feature = "postgres"
)))]
pub(super) fn not_built(place: &impl fmt::Display) -> StoreError {
    StoreError::Unavailable {
        place: place.to_string(),
        reason: "this program was built without it".into(),
        advice: "build it with the feature of that store: `age`, `keychain`, `object-store` or \
                 `postgres`"
            .into(),
    }
}
