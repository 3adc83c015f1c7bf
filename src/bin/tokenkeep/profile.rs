//! Profiles: which store belongs to a name. One file each, `profiles/NAME.toml`.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;
use tokenkeep::StoreUrl;
use toml::de::{DeTable, DeValue};

use crate::failure::{Code, Failure};
use crate::provider::Provider;

const DIRECTORY_VARIABLE: &str = "TOKENKEEP_CONFIG_DIR";
const LONGEST_NAME: usize = 64;
const MOVING_TO: &str = "moving_to";

#[derive(Debug)]
pub(crate) struct Profile {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    pub(crate) store: StoreUrl,
    /// Where a `migrate` that did not get to its end was moving the tokens.
    pub(crate) moving_to: Option<StoreUrl>,
    /// Who issues its tokens.
    pub(crate) provider: Option<Provider>,
    /// The file's text, so that what is not about the store stays when the store changes.
    text: String,
    /// Where in it the store's value stands.
    store_span: std::ops::Range<usize>,
}

/// A profile as it was found.
pub(crate) type Named = (String, Result<Profile, Failure>);

impl Profile {
    pub(crate) fn load(name: &str) -> Result<Self, Failure> {
        let path = path_of(name)?;
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Failure::usage(format!(
                    "there is no profile {name} ({} does not exist); run `tokenkeep init`, or name a \
                     store with --store",
                    path.display()
                )));
            }
            Err(error) => {
                let message = format!("cannot read {}: {error}", path.display());
                return Err(Failure::new(Code::Inaccessible, message));
            }
        };
        refuse_writable(&path)?;
        Self::parse(name, path, text)
    }

    /// Makes a profile. Of two that try at the same time, one fails.
    pub(crate) fn create(name: &str, store: &StoreUrl) -> Result<PathBuf, Failure> {
        let path = path_of(name)?;
        let exists = |path: &Path| {
            let message = format!("the profile {name} exists already: {}", path.display());
            Failure::new(Code::Conflict, message)
        };
        if path.exists() {
            return Err(exists(&path));
        }
        let file = write(&path, &format!("store = {}\n", quoted(&store.to_text())))?;
        file.persist_noclobber(&path).map_err(|error| match error.error.kind() {
            std::io::ErrorKind::AlreadyExists => exists(&path),
            _ => error.error.into(),
        })?;
        sync_directory(&path)?;
        Ok(path)
    }

    /// Points the profile to another store.
    pub(crate) fn set_store(&mut self, store: &StoreUrl) -> Result<(), Failure> {
        let mut text = self.text.clone();
        text.replace_range(self.store_span.clone(), &quoted(&store.to_text()));
        self.replace(without_move(&text))
    }

    /// Notes where the tokens are about to be moved, so that a later run knows where they are.
    pub(crate) fn begin_move(&mut self, to: &StoreUrl) -> Result<(), Failure> {
        let line = format!("{MOVING_TO} = {}\n", quoted(&to.to_text()));
        self.replace(line + &without_move(&self.text))
    }

    /// Takes that note back.
    pub(crate) fn end_move(&mut self) -> Result<(), Failure> {
        self.replace(without_move(&self.text))
    }

    fn replace(&mut self, text: String) -> Result<(), Failure> {
        if text == self.text {
            return Ok(());
        }
        let file = write(&self.path, &text)?;
        file.persist(&self.path).map_err(|error| error.error)?;
        sync_directory(&self.path)?;
        *self = Self::parse(&self.name, self.path.clone(), text)?;
        Ok(())
    }

    /// All profiles, by name. One that cannot be read is a failure in its place.
    pub(crate) fn all() -> Result<Vec<Named>, Failure> {
        let entries = match fs::read_dir(directory()?.join("profiles")) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            // What has another name was not made here.
            let name = name.to_str().and_then(|name| name.strip_suffix(".toml"));
            names.extend(name.filter(|name| check_name(name).is_ok()).map(str::to_owned));
        }
        names.sort_unstable();
        Ok(names.into_iter().map(|name| (name.clone(), Self::load(&name))).collect())
    }

    /// Reads the text. No error repeats any of it: somebody may have put a secret there.
    fn parse(name: &str, path: PathBuf, text: String) -> Result<Self, Failure> {
        let wrong = |position: usize, what: &str| {
            let line = text[..position.min(text.len())].lines().count().max(1);
            let message = format!("{}, line {line}: {what}", path.display());
            Failure::usage(message)
        };
        let (mut store, mut moving_to, mut provider) = (None, None, None);
        {
            let table = DeTable::parse(&text).map_err(|error| {
                wrong(error.span().map_or(0, |span| span.end), "this is not TOML")
            })?;
            for (key, value) in table.get_ref() {
                let at = key.span().end;
                match (key.get_ref().as_ref(), value.get_ref()) {
                    ("store", DeValue::String(url)) => {
                        let url = url.parse::<StoreUrl>();
                        let url = url.map_err(|error| wrong(at, &error.to_string()))?;
                        store = Some((url, value.span()));
                    }
                    (MOVING_TO, DeValue::String(url)) => {
                        let url = url.parse::<StoreUrl>();
                        moving_to = Some(url.map_err(|error| wrong(at, &error.to_string()))?);
                    }
                    ("oauth2", DeValue::Table(oauth2)) => {
                        provider = Some(
                            Provider::parse(oauth2)
                                .map_err(|error| wrong(error.at, &error.what))?,
                        );
                    }
                    ("store" | "oauth2" | MOVING_TO, _) => {
                        return Err(wrong(at, "this setting has a value of the wrong type"));
                    }
                    _ => {
                        return Err(wrong(at, "unknown setting; a profile has store and [oauth2]"));
                    }
                }
            }
        }
        let Some((store, store_span)) = store else {
            return Err(wrong(0, "there is no `store`"));
        };
        Ok(Self { name: name.to_owned(), path, store, moving_to, provider, text, store_span })
    }
}

/// Where profiles, and the keys that `init` makes, are kept.
pub(crate) fn directory() -> Result<PathBuf, Failure> {
    use etcetera::BaseStrategy;

    if let Some(directory) = std::env::var_os(DIRECTORY_VARIABLE) {
        return Ok(std::path::absolute(directory)?);
    }
    let strategy = etcetera::base_strategy::choose_native_strategy().map_err(|_| {
        Failure::usage(format!("this user has no home directory; set {DIRECTORY_VARIABLE}"))
    })?;
    Ok(strategy.config_dir().join("tokenkeep"))
}

/// Where sealed records are kept when there is no keychain.
pub(crate) fn state_directory() -> Result<PathBuf, Failure> {
    use etcetera::BaseStrategy;

    let strategy = etcetera::base_strategy::choose_native_strategy()
        .map_err(|_| Failure::usage("this user has no home directory; name a --store"))?;
    let directory = strategy.state_dir().unwrap_or_else(|| {
        // On Windows this is the part of the profile that does not roam.
        if cfg!(windows) { strategy.cache_dir() } else { strategy.data_dir() }
    });
    Ok(directory.join("tokenkeep"))
}

fn path_of(name: &str) -> Result<PathBuf, Failure> {
    check_name(name)?;
    Ok(directory()?.join("profiles").join(format!("{name}.toml")))
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

/// Whoever can write to a profile chooses where the tokens go.
#[cfg(unix)]
fn refuse_writable(path: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::MetadataExt;

    let metadata = fs::metadata(path)?;
    let us = rustix::process::geteuid().as_raw();
    let foreign = metadata.uid() != us && metadata.uid() != 0;
    if foreign || metadata.mode() & 0o022 != 0 {
        let path = path.display();
        let message =
            format!("{path} is not private: others can write to it; run `chmod 600 {path}`");
        return Err(Failure::new(Code::Inaccessible, message));
    }
    Ok(())
}

#[cfg(not(unix))]
fn refuse_writable(_path: &Path) -> Result<(), Failure> {
    Ok(())
}

/// Writes a file that only this user can read, beside the path that it is meant for.
fn write(path: &Path, text: &str) -> Result<NamedTempFile, Failure> {
    let directory = path.parent().expect("it is in the directory of profiles");
    create_directory(directory)?;
    let mut file = NamedTempFile::new_in(directory)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    Ok(file)
}

fn create_directory(path: &Path) -> std::io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

#[cfg(unix)]
fn sync_directory(path: &Path) -> std::io::Result<()> {
    path.parent().map_or(Ok(()), |directory| fs::File::open(directory)?.sync_all())
}

#[cfg(not(unix))]
fn sync_directory(_path: &Path) -> std::io::Result<()> {
    Ok(())
}

/// The text without the note of a move, which is a line of its own as it is written here.
fn without_move(text: &str) -> String {
    let is_other = |line: &&str| !line.starts_with(MOVING_TO);
    text.split_inclusive('\n').filter(is_other).collect()
}

/// A TOML basic string.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            control if control.is_control() => {
                quoted += &format!("\\u{:04X}", u32::from(control));
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}
