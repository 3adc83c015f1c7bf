//! profile remove: removes a profile and everything that belongs to it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokenkeep::private_file::LockFile;
use tokenkeep::secrecy::ExposeSecret;
use tokenkeep::store::Precondition;
use tokenkeep::{StoreError, StoreUrl, TokenStore};

use super::clear::{copy_of, not_cleared};
use crate::arguments::Remove;
use crate::context::Context;
use crate::failure::{Code, DONE, Failure, Outcome};
use crate::profile::{Profile, key_of};
use crate::target::{open_without_asking, private_file};
use crate::terminal::Terminal;

/// Finds everything that prevents the removal first. Then removes what belongs to the profile, and
/// its file last: until the file is gone, it tells the next run what is left.
pub(super) async fn remove(context: &Context, remove: &Remove) -> Outcome {
    if context.selection.is_given() {
        return Err(Failure::usage(
            "another profile or store is named besides the one to remove; leave it out",
        ));
    }
    let (directory, profile) = Profile::load_to_remove(&remove.name)?;
    refuse_shared(&profile, remove.keep_key)?;
    let mut belongings = vec![Belongings::of(context, &profile.store, remove.keep_key)?];
    refuse_if_on_server(context, &profile).await?;
    // The copy that a cut-off migration left, if it belongs to this profile.
    let source = belongings[0].store.clone();
    if let Some(to) = &profile.moving_to {
        let copy = copy_of(&*source, open_without_asking(context, to)?).await?;
        let mut target = Belongings::of(context, to, remove.keep_key)?;
        if same_key(to, &profile.store).is_some() {
            target.key = Key::None;
        }
        if copy.is_some() || target.store.load_exposed().await?.is_none() {
            // The target comes first: if this is interrupted after a logout, the profile would no
            // longer name it.
            belongings.insert(0, target);
        }
    }
    for one in &belongings {
        one.refuse_if_busy()?;
    }
    let mut foreign = Vec::new();
    for one in &belongings {
        one.empty().await?;
        foreign.extend(one.remove_files()?);
    }
    profile.remove(&directory)?;
    let terminal = &context.terminal;
    terminal.say(&format!("removed the profile {}", profile.name));
    for one in &belongings {
        one.say_what_became_of_it(terminal).await;
    }
    for path in foreign {
        terminal.say(&format!("{} stays: it is not a lock of tokenkeep", path.display()));
    }
    say_what_an_earlier_store_left(&profile, &belongings, terminal)
}

/// Names the key that `init` made for the profile, if the profile no longer names it. Old backups may
/// be sealed to it, so it is not deleted.
fn say_what_an_earlier_store_left(
    profile: &Profile,
    belongings: &[Belongings],
    terminal: &Terminal,
) -> Outcome {
    let key = key_of(&profile.name)?;
    let is_named =
        |one: &Belongings| one.url.identity_path().is_some_and(|it| is_same_file(it, &key));
    if key.symlink_metadata().is_ok() && !belongings.iter().any(is_named) {
        terminal.say(&format!(
            "the key {} stays: an earlier store of this profile was sealed to it; delete it if nothing \
             else needs it",
            key.display()
        ));
    }
    DONE
}

/// The tokens, the key and the store that one URL names.
struct Belongings {
    url: StoreUrl,
    store: Arc<dyn TokenStore>,
    key: Key,
}

/// What happens to a key.
enum Key {
    /// There is no key, or the store removes it with the record.
    None,
    /// An earlier run removed it. Its lock may still be there.
    Gone(PathBuf),
    Removed(PathBuf),
    Kept {
        place: String,
        reason: &'static str,
    },
}

impl Belongings {
    fn of(context: &Context, url: &StoreUrl, keep_key: bool) -> Result<Self, Failure> {
        let kept = |place: String, reason| Key::Kept { place, reason };
        let key = match (url.identity_path(), named_key(url)) {
            (Some(path), _) if keep_key => kept(path.display().to_string(), "--keep-key says so"),
            (Some(path), _) if is_absent(path)? => Key::Gone(path.to_owned()),
            (Some(path), _) => match why_it_stays(url, path)? {
                Some(reason) => kept(path.display().to_string(), reason),
                None => Key::Removed(path.to_owned()),
            },
            (None, Some(name)) => kept(name, "other records may be sealed to it"),
            (None, None) => Key::None,
        };
        Ok(Self { url: url.clone(), store: open_without_asking(context, url)?, key })
    }

    /// Returns whether the store keeps tokens that this profile may remove.
    fn is_kept(&self) -> bool {
        self.url.env_prefix().is_none() && !self.url.is_memory() && !self.url.is_shared()
    }

    /// Returns the locks beside the record, and beside its item in the keychain.
    fn locks(&self) -> Vec<PathBuf> {
        let with = |path: &Path, suffixes: &[&str]| -> Vec<PathBuf> {
            let suffixed = suffixes.iter().map(|suffix| {
                let mut name = path.as_os_str().to_owned();
                name.push(suffix);
                PathBuf::from(name)
            });
            suffixed.collect()
        };
        let beside = |path: &Path, suffixes: &[&str]| with(&path.with_extension(""), suffixes);
        if let Some(path) = self.url.path() {
            let mut locks = with(&path, &[".lease", ".lock"]);
            if self.url.to_text().starts_with("keychain:") {
                locks.extend(beside(&path, &[".key.lock"]));
            }
            return locks;
        }
        // These locks are where those of a keychain record of the same name would be.
        let text = self.url.to_text();
        let item = text.strip_prefix("keychain-item:").map(|item| format!("keychain:{item}"));
        let record = item.and_then(|item| item.parse::<StoreUrl>().ok()?.path());
        record.map_or_else(Vec::new, |path| beside(&path, &[".item.lease", ".item.lock"]))
    }

    /// Fails if a process refreshes these tokens: the new tokens must not be lost.
    fn refuse_if_busy(&self) -> Result<(), Failure> {
        self.locks().iter().try_for_each(|lock| self.open(lock).map(drop))
    }

    /// Takes a lock if it exists and is one of ours. Fails if another process holds it.
    fn open(&self, path: &Path) -> Result<LockFile, Failure> {
        match LockFile::open(path, self.url.trusted_group())? {
            LockFile::Busy => Err(Failure::new(
                Code::Conflict,
                format!(
                    "another process is at work there and holds {}; repeat this when it has ended",
                    path.display()
                ),
            )),
            lock => Ok(lock),
        }
    }

    async fn empty(&self) -> Result<(), Failure> {
        if !self.is_kept() {
            return Ok(());
        }
        match self.store.clear(Precondition::Anything).await {
            Ok(()) => Ok(()),
            Err(error) => Err(not_cleared(&*self.store, &self.url, error.into()).await),
        }
    }

    /// Removes the locks and the key. Returns the files that are no locks of ours, but have their names.
    fn remove_files(&self) -> Result<Vec<PathBuf>, Failure> {
        let done = "the tokens are removed, so run this again after that";
        let remove = |path: &Path| {
            let removed = private_file(&self.url, path).remove();
            removed.map_err(|error| Failure::from(error).within(done))
        };
        let mut locks = self.locks();
        if let Key::Gone(path) | Key::Removed(path) = &self.key {
            let mut lock = path.as_os_str().to_owned();
            lock.push(".lock");
            locks.push(lock.into());
        }
        if let Key::Removed(path) = &self.key {
            remove(path)?;
        }
        let mut foreign = Vec::new();
        for lock in locks {
            // Removed under the lock: a process that holds the lock is still at work.
            match self.open(&lock).map_err(|failure| failure.within(done))? {
                LockFile::Free(held) => {
                    held.remove().map_err(|error| Failure::from(error).within(done))?;
                }
                LockFile::Foreign => foreign.push(lock),
                LockFile::Absent | LockFile::Busy => {}
            }
        }
        Ok(foreign)
    }

    async fn say_what_became_of_it(&self, terminal: &Terminal) {
        if self.is_kept() {
            terminal.say(&format!("there are no tokens any more in {}", self.store));
        } else if self.url.env_prefix().is_some() && matches!(self.store.load().await, Ok(Some(_)))
        {
            terminal
                .say(&format!("{} stay as they are; unset them where they are set", self.store));
        }
        match &self.key {
            Key::None | Key::Gone(_) => {}
            Key::Removed(path) => terminal.say(&format!("the key {} is deleted", path.display())),
            Key::Kept { place, reason } => terminal.say(&format!(
                "the key {place} stays, because {reason}; delete it if nothing else needs it"
            )),
        }
    }
}

/// Fails if another profile has the same tokens or the same key.
fn refuse_shared(profile: &Profile, keep_key: bool) -> Result<(), Failure> {
    let urls = |profile: &Profile| -> Vec<StoreUrl> {
        [Some(&profile.store), profile.moving_to.as_ref()].into_iter().flatten().cloned().collect()
    };
    let ours = urls(profile);
    for (name, other) in Profile::all()?.into_iter().filter(|(name, _)| *name != profile.name) {
        let other = other.map_err(|failure| {
            failure
                .within(&format!("the profile {name} may have the same tokens or the same key"))
                .followed_by("if that profile is not needed, delete its file")
        })?;
        for (ours, theirs) in
            ours.iter().flat_map(|ours| urls(&other).into_iter().map(move |it| (ours, it)))
        {
            if is_same_slot(ours, &theirs) {
                let path = profile.path.display();
                return Err(Failure::new(
                    Code::Conflict,
                    format!(
                        "the profile {name} has the same tokens, in {theirs}; to remove this name alone, delete {path}"
                    ),
                ));
            }
            if !keep_key && let Some(key) = same_key(ours, &theirs) {
                return Err(Failure::new(
                    Code::Conflict,
                    format!(
                        "the profile {name} has the same key, {key}; --keep-key leaves it there"
                    ),
                ));
            }
        }
    }
    Ok(())
}

/// Fails if a server holds the tokens: other machines, unknown here, may use them.
async fn refuse_if_on_server(context: &Context, profile: &Profile) -> Result<(), Failure> {
    let path = profile.path.display();
    for url in [Some(&profile.store), profile.moving_to.as_ref()].into_iter().flatten() {
        if !url.is_shared() {
            continue;
        }
        let alone = format!("to remove this name alone, delete {path}");
        match open_without_asking(context, url)?.load().await {
            Ok(None) => {}
            Ok(Some(_)) => {
                return Err(Failure::new(
                    Code::Conflict,
                    format!(
                        "{url} holds tokens that other machines may use; if none does, run `tokenkeep clear \
                         --profile {}` first; {alone}",
                        profile.name
                    ),
                ));
            }
            Err(error) => return Err(Failure::from(error).followed_by(&alone)),
        }
    }
    Ok(())
}

/// Returns the name of the key if both URLs have the same one.
fn same_key(one: &StoreUrl, other: &StoreUrl) -> Option<String> {
    match (one.identity_path(), other.identity_path()) {
        (Some(one), Some(other)) => is_same_file(one, other).then(|| one.display().to_string()),
        _ => named_key(one).filter(|key| named_key(other).as_ref() == Some(key)),
    }
}

fn is_same_slot(one: &StoreUrl, other: &StoreUrl) -> bool {
    if let (Some(one), Some(other)) = (one.path(), other.path()) {
        return is_same_file(&one, &other);
    }
    let slot = |url: &StoreUrl| {
        let is_kept = url.env_prefix().is_none() && !url.is_memory();
        is_kept.then(|| url.open().map_or_else(|_| url.to_string(), |store| store.slot()))
    };
    slot(one).is_some_and(|slot_of_one| slot(other) == Some(slot_of_one))
}

/// Returns whether two paths lead to one file, however they are spelled.
fn is_same_file(one: &Path, other: &Path) -> bool {
    is_one_inode(one, other) || resolved(one) == resolved(other)
}

#[cfg(unix)]
fn is_one_inode(one: &Path, other: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;

    let inode = |path: &Path| path.metadata().ok().map(|found| (found.dev(), found.ino()));
    inode(one).is_some_and(|inode_of_one| inode(other) == Some(inode_of_one))
}

#[cfg(not(unix))]
fn is_one_inode(_one: &Path, _other: &Path) -> bool {
    false
}

/// Returns the path without links and `..`, as far as it exists.
fn resolved(path: &Path) -> PathBuf {
    let there = path.ancestors().find_map(|above| Some((above, above.canonicalize().ok()?)));
    let Some((above, canonical)) = there else { return path.to_owned() };
    match path.strip_prefix(above) {
        // Joining an empty path would add a slash.
        Ok(rest) if !rest.as_os_str().is_empty() => canonical.join(rest),
        _ => canonical,
    }
}

/// Returns the name of a key that has no file of its own, as the URL gives it.
fn named_key(url: &StoreUrl) -> Option<String> {
    let text = url.to_text();
    let mut options = text.split_once('?')?.1.split('&');
    let key = options.find_map(|option| option.strip_prefix("identity="))?;
    url.identity_path().is_none().then(|| key.to_owned())
}

fn is_absent(path: &Path) -> Result<bool, Failure> {
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(Failure::io("read", path, &error)),
        Ok(_) => Ok(false),
    }
}

/// Returns why an identity file may be the key of more than one profile, if it may.
fn why_it_stays(url: &StoreUrl, path: &Path) -> Result<Option<&'static str>, Failure> {
    const SEALED: [&[u8]; 2] = [b"age-encryption.org/", b"-----BEGIN AGE ENCRYPTED FILE"];

    let found = path.symlink_metadata().map_err(|error| Failure::io("read", path, &error))?;
    if found.is_symlink() {
        return Ok(Some("it is a link"));
    }
    let text = match private_file(url, path).read() {
        Ok(Some(text)) => text,
        Ok(None) => return Ok(None),
        Err(StoreError::NotAFile { .. } | StoreError::TooLarge { .. }) => {
            return Ok(Some("it is not an identity file"));
        }
        Err(StoreError::Exposed { .. }) => return Ok(Some("others have access to it")),
        Err(error) => return Err(error.into()),
    };
    #[expect(clippy::disallowed_methods, reason = "only its form is looked at")]
    let text = text.expose_secret();
    if SEALED.iter().any(|start| text.starts_with(start)) {
        return Ok(None);
    }
    let lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with(b"#"));
    let is_key = |line: &[u8]| line.starts_with(b"AGE-SECRET-KEY-");
    Ok(match lines.map(is_key).collect::<Vec<_>>()[..] {
        [true] => None,
        [true, ..] => Some("it holds several keys"),
        _ => Some("it is not an identity file"),
    })
}
