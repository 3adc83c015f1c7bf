//! The target of a command: a store, and the profile that names it.

use std::path::Path;
use std::sync::Arc;

use tokenkeep::private_file::PrivateFile;
use tokenkeep::{AgeKey, StoreError, StoreUrl, TokenManager, TokenStore};

use crate::context::Context;
use crate::describe::for_shell;
use crate::failure::{Code, Failure};
use crate::profile::Profile;
use crate::provider::Provider;
use crate::refreshing::Refresher;
use crate::selection::Selection;

pub(crate) const PLAINTEXT: &str = "WARNING: plaintext. Any program of this user, and anyone who gets the disk or a \
                         backup of it, can read the tokens.";

/// The metadata of an issuer has no endpoint for a sign-in that may be used.
pub(crate) const NO_SIGN_IN: &str = "the issuer offers no sign-in: its metadata names no usable endpoint for one by \
    browser or by device; write authorization_url or device_authorization_url into the profile if you know it";

/// The store that a command works on, and the profile if one was named.
pub(crate) struct Target {
    pub(crate) url: StoreUrl,
    pub(crate) profile: Option<Profile>,
}

impl Target {
    pub(crate) fn of(context: &Context) -> Result<Self, Failure> {
        let target = match context.selection.selected()? {
            Selection::Store(url) => Self { url: *url, profile: None },
            Selection::Profile(name) => {
                let profile = Profile::load(&name)?;
                Self { url: profile.store.clone(), profile: Some(profile) }
            }
        };
        let has_provider = target.provider().is_ok();
        let name = target.profile.as_ref().map(|profile| &*profile.name);
        if let Some(how) = how_to_sign_in(name, &target.url, has_provider) {
            context.set_sign_in(how);
        }
        Ok(target)
    }

    pub(crate) fn open(&self, context: &Context) -> Result<Arc<dyn TokenStore>, Failure> {
        open(context, &self.url)
    }

    /// Warns if tokens were written in plaintext to a store that the command line names.
    pub(crate) fn warn_of_plaintext(&self, context: &Context) {
        if self.profile.is_none() {
            warn_of_plaintext(context, &self.url);
        }
    }

    /// Returns the name of the client that refreshes, as a record stores it.
    pub(crate) fn client(&self) -> String {
        let provider = self.profile.as_ref().and_then(|profile| profile.provider.as_ref());
        provider.map(Provider::client_name).unwrap_or_default()
    }

    /// Returns the provider that the profile names.
    pub(crate) fn provider(&self) -> Result<&Provider, Failure> {
        let profile = self.profile.as_ref().ok_or_else(|| {
            Failure::usage(
                "a --store has no provider; name a --profile that has [oauth2] in its file",
            )
        })?;
        profile.provider.as_ref().ok_or_else(|| {
            let (name, path) = (&profile.name, profile.path.display());
            Failure::usage(format!(
                "the profile {name} names no provider; add [oauth2] with `tokenkeep init --profile {name} --provider`, \
                 which lists providers, or by hand, with token_url and client_id, in {path}"
            ))
        })
    }

    /// Returns the provider that refreshes these tokens, if there is one. Tokens in the environment
    /// are never refreshed: a program cannot replace them.
    pub(crate) fn refreshes_at(&self) -> Option<&Provider> {
        let provider = self.profile.as_ref().and_then(|profile| profile.provider.as_ref());
        provider.filter(|_| self.url.env_prefix().is_none())
    }

    /// Fetches the metadata of the issuer if the profile names one and nothing was kept of it.
    pub(crate) async fn discover_if_needed(&mut self, context: &Context) -> Result<(), Failure> {
        if let Some(profile) = &mut self.profile
            && profile.provider.as_ref().is_some_and(Provider::needs_discovery_to_revoke)
        {
            profile.discover(&context.terminal).await?;
        }
        Ok(())
    }

    /// Fetches the metadata of the issuer, if the profile names one, and does not keep it yet. Without it, what was
    /// kept is used.
    pub(crate) async fn fetch_metadata(&mut self, context: &Context) -> Result<(), Failure> {
        let Some(profile) = &mut self.profile else { return Ok(()) };
        match profile.fetch_metadata(&context.terminal).await {
            Err(error) if profile.provider.as_ref().is_some_and(Provider::is_undiscovered) => {
                Err(error.into())
            }
            Err(error) => {
                let kept = profile.provider.as_ref().and_then(Provider::metadata);
                let used = match kept {
                    Some(_) => "the metadata of an earlier sign-in is used",
                    None => "only the URLs in the profile are used",
                };
                context.terminal.say(&format!("warning: {used}: {error}"));
                check_sign_in(profile)
            }
            Ok(()) => check_sign_in(profile),
        }
    }

    /// Keeps the metadata that is used.
    pub(crate) fn keep_metadata(&self, context: &Context) {
        if let Some(profile) = &self.profile {
            profile.keep_metadata(&context.terminal);
        }
    }

    /// Reads the profile again, because another process may have changed it. The metadata in use stays in use.
    pub(crate) fn read_again(&self, context: &Context) -> Result<Self, Failure> {
        if let Some(before) = &self.profile
            && Profile::find(&before.name)?.is_none()
        {
            let (name, path) = (&before.name, before.path.display());
            let message =
                format!("the profile {name} was removed meanwhile ({path} does not exist)");
            return Err(Failure::new(Code::Conflict, message));
        }
        let mut again = Self::of(context)?;
        if let Some(before) = &self.profile
            && let Some(profile) = again.profile.take()
        {
            again.profile = Some(profile.with_metadata_of(before)?);
        }
        Ok(again)
    }

    pub(crate) fn manager(&self, context: &Context) -> Result<TokenManager, Failure> {
        let builder = TokenManager::builder().store(self.open(context)?);
        Ok(match (self.refreshes_at(), &self.profile) {
            (Some(provider), Some(profile)) => {
                builder.refresher(Refresher::new(profile, provider, context)).build()
            }
            _ => builder.build(),
        })
    }
}

/// Fails if the issuer of this profile is known to have no endpoint for a sign-in.
fn check_sign_in(profile: &Profile) -> Result<(), Failure> {
    match &profile.provider {
        Some(provider) if provider.offers_no_sign_in() => Err(Failure::usage(NO_SIGN_IN)),
        _ => Ok(()),
    }
}

/// Returns what follows "sign in again" for these tokens. Returns `None` for tokens that a program cannot replace.
pub(crate) fn how_to_sign_in(
    profile: Option<&str>,
    url: &StoreUrl,
    has_provider: bool,
) -> Option<String> {
    let slot = match profile {
        Some(name) => format!("--profile {name}"),
        None => format!("--store {}", for_shell(url.to_string())),
    };
    match has_provider {
        _ if url.env_prefix().is_some() => None,
        true => Some(format!(" with `tokenkeep login {slot}`")),
        false => Some(format!(", and give the new tokens to `tokenkeep set {slot}`")),
    }
}

/// Opens a store, and asks for the passphrase of its key if it has one.
pub(crate) fn open(context: &Context, url: &StoreUrl) -> Result<Arc<dyn TokenStore>, Failure> {
    let protected =
        url.identity_path().map_or_else(|| url.to_string(), |path| path.display().to_string());
    let terminal = context.terminal.clone();
    let opened = as_prompts_are_allowed(context, url)
        .open_with_passphrase(move || terminal.ask_passphrase(&protected));
    opened.map_err(not_openable)
}

/// Opens a store without asking for a passphrase. A record that is only removed or checked need not
/// be decrypted.
pub(crate) fn open_without_asking(
    context: &Context,
    url: &StoreUrl,
) -> Result<Arc<dyn TokenStore>, Failure> {
    as_prompts_are_allowed(context, url).open().map_err(not_openable)
}

/// Checks that tokens could be sealed before they are saved there. Does not ask for a passphrase.
pub(crate) async fn check_key(context: &Context, url: &StoreUrl) -> Result<(), StoreError> {
    match as_prompts_are_allowed(context, url).check_key().await {
        Err(StoreError::Locked { .. }) if !url.uses_keychain() => Ok(()),
        checked => checked,
    }
}

/// Returns a key that seals to these recipients. Records are read back with an identity that exists
/// only in this process and is lost when it ends.
pub(crate) fn for_recipients(recipients: &[String]) -> Result<AgeKey, Failure> {
    let mut key = AgeKey::generate();
    for recipient in recipients {
        key = key.with_recovery_recipient(recipient).map_err(not_openable)?;
    }
    Ok(key)
}

/// Warns of plaintext in a store that was named just now. For a profile's own store, the warning
/// came when the profile was made.
pub(crate) fn warn_of_plaintext(context: &Context, url: &StoreUrl) {
    if url.is_plaintext() {
        context.terminal.say(PLAINTEXT);
    }
}

/// Fails if the tokens are in the environment of this process.
pub(crate) fn refuse_environment(url: &StoreUrl, store: &dyn TokenStore) -> Result<(), StoreError> {
    if url.env_prefix().is_none() {
        return Ok(());
    }
    let reason = "a program cannot keep tokens in its environment; use another store".into();
    Err(StoreError::ReadOnly { place: store.to_string(), reason })
}

/// The maximum size in bytes of a file of a store that a command reads itself. A record or a key is smaller.
const LONGEST: usize = 1 << 20;

/// Returns a file of the store of this URL.
pub(crate) fn private_file(url: &StoreUrl, path: &Path) -> PrivateFile {
    PrivateFile::new(path, LONGEST).with_trusted_group(url.trusted_group())
}

/// No file was read yet, so an invalid key stands in the URL itself.
fn not_openable(error: StoreError) -> Failure {
    match error {
        StoreError::InvalidKey { .. } => Failure::usage(Failure::from(error).message()),
        error => error.into(),
    }
}

fn as_prompts_are_allowed(context: &Context, url: &StoreUrl) -> StoreUrl {
    if context.selection.allow_prompt { url.clone().allow_prompts() } else { url.clone() }
}
