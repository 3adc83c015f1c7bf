//! The usual places in which other programs keep tokens.

use std::env;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use tokenkeep::StoreUrl;
use tokenkeep::import::{Format, recognize};
use zeroize::Zeroizing;

/// What a file of AWS with tokens has, and one with a client has not.
const ACCESS_TOKEN: &[u8] = b"accessToken";

/// The most bytes of a file of tokens.
const LARGEST: u64 = 4 << 20;

/// A file or a keychain item that may hold tokens of another program.
pub(super) struct Place {
    pub(super) format: Option<Format>,
    place: Where,
}

#[derive(PartialEq)]
enum Where {
    File(PathBuf),
    /// The service and the account.
    Item(String, String),
}

impl Place {
    /// Returns the URL as the source of a migration. Returns `None` for a path that no URL can name.
    pub(super) fn url(&self, format: Option<Format>) -> Option<StoreUrl> {
        match &self.place {
            Where::File(path) => StoreUrl::import_file(path, format).ok(),
            Where::Item(service, account) => {
                let name = format.map_or("auto", Format::name);
                let escaped = |text: &str| text.replace('%', "%25").replace('/', "%2F");
                let (service, account) = (escaped(service), escaped(account));
                format!("import:{name}:keychain-item:{service}/{account}").parse().ok()
            }
        }
    }

    pub(super) fn is_item(&self) -> bool {
        matches!(self.place, Where::Item(..))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Where::File(path) => path.display().fmt(f),
            Where::Item(service, account) => write!(f, "keychain item {service}/{account}"),
        }
    }
}

/// Returns the usual places. Most do not exist.
pub(super) fn usual() -> Vec<Place> {
    let mut places = Places { found: Vec::new() };
    let home = env::home_dir().filter(|home| home.is_absolute());
    let in_home = |path: &str| home.as_ref().map(|home| home.join(path));
    let config = directory("XDG_CONFIG_HOME").or_else(|| in_home(".config"));
    let in_config = |path: &str| config.as_ref().map(|config| config.join(path));
    let roaming = directory("APPDATA");
    let in_roaming = |path: &str| roaming.as_ref().map(|roaming| roaming.join(path));

    let codex = directory("CODEX_HOME").or_else(|| in_home(".codex"));
    places.file(Format::Codex, codex.as_ref().map(|codex| codex.join("auth.json")));
    places.file(Format::Codex, codex.map(|codex| codex.join(".credentials.json")));
    let claude = directory("CLAUDE_CONFIG_DIR").or_else(|| in_home(".claude"));
    places.file(Format::ClaudeCode, claude.map(|claude| claude.join(".credentials.json")));
    if cfg!(target_os = "macos")
        && let Ok(user) = env::var("USER")
    {
        places.item(Format::ClaudeCode, "Claude Code-credentials".into(), user);
    }
    places.all_of(Format::AwsSso, in_home(".aws/sso/cache").as_ref());
    places.file(Format::Google, directory("GOOGLE_APPLICATION_CREDENTIALS"));
    let gcloud = directory("CLOUDSDK_CONFIG").or_else(|| in_config("gcloud"));
    for gcloud in [gcloud, in_roaming("gcloud")].into_iter().flatten() {
        places.file(Format::Google, Some(gcloud.join("application_default_credentials.json")));
    }
    places.file(Format::Rclone, directory("RCLONE_CONFIG"));
    places.file(Format::Rclone, in_config("rclone/rclone.conf"));
    places.file(Format::Rclone, in_home(".rclone.conf"));
    places.file(Format::Rclone, in_roaming("rclone/rclone.conf"));
    let gh = directory("GH_CONFIG_DIR").or_else(|| in_config("gh"));
    for gh in [gh, in_roaming("GitHub CLI")].into_iter().flatten() {
        let hosts = gh.join("hosts.yml");
        for (host, user) in users_of_gh(&hosts) {
            places.item(Format::Gh, format!("gh:{host}"), user);
        }
        places.file(Format::Gh, Some(hosts));
    }
    let docker = directory("DOCKER_CONFIG").or_else(|| in_home(".docker"));
    places.file(Format::Docker, docker.map(|docker| docker.join("config.json")));
    let runtime = directory("XDG_RUNTIME_DIR").map(|runtime| runtime.join("containers/auth.json"));
    places.file(Format::Docker, runtime);
    places.file(Format::Docker, in_config("containers/auth.json"));
    let azure = directory("AZURE_CONFIG_DIR").or_else(|| in_home(".azure"));
    places.file(Format::Msal, azure.map(|azure| azure.join("msal_token_cache.json")));
    places.all_of(Format::Kubelogin, in_home(".kube/cache/oidc-login").as_ref());
    // Libraries keep tokens where the program is started.
    let here = env::current_dir().ok();
    for name in [".cache", "token.json", "tokens.json", "tokencache.json", "credentials.json"] {
        places.any(here.as_ref().map(|here| here.join(name)));
    }
    for path in entries(here.as_deref()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(".cache-") {
            places.any(Some(path.clone()));
        }
    }
    places.found
}

struct Places {
    found: Vec<Place>,
}

impl Places {
    /// Adds a file of this form. One of these programs may have a file there without tokens.
    fn file(&mut self, format: Format, path: Option<PathBuf>) {
        let may_have_tokens = |path: &PathBuf| {
            content(path).is_none_or(|content| recognize(&content) == Some(format))
        };
        self.add(Some(format), path.filter(may_have_tokens));
    }

    /// Adds a file whose content tells the form. A file of another kind is no fault there.
    fn any(&mut self, path: Option<PathBuf>) {
        let is_one = |path: &PathBuf| content(path).is_some_and(|it| recognize(&it).is_some());
        self.add(None, path.filter(is_one));
    }

    /// Adds each file of a directory that has this form. It may hold files of other forms too.
    fn all_of(&mut self, format: Format, directory: Option<&PathBuf>) {
        for path in entries(directory.map(PathBuf::as_path)) {
            let Some(bytes) = content(&path) else { continue };
            // AWS keeps the registrations of clients there too, which are no tokens.
            let has_tokens = format != Format::AwsSso
                || bytes.windows(ACCESS_TOKEN.len()).any(|part| part == ACCESS_TOKEN);
            if has_tokens && recognize(&bytes) == Some(format) {
                self.add(Some(format), Some(path));
            }
        }
    }

    fn item(&mut self, format: Format, service: String, account: String) {
        self.push(Some(format), Where::Item(service, account));
    }

    fn push(&mut self, format: Option<Format>, place: Where) {
        if !self.found.iter().any(|other| other.place == place) {
            self.found.push(Place { format, place });
        }
    }

    fn add(&mut self, format: Option<Format>, path: Option<PathBuf>) {
        if let Some(path) = path
            && path.exists()
        {
            self.push(format, Where::File(path));
        }
    }
}

/// Returns each host and user of whom gh keeps the token in the keychain: they are in its file, without a token.
fn users_of_gh(hosts: &Path) -> Vec<(String, String)> {
    let content = content(hosts).unwrap_or_default();
    let text = str::from_utf8(&content).unwrap_or_default();
    if text.contains("oauth_token:") {
        return Vec::new();
    }
    let (mut host, mut found) = (None, Vec::new());
    for line in text.lines() {
        let Some((name, value)) = line.split_once(':') else { continue };
        if !name.starts_with(' ') {
            host = Some(name.to_owned());
        } else if let (Some(host), "user") = (&host, name.trim()) {
            found.push((host.clone(), value.trim().trim_matches(['"', '\'']).to_owned()));
        }
    }
    found
}

/// Returns the content of a file that may be one of tokens. Any other is larger, or no file.
fn content(path: &Path) -> Option<Zeroizing<Vec<u8>>> {
    let metadata = path.metadata().ok()?;
    if !metadata.is_file() || metadata.len() > LARGEST {
        return None;
    }
    fs::read(path).ok().map(Zeroizing::new)
}

/// Returns the files of a directory, sorted by name.
fn entries(directory: Option<&Path>) -> Vec<PathBuf> {
    let entries = directory.and_then(|directory| fs::read_dir(directory).ok());
    let mut paths: Vec<_> =
        entries.into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort_unstable();
    paths
}

/// Returns the path in a variable, if it is absolute.
fn directory(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute())
}
