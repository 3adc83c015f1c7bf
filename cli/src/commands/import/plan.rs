//! Where one account goes: its store, its profile, and the provider that this gets.

use std::sync::Arc;

use tokenkeep::import::{Account, Source};
use tokenkeep::stores::ImportStore;
use tokenkeep::transfer::{Import, TransferError, import, is_copy_of};
use tokenkeep::{AuthTokens, StoreUrl, TokenStore};

use super::provider::{refuse_other_provider, table_of};
use crate::arguments;
use crate::commands::init;
use crate::context::Context;
use crate::describe::for_shell;
use crate::failure::{Code, Failure};
use crate::profile::{NewProvider, Profile};
use crate::selection::{NAME, Selection, parse_url};
use crate::target::{check_key, open, refuse_environment, warn_of_plaintext};

/// Where one account goes.
pub(super) struct Plan<'a> {
    pub(super) account: &'a Account,
    /// The store. A dry run does not choose one for a new profile.
    to: Option<StoreUrl>,
    /// The profile, if there is one already, or its name.
    profile: Option<Result<Profile, String>>,
    /// The provider that the profile gets.
    table: Option<String>,
}

impl<'a> Plan<'a> {
    /// `name` is that of the profile, if it is one of many.
    pub(super) async fn new(
        context: &Context,
        migrate: &arguments::Migrate,
        account: &'a Account,
        name: Option<String>,
    ) -> Result<Self, Failure> {
        let named = match context.selection.selected()? {
            Selection::Store(_) => {
                return Err(Failure::usage(
                    "name the store to import to with --to, or a profile with --profile",
                ));
            }
            Selection::Profile(name) => name,
        };
        if name.is_some() && migrate.to.as_ref().is_some_and(|to| !to.contains(NAME)) {
            return Err(Failure::usage(format!(
                "with --all, the path in --to needs a {NAME} in it"
            )));
        }
        let name = match name {
            Some(name) => Some(name),
            // As for any other source, a store that is named alone gets the tokens and no profile.
            None if migrate.to.is_some() && !context.selection.is_given() => None,
            None => Some(named),
        };
        let to = migrate
            .to
            .as_ref()
            .map(|to| parse_url(&to.replace(NAME, name.as_deref().unwrap_or_default())));
        let to = to.transpose()?;
        let Some(name) = name else {
            return Ok(Self { account, to, profile: None, table: None });
        };
        let there = Profile::find(&name)?;
        let has_provider = there.as_ref().is_some_and(|profile| profile.provider.is_some());
        let mut table = table_of(account).filter(|_| !has_provider);
        if let Some(Err(failure)) = table.as_deref().map(Profile::draft) {
            // The file may name a URL to which no token may be sent.
            let reason = failure.message();
            context.terminal.say(&format!("WARNING: the profile gets no provider: {reason}"));
            table = None;
        }
        let (to, profile) = match (there, to) {
            (Some(profile), Some(to)) if profile.store != to => {
                return Err(Failure::new(
                    Code::Conflict,
                    format!(
                        "the profile {name} has another store, {}; leave out --to, or name another --profile",
                        profile.store
                    ),
                ));
            }
            (Some(profile), _) => {
                refuse_other_provider(&profile, account)?;
                (Some(profile.store.clone()), Ok(profile))
            }
            // A dry run makes no key.
            (None, to) if migrate.dry_run => (to, Err(name)),
            (None, Some(to)) => {
                let (to, _, _) = init::named(context, to).await?;
                (Some(to), Err(name))
            }
            (None, None) => {
                let (to, _, _) = init::choose(context, &name).await?;
                (Some(to), Err(name))
            }
        };
        Ok(Self { account, to, profile: Some(profile), table })
    }

    pub(super) async fn show(
        &self,
        context: &Context,
        migrate: &arguments::Migrate,
        store: &ImportStore,
    ) -> Result<(), Failure> {
        let target = match &self.to {
            Some(to) => self.target(context, to, migrate, store).await?.to_string(),
            None => "the store that `init` chooses".into(),
        };
        let kind = if migrate.take_over { "take over" } else { "copy" };
        let profile = match &self.profile {
            None => String::new(),
            Some(Ok(profile)) => format!(", for the profile {}", profile.name),
            Some(Err(name)) => format!(", for a new profile {name}"),
        };
        let name = &self.account.name;
        context.terminal.say(&format!("would {kind} {name} to {target}{profile}"));
        if let Some(table) = &self.table {
            context.terminal.say(&format!("with this provider:\n{}", table.trim()));
        }
        Ok(())
    }

    /// Opens the target. Fails if the import would fail there, before a profile is made.
    async fn target(
        &self,
        context: &Context,
        to: &StoreUrl,
        migrate: &arguments::Migrate,
        store: &ImportStore,
    ) -> Result<Arc<dyn TokenStore>, Failure> {
        let target = open(context, to)?;
        refuse_environment(to, &*target)?;
        check_key(context, to).await?;
        let from = store.clone().with_account(&self.account.name);
        if let Some(there) = target.load().await?
            && !is_replaceable(&there.record.tokens, &from, self.account, migrate.take_over)
        {
            return Err(TransferError::Occupied { place: target.to_string() }.into());
        }
        Ok(target)
    }

    pub(super) async fn run(
        self,
        context: &Context,
        migrate: &arguments::Migrate,
        store: &ImportStore,
        source: &Source,
    ) -> Result<(), Failure> {
        let to = self.to.clone().expect("only a dry run has none");
        let target = self.target(context, &to, migrate, store).await?;
        let refreshes = self.table.is_some()
            || matches!(&self.profile, Some(Ok(profile)) if profile.provider.is_some());
        let uses_no_secret = self.account.tokens.client_secret().is_some()
            && matches!(&self.profile, Some(Ok(profile)) if profile.provider.as_ref().is_some_and(|it| {
                !it.has_secret_in_record && it.client_secret_env.is_none()
            }));
        let provider = self.table.map(|table| NewProvider { table, metadata: None });
        // The profile is there before the tokens, so that a run that is killed leaves none that nothing names.
        let profile = match self.profile {
            None => None,
            Some(Ok(mut profile)) => {
                if let Some(provider) = provider {
                    profile.add(provider).await?;
                }
                Some(profile.name)
            }
            Some(Err(name)) => {
                let path = Profile::create(&name, &to, provider).await?;
                context.terminal.say(&format!("made the profile {name} ({})", path.display()));
                Some(name)
            }
        };
        let from = store.clone().with_account(&self.account.name);
        let kind = if migrate.take_over { Import::TakeOver } else { Import::Copy };
        let imported = import(&from, &target, kind).await?;
        if let Some(warning) = &imported.warning {
            context.terminal.say(&format!("warning: {warning}"));
        }
        warn_of_plaintext(context, &to);
        let program = source.format.program();
        let name = &self.account.name;
        if !migrate.take_over {
            let with = profile.map_or_else(
                || format!(" --store {}", for_shell(to.to_string())),
                |name| format!(" --profile {name}"),
            );
            context.terminal.say(&format!(
                "copied {name} to {target}, as a backup: `tokenkeep get{with}` prints its access token, and nothing \
                 refreshes it; run this again with --take-over to make it live here, which signs out {program}"
            ));
            return Ok(());
        }
        context.terminal.say(&format!("took {name} over to {target}"));
        let after = if imported.removed {
            format!("removed {store}")
        } else {
            let stays = imported.stays.unwrap_or_default();
            format!("{store} stays as it is: {stays}")
        };
        context.terminal.say(&after);
        if uses_no_secret {
            context.terminal.say(
                "WARNING: the file brings the secret of the client, and the profile does not use it: write \
                 client_secret = \"record\" into its [oauth2] if the provider wants it",
            );
        }
        if self.account.tokens.refresh_token.is_some() {
            context.terminal.say(&if refreshes {
                format!(
                    "these tokens are live here now: once they are refreshed, those of {program} are invalid at many \
                     providers; do not use both"
                )
            } else {
                "nothing refreshes them here yet: the file names no provider that this command can use; add one with \
                 `tokenkeep init --provider`, or --issuer, and the id of the client that they were issued to"
                    .to_owned()
            });
        }
        Ok(())
    }
}

/// Returns whether an import may replace these tokens: an earlier copy of the same account, or the same tokens.
fn is_replaceable(
    there: &AuthTokens,
    from: &ImportStore,
    account: &Account,
    take_over: bool,
) -> bool {
    is_copy_of(there, from) || take_over && *there == account.tokens
}
