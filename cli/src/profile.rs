//! Profiles: a profile maps a name to a store. Each has one file, `profiles/NAME.toml`.

mod link;
mod metadata;
#[cfg(test)]
mod tests;
mod text;

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use tokenkeep::oauth2::ProviderMetadata;
use tokenkeep::private_file::{LockedDirectory, PrivateFile};
use tokenkeep::{StoreError, StoreUrl, store_url};

pub(crate) use self::text::{line, quoted};
use crate::failure::{Code, Failure};
use crate::parallel;
use crate::provider::Provider;

const DIRECTORY_VARIABLE: &str = "TOKENKEEP_CONFIG_DIR";
const LONGEST_NAME: usize = 64;
/// The maximum size of a profile's file, in bytes. A typical file has some hundred.
const LONGEST: usize = 1 << 20;

#[derive(Clone, Debug)]
pub(crate) struct Profile {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    pub(crate) store: StoreUrl,
    /// The target of a `migrate` that was cut off.
    pub(crate) moving_to: Option<StoreUrl>,
    /// The provider that issues its tokens.
    pub(crate) provider: Option<Provider>,
    /// The file's text. Settings other than the store stay as they are when the store changes.
    text: String,
    /// The position of the store's value in the text.
    store_span: Range<usize>,
    /// The position of a recorded move in the text. Includes the end of its line if nothing else
    /// follows on that line.
    move_span: Option<Range<usize>>,
}

/// A profile, its next text, and the result of writing the text.
pub(crate) struct Rewrite<'a> {
    pub(crate) profile: &'a mut Profile,
    pub(crate) text: String,
    pub(crate) done: &'a mut Result<(), Failure>,
}

/// A provider for a profile: its `[oauth2]` table, and the metadata of its issuer.
#[derive(Default)]
pub(crate) struct NewProvider {
    pub(crate) table: String,
    pub(crate) metadata: Option<ProviderMetadata>,
}

/// The name of a profile, and the profile or why it cannot be read.
pub(crate) type Found = (String, Result<Profile, Failure>);

impl Profile {
    pub(crate) fn load(name: &str) -> Result<Self, Failure> {
        if let Some(profile) = Self::find(name)? {
            return Ok(profile);
        }
        Err(Failure::usage(format!(
            "there is no profile {name} ({} does not exist); run `tokenkeep init`, or name a store \
             with --store",
            path_of(name)?.display()
        )))
    }

    /// Returns the profile of that name, or `None` if there is none.
    pub(crate) fn find(name: &str) -> Result<Option<Self>, Failure> {
        let path = path_of(name)?;
        let Some(text) = read(&path)? else { return Ok(None) };
        Self::parse(name, path, text)?.with_kept_metadata().map(Some)
    }

    /// Makes a profile. If two calls try at the same time, one fails.
    pub(crate) async fn create(
        name: &str,
        store: &StoreUrl,
        provider: Option<NewProvider>,
    ) -> Result<PathBuf, Failure> {
        let (name, store) = (name.to_owned(), store.clone());
        let make = move || Self::create_blocking(&name, &store, provider);
        // Runs on the thread that made the key. This thread runs one job after the other.
        tokio::task::spawn_blocking(make).await.map_err(io::Error::other)?
    }

    fn create_blocking(
        name: &str,
        store: &StoreUrl,
        provider: Option<NewProvider>,
    ) -> Result<PathBuf, Failure> {
        let path = path_of(name)?;
        let exists = || {
            let message = format!("the profile {name} exists already: {}", path.display());
            Failure::new(Code::Conflict, message)
        };
        if path.exists() {
            return Err(exists());
        }
        let directory = LockedDirectory::lock(directory_of(&path))?;
        let NewProvider { table, metadata } = provider.unwrap_or_default();
        let profile = Self::parse(name, path.clone(), format!("{}\n{table}", line(store)))?;
        if !directory.create(file_name_of(&path), profile.text.as_bytes())? {
            return Err(exists());
        }
        directory.sync()?;
        if let Some(metadata) = metadata {
            profile.keep_in(&directory, &metadata)?;
        }
        Ok(path)
    }

    /// Reads the table of a provider as if it stood in a profile. Nothing is written.
    pub(crate) fn draft(table: &str) -> Result<Self, Failure> {
        Self::parse("new", "the new profile".into(), format!("store = \"env:NONE\"{table}"))
    }

    /// Fails if a profile of this name, without a provider, could not be written now. Leaves nothing behind.
    pub(crate) fn check_writable(name: &str) -> Result<(), Failure> {
        let path = path_of(name)?;
        target_to_change(&path)?;
        let directory = LockedDirectory::lock(directory_of(&path))?;
        // Nothing reads this file as long as the profile names no issuer.
        let name = metadata::file_of(&path);
        directory.replace(file_name_of(&name), b"{}")?;
        Ok(directory.remove(file_name_of(&name))?)
    }

    /// Adds a provider to a profile that has none.
    pub(crate) async fn add(&mut self, provider: NewProvider) -> Result<(), Failure> {
        let NewProvider { table, metadata } = provider;
        let line_end = if self.text.ends_with('\n') { "" } else { "\n" };
        self.give(format!("{}{line_end}{table}", self.text)).await?;
        if let Some(metadata) = metadata {
            let directory = LockedDirectory::lock(directory_of(&self.path))?;
            self.keep_in(&directory, &metadata)?;
        }
        Ok(())
    }

    /// Reads a profile that is to be removed, and locks the directory of profiles. While it is
    /// locked, no other profile begins to use what belongs to this one.
    pub(crate) fn load_to_remove(name: &str) -> Result<(LockedDirectory, Self), Failure> {
        let path = path_of(name)?;
        let load = || match Self::find(name) {
            Ok(Some(profile)) => Ok(profile),
            Ok(None) => Err(Failure::usage(format!(
                "there is no profile {name} ({} does not exist); \
                 `tokenkeep list` shows all profiles",
                path.display()
            ))),
            Err(failure) if failure.is(Code::Inaccessible) => Err(failure),
            Err(failure) => Err(failure.followed_by(
                "fix that, because only this file names its tokens and its key; if they are not \
                 needed, delete the file",
            )),
        };
        load()?;
        let directory = LockedDirectory::lock(directory_of(&path))?;
        // Read again: another process may have changed it before the lock was taken.
        Ok((directory, load()?))
    }

    /// Removes the file durably, and the metadata of its issuer before it.
    pub(crate) fn remove(&self, directory: &LockedDirectory) -> Result<(), Failure> {
        self.forget_metadata(directory)?;
        Ok(directory.remove(file_name_of(&self.path))?)
    }

    /// Points the profile to another store.
    pub(crate) async fn set_store(&mut self, store: &StoreUrl) -> Result<(), Failure> {
        let text = self.with_store(store);
        self.give(text).await
    }

    /// Removes the record of a migration that was cut off.
    pub(crate) async fn forget_move(&mut self) -> Result<(), Failure> {
        let text = self.without_move();
        self.give(text).await
    }

    async fn give(&mut self, text: String) -> Result<(), Failure> {
        let mut done = Ok(());
        Self::rewrite(&mut [Rewrite { profile: self, text, done: &mut done }]).await?;
        done
    }

    /// Replaces the texts of profiles, each atomically and durably. A profile that cannot be
    /// written stays as it was.
    ///
    /// The present files are made durable in any case: the process that wrote them may have been
    /// killed before it did that.
    pub(crate) async fn rewrite(all: &mut [Rewrite<'_>]) -> Result<(), Failure> {
        let Some(first) = all.first() else { return Ok(()) };
        if all.iter().any(|one| one.text != one.profile.text) {
            let directory = LockedDirectory::lock(directory_of(&first.profile.path))?;
            parallel::for_each(all, async |one| {
                if let Err(failure) = one.profile.write(&directory, &one.text) {
                    *one.done = Err(failure);
                }
            })
            .await?;
        }
        all[0].profile.sync()
    }

    /// Makes the content of the directory of profiles durable, and of the directory behind a link.
    pub(crate) fn sync(&self) -> Result<(), Failure> {
        if let Some(target) = link::target_of(&self.path)? {
            PrivateFile::new(target, LONGEST).sync()?;
        }
        Ok(PrivateFile::new(&self.path, LONGEST).sync()?)
    }

    /// Fails if this profile would have to name another store and cannot be changed: it is a link to a file
    /// that is read-only or not this user's. `by_hand` says how the user changes it, with the line to write.
    pub(crate) fn check_changeable(
        &self,
        store: &StoreUrl,
        by_hand: impl FnOnce(&str) -> String,
    ) -> Result<(), Failure> {
        if self.with_store(store) == self.text {
            return Ok(());
        }
        let Some(target) = link::target_of(&self.path)? else { return Ok(()) };
        let Some(obstacle) = link::obstacle(&target)? else { return Ok(()) };
        let (path, target) = (self.path.display(), target.display());
        let by_hand = by_hand(&line(store));
        let message = format!(
            "{path} is a link to {target}, which cannot be changed here: {obstacle}; {by_hand}"
        );
        Err(Failure::new(Code::Inaccessible, message))
    }

    fn write(&mut self, directory: &LockedDirectory, text: &str) -> Result<(), Failure> {
        if text == self.text {
            return Ok(());
        }
        let there = read(&self.path)?;
        if there.as_ref() != Some(&self.text) && there.as_deref() != Some(text) {
            let path = self.path.display();
            let message = format!("{path} was changed by another process meanwhile; repeat this");
            return Err(Failure::new(Code::Conflict, message));
        }
        match target_to_change(&self.path)? {
            Some(target) => {
                link::replace(&target, text)
                    .map_err(|error| Failure::io("write", &target, &error))?;
            }
            None => directory.replace(file_name_of(&self.path), text.as_bytes())?,
        }
        let metadata = self.provider.as_ref().and_then(Provider::metadata).cloned();
        *self = Self::parse_with(&self.name, self.path.clone(), text.to_owned(), metadata)?;
        Ok(())
    }

    /// Returns all profiles, sorted by name. A profile that cannot be read is a failure in its
    /// place.
    pub(crate) fn all() -> Result<Vec<Found>, Failure> {
        let directory = directory()?.join("profiles");
        let unreadable = |error| Failure::io("read", &directory, &error);
        let entries = loop {
            match fs::read_dir(&directory) {
                Ok(entries) => break entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
                // A signal interrupted the call. The standard library retries this for files, but
                // not here.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(unreadable(error)),
            }
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.map_err(unreadable)?.file_name();
            // tokenkeep did not make files with other names.
            let name = name.to_str().and_then(|name| name.strip_suffix(".toml"));
            names.extend(name.filter(|name| check_name(name).is_ok()).map(str::to_owned));
        }
        names.sort_unstable();
        Ok(names.into_iter().map(|name| (name.clone(), Self::load(&name))).collect())
    }
}

/// Returns the directory of the profiles and of the keys that `init` makes.
pub(crate) fn directory() -> Result<PathBuf, Failure> {
    let Some(directory) = std::env::var_os(DIRECTORY_VARIABLE).filter(|it| !it.is_empty()) else {
        return store_url::config_directory().map_err(unusable_home);
    };
    let directory = PathBuf::from(directory);
    if !directory.is_absolute() || directory.to_str().is_none() {
        return Err(Failure::usage(format!(
            "{DIRECTORY_VARIABLE} is not an absolute path in UTF-8 text; set it to one, or unset it"
        )));
    }
    Ok(directory)
}

fn unusable_home(error: StoreError) -> Failure {
    Failure::usage(Failure::from(error).message())
}

/// Returns the file of the key that `init` makes for a profile.
pub(crate) fn key_of(name: &str) -> Result<PathBuf, Failure> {
    Ok(directory()?.join("keys").join(format!("{name}.txt")))
}

/// Returns the directory of sealed records when there is no keychain.
pub(crate) fn state_directory() -> Result<PathBuf, Failure> {
    store_url::state_directory().map_err(unusable_home)
}

/// Reads a profile's file, if it exists. Fails if others can write to the file: it says where
/// tokens go.
fn read(path: &Path) -> Result<Option<String>, Failure> {
    let Some(text) = PrivateFile::new(path, LONGEST).read_trusted()? else {
        if path.is_symlink() {
            let path = path.display();
            let message = format!(
                "{path} is a link to a file that does not exist; put that file back, or remove the link"
            );
            return Err(Failure::new(Code::Inaccessible, message));
        }
        return Ok(None);
    };
    let text = String::from_utf8(text).map_err(|_| {
        let reason = io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8 text");
        Failure::io("read", path, &reason)
    })?;
    Ok(Some(text))
}

/// Returns the file behind a profile, or `None` if the profile is no link. Fails if that file cannot be changed.
fn target_to_change(profile: &Path) -> Result<Option<PathBuf>, Failure> {
    let Some(target) = link::target_of(profile)? else { return Ok(None) };
    if let Some(obstacle) = link::obstacle(&target)? {
        let error = io::Error::new(io::ErrorKind::PermissionDenied, obstacle);
        return Err(Failure::io("write", &target, &error));
    }
    Ok(Some(target))
}

fn path_of(name: &str) -> Result<PathBuf, Failure> {
    check_name(name)?;
    Ok(directory()?.join("profiles").join(format!("{name}.toml")))
}

fn directory_of(path: &Path) -> &Path {
    path.parent().expect("it is in the directory of profiles")
}

fn file_name_of(path: &Path) -> &OsStr {
    path.file_name().expect("it is a file")
}

fn check_name(name: &str) -> Result<(), Failure> {
    let fits =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
    if name.is_empty() || name.len() > LONGEST_NAME || !name.bytes().all(fits) {
        return Err(Failure::usage(
            "a profile's name has 1 to 64 lower-case letters, digits, - and _",
        ));
    }
    Ok(())
}
