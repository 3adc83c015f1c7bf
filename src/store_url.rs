//! Store URLs: one line that names a store, for configuration files and command lines.

#[cfg(feature = "keychain")]
mod default;
#[cfg(feature = "import")]
mod foreign;
mod open;
mod parse;
#[cfg(test)]
mod tests;

use std::fmt::{self, Write as _};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use secrecy::SecretString;

#[cfg(feature = "keychain")]
pub use self::default::{DefaultStore, DefaultStoreOptions, StoreChoice, open_default};
use crate::error::StoreError;
#[cfg(feature = "age")]
use crate::key::AgeKey;
use crate::printable::is_hidden;
use crate::store::TokenStore;
#[cfg(feature = "keychain")]
use crate::stores::KeychainStore;
#[cfg(feature = "keychain")]
pub use crate::sys::directories::{config_directory, state_directory};

/// A store, named by a URL.
///
/// | URL | store |
/// |---|---|
/// | `keychain:SERVICE/ACCOUNT` | [`KeychainStore`] |
/// | `import:FORMAT:PATH`, with `?account=NAME` if there are several | `ImportStore` (feature `import`) |
/// | `keychain-item:SERVICE/ACCOUNT` | [`KeychainItemStore`](crate::stores::KeychainItemStore) |
/// | `age:PATH?identity=KEY` | [`AgeFileStore`](crate::stores::AgeFileStore) |
/// | `plaintext:PATH` | [`PlaintextStore`](crate::stores::PlaintextStore) |
/// | `memory:` | [`MemoryStore`](crate::stores::MemoryStore) |
/// | `env:PREFIX` | [`EnvStore`](crate::stores::EnvStore) |
/// | `postgres://USER@HOST:PORT/DATABASE?slot=NAME&identity=KEY` | `PostgresStore` (feature `postgres`) |
/// | `s3://BUCKET/OBJECT?identity=KEY`, and the same with `gs:` and `az:` | `BucketStore` (feature `object-store`) |
///
/// - `KEY` is the path of an identity file, `credential:NAME` for a file in `$CREDENTIALS_DIRECTORY`, or
///   `keychain:SERVICE/NAME`.
/// - `&recipient=age1…` adds a recovery recipient. It can be given several times. `&recipients=PATH` names a
///   file of recovery recipients.
/// - `&trust_group=GID` trusts all members of a group: they may write to the directories that lead to the files
///   of the URL. Others who may are an error.
/// - `&sslrootcert=PATH` names a file with the root certificates of a PostgreSQL server.
/// - `&endpoint=URL` names the server of a bucket, if it is not the provider's own. `&proxy=off` ignores the proxy
///   that the environment names.
///
/// A path that begins with `~/` is in the home directory. Any other relative path is resolved when the URL is
/// parsed, and refused by [`parse_absolute`](Self::parse_absolute). In a path, write `%25` for `%`, `%3F` for
/// `?`, `%26` for `&` and `%23` for `#`.
///
/// ```
/// use tokenkeep::StoreUrl;
///
/// let url: StoreUrl = "plaintext:/tmp/tokens.json".parse()?;
/// let store = url.open()?;
/// assert_eq!(store.to_string(), "plaintext file /tmp/tokens.json");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Security
///
/// A store URL contains no secret: a URL with a password is refused. `Display` shows no query, except the
/// name of a slot. [`to_text`](Self::to_text) returns the whole URL.
#[derive(Clone, PartialEq, Eq)]
pub struct StoreUrl {
    kind: Kind,
    /// Whether the keychain may ask the user. This is not part of the text, because it depends on the
    /// program.
    prompts: bool,
    /// The number of a group whose members may write to the directories of the files.
    trusted_group: Option<u32>,
}

#[derive(Clone, PartialEq, Eq)]
enum Kind {
    Age {
        path: PathBuf,
        seal: Seal,
    },
    Bucket(Bucket),
    Env {
        prefix: String,
    },
    #[cfg(feature = "import")]
    Import(Foreign),
    Keychain(Item),
    KeychainItem(Item),
    Memory,
    Plaintext {
        path: PathBuf,
    },
    Postgres(Database),
}

/// The key and the recovery recipients of a record.
#[derive(Clone, PartialEq, Eq)]
struct Seal {
    key: Key,
    recipients: Vec<String>,
    recipients_file: Option<PathBuf>,
}

#[derive(Clone, PartialEq, Eq)]
struct Bucket {
    scheme: &'static str,
    name: String,
    /// The key of the object.
    key: String,
    endpoint: Option<String>,
    /// Whether it ignores the proxy of the environment.
    without_proxy: bool,
    seal: Seal,
}

#[derive(Clone, PartialEq, Eq)]
struct Database {
    user: String,
    /// The hosts with their ports.
    hosts: String,
    name: String,
    slot: String,
    roots: Option<PathBuf>,
    seal: Seal,
}

/// A file or a keychain item of another program.
#[cfg(feature = "import")]
#[derive(Clone, PartialEq, Eq)]
struct Foreign {
    /// Its form, if it is not to be told by the content.
    format: Option<crate::import::Format>,
    place: ForeignPlace,
    account: Option<String>,
}

#[cfg(feature = "import")]
#[derive(Clone, PartialEq, Eq)]
enum ForeignPlace {
    File(PathBuf),
    Item(Item),
}

#[derive(Clone, PartialEq, Eq)]
enum Key {
    Credential(String),
    File(PathBuf),
    Keychain(Item),
}

#[derive(Clone, PartialEq, Eq)]
struct Item {
    service: String,
    account: String,
}

/// A text is not a store URL. The error does not quote the text, because it may contain a password. It quotes
/// only an unknown scheme of at most 16 lower-case letters.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a store URL: {reason}")]
pub struct InvalidStoreUrl {
    reason: String,
}

/// A function that asks for the passphrase of a protected key.
type Ask = dyn Fn() -> io::Result<SecretString> + Send + Sync;

impl StoreUrl {
    /// Parses a URL, and refuses a relative path. Use this for a URL in a file, which may be read from any
    /// directory.
    ///
    /// # Errors
    ///
    /// [`InvalidStoreUrl`] says what is wrong.
    pub fn parse_absolute(text: &str) -> Result<Self, InvalidStoreUrl> {
        parse::parse(text, parse::Relative::Refused)
    }

    /// Opens the store. Nothing is read or created yet.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`] if this build or this user has no such store, [`StoreError::InvalidKey`]
    /// for an invalid recipient.
    pub fn open(&self) -> Result<Arc<dyn TokenStore>, StoreError> {
        self.open_asking(None)
    }

    /// Opens the store like [`open`](Self::open). If its key is protected by a passphrase, `ask` is called
    /// to get it.
    ///
    /// # Errors
    ///
    /// Those of [`open`](Self::open).
    pub fn open_with_passphrase(
        &self,
        ask: impl Fn() -> io::Result<SecretString> + Send + Sync + 'static,
    ) -> Result<Arc<dyn TokenStore>, StoreError> {
        let ask: Arc<Ask> = Arc::new(ask);
        self.open_asking(Some(&ask))
    }

    /// Opens the store with another key than the one that the URL names. A
    /// [`rekey`](crate::transfer::rekey) needs this between two keys.
    ///
    /// # Errors
    ///
    /// [`StoreError::InvalidKey`] if the records of this store are not sealed to a key that the URL names, or
    /// if the store does not accept this key; [`StoreError::Unavailable`] if this build has no such store.
    #[cfg(feature = "age")]
    pub fn open_with_key(&self, key: AgeKey) -> Result<Arc<dyn TokenStore>, StoreError> {
        self.open_sealed(key)
    }

    /// Lets the keychain ask the user, as
    /// [`KeychainStore::allow_prompts`](crate::stores::KeychainStore::allow_prompts) does. This is not part
    /// of the URL's text.
    #[must_use]
    pub fn allow_prompts(self) -> Self {
        Self { prompts: true, ..self }
    }

    /// Returns whether this store keeps tokens in plaintext on a disk.
    #[must_use]
    pub fn is_plaintext(&self) -> bool {
        matches!(self.kind, Kind::Plaintext { .. })
    }

    /// Returns the file that contains the tokens, sealed or not, if there is one.
    #[must_use]
    pub fn path(&self) -> Option<PathBuf> {
        match &self.kind {
            Kind::Age { path, .. } | Kind::Plaintext { path } => Some(path.clone()),
            #[cfg(feature = "keychain")]
            Kind::Keychain(item) => KeychainStore::record_path(&item.service, &item.account).ok(),
            _ => None,
        }
    }

    /// Returns whether this store loses its tokens when the process ends.
    #[must_use]
    pub fn is_memory(&self) -> bool {
        self.kind == Kind::Memory
    }

    /// Returns the prefix of the variables' names, if this is the environment.
    #[must_use]
    pub fn env_prefix(&self) -> Option<&str> {
        match &self.kind {
            Kind::Env { prefix } => Some(prefix),
            _ => None,
        }
    }

    /// Returns the file of recovery recipients in the URL.
    #[must_use]
    pub fn recipients_file(&self) -> Option<&Path> {
        self.seal().and_then(|seal| seal.recipients_file.as_deref())
    }

    /// Returns whether the keychain is needed to open this store.
    #[must_use]
    pub fn uses_keychain(&self) -> bool {
        #[cfg(feature = "import")]
        if matches!(&self.kind, Kind::Import(Foreign { place: ForeignPlace::Item(_), .. })) {
            return true;
        }
        matches!(&self.kind, Kind::Keychain(_) | Kind::KeychainItem(_))
            || self.seal().is_some_and(|seal| matches!(seal.key, Key::Keychain(_)))
    }

    /// Returns whether other machines can use the same slot.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        matches!(&self.kind, Kind::Bucket(_) | Kind::Postgres(_))
    }

    /// Makes the URL of an age file with a key in an identity file.
    ///
    /// # Errors
    ///
    /// [`InvalidStoreUrl`] if a path is not UTF-8 text. A URL that named it would name another file.
    pub fn age_file(path: &Path, identity: &Path) -> Result<Self, InvalidStoreUrl> {
        Ok(Self::of(Kind::Age {
            path: parse::absolute(path)?,
            seal: Seal {
                key: Key::File(parse::absolute(identity)?),
                recipients: Vec::new(),
                recipients_file: None,
            },
        }))
    }

    /// Makes the URL of a slot in the keychain.
    ///
    /// # Errors
    ///
    /// Those of [`KeychainStore::new`](crate::stores::KeychainStore::new).
    #[cfg(feature = "keychain")]
    pub fn keychain(service: &str, account: &str) -> Result<Self, StoreError> {
        KeychainStore::record_path(service, account)?;
        let item = Item { service: service.to_owned(), account: account.to_owned() };
        Ok(Self::of(Kind::Keychain(item)))
    }

    /// Returns the URL of the same slot with another identity file and other recovery recipients.
    ///
    /// # Errors
    ///
    /// [`InvalidStoreUrl`] if the records of this store are not sealed to a key, or if the path is not UTF-8
    /// text. A URL that named it would name another file.
    pub fn with_identity(
        &self,
        identity: &Path,
        recipients: Vec<String>,
    ) -> Result<Self, InvalidStoreUrl> {
        let mut kind = self.kind.clone();
        let seal = kind.seal_mut();
        let seal = seal.ok_or_else(|| parse::invalid("the records of this store have no key"))?;
        seal.key = Key::File(parse::absolute(identity)?);
        seal.recipients = recipients;
        Ok(Self { kind, prompts: false, trusted_group: self.trusted_group })
    }

    /// Returns the group whose members are trusted, if the URL names one.
    #[must_use]
    pub fn trusted_group(&self) -> Option<u32> {
        self.trusted_group
    }

    /// Returns the recovery recipients in the URL itself.
    #[must_use]
    pub fn recipients(&self) -> &[String] {
        self.seal().map_or(&[], |seal| &seal.recipients)
    }

    /// Returns the identity file with the key, if the URL names one.
    #[must_use]
    pub fn identity_path(&self) -> Option<&Path> {
        match &self.seal()?.key {
            Key::File(path) => Some(path),
            _ => None,
        }
    }

    /// Returns the whole URL with its query, and with absolute paths.
    #[must_use]
    pub fn to_text(&self) -> String {
        let path = |path: &Path| escaped(&path.to_string_lossy());
        let (mut text, mut options) = (self.to_string(), Vec::new());
        if let Kind::Postgres(database) = &self.kind {
            let Database { user, hosts, name, slot, roots, .. } = database;
            text = format!("postgres://{}@{hosts}/{}", encoded(user), encoded(name));
            options.push(("slot", escaped(slot)));
            options.extend(roots.as_ref().map(|roots| ("sslrootcert", path(roots))));
        }
        if let Kind::Bucket(Bucket { endpoint, without_proxy, .. }) = &self.kind {
            options.extend(endpoint.as_ref().map(|endpoint| ("endpoint", escaped(endpoint))));
            options.extend(without_proxy.then(|| ("proxy", "off".to_owned())));
        }
        #[cfg(feature = "import")]
        if let Kind::Import(Foreign { account: Some(account), .. }) = &self.kind {
            options.push(("account", escaped(account)));
        }
        if let Some(Seal { key, recipients, recipients_file }) = self.seal() {
            let key = match key {
                Key::Credential(name) => format!("credential:{}", escaped(name)),
                Key::File(file) => path(file),
                Key::Keychain(item) => format!("keychain:{item}"),
            };
            options.push(("identity", key));
            options.extend(recipients.iter().map(|recipient| ("recipient", escaped(recipient))));
            options.extend(recipients_file.as_ref().map(|file| ("recipients", path(file))));
        }
        options.extend(self.trusted_group.map(|group| ("trust_group", group.to_string())));
        for (index, (name, value)) in options.iter().enumerate() {
            let separator = if index == 0 { '?' } else { '&' };
            write!(text, "{separator}{name}={value}").expect("a String takes everything");
        }
        text
    }

    fn seal(&self) -> Option<&Seal> {
        match &self.kind {
            Kind::Age { seal, .. }
            | Kind::Bucket(Bucket { seal, .. })
            | Kind::Postgres(Database { seal, .. }) => Some(seal),
            _ => None,
        }
    }

    fn of(kind: Kind) -> Self {
        Self { kind, prompts: false, trusted_group: None }
    }
}

impl Kind {
    fn seal_mut(&mut self) -> Option<&mut Seal> {
        match self {
            Self::Age { seal, .. }
            | Self::Bucket(Bucket { seal, .. })
            | Self::Postgres(Database { seal, .. }) => Some(seal),
            _ => None,
        }
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreUrl({self})")
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Age { path, .. } => write!(f, "age:{}", escaped(&path.to_string_lossy())),
            Kind::Bucket(Bucket { scheme, name, key, .. }) => {
                write!(f, "{scheme}://{name}/{}", escaped(key))
            }
            Kind::Env { prefix } => write!(f, "env:{prefix}"),
            #[cfg(feature = "import")]
            Kind::Import(Foreign { format, place, .. }) => {
                write!(f, "import:{}:", format.map_or("auto", crate::import::Format::name))?;
                match place {
                    ForeignPlace::File(path) => f.write_str(&escaped(&path.to_string_lossy())),
                    ForeignPlace::Item(item) => write!(f, "keychain-item:{item}"),
                }
            }
            Kind::Keychain(item) => write!(f, "keychain:{item}"),
            Kind::KeychainItem(item) => write!(f, "keychain-item:{item}"),
            Kind::Memory => f.write_str("memory:"),
            Kind::Plaintext { path } => {
                write!(f, "plaintext:{}", escaped(&path.to_string_lossy()))
            }
            Kind::Postgres(Database { hosts, name, slot, .. }) => {
                write!(f, "postgres://{hosts}/{}?slot={}", encoded(name), escaped(slot))
            }
        }
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let escaped = |name: &str| escaped(name).replace('/', "%2F");
        write!(f, "{}/{}", escaped(&self.service), escaped(&self.account))
    }
}

/// Escapes only the characters that would end a part of the URL, and those that a terminal obeys or a reader
/// cannot see, so that paths stay readable.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if matches!(character, '%' | '?' | '&' | '#') || is_hidden(character) {
            for byte in character.encode_utf8(&mut [0; 4]).bytes() {
                write!(escaped, "%{byte:02X}").expect("a String takes everything");
            }
        } else {
            escaped.push(character);
        }
    }
    escaped
}

/// Escapes a part of a URL with an authority, where many more characters would end the part.
fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            write!(encoded, "%{byte:02X}").expect("a String takes everything");
        }
    }
    encoded
}
