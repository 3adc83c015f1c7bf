//! The metadata of a profile's issuer. It is kept beside the profile, in `NAME.metadata.json`, so that a refresh never
//! depends on discovery.

use std::path::{Path, PathBuf};

use tokenkeep::oauth2::{OAuth2Error, ProviderMetadata};
use tokenkeep::private_file::{LockedDirectory, PrivateFile};

use super::{LONGEST, Profile, directory_of, file_name_of, read};
use crate::failure::{Code, Failure};
use crate::provider::{Provider, UrlSource};
use crate::terminal::{FOR_PROVIDER, Terminal};

/// The ending of the file's name. No profile has a name with a dot.
const ENDING: &str = "metadata.json";

impl Profile {
    /// Fetches the metadata of the issuer, and keeps it for later commands. Does nothing if the profile names no
    /// issuer.
    pub(crate) async fn discover(&mut self, terminal: &Terminal) -> Result<(), OAuth2Error> {
        self.fetch_metadata(terminal).await?;
        self.keep_metadata(terminal);
        Ok(())
    }

    /// Fetches the metadata of the issuer, and uses it. Does nothing if the profile names no issuer.
    pub(crate) async fn fetch_metadata(&mut self, terminal: &Terminal) -> Result<(), OAuth2Error> {
        let metadata = {
            let _waiting = terminal.waiting_for(FOR_PROVIDER);
            match &self.provider {
                Some(provider) => provider.discover().await?,
                None => None,
            }
        };
        let Some(metadata) = metadata else { return Ok(()) };
        *self = self.clone().with_metadata(metadata).map_err(|failure| {
            OAuth2Error::Misconfigured { reason: failure.message().to_owned() }
        })?;
        Ok(())
    }

    /// Keeps the metadata that is used, for later commands. If it cannot be kept, that is a warning.
    pub(crate) fn keep_metadata(&self, terminal: &Terminal) {
        let Some(metadata) = self.provider.as_ref().and_then(Provider::metadata) else { return };
        if let Err(failure) = self.keep(metadata) {
            terminal.say(&format!(
                "warning: the metadata of {} cannot be kept, so the next refresh fetches it again: {}",
                metadata.issuer(),
                failure.message()
            ));
        }
    }

    /// Uses the metadata that another copy of this profile uses, if it is of the issuer that this one names.
    pub(crate) fn with_metadata_of(self, other: &Self) -> Result<Self, Failure> {
        let metadata = other.provider.as_ref().and_then(Provider::metadata);
        let issuer = self.provider.as_ref().and_then(|provider| provider.issuer.as_deref());
        match metadata.filter(|metadata| issuer == Some(metadata.issuer())) {
            Some(metadata) => self.with_metadata(metadata.clone()),
            None => Ok(self),
        }
    }

    /// Reads what was kept, if it is of the issuer that the profile names now.
    ///
    /// Fails if others can write to the file: it says where tokens go. What is too large or no file is fetched again when
    /// it is needed, as what is damaged.
    pub(super) fn with_kept_metadata(self) -> Result<Self, Failure> {
        match self.kept_metadata() {
            Ok(Some(Ok(metadata))) => self.with_metadata(metadata),
            Ok(Some(Err(_)) | None) => Ok(self),
            Err(failure) if failure.is(Code::Unreadable) => Ok(self),
            Err(failure) => Err(failure),
        }
    }

    /// Returns why the next refresh needs a discovery, if it does.
    pub(crate) fn why_to_discover(&self) -> Option<String> {
        let issuer = self.provider.as_ref()?.issuer.as_deref()?;
        if self.provider.as_ref().is_some_and(|it| it.token_url == UrlSource::Profile) {
            return None;
        }
        let path = self.metadata_path();
        let why = match self.kept_metadata() {
            Ok(Some(Ok(_))) => return None,
            Ok(Some(Err(error))) => error.to_string(),
            Ok(None) => format!("{} does not exist", path.display()),
            Err(failure) => failure.message().to_owned(),
        };
        Some(format!(
            "the next refresh needs {issuer}, because its metadata is not kept: {why}; \
             `tokenkeep login` and each refresh keep it"
        ))
    }

    fn kept_metadata(&self) -> Result<Option<Result<ProviderMetadata, OAuth2Error>>, Failure> {
        let issuer = self.provider.as_ref().and_then(|provider| provider.issuer.as_deref());
        let Some(issuer) = issuer else { return Ok(None) };
        let kept = PrivateFile::new(self.metadata_path(), LONGEST).read_trusted()?;
        Ok(kept.map(|json| ProviderMetadata::from_json(issuer, &json)))
    }

    fn with_metadata(self, metadata: ProviderMetadata) -> Result<Self, Failure> {
        Self::parse_with(&self.name, self.path, self.text, Some(metadata))
    }

    /// Writes the metadata beside the profile, unless the profile was changed or removed meanwhile.
    fn keep(&self, metadata: &ProviderMetadata) -> Result<(), Failure> {
        if matches!(self.kept_metadata(), Ok(Some(Ok(kept))) if kept == *metadata) {
            return Ok(());
        }
        let directory = LockedDirectory::lock(directory_of(&self.path))?;
        if read(&self.path)?.as_ref() != Some(&self.text) {
            return Ok(());
        }
        self.keep_in(&directory, metadata)
    }

    pub(super) fn keep_in(
        &self,
        directory: &LockedDirectory,
        metadata: &ProviderMetadata,
    ) -> Result<(), Failure> {
        let path = self.metadata_path();
        directory.replace(file_name_of(&path), metadata.to_json().as_bytes())?;
        Ok(directory.sync()?)
    }

    /// Removes what was kept, durably.
    pub(super) fn forget_metadata(&self, directory: &LockedDirectory) -> Result<(), Failure> {
        Ok(directory.remove(file_name_of(&self.metadata_path()))?)
    }

    fn metadata_path(&self) -> PathBuf {
        file_of(&self.path)
    }
}

/// Returns the file of the metadata beside a profile.
pub(super) fn file_of(profile: &Path) -> PathBuf {
    profile.with_extension(ENDING)
}
