//! Scenes: a command and its files. A scene can be set up, run, interrupted, run again, and checked.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use tempfile::TempDir;
use tokenkeep::secrecy::SecretString;
use tokenkeep::store::Precondition;
use tokenkeep::stores::AgeFileStore;
use tokenkeep::{AgeKey, AuthTokens, StoreError, StoreUrl, TokenStore};

use crate::session::Session;
use crate::support::scratch;
use crate::token_server::TokenServer;

/// An expiry in the past. Such tokens must be refreshed before they are used.
pub(crate) const LONG_AGO: &str = "2020-01-01T00:00:00Z";

pub(crate) const OLD: &str = r#"{"access_token":"canary-old","refresh_token":"canary-refresh-old","expires_at":"2099-01-01T00:00:00Z"}"#;
pub(crate) const NEW: &str = r#"{"access_token":"canary-new","refresh_token":"canary-refresh-new","expires_at":"2099-01-01T00:00:00Z"}"#;

/// A command, the directory that it runs in, and what must be true at any moment.
pub(crate) struct Scene {
    pub(crate) name: &'static str,
    /// Contains `live`, where the command runs, and `template`, the state before it runs.
    directory: TempDir,
    line: String,
    input: &'static str,
    looks: Vec<Look>,
    holds: Holds,
    done: &'static [&'static str],
    done_already: i32,
    pub(crate) server: Option<TokenServer>,
    session: Option<Session>,
}

/// The item that holds the key of `keychain:axiomtrade/alice`.
const ITEM: [&str; 4] = ["service", "tokenkeep:axiomtrade", "username", "alice"];

type Holds = fn(&[&str]) -> bool;

/// Something that is checked.
enum Look {
    Item,
    Key(PathBuf),
    Profile(&'static str),
    Store(String),
}

/// The result of a command.
#[derive(Debug)]
pub(crate) struct Done {
    /// `None` if it was killed.
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Scene {
    /// Prepares a scene with these steps: command lines, and their input. In all lines, `@` stands for the
    /// directory of the scene, and `RECIPIENT` for the recipient in `@/other/key.txt`.
    pub(crate) fn new(name: &'static str, steps: &[(&str, &str)]) -> Self {
        Self::set_up(name, steps, None, None)
    }

    /// Prepares a scene with a keychain.
    pub(crate) fn with_keychain(name: &'static str, steps: &[(&str, &str)]) -> Self {
        Self::set_up(name, steps, None, Some(Session::with_keychain()))
    }

    /// Prepares a scene with a provider. The profile `default` has an expired token of this provider.
    pub(crate) fn with_provider(name: &'static str, steps: &[(&str, &str)]) -> Self {
        Self::set_up(name, steps, Some(TokenServer::start()), None)
    }

    fn set_up(
        name: &'static str,
        steps: &[(&str, &str)],
        server: Option<TokenServer>,
        session: Option<Session>,
    ) -> Self {
        let scene = Self {
            name,
            directory: scratch(),
            line: String::new(),
            input: "",
            looks: Vec::new(),
            holds: |_| true,
            done: &[],
            done_already: 0,
            server,
            session,
        };
        make_directory(&scene.root());
        for (line, input) in steps {
            let done = scene.play_another(line, input);
            assert_eq!(done.code, Some(0), "{name}: {line}: {done:?}");
        }
        fs::write(scene.aside("item"), scene.key_in_the_keychain()).unwrap();
        if let Some(server) = &scene.server {
            let mut profile = fs::OpenOptions::new();
            let path = scene.root().join("config/profiles/default.toml");
            let mut profile = profile.append(true).open(path).unwrap();
            let url = server.token_url();
            write!(profile, "[oauth2]\ntoken_url = \"{url}\"\nclient_id = \"app\"\n").unwrap();
        }
        fs::rename(scene.root(), scene.directory.path().join("template")).unwrap();
        scene
    }

    /// Sets the command of the scene, and its input.
    pub(crate) fn run(mut self, line: &str, input: &'static str) -> Self {
        self.fresh();
        (self.line, self.input) = (line.to_owned(), input);
        self
    }

    /// Adds a file that exists before the command runs.
    pub(crate) fn left(self, path: &str) -> Self {
        let path = self.aside("template").join(path);
        fs::write(&path, OLD).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        self
    }

    pub(crate) fn store(mut self, url: &str) -> Self {
        self.looks.push(Look::Store(self.resolve(url)));
        self
    }

    pub(crate) fn profile(mut self, name: &'static str) -> Self {
        self.looks.push(Look::Profile(name));
        self
    }

    pub(crate) fn key(mut self, path: &str) -> Self {
        self.looks.push(Look::Key(self.resolve(path).into()));
        self
    }

    /// Also checks the key in the keychain.
    pub(crate) fn item(mut self) -> Self {
        self.looks.push(Look::Item);
        self
    }

    /// `holds` must be true at any moment. `done` is the state after the command.
    pub(crate) fn holds(mut self, holds: Holds, done: &'static [&'static str]) -> Self {
        (self.holds, self.done) = (holds, done);
        self
    }

    /// The exit code of the command if everything is done already.
    pub(crate) fn done_already(mut self, code: i32) -> Self {
        self.done_already = code;
        self
    }

    /// The directory in which the command runs.
    pub(crate) fn root(&self) -> PathBuf {
        self.directory.path().join("live")
    }

    /// A path outside of the scene.
    pub(crate) fn aside(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Sets the scene up again. If there is a provider, its tokens can be refreshed once.
    pub(crate) fn fresh(&self) {
        if self.root().exists() {
            fs::remove_dir_all(self.root()).unwrap();
        }
        if let Some(session) = &self.session {
            session.output("secret-tool", &[&["clear"], &ITEM[..]].concat());
            let key = fs::read_to_string(self.aside("item")).unwrap();
            if !key.is_empty() {
                let mut store = session.command("secret-tool");
                store.args(["store", "--label=a key"]).args(ITEM);
                assert_eq!(self.play(store, &key).code, Some(0));
            }
        }
        copy_tree(&self.aside("template"), &self.root());
        if self.server.is_some() {
            self.issue(LONG_AGO);
        }
    }

    /// Saves tokens of the provider in the profile `default`. From then on, they count as "old". They can be
    /// refreshed once.
    pub(crate) fn issue(&self, expires_at: &str) {
        let (access, refresh) = self.server.as_ref().expect("it has a provider").issue();
        let record = format!(
            r#"{{"access_token":"{access}","refresh_token":"{refresh}","expires_at":"{expires_at}"}}"#
        );
        let tokens = AuthTokens::from_text(record.as_bytes(), "a test").unwrap();
        let store = self.store_of("default").unwrap().open().unwrap();
        block_on(store.save(&tokens.into(), Precondition::Anything)).unwrap();
        fs::write(self.aside("issued"), access).unwrap();
    }

    /// The arguments of the command.
    pub(crate) fn arguments(&self) -> Vec<String> {
        self.words(&self.line)
    }

    /// Runs `command`, which wraps the command of the scene, with its input.
    pub(crate) fn play_in(&self, command: Command) -> Done {
        self.play(command, self.input)
    }

    /// Runs the command of the scene.
    pub(crate) fn play_plainly(&self) -> Done {
        self.play_in(self.command(&self.arguments()))
    }

    /// Runs another command in the same scene.
    pub(crate) fn play_another(&self, line: &str, input: &str) -> Done {
        self.play(self.command(&self.words(line)), input)
    }

    /// Returns a program with the environment of this scene.
    pub(crate) fn program(&self, program: &str) -> Command {
        let root = self.root();
        let mut command = match &self.session {
            Some(session) => session.command(program),
            None => Command::new(program),
        };
        if self.session.is_none() {
            let bus = format!("unix:path={}", self.aside("none").display());
            command.env("DBUS_SESSION_BUS_ADDRESS", bus).env("XDG_RUNTIME_DIR", &root);
            command.env("HOME", &root);
        }
        for variable in ["TOKENKEEP_PASSPHRASE", "TOKENKEEP_PROFILE", "TOKENKEEP_STORE"] {
            command.env_remove(variable);
        }
        // Not in the scene: files that the loader looks up here are not part of it.
        command.current_dir(self.directory.path());
        command.env("TOKENKEEP_CONFIG_DIR", root.join("config"));
        command.env("XDG_STATE_HOME", root.join("state"));
        command
    }

    /// Returns the state of all stores, profiles and keys that are checked.
    pub(crate) fn look(&self) -> Vec<String> {
        self.looks.iter().map(|look| self.look_at(look)).collect()
    }

    /// Reports whether this state is allowed at any moment.
    pub(crate) fn may_be(&self, found: &[String]) -> bool {
        (self.holds)(&found.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Reports whether this is the state after the command.
    pub(crate) fn is_done(&self, found: &[String]) -> bool {
        found == self.done
    }

    /// Runs the command again after an interruption. Returns what is wrong afterwards.
    pub(crate) fn complete(&self) -> Vec<String> {
        let was_done = self.is_done(&self.look());
        let asked = self.server.as_ref().map(|server| (server.calls(), self.has_spent(server)));
        let again = self.play_plainly();
        if let Some((_, true)) = asked {
            return self.complete_with_a_spent_token(&again);
        }
        let mut wrong = Vec::new();
        let as_expected =
            again.code == Some(0) || (was_done && again.code == Some(self.done_already));
        if !as_expected {
            wrong.push(format!("again: {again:?}"));
        }
        let found = self.look();
        if !self.is_done(&found) {
            wrong.push(format!("again: {found:?}"));
        }
        wrong.extend(self.litter().into_iter().map(|path| format!("again: left {path}")));
        wrong
    }

    /// Reports whether the server has received the refresh token that is saved.
    fn has_spent(&self, server: &TokenServer) -> bool {
        let kept = self.store_of("default").unwrap().open().unwrap();
        let kept = block_on(kept.load()).unwrap().unwrap().record.tokens.refresh_token.unwrap();
        server.received().contains(&kept.expose_secret().to_owned())
    }

    /// Checks that the command reports the spent token, and that a new sign-in fixes this.
    fn complete_with_a_spent_token(&self, again: &Done) -> Vec<String> {
        let mut wrong = Vec::new();
        let said = "the refresh token may have been spent by an unfinished refresh at 20";
        if again.code != Some(8) || !again.err.contains(said) {
            wrong.push(format!("again: {again:?}"));
        }
        let (access, refresh) = self.server.as_ref().unwrap().issue();
        let record = format!(r#"{{"access_token":"{access}","refresh_token":"{refresh}"}}"#);
        for done in [self.play_another("set", &record), self.play_plainly()] {
            if done.code != Some(0) {
                wrong.push(format!("after a new sign-in: {done:?}"));
            }
        }
        wrong.extend(self.litter().into_iter().map(|path| format!("signed in: left {path}")));
        wrong
    }

    /// Returns the temporary files of saves and refreshes.
    pub(crate) fn litter(&self) -> Vec<String> {
        let is_litter = |path: &PathBuf| {
            let name = path.file_name().unwrap().to_str().unwrap();
            let ending = Path::new(name).extension().and_then(|ending| ending.to_str());
            ending.is_some_and(|it| ["intent", "next", "tmp"].contains(&it))
                || name.starts_with(".tmp")
        };
        let found = files(&self.root()).into_iter().filter(is_litter);
        found.map(|path| path.display().to_string()).collect()
    }

    /// Returns the files that other users can access.
    pub(crate) fn exposed(&self) -> Vec<String> {
        let is_exposed = |path: &PathBuf| path.metadata().unwrap().permissions().mode() & 0o077;
        let found = files(&self.root()).into_iter().filter(|path| is_exposed(path) != 0);
        found.map(|path| path.display().to_string()).collect()
    }

    fn look_at(&self, look: &Look) -> String {
        match look {
            Look::Item if self.key_in_the_keychain().is_empty() => "no item".into(),
            Look::Item => "item".into(),
            Look::Key(path) if !path.exists() => "none".into(),
            Look::Key(path) => match block_on(AgeKey::identity_file(path).recipients()) {
                Ok(_) => "key".into(),
                Err(error) => error.to_string(),
            },
            Look::Profile(name) => match self.store_of(name) {
                Some(url) => self.look_into(&url),
                None => "no profile".into(),
            },
            Look::Store(url) => self.look_into(&url.parse().unwrap()),
        }
    }

    fn look_into(&self, url: &StoreUrl) -> String {
        let store: Arc<dyn TokenStore> = if url.uses_keychain() {
            // The keychain belongs to another session, so the store cannot be opened here.
            let key = self.key_in_the_keychain();
            let read = move || Ok(SecretString::from(key.clone()));
            let record = self.root().join("state/tokenkeep/axiomtrade/alice.age");
            Arc::new(AgeFileStore::new(record, AgeKey::custom("the item", read)))
        } else {
            url.open().unwrap()
        };
        match block_on(store.load()) {
            Ok(None) => "none".into(),
            Ok(Some(stored)) => {
                let access = stored.record.tokens.access_token.expose_secret().to_owned();
                let issued = fs::read_to_string(self.aside("issued")).ok();
                let name = match (issued, access.strip_prefix("canary-")) {
                    (Some(issued), _) if issued == access => "old",
                    (Some(_), _) => "new",
                    (None, name) => name.unwrap_or(&access),
                };
                let copy = if stored.record.tokens.is_backup() { "copy of " } else { "" };
                format!("{copy}{name}")
            }
            Err(StoreError::Undecryptable { .. }) => "sealed to others".into(),
            Err(error) => error.to_string(),
        }
    }

    /// Returns the key in the keychain, or an empty string.
    fn key_in_the_keychain(&self) -> String {
        let lookup = [&["lookup"], &ITEM[..]].concat();
        self.session
            .as_ref()
            .map_or_else(String::new, |session| session.output("secret-tool", &lookup))
    }

    /// Returns the store that a profile names.
    pub(crate) fn store_of(&self, profile: &str) -> Option<StoreUrl> {
        let path = self.root().join(format!("config/profiles/{profile}.toml"));
        let text = fs::read_to_string(path).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("store = \""));
        Some(line.expect("a whole profile").trim_end_matches('"').parse().unwrap())
    }

    fn command(&self, arguments: &[String]) -> Command {
        let mut command = self.program(env!("CARGO_BIN_EXE_tokenkeep"));
        command.args(arguments);
        command
    }

    #[expect(clippy::unused_self, reason = "the scene plays it")]
    fn play(&self, mut command: Command, input: &str) -> Done {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // The program may exit before it has read all input.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        let [out, err] =
            [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        Done { code: output.status.code(), out, err }
    }

    fn words(&self, line: &str) -> Vec<String> {
        line.split(' ').map(|word| self.resolve(word)).collect()
    }

    fn resolve(&self, text: &str) -> String {
        let root = self.root();
        let mut text = text.replace('@', root.to_str().unwrap());
        if text.contains("RECIPIENT") {
            let key = fs::read_to_string(root.join("other/key.txt")).unwrap();
            let recipient = key.lines().find_map(|line| line.strip_prefix("# public key: "));
            text = text.replace("RECIPIENT", recipient.unwrap());
        }
        text
    }
}

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// Returns all files and directories below this one.
fn files(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        }
        found.push(path);
    }
    found
}

fn make_directory(path: &Path) {
    fs::create_dir(path).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).unwrap();
}

fn copy_tree(from: &Path, to: &Path) {
    make_directory(to);
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), &to).unwrap();
        }
    }
}
