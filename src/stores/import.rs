use std::fmt::{self, Write as _};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::error::StoreError;
use crate::import::{Account, Format, Options, Source};
#[cfg(feature = "keychain")]
use crate::keychain::{Item, Kind};
use crate::printable::OneLine;
use crate::private_file::{Exposure, PrivateFile, read_through_links};
use crate::record::Record;
use crate::store::{Lease, Precondition, Revision, Stored, TokenStore};
use crate::sys::blocking;
use crate::sys::wipe::Bytes;

/// The most bytes of a file of another program. The largest in practice are caches with hundreds of accounts.
const LONGEST: usize = 4 << 20;

/// Reads the tokens of one account from a file or a keychain item of another program.
///
/// It is a source for [`transfer::import`](crate::transfer::import): tokens can be read, and the file can be
/// removed if it holds nothing else. Nothing is written, not even a lock.
///
/// # Security
///
/// The other program may change the file after it was read and before it is removed. Stop it before you take its
/// tokens over. A file that others can change is refused.
#[derive(Clone, Debug)]
pub struct ImportStore {
    place: Place,
    options: Options,
    account: Option<Arc<str>>,
}

#[derive(Clone, Debug)]
enum Place {
    File(Arc<Path>),
    #[cfg(feature = "keychain")]
    Item(Item),
}

impl ImportStore {
    /// Makes a store for a file. Without a format, the content tells it. Nothing is read yet.
    #[must_use]
    pub fn new(path: impl AsRef<Path>, format: Option<Format>) -> Self {
        let path = path.as_ref();
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        Self::of(Place::File(path.into()), format)
    }

    /// Makes a store for a keychain item of another program. Nothing is read yet.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`] if a name is empty or begins with `tokenkeep:`.
    #[cfg(feature = "keychain")]
    pub fn keychain_item(
        service: &str,
        account: &str,
        format: Option<Format>,
    ) -> Result<Self, StoreError> {
        Ok(Self::of(Place::Item(Item::new(service, account, Kind::Foreign)?), format))
    }

    fn of(place: Place, format: Option<Format>) -> Self {
        Self { place, options: Options { format, ..Options::default() }, account: None }
    }

    /// Lets the keychain ask the user, as
    /// [`KeychainStore::allow_prompts`](crate::stores::KeychainStore::allow_prompts) does.
    #[must_use]
    #[cfg(feature = "keychain")]
    pub fn allow_prompts(mut self) -> Self {
        if let Place::Item(item) = self.place {
            self.place = Place::Item(item.with_prompts());
        }
        self
    }

    /// Chooses one of several accounts, by its name in [`Source::accounts`].
    #[must_use]
    pub fn with_account(mut self, name: &str) -> Self {
        self.account = Some(name.into());
        self
    }

    /// Says when the tokens were obtained, for a file that does not say it.
    #[must_use]
    pub fn with_obtained_at(mut self, at: DateTime<Utc>) -> Self {
        self.options.obtained_at = Some(at);
        self
    }

    /// Returns the file, if it is one.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match &self.place {
            Place::File(path) => Some(path),
            #[cfg(feature = "keychain")]
            Place::Item(_) => None,
        }
    }

    /// Reads the file or the item with all its accounts, or returns `None` if it does not exist. Others may be able
    /// to read it too.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotARecord`] if it has no form that can be imported, and those of reading it.
    pub async fn source(&self) -> Result<Option<Source>, StoreError> {
        self.run(|store| {
            let Some(bytes) = store.read(Exposure::Accepted)? else { return Ok(None) };
            store.parse(&bytes).map(Some)
        })
        .await
    }

    fn read(&self, exposure: Exposure) -> Result<Option<Bytes>, StoreError> {
        match &self.place {
            Place::File(path) => read_through_links(path, exposure, LONGEST, None),
            #[cfg(feature = "keychain")]
            Place::Item(item) => {
                let _ = exposure;
                item.read()
            }
        }
    }

    fn parse(&self, bytes: &[u8]) -> Result<Source, StoreError> {
        Source::parse(bytes, &self.options).map_err(|error| StoreError::NotARecord {
            place: self.to_string(),
            reason: error.to_string(),
            advice: "it stays as it is".into(),
        })
    }

    fn stored(&self, bytes: &[u8]) -> Result<Stored, StoreError> {
        let source = self.parse(bytes)?;
        let Account { tokens, .. } = self.choose(&source)?;
        Ok(Stored { record: tokens.clone().into(), revision: Revision::of(bytes) })
    }

    fn choose<'a>(&self, source: &'a Source) -> Result<&'a Account, StoreError> {
        source.account(self.account.as_deref()).ok_or_else(|| {
            let names: Vec<_> = source.accounts.iter().map(|account| &*account.name).collect();
            let reason = match &self.account {
                Some(_) => format!("no account in it has this name; it has {}", names.join(", ")),
                None => format!("it holds several accounts: {}", names.join(", ")),
            };
            let advice = "choose one of them by its name".into();
            StoreError::NotARecord { place: self.to_string(), reason, advice }
        })
    }

    fn load_with(&self, exposure: Exposure) -> Result<Option<Stored>, StoreError> {
        self.read(exposure)?.map(|bytes| self.stored(&bytes)).transpose()
    }

    /// Removes the file if it still has this content and nothing in it would be lost.
    fn remove(&self, revision: &Revision) -> Result<(), StoreError> {
        let conflict = || StoreError::Conflict { place: self.to_string() };
        let bytes = self.read(Exposure::Accepted)?.ok_or_else(conflict)?;
        if Revision::of(&bytes) != *revision {
            return Err(conflict());
        }
        let source = self.parse(&bytes)?;
        let read_only = || self.read_only(source.format.sign_out());
        let path = self.path().filter(|_| source.is_only_tokens).ok_or_else(read_only)?;
        match has_one_name(path) {
            Ok(true) => {}
            Ok(false) => return Err(read_only()),
            // Another process has just removed it.
            Err(_) => return Err(conflict()),
        }
        match fs::remove_file(path) {
            // Of two processes that take the tokens over, one removes the file.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(conflict()),
            Err(error) => Err(StoreError::io("remove", path.display().to_string(), error)),
            Ok(()) => PrivateFile::new(path, LONGEST).sync(),
        }
    }

    fn read_only(&self, how: &str) -> StoreError {
        StoreError::ReadOnly {
            place: self.to_string(),
            reason: format!("it belongs to another program; to sign out there: {how}"),
        }
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let store = self.clone();
        blocking::run(&self.to_string(), move || work(&store)).await
    }
}

/// Returns whether a file has no other name: it is no link, and has no hard link.
fn has_one_name(path: &Path) -> io::Result<bool> {
    let metadata = path.symlink_metadata()?;
    #[cfg(unix)]
    if std::os::unix::fs::MetadataExt::nlink(&metadata) > 1 {
        return Ok(false);
    }
    Ok(metadata.is_file())
}

/// Names the account too, if one was chosen: a copy remembers where it comes from.
impl fmt::Display for ImportStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::File(path) => write!(OneLine(f), "file {}", path.display())?,
            #[cfg(feature = "keychain")]
            Place::Item(item) => item.fmt(f)?,
        }
        match &self.account {
            Some(account) => write!(OneLine(f), " (account {account})"),
            None => Ok(()),
        }
    }
}

#[async_trait]
impl TokenStore for ImportStore {
    async fn load(&self) -> Result<Option<Stored>, StoreError> {
        self.run(|store| store.load_with(Exposure::Refused)).await
    }

    async fn load_exposed(&self) -> Result<Option<Stored>, StoreError> {
        self.run(|store| store.load_with(Exposure::Accepted)).await
    }

    async fn save(&self, _record: &Record, _expect: Precondition) -> Result<Revision, StoreError> {
        Err(self.read_only("use that program"))
    }

    async fn clear(&self, precondition: Precondition) -> Result<(), StoreError> {
        match precondition {
            Precondition::Unchanged(revision) => {
                self.run(move |store| store.remove(&revision)).await
            }
            _ => Err(self.read_only("use that program")),
        }
    }

    async fn try_lease(&self) -> Result<Option<Box<dyn Lease>>, StoreError> {
        Err(self.read_only("use that program"))
    }

    fn slot(&self) -> String {
        let path =
            self.path().map(|path| path.canonicalize().unwrap_or_else(|_| PathBuf::from(path)));
        path.map_or_else(|| self.to_string(), |path| path.display().to_string())
    }
}
