//! The default store, for a program without a store in its configuration.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use super::StoreUrl;
use crate::error::StoreError;
use crate::key::AgeKey;
use crate::keychain::{KeychainState, probe_keychain, relative, try_item};
use crate::private_file::{Exposure, PrivateFile};
use crate::store::TokenStore;
use crate::sys::blocking;
use crate::sys::directories::{config_directory, state_directory};

/// The most bytes of a saved URL.
const MAX_URL: usize = 16 * 1024;

/// What [`open_default`] may do. By default, it may do neither.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DefaultStoreOptions {
    /// On a machine without a keychain, keep the tokens in an age file, and its key in a file in another
    /// directory.
    pub key_file: bool,
    /// Let the keychain ask the user, as
    /// [`KeychainStore::allow_prompts`](crate::stores::KeychainStore::allow_prompts) does.
    pub prompts: bool,
}

/// Why a store was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreChoice {
    /// There is a keychain. It is locked, and may ask the user.
    KeychainLocked,
    /// The keychain can be used.
    KeychainWorks,
    /// There is no keychain here, and a key file was allowed.
    NoKeychain(KeychainState),
    /// It was chosen before.
    Pinned,
}

impl fmt::Display for StoreChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KeychainLocked => f.write_str("because there is a keychain, though locked"),
            Self::KeychainWorks => f.write_str("because the keychain works"),
            Self::NoKeychain(state) => {
                write!(f, "because the keychain cannot be used here: {state}")
            }
            Self::Pinned => f.write_str("because it was chosen before"),
        }
    }
}

/// The store that [`open_default`] opened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DefaultStore {
    /// Why this store was chosen.
    pub chosen: StoreChoice,
    /// The store.
    pub store: Arc<dyn TokenStore>,
    /// Its URL.
    pub url: StoreUrl,
}

/// Opens the store of this program's account: the store that was chosen before, or else the keychain if it
/// can be used.
///
/// The first choice is saved in `tokenkeep/SERVICE/ACCOUNT.url`, in the platform's directory for the state of
/// programs. It is not made again: if the keychain is locked, slow or missing later, the store returns an
/// error, and no other store is used. To choose again, move the tokens and remove that file. Plaintext is
/// never chosen.
///
/// # Errors
///
/// - [`StoreError::Locked`] or [`StoreError::Timeout`] if no choice is saved, and there is a keychain that
///   cannot be used now, or asks the user before each access.
/// - [`StoreError::Unavailable`] if no choice is saved, there is no keychain, and no key file is allowed;
///   or if the saved choice cannot be read.
///
/// # Security
///
/// With a key file, anyone who has this user's files has the key and the tokens. Do not keep the key in the
/// same backup.
///
/// # Cancel safety
///
/// A key or a saved choice may exist after a dropped call. The next call uses them.
pub async fn open_default(
    service: &str,
    account: &str,
    allow: DefaultStoreOptions,
) -> Result<DefaultStore, StoreError> {
    let with_prompts = |url: StoreUrl| if allow.prompts { url.allow_prompts() } else { url };
    let opened = |url: StoreUrl, chosen| {
        let url = with_prompts(url);
        Ok(DefaultStore { chosen, store: url.open()?, url })
    };
    let at = |directory: PathBuf, extension| directory.join(relative(service, account, extension));
    let pin = Arc::new(PrivateFile::new(at(state_directory()?, "url"), MAX_URL));
    if let Some(url) = pinned(&pin).await? {
        return opened(url, StoreChoice::Pinned);
    }
    let keychain = with_prompts(StoreUrl::keychain(service, account)?);
    let key_file = if allow.key_file {
        let (record, key) = (at(state_directory()?, "sealed"), at(config_directory()?, "key"));
        Some(StoreUrl::age_file(&record, &key).map_err(|error| StoreError::Unavailable {
            place: record.display().to_string(),
            reason: error.to_string(),
            advice: "name a store, instead of using the default".into(),
        })?)
    } else {
        None
    };
    let (url, chosen) = StoreUrl::choose(keychain, key_file).await?;
    if write_pin(&pin, &url).await? {
        return opened(url, chosen);
    }
    // Another process saved its choice first, so that one counts.
    let url = pinned(&pin).await?.unwrap_or(url);
    opened(url, StoreChoice::Pinned)
}

impl StoreUrl {
    /// Chooses between a store in the keychain and an age file with a key file. The key file is created if it
    /// does not exist. The caller has to save the choice.
    ///
    /// The age file is chosen only if there is no keychain. It is not chosen if a keychain is locked or slow,
    /// because then there could be tokens in two stores. A locked keychain is chosen if it may ask the user.
    /// An unlocked keychain is tried first, as [`try_keychain`](Self::try_keychain) does.
    ///
    /// # Errors
    ///
    /// [`StoreError::Locked`] or [`StoreError::Timeout`] if there is a keychain that cannot be used now.
    /// [`StoreError::Unavailable`] if there is no keychain and no `key_file` was given. Also the errors of
    /// creating the key.
    ///
    /// # Cancel safety
    ///
    /// The key may exist after a dropped call. The next call uses it.
    pub async fn choose(
        keychain: Self,
        key_file: Option<Self>,
    ) -> Result<(Self, StoreChoice), StoreError> {
        let state = probe_keychain().await;
        match key_file {
            _ if state == KeychainState::Available
                || state == KeychainState::ConfirmsAccess && keychain.prompts =>
            {
                keychain.try_keychain().await?;
                Ok((keychain, StoreChoice::KeychainWorks))
            }
            _ if state == KeychainState::Locked && keychain.prompts => {
                Ok((keychain, StoreChoice::KeychainLocked))
            }
            Some(url) if state.is_absent() => {
                if let Some(identity) = url.identity_path() {
                    refuse_orphan(&url, identity)?;
                    make_key(identity).await?;
                }
                Ok((url, StoreChoice::NoKeychain(state)))
            }
            _ => Err(state.explain("the keychain".into())),
        }
    }

    /// Makes an item in the keychain, reads it, and removes it, if this store uses the keychain. For any other
    /// store, nothing is done.
    ///
    /// Call this before a store is chosen for good. Some keychains look usable, and then ask the user before
    /// each access.
    ///
    /// # Errors
    ///
    /// The error that making or reading a key in the keychain would fail with. The item is removed then, too.
    ///
    /// # Cancel safety
    ///
    /// The trial goes on after a dropped call, and removes its item.
    pub async fn try_keychain(&self) -> Result<(), StoreError> {
        if !self.uses_keychain() {
            return Ok(());
        }
        let prompts = self.prompts;
        blocking::run("the keychain", move || try_item(prompts)).await
    }
}

/// Fails if there is a record without its key. A new key would not open the record, and would be in the way
/// when the old key is put back.
fn refuse_orphan(url: &StoreUrl, identity: &Path) -> Result<(), StoreError> {
    let is_there = |path: &Path| path.symlink_metadata().is_ok();
    match url.path() {
        Some(record) if is_there(&record) && !is_there(identity) => Err(StoreError::KeyMissing {
            place: url.to_string(),
            reason: format!("the tokens exist, but {} does not", identity.display()),
            advice: "put that file back, or remove the file of the tokens and sign in again".into(),
        }),
        _ => Ok(()),
    }
}

async fn make_key(identity: &Path) -> Result<(), StoreError> {
    match AgeKey::create_identity_file(identity).await {
        // An earlier choice created the key and did not finish.
        Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => {
            AgeKey::identity_file(identity).recipients().await.map(drop)
        }
        made => made.map(drop),
    }
}

async fn pinned(pin: &Arc<PrivateFile>) -> Result<Option<StoreUrl>, StoreError> {
    let file = pin.clone();
    blocking::run(&pin.place(), move || {
        let Some(opened) = file.open(Exposure::Refused)? else { return Ok(None) };
        let Some(content) = opened.read()? else { return Ok(None) };
        let url = str::from_utf8(&content).ok().and_then(|text| {
            StoreUrl::parse_absolute(text.strip_suffix('\n').unwrap_or(text)).ok()
        });
        url.map(Some).ok_or_else(|| StoreError::Unavailable {
            place: file.place(),
            reason: "it does not name a store that this version knows".into(),
            advice: "correct it, or remove it to choose again".into(),
        })
    })
    .await
}

/// Saves a choice. Returns `false` if there is one already.
async fn write_pin(pin: &Arc<PrivateFile>, url: &StoreUrl) -> Result<bool, StoreError> {
    let file = pin.clone();
    let line = Zeroizing::new(format!("{}\n", url.to_text()).into_bytes());
    blocking::run(&pin.place(), move || file.create(&line)).await
}
