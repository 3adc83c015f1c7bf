//! From a URL to the store that it names.

#[cfg(not(all(feature = "age", feature = "keychain")))]
use std::fmt;
use std::sync::Arc;

#[cfg(feature = "age")]
use super::Key;
use super::{Ask, Kind, StoreUrl};
use crate::error::StoreError;
#[cfg(feature = "age")]
use crate::key::AgeKey;
use crate::store::TokenStore;
#[cfg(feature = "age")]
use crate::store::age_file::AgeFileStore;
use crate::store::env::EnvStore;
#[cfg(feature = "keychain")]
use crate::store::keychain::KeychainStore;
#[cfg(feature = "keychain")]
use crate::store::keychain_item::KeychainItemStore;
use crate::store::memory::MemoryStore;
use crate::store::plaintext::PlaintextStore;

impl StoreUrl {
    pub(super) fn open_asking(
        &self,
        ask: Option<&Arc<Ask>>,
    ) -> Result<Arc<dyn TokenStore>, StoreError> {
        #[cfg(not(feature = "age"))]
        let _ = ask;
        match &self.kind {
            #[cfg(feature = "age")]
            Kind::Age { path, key, recipients, recipients_file } => {
                let mut key = key.open(self.prompts)?;
                for recipient in recipients {
                    key = key.with_recovery_recipient(recipient)?;
                }
                if let Some(path) = recipients_file {
                    key = key.with_recovery_recipients_file(path);
                }
                if let Some(ask) = ask.cloned() {
                    key = key.with_passphrase(move || ask());
                }
                Ok(Arc::new(AgeFileStore::new(path, key)))
            }
            Kind::Env { prefix } => Ok(Arc::new(EnvStore::new(prefix))),
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
            Kind::Plaintext { path } => Ok(Arc::new(PlaintextStore::new(path))),
            #[cfg(not(all(feature = "age", feature = "keychain")))]
            _ => Err(not_built(self)),
        }
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

#[cfg(not(all(feature = "age", feature = "keychain")))]
fn not_built(place: &impl fmt::Display) -> StoreError {
    StoreError::Unavailable {
        place: place.to_string(),
        reason: "this program was built without it".into(),
        advice: "build it with the features `age` and `keychain`".into(),
    }
}
