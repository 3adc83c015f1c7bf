use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::{Bucket, Database, InvalidStoreUrl, Item, Key, Kind, Seal, StoreUrl, escaped};
#[cfg(feature = "import")]
use super::{Foreign, ForeignPlace};
#[cfg(feature = "import")]
use crate::import::Format;
use crate::net::server_url::{FORM, is_endpoint};

impl FromStr for StoreUrl {
    type Err = InvalidStoreUrl;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text, Relative::Resolved)
    }
}

/// What to do with a relative path.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Relative {
    Refused,
    Resolved,
}

pub(super) fn parse(text: &str, relative: Relative) -> Result<StoreUrl, InvalidStoreUrl> {
    let (scheme, rest) = text.split_once(':').ok_or_else(|| {
        invalid("it has no scheme; begin it with keychain:, age:, plaintext:, postgres: or s3:, for example")
    })?;
    refuse_password(rest)?;
    let (body, query) = rest.split_once('?').unwrap_or((rest, ""));
    let mut options = Options::parse(query, known_options(scheme), relative)?;
    let kind = match scheme {
        "age" => parse_age(body, &mut options)?,
        "az" => parse_bucket("az", body, &mut options)?,
        "gs" => parse_bucket("gs", body, &mut options)?,
        "s3" => parse_bucket("s3", body, &mut options)?,
        "env" if is_name(body) => Kind::Env { prefix: body.to_owned() },
        "env" => return Err(invalid("env: takes a prefix of letters, digits and underscores")),
        #[cfg(feature = "import")]
        "import" => parse_import(body, &mut options)?,
        "keychain" => Kind::Keychain(parse_item(body)?),
        "keychain-item" => Kind::KeychainItem(parse_item(body)?),
        "memory" if body.is_empty() => Kind::Memory,
        "memory" => return Err(invalid("memory: takes nothing")),
        "plaintext" => Kind::Plaintext { path: options.resolve(body)? },
        "postgres" | "postgresql" => parse_database(body, &mut options)?,
        _ => return Err(unknown_scheme(scheme)),
    };
    let group = options.take("trust_group").map(str::parse).transpose();
    let trusted_group = group
        .map_err(|_| invalid("trust_group needs the number of a group (`id -g` shows yours)"))?;
    Ok(StoreUrl { trusted_group, ..StoreUrl::of(kind) })
}

/// The options after the question mark, and how relative paths are read.
struct Options<'a> {
    given: Vec<(&'a str, &'a str)>,
    relative: Relative,
}

impl<'a> Options<'a> {
    fn parse(query: &'a str, known: &[&str], relative: Relative) -> Result<Self, InvalidStoreUrl> {
        let options = query.split('&').filter(|option| !option.is_empty());
        let options: Vec<_> =
            options.map(|option| option.split_once('=').unwrap_or((option, ""))).collect();
        let twice = |(index, (name, _)): (usize, &(&str, &str))| {
            *name != "recipient" && options[..index].iter().any(|(earlier, _)| earlier == name)
        };
        if options.iter().enumerate().any(twice) {
            return Err(invalid("an option is given twice"));
        }
        if !options.is_empty() && known.is_empty() {
            return Err(invalid("it takes no options after a question mark"));
        }
        if options.iter().any(|(name, _)| !known.contains(name)) {
            return Err(invalid(&format!("an option is unknown; use only {}", known.join(", "))));
        }
        Ok(Self { given: options, relative })
    }

    fn take(&mut self, name: &str) -> Option<&'a str> {
        let index = self.given.iter().position(|(given, _)| *given == name)?;
        Some(self.given.remove(index).1)
    }

    fn path(&mut self, name: &str) -> Result<Option<PathBuf>, InvalidStoreUrl> {
        self.take(name).map(|path| self.resolve(path)).transpose()
    }

    fn resolve(&self, text: &str) -> Result<PathBuf, InvalidStoreUrl> {
        let text = unescaped(text)?;
        if text.is_empty() {
            return Err(invalid("a path is missing"));
        }
        let path = match text.strip_prefix("~/") {
            Some(rest) => std::env::home_dir()
                .filter(|home| home.is_absolute())
                .ok_or_else(|| {
                    invalid(
                        "it contains ~/, but this user has no home directory, or HOME is not an absolute path",
                    )
                })?
                .join(rest),
            None => PathBuf::from(text),
        };
        if self.relative == Relative::Refused && !path.is_absolute() {
            return Err(invalid(
                "a relative path depends on the directory in which the program is started; write \
                 the whole path, or one that begins with ~/",
            ));
        }
        // With an escaped slash, or one after `~/`, the printed path can look like a URL with a password.
        path.to_str().map_or(Ok(()), |path| refuse_password(&escaped(path)))?;
        absolute(&path)
    }

    fn key(&self, value: &str) -> Result<Key, InvalidStoreUrl> {
        if let Some(item) = value.strip_prefix("keychain:") {
            return parse_item(item).map(Key::Keychain);
        }
        match value.strip_prefix("credential:") {
            Some("") => Err(invalid("credential: needs a name")),
            Some(name) => unescaped(name).map(Key::Credential),
            None => self.resolve(value).map(Key::File),
        }
    }

    fn seal(&mut self) -> Result<Seal, InvalidStoreUrl> {
        let key = self
            .take("identity")
            .ok_or_else(|| invalid("it needs identity=PATH, the file with its key"))?;
        let mut recipients = Vec::new();
        while let Some(recipient) = self.take("recipient") {
            recipients.push(unescaped(recipient)?);
        }
        Ok(Seal { key: self.key(key)?, recipients, recipients_file: self.path("recipients")? })
    }
}

/// Returns the absolute path, if the text of a URL can contain it.
pub(super) fn absolute(path: &Path) -> Result<PathBuf, InvalidStoreUrl> {
    let path = std::path::absolute(path).map_err(|_| invalid("a path cannot be resolved"))?;
    if path.to_str().is_none() {
        return Err(invalid(
            "a path is not UTF-8 text, which a URL cannot contain; use a directory with another name",
        ));
    }
    Ok(path)
}

/// Returns the options that a scheme accepts.
fn known_options(scheme: &str) -> &'static [&'static str] {
    match scheme {
        "age" => &["identity", "recipient", "recipients", "trust_group"],
        "az" | "gs" | "s3" => {
            &["identity", "recipient", "recipients", "endpoint", "proxy", "trust_group"]
        }
        "import" => &["account"],
        "plaintext" => &["trust_group"],
        "postgres" | "postgresql" => {
            &["slot", "identity", "recipient", "recipients", "sslrootcert", "trust_group"]
        }
        _ => &[],
    }
}

fn parse_age(body: &str, options: &mut Options<'_>) -> Result<Kind, InvalidStoreUrl> {
    let path = options.resolve(body)?;
    let seal = options.seal()?;
    if matches!(&seal.key, Key::File(key) if *key == path) {
        return Err(invalid("the tokens and their key are the same file"));
    }
    Ok(Kind::Age { path, seal })
}

fn parse_bucket(
    scheme: &'static str,
    body: &str,
    options: &mut Options<'_>,
) -> Result<Kind, InvalidStoreUrl> {
    let wrong = || invalid("it needs BUCKET/OBJECT after two slashes");
    let (name, key) =
        body.strip_prefix("//").and_then(|rest| rest.split_once('/')).ok_or_else(wrong)?;
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let key = unescaped(key)?;
    let is_part = |part: &str| !["", ".", ".."].contains(&part);
    if name.is_empty()
        || !name.bytes().all(known)
        || !key.split('/').all(is_part)
        || key.chars().any(char::is_control)
    {
        return Err(wrong());
    }
    if key.ends_with(".trial") {
        return Err(invalid(
            "an object may not end with .trial, which is used for testing conditional writes",
        ));
    }
    let endpoint = options.take("endpoint").map(unescaped).transpose()?;
    if endpoint.as_ref().is_some_and(|endpoint| !is_endpoint(endpoint)) {
        return Err(invalid(FORM));
    }
    let proxy = options.take("proxy");
    if proxy.is_some_and(|proxy| proxy != "off") {
        return Err(invalid("proxy takes only `off`; the environment names the proxy"));
    }
    let (name, without_proxy, seal) = (name.to_owned(), proxy.is_some(), options.seal()?);
    Ok(Kind::Bucket(Bucket { scheme, name, key, endpoint, without_proxy, seal }))
}

fn parse_database(body: &str, options: &mut Options<'_>) -> Result<Kind, InvalidStoreUrl> {
    let wrong = || invalid("it needs USER@HOST:PORT/DATABASE after postgres://");
    let (authority, name) =
        body.strip_prefix("//").and_then(|rest| rest.split_once('/')).ok_or_else(wrong)?;
    let (user, hosts) = authority.rsplit_once('@').ok_or_else(wrong)?;
    let is_host = |host: &str| {
        let (host, port) = match host.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse::<u16>().is_ok()),
            _ => (host, true),
        };
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-._%[]:".contains(&byte);
        port && !host.is_empty() && host.bytes().all(known)
    };
    if user.is_empty() || name.is_empty() || name.contains('/') || !hosts.split(',').all(is_host) {
        return Err(wrong());
    }
    let (user, name) = (unescaped(user)?, unescaped(name)?);
    if user.contains(':') {
        return Err(invalid(PASSWORD));
    }
    let slot =
        options.take("slot").ok_or_else(|| invalid("it needs slot=NAME, one for each login"))?;
    let slot = unescaped(slot)?;
    if slot.is_empty() || slot.chars().any(char::is_control) {
        return Err(invalid("a slot's name must not be empty or contain control characters"));
    }
    let (hosts, roots) = (hosts.to_owned(), options.path("sslrootcert")?);
    Ok(Kind::Postgres(Database { user, hosts, name, slot, roots, seal: options.seal()? }))
}

#[cfg(feature = "import")]
fn parse_import(body: &str, options: &mut Options<'_>) -> Result<Kind, InvalidStoreUrl> {
    let wrong = || {
        let names: Vec<_> = Format::all().map(Format::name).collect();
        invalid(&format!("import: needs FORMAT:PATH; FORMAT is auto, {}", names.join(", ")))
    };
    let (format, place) = body.split_once(':').ok_or_else(wrong)?;
    let format = match format {
        "auto" => None,
        name => Some(Format::from_name(name).ok_or_else(wrong)?),
    };
    let place = match place.strip_prefix("keychain-item:") {
        Some(item) => ForeignPlace::Item(parse_item(item)?),
        None => ForeignPlace::File(options.resolve(place)?),
    };
    let account = options.take("account").map(unescaped).transpose()?;
    Ok(Kind::Import(Foreign { format, place, account }))
}

const PASSWORD: &str = "it contains a password, which would be shown with the URL; remove it";

fn parse_item(text: &str) -> Result<Item, InvalidStoreUrl> {
    match text.split_once('/') {
        Some((service, account))
            if !service.is_empty() && !account.is_empty() && !account.contains('/') =>
        {
            Ok(Item { service: unescaped(service)?, account: unescaped(account)? })
        }
        _ => Err(invalid("a keychain item needs SERVICE/ACCOUNT")),
    }
}

/// Refuses `user:password@`.
fn refuse_password(rest: &str) -> Result<(), InvalidStoreUrl> {
    let authority = rest.strip_prefix("//").and_then(|rest| rest.split(['/', '?']).next());
    let credentials = authority.and_then(|authority| authority.rsplit_once('@'));
    if credentials.is_some_and(|(user, _)| user.contains(':')) {
        return Err(invalid(PASSWORD));
    }
    Ok(())
}

/// The text before the colon may be a secret, so it is quoted only if it looks like a scheme.
fn unknown_scheme(scheme: &str) -> InvalidStoreUrl {
    let is_plausible =
        (2..=16).contains(&scheme.len()) && scheme.bytes().all(|byte| byte.is_ascii_lowercase());
    let what = if is_plausible { &format!("the scheme `{scheme}`") } else { "its scheme" };
    invalid(&format!(
        "{what} is unknown; use keychain, keychain-item, age, plaintext, memory, env, postgres, s3, \
         gs or az"
    ))
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

pub(super) fn invalid(reason: &str) -> InvalidStoreUrl {
    InvalidStoreUrl { reason: reason.to_owned() }
}

fn unescaped(text: &str) -> Result<String, InvalidStoreUrl> {
    let wrong = || invalid("a % is not followed by two hexadecimal digits; write %25 for %");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit =
            || rest.next().and_then(|digit| char::from(digit).to_digit(16)).ok_or_else(wrong);
        bytes.push((digit()? * 16 + digit()?).try_into().map_err(|_| wrong())?);
    }
    let text = String::from_utf8(bytes)
        .map_err(|_| invalid("it is not UTF-8 text after its % are decoded"))?;
    if text.to_ascii_uppercase().contains("AGE-SECRET-KEY-") {
        return Err(invalid("a secret key is given instead of a name or the path of its file"));
    }
    Ok(text)
}
