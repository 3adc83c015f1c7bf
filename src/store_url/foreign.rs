//! URLs of files and keychain items of other programs: `import:FORMAT:PATH`.

use std::path::Path;

#[cfg(not(feature = "keychain"))]
use super::open::not_built;
use super::parse::absolute;
use super::{Foreign, ForeignPlace, InvalidStoreUrl, Kind, StoreUrl};
use crate::error::StoreError;
use crate::import::Format;
use crate::stores::ImportStore;

impl StoreUrl {
    /// Returns the file or the keychain item of another program that this URL names, if it names one.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`] if this build has no keychain and the URL names an item of it.
    #[must_use]
    pub fn import(&self) -> Option<Result<ImportStore, StoreError>> {
        match &self.kind {
            Kind::Import(foreign) => Some(self.open_foreign(foreign)),
            _ => None,
        }
    }

    /// Makes the URL of a file of another program. Without a format, the content tells it.
    ///
    /// # Errors
    ///
    /// [`InvalidStoreUrl`] if the path is not UTF-8 text. A URL that named it would name another file.
    pub fn import_file(path: &Path, format: Option<Format>) -> Result<Self, InvalidStoreUrl> {
        let place = ForeignPlace::File(absolute(path)?);
        Ok(Self::of(Kind::Import(Foreign { format, place, account: None })))
    }

    pub(super) fn open_foreign(&self, foreign: &Foreign) -> Result<ImportStore, StoreError> {
        let Foreign { format, place, account } = foreign;
        let store = match place {
            ForeignPlace::File(path) => ImportStore::new(path, *format),
            #[cfg(feature = "keychain")]
            ForeignPlace::Item(item) => {
                let store = ImportStore::keychain_item(&item.service, &item.account, *format)?;
                if self.prompts { store.allow_prompts() } else { store }
            }
            #[cfg(not(feature = "keychain"))]
            ForeignPlace::Item(_) => return Err(not_built(self)),
        };
        Ok(match account {
            Some(name) => store.with_account(name),
            None => store,
        })
    }
}
