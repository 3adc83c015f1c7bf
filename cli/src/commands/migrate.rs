//! migrate: moves tokens from one store to another, and updates the profiles that name them.

use std::sync::Arc;

use tokenkeep::store::{Precondition, Record};
use tokenkeep::transfer::TransferError;
use tokenkeep::{StoreError, StoreUrl, TokenStore};

use super::import;
use crate::arguments;
use crate::context::Context;
use crate::describe::for_shell;
use crate::failure::{Code, DONE, Failure, Outcome};
use crate::parallel;
use crate::profile::{Profile, Rewrite};
use crate::selection::{NAME, parse_source, parse_url};
use crate::target::{Target, check_key, open, refuse_environment, warn_of_plaintext};

/// How many profiles record their moves in one batch. The disk needs little more time to write a
/// thousand of them than to write one.
const BATCH: usize = 256;

pub(super) async fn migrate(context: &Context, migrate: &arguments::Migrate) -> Outcome {
    if let Some(from) = &migrate.from
        && let url = parse_source(from)?
        && url.import().is_some()
    {
        return import::take(context, migrate, &url).await;
    }
    let of_import = [
        ("--account", migrate.account.is_some()),
        ("--take-over", migrate.take_over),
        ("--obtained-at", migrate.obtained_at.is_some()),
    ];
    if let Some((option, _)) = of_import.iter().find(|(_, is_given)| *is_given) {
        return Err(Failure::usage(format!("{option} is only for `--from import:FORMAT:PATH`")));
    }
    if migrate.all && migrate.from.is_some() {
        return Err(Failure::usage("`--all` cannot be used with `--from`; leave out one of them"));
    }
    let Some(to) = &migrate.to else {
        return Err(Failure::usage("`--to <URL>` is missing; see `tokenkeep migrate --help`"));
    };
    if context.selection.is_given() && (migrate.all || migrate.from.is_some()) {
        return Err(Failure::usage(
            "a profile or store is named besides the one to move; leave out one of them",
        ));
    }
    if migrate.all {
        return migrate_all(context, migrate, to).await;
    }
    let (from, profile) = match &migrate.from {
        Some(url) => (parse_url(url)?, None),
        None => {
            let target = Target::of(context)?;
            (target.url, target.profile)
        }
    };
    let mut moves = [Move::new(context, &from, parse_url(to)?, profile)?];
    run(&mut moves, migrate).await?;
    let [one] = moves;
    one.outcome?;
    warn_of_plaintext(context, &one.to);
    DONE
}

/// Moves every profile. Continues after a profile that fails, and lists those that failed.
async fn migrate_all(context: &Context, migrate: &arguments::Migrate, to: &str) -> Outcome {
    // The name must be in the path, not in an option: each profile needs a slot of its own.
    if !to.split('?').next().is_some_and(|slot| slot.contains(NAME)) {
        return Err(Failure::usage(format!("with --all, the path in --to needs a {NAME} in it")));
    }
    let mut profiles = Profile::all()?.into_iter();
    let mut failed = Vec::new();
    let mut fail = |name: String, failure: &Failure| {
        context.terminal.say(&format!("{name}: {}", failure.message()));
        failed.push(name);
    };
    if !migrate.dry_run {
        context.terminal.start_counting(profiles.len());
    }
    let (mut moved_before, mut moved_to) = (None, None);
    while profiles.len() > 0 {
        let mut moves = Vec::new();
        for (name, profile) in profiles.by_ref().take(BATCH) {
            let plan = || {
                let (to, profile) = (parse_url(&to.replace(NAME, &name))?, profile?);
                if profile.store == to {
                    moved_before = Some(profile);
                    return Ok(None);
                }
                Move::new(context, &profile.store.clone(), to, Some(profile)).map(Some)
            };
            match plan() {
                Ok(planned) => moves.extend(planned),
                Err(failure) => {
                    context.terminal.count(&name);
                    fail(name, &failure);
                }
            }
        }
        run(&mut moves, migrate).await?;
        for Move { source, target, to, profile, was_empty, outcome, .. } in moves {
            let Some(profile) = profile else { continue };
            match outcome {
                Err(failure) => fail(profile.name, &failure),
                Ok(()) if was_empty => context.terminal.say(&format!(
                    "{}: there was nothing to move in {source}; the profile names {target} now",
                    profile.name
                )),
                Ok(()) => {}
            }
            moved_to = Some(to);
        }
    }
    if let Some(profile) = moved_before.filter(|_| !migrate.dry_run) {
        profile.sync()?; // and all of them with it
    }
    context.terminal.stop_working();
    // Warns once: all targets are of one kind.
    if let Some(to) = moved_to {
        warn_of_plaintext(context, &to);
    }
    if failed.is_empty() {
        return DONE;
    }
    let message = format!("{} of the profiles did not move: {}", failed.len(), failed.join(", "));
    Err(Failure::new(Code::Other, message))
}

/// A move of the tokens of one slot to another slot.
struct Move<'a> {
    context: &'a Context,
    to: StoreUrl,
    source: Arc<dyn TokenStore>,
    target: Arc<dyn TokenStore>,
    /// The profile that will name the target afterwards.
    profile: Option<Profile>,
    /// The next text of the profile.
    text: Option<String>,
    /// Whether an earlier run recorded this move in the profile. If so, that run moved the tokens that are at the
    /// target, and they belong to this session.
    was_begun: bool,
    /// Whether there was nothing to move. The profile is pointed to the target anyway.
    was_empty: bool,
    /// The outcome so far.
    outcome: Result<(), Failure>,
}

impl<'a> Move<'a> {
    fn new(
        context: &'a Context,
        from: &StoreUrl,
        to: StoreUrl,
        profile: Option<Profile>,
    ) -> Result<Self, Failure> {
        let (source, target) = (open(context, from)?, open(context, &to)?);
        let was_begun =
            profile.as_ref().is_none_or(|profile| profile.moving_to.as_ref() == Some(&to));
        Ok(Self {
            context,
            to,
            source,
            target,
            profile,
            text: None,
            was_begun,
            was_empty: false,
            outcome: Ok(()),
        })
    }

    /// Fails if the profile could not name the target afterwards.
    fn check_profile(&self) -> Result<(), Failure> {
        let Some(profile) = &self.profile else { return Ok(()) };
        profile.check_changeable(&self.to, |line| {
            let (from, to) = (for_shell(profile.store.to_text()), for_shell(self.to.to_text()));
            format!("run `tokenkeep migrate --from {from} --to {to}`, then write this line there: {line}")
        })
    }

    fn refuse_same_slot(&self) -> Result<(), Failure> {
        if self.source.slot() == self.target.slot() {
            let (from, to) = (self.source.to_string(), self.target.to_string());
            return Err(TransferError::SameSlot { from, to }.into());
        }
        Ok(())
    }

    fn occupied(&self) -> Failure {
        TransferError::Occupied { place: self.target.to_string() }.into()
    }

    async fn record(&self) -> Result<Record, Failure> {
        let stored = self.source.load_exposed().await?;
        Ok(stored.ok_or_else(|| self.empty())?.record)
    }

    fn empty(&self) -> Failure {
        TransferError::Empty { place: self.source.to_string() }.into()
    }

    /// Says what a move would do. Fails if the move would fail.
    async fn show(&self, is_one_of_all: bool) -> Result<(), Failure> {
        self.refuse_same_slot()?;
        self.check_profile()?;
        refuse_environment(&self.to, &*self.target)?;
        check_key(self.context, &self.to).await?;
        let there = self.target.load().await?;
        let record = match self.record().await {
            Err(failure) if is_one_of_all && failure.is(Code::NoTokens) => {
                if there.is_some() {
                    return Err(self.occupied());
                }
                let name = self.profile.as_ref().map_or("", |profile| &profile.name);
                self.context.terminal.say(&format!(
                    "{name}: would name {}, as there is nothing to move in {}",
                    self.target, self.source
                ));
                return Ok(());
            }
            record => record?,
        };
        if there.is_some_and(|there| there.record.tokens != record.tokens) {
            return Err(self.occupied());
        }
        self.context.terminal.say(&format!("would move from {}\nto {}", self.source, self.target));
        Ok(())
    }

    async fn copy(&self) -> Result<(), Failure> {
        self.refuse_same_slot()?;
        let record = self.record().await?;
        let saved = self.target.save(&record, Precondition::Absent).await;
        let there = self.target.load().await?;
        let is_copy = there.is_some_and(|there| there.record.tokens == record.tokens);
        match saved {
            Ok(_) if is_copy => {}
            Ok(_) => {
                return Err(TransferError::Unverified { place: self.target.to_string() }.into());
            }
            // An earlier run made the copy.
            Err(StoreError::Conflict { .. }) if is_copy => {}
            Err(StoreError::Conflict { .. }) => return Err(self.occupied()),
            Err(error) => return Err(error.into()),
        }
        self.context.terminal.say(
            "both have the tokens now; once one of them refreshes, those in the other are invalid",
        );
        Ok(())
    }

    /// Records the target in the profile before the tokens are moved, for a later run.
    async fn begin(&mut self) -> Result<(), Failure> {
        self.refuse_same_slot()?;
        self.check_profile()?;
        if let Some(profile) = &self.profile
            && self.source.load_exposed().await?.is_some()
        {
            self.text = Some(profile.with_move(&self.to));
        }
        Ok(())
    }

    /// Moves the tokens.
    async fn carry(&mut self) -> Result<(), Failure> {
        let migration = match tokenkeep::migrate(&self.source, &self.target).await {
            Ok(migration) => migration,
            Err(error) => {
                if self.is_where_it_was().await {
                    self.text = self.profile.as_ref().map(Profile::without_move);
                }
                return Err(error.into());
            }
        };
        if !migration.moved && !self.was_begun {
            return Err(self.empty());
        }
        if let Some(warning) = migration.warning {
            self.context.terminal.say(&format!("warning: {warning}"));
        }
        let done = if migration.moved { "moved to" } else { "an earlier run moved the tokens to" };
        self.context.terminal.say(&format!("{done} {}", self.target));
        self.follow();
        Ok(())
    }

    /// Returns whether the tokens are only at the source. Then no move is under way.
    async fn is_where_it_was(&self) -> bool {
        let Ok(Some(here)) = self.source.load_exposed().await else { return false };
        let there = self.target.load_exposed().await;
        there.is_ok_and(|there| there.is_none_or(|there| there.record.tokens != here.record.tokens))
    }

    /// Points the profile to the target if there is nothing to move. With `--all`, no profile is
    /// left behind.
    async fn follow_if_empty(&mut self) -> Result<(), Failure> {
        if self.target.load().await?.is_some() {
            return Err(self.occupied());
        }
        self.was_empty = true;
        self.follow();
        Ok(())
    }

    /// Counts this profile as finished if progress is shown.
    fn count(&self) {
        if let Some(profile) = &self.profile {
            self.context.terminal.count(&profile.name);
        }
    }

    fn follow(&mut self) {
        self.text = self.profile.as_ref().map(|profile| profile.with_store(&self.to));
    }
}

/// Runs all moves. Takes the same steps for one move as for many: a step for many takes the disk
/// little longer than for one.
async fn run(moves: &mut [Move<'_>], migrate: &arguments::Migrate) -> Result<(), Failure> {
    if migrate.dry_run || migrate.keep_source {
        for one in moves {
            one.outcome =
                if migrate.dry_run { one.show(migrate.all).await } else { one.copy().await };
            one.count();
        }
        return Ok(());
    }
    parallel::for_each(moves, async |one| one.outcome = one.begin().await).await?;
    rewrite(moves).await?;
    parallel::for_each(moves, async |one| {
        if one.outcome.is_ok() {
            one.outcome = match one.carry().await {
                Err(failure) if migrate.all && failure.is(Code::NoTokens) => {
                    one.follow_if_empty().await
                }
                carried => carried,
            };
        }
        one.count();
    })
    .await?;
    rewrite(moves).await
}

async fn rewrite(moves: &mut [Move<'_>]) -> Result<(), Failure> {
    let mut all: Vec<_> = moves
        .iter_mut()
        .filter_map(|one| {
            let (profile, text) = one.profile.as_mut().zip(one.text.take())?;
            Some(Rewrite { profile, text, done: &mut one.outcome })
        })
        .collect();
    Profile::rewrite(&mut all).await
}
