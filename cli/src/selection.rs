//! Which slot or file a command line selects.

use std::env::VarError;
use std::path::Path;

use tokenkeep::StoreUrl;

use crate::arguments::SelectionArguments;
use crate::failure::Failure;

const PROFILE_VARIABLE: &str = "TOKENKEEP_PROFILE";
const STORE_VARIABLE: &str = "TOKENKEEP_STORE";
const DEFAULT: &str = "default";

/// Stands for a profile's name in the target of `migrate --all`.
pub(crate) const NAME: &str = "{profile}";

/// The slot that a command line names.
pub(crate) enum Selection {
    Profile(String),
    Store(Box<StoreUrl>),
}

impl SelectionArguments {
    /// Returns what is named. The command line takes precedence over the environment. Fails if two
    /// slots are named at once.
    pub(crate) fn selected(&self) -> Result<Selection, Failure> {
        let (profile, store) = match (&self.profile, &self.store) {
            (None, None) => (variable(PROFILE_VARIABLE)?, variable(STORE_VARIABLE)?),
            named => (named.0.clone(), named.1.clone()),
        };
        match (profile, store) {
            (Some(_), Some(_)) => {
                Err(Failure::usage("a profile and a store are named; name one of them"))
            }
            (None, Some(url)) => parse_url(&url).map(|url| Selection::Store(Box::new(url))),
            (profile, None) => {
                Ok(Selection::Profile(profile.unwrap_or_else(|| DEFAULT.to_owned())))
            }
        }
    }

    /// Returns whether the command line names a slot.
    pub(crate) fn is_given(&self) -> bool {
        self.profile.is_some() || self.store.is_some()
    }

    /// Returns the name of the profile that `init` makes.
    pub(crate) fn profile_to_make(&self) -> Result<String, Failure> {
        let named = match &self.profile {
            Some(named) => Some(named.clone()),
            None => variable(PROFILE_VARIABLE)?,
        };
        Ok(named.unwrap_or_else(|| DEFAULT.to_owned()))
    }
}

/// Returns the value of a variable. Fails if it is not UTF-8 text: without it, other tokens would be used.
fn variable(name: &str) -> Result<Option<String>, Failure> {
    match std::env::var(name) {
        Ok(value) => Ok(Some(value).filter(|value| !value.is_empty())),
        Err(VarError::NotPresent) => Ok(None),
        Err(VarError::NotUnicode(_)) => Err(Failure::usage(format!(
            "${name} is not UTF-8 text; set another value, or unset it"
        ))),
    }
}

/// Reads the URL of a store that keeps tokens.
pub(crate) fn parse_url(text: &str) -> Result<StoreUrl, Failure> {
    let url = parse_source(text)?;
    if url.import().is_some() {
        return Err(Failure::usage(
            "import: is only a source: `tokenkeep migrate --from import:FORMAT:PATH`",
        ));
    }
    Ok(url)
}

/// Reads the URL of a store that tokens are moved from.
pub(crate) fn parse_source(text: &str) -> Result<StoreUrl, Failure> {
    let url: StoreUrl = text.parse()?;
    if url.is_memory() {
        return Err(Failure::usage("memory: would forget the tokens at once"));
    }
    Ok(url)
}

/// Reads a store URL. Returns `None` if the text is the path of a file.
pub(crate) fn parse_url_or_path(text: &str) -> Result<Option<StoreUrl>, Failure> {
    let scheme = text.split_once(':').map(|(scheme, _)| scheme);
    // A scheme of one letter is a Windows drive.
    let looks_like_url = scheme.is_some_and(|scheme| {
        scheme.len() > 1 && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric())
    });
    if looks_like_url {
        return parse_url(text).map(Some);
    }
    check_path(Path::new(text))?;
    Ok(None)
}

/// Fails if the path contains a secret key: users easily paste it where the path of its file
/// belongs, and messages show paths.
pub(crate) fn check_path(path: &Path) -> Result<(), Failure> {
    if path.to_string_lossy().to_ascii_uppercase().contains("AGE-SECRET-KEY-") {
        return Err(Failure::usage("this is a secret key; give the path of its file"));
    }
    Ok(())
}
