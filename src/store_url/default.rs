//! A store for a program that was not told which.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use super::StoreUrl;
use crate::error::StoreError;
use crate::key::AgeKey;
use crate::keychain::{KeychainState, probe_keychain, relative};
use crate::private_file::{Exposure, PrivateFile};
use crate::store::TokenStore;
use crate::sys::blocking;
use crate::sys::directories::{config_directory, state_directory};

/// The most bytes of a pinned URL.
const MAX_URL: usize = 16 * 1024;

/// What [`open_default`] may do; by default, neither.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DefaultStoreOptions {
    /// On a machine that has no keychain, keep the tokens in an age file, and its key in a file of
    /// this user's in another directory.
    pub key_file: bool,
    /// Let the keychain ask the user, as
    /// [`KeychainStore::allow_prompts`](crate::stores::KeychainStore::allow_prompts) does.
    pub prompts: bool,
}

/// Why a store was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreChoice {
    /// There is a keychain, which is locked and may ask the user.
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

/// What [`open_default`] opened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DefaultStore {
    /// Why this store.
    pub chosen: StoreChoice,
    /// The store.
    pub store: Arc<dyn TokenStore>,
    /// What names it.
    pub url: StoreUrl,
}

/// Opens the store of this program's account: the one that was chosen before, or else the keychain
/// if it can be used.
///
/// The first choice is pinned, in `tokenkeep/SERVICE/ACCOUNT.url` under the platform's directory
/// for a program's state, and never made again by itself: a keychain that is locked, slow or gone
/// later is an error of the store, not a second store. Remove that file to choose anew, once the
/// tokens were moved. Plaintext is never chosen.
///
/// # Errors
///
/// With nothing pinned: [`StoreError::Locked`] or [`StoreError::Timeout`] if there is a keychain
/// that cannot be used now; [`StoreError::Unavailable`] if there is none and no key file was
/// allowed, or if the pinned choice cannot be read.
///
/// # Security
///
/// With a key file, whoever has this user's files has both, key and tokens: keep the key out of the same
/// backup.
///
/// # Cancellation
///
/// A key or a pin may be there all the same; called again, it goes on from there.
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
    let pin = Arc::new(PrivateFile::new(&at(state_directory()?, "url"), MAX_URL));
    if let Some(url) = pinned(&pin).await? {
        return opened(url, StoreChoice::Pinned);
    }
    let keychain = with_prompts(StoreUrl::keychain(service, account)?);
    let key_file = if allow.key_file {
        let (record, key) = (at(state_directory()?, "sealed"), at(config_directory()?, "key"));
        Some(StoreUrl::age_file(&record, &key))
    } else {
        None
    };
    let (url, chosen) = StoreUrl::choose(keychain, key_file).await?;
    if write_pin(&pin, &url).await? {
        return opened(url, chosen);
    }
    // Another process was faster; its choice counts.
    let url = pinned(&pin).await?.unwrap_or(url);
    opened(url, StoreChoice::Pinned)
}

impl StoreUrl {
    /// Chooses between a store in the keychain and an age file whose key is in a file, which is
    /// made if need be. Nothing is pinned: that is up to the caller.
    ///
    /// The file is chosen where there is no keychain, and never because a keychain is locked or
    /// slow: that would leave tokens where nobody looks for them. A locked one is chosen if it may
    /// ask the user.
    ///
    /// # Errors
    ///
    /// [`StoreError::Locked`] or [`StoreError::Timeout`] if there is a keychain that cannot be used
    /// now, [`StoreError::Unavailable`] if there is none and no file was given, and what keeps the
    /// key from being made.
    ///
    /// # Cancellation
    ///
    /// A key may be there all the same; called again, it goes on from there.
    pub async fn choose(
        keychain: Self,
        key_file: Option<Self>,
    ) -> Result<(Self, StoreChoice), StoreError> {
        let state = probe_keychain().await;
        match key_file {
            _ if state == KeychainState::Available => Ok((keychain, StoreChoice::KeychainWorks)),
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
}

/// A record whose key is gone is opened by no other one; and whoever puts that key back must find its place
/// free.
fn refuse_orphan(url: &StoreUrl, identity: &Path) -> Result<(), StoreError> {
    let is_there = |path: &Path| path.symlink_metadata().is_ok();
    match url.path() {
        Some(record) if is_there(&record) && !is_there(identity) => Err(StoreError::KeyMissing {
            place: url.to_string(),
            reason: format!("its tokens are there, and not {}", identity.display()),
            advice: "put that file back; or remove the tokens' file, and sign in again".into(),
        }),
        _ => Ok(()),
    }
}

async fn make_key(identity: &Path) -> Result<(), StoreError> {
    match AgeKey::create_identity_file(identity).await {
        // Left by a choice that did not get to its end.
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
            advice: "correct it, or remove it to choose anew".into(),
        })
    })
    .await
}

/// Pins a choice; `false` if there is one already.
async fn write_pin(pin: &Arc<PrivateFile>, url: &StoreUrl) -> Result<bool, StoreError> {
    let text = url.to_text();
    if text.parse::<StoreUrl>().ok().is_none_or(|read| read.kind != url.kind) {
        return Err(StoreError::Unavailable {
            place: pin.place(),
            reason: "a directory that the store would be in has a name that is not UTF-8".into(),
            advice: "name a store, instead of letting one be chosen".into(),
        });
    }
    let file = pin.clone();
    let line = Zeroizing::new(format!("{text}\n").into_bytes());
    blocking::run(&pin.place(), move || file.create(&line)).await
}
