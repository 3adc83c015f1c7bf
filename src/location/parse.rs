use std::path::PathBuf;
use std::str::FromStr;

use super::{InvalidStoreUrl, Item, Key, Kind, StoreUrl, escaped};

impl FromStr for StoreUrl {
    type Err = InvalidStoreUrl;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (scheme, rest) = text.split_once(':').ok_or_else(|| {
            invalid("it begins with keychain:, age:, plaintext:, memory: or env:")
        })?;
        refuse_password(rest)?;
        let (body, query) = match rest.split_once('?') {
            Some((body, query)) => (body, Some(query)),
            None => (rest, None),
        };
        if scheme != "age" && query.is_some() {
            return Err(invalid("only age: takes options after a question mark"));
        }
        let kind = match scheme {
            "age" => parse_age(body, query.unwrap_or_default())?,
            "env" if is_name(body) => Kind::Env { prefix: body.to_owned() },
            "env" => return Err(invalid("env: takes a prefix of letters, digits and underscores")),
            "keychain" => Kind::Keychain(parse_item(body)?),
            "keychain-item" => Kind::KeychainItem(parse_item(body)?),
            "memory" if body.is_empty() => Kind::Memory,
            "memory" => return Err(invalid("memory: takes nothing")),
            "plaintext" => Kind::Plaintext { path: parse_path(body)? },
            _ => {
                return Err(invalid(
                    "its scheme is unknown; keychain, keychain-item, age, plaintext, memory and \
                     env are known",
                ));
            }
        };
        Ok(Self::of(kind))
    }
}

fn parse_age(body: &str, query: &str) -> Result<Kind, InvalidStoreUrl> {
    let path = parse_path(body)?;
    let (mut key, mut recipients, mut recipients_file) = (None, Vec::new(), None);
    for option in query.split('&').filter(|option| !option.is_empty()) {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        let twice = match name {
            "identity" => key.replace(parse_key(value)?).is_some(),
            "recipient" => {
                recipients.push(unescaped(value)?);
                false
            }
            "recipients" => recipients_file.replace(parse_path(value)?).is_some(),
            _ => {
                return Err(invalid(
                    "an option is unknown; identity, recipient and recipients are known",
                ));
            }
        };
        if twice {
            return Err(invalid("an option is given twice"));
        }
    }
    let key = key.ok_or_else(|| invalid("age: needs ?identity=PATH, the file with its key"))?;
    if matches!(&key, Key::File(key) if *key == path) {
        return Err(invalid("the tokens and their key are the same file"));
    }
    Ok(Kind::Age { path, key, recipients, recipients_file })
}

fn parse_key(value: &str) -> Result<Key, InvalidStoreUrl> {
    if let Some(item) = value.strip_prefix("keychain:") {
        return parse_item(item).map(Key::Keychain);
    }
    match value.strip_prefix("credential:") {
        Some("") => Err(invalid("credential: needs a name")),
        Some(name) => unescaped(name).map(Key::Credential),
        None => parse_path(value).map(Key::File),
    }
}

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

fn parse_path(text: &str) -> Result<PathBuf, InvalidStoreUrl> {
    let text = unescaped(text)?;
    if text.is_empty() {
        return Err(invalid("a path is missing"));
    }
    let path = match text.strip_prefix("~/") {
        Some(rest) => std::env::home_dir()
            .ok_or_else(|| invalid("~/ is used, and this user has no home directory"))?
            .join(rest),
        None => PathBuf::from(text),
    };
    // An escaped slash, or one after `~/`, makes it look like a URL with a password all the same, as
    // it is printed.
    path.to_str().map_or(Ok(()), |path| refuse_password(&escaped(path)))?;
    std::path::absolute(path).map_err(|_| invalid("a path cannot be resolved"))
}

/// `user:password@` has no place in any store URL.
fn refuse_password(rest: &str) -> Result<(), InvalidStoreUrl> {
    let authority = rest.strip_prefix("//").and_then(|rest| rest.split(['/', '?']).next());
    let credentials = authority.and_then(|authority| authority.rsplit_once('@'));
    if credentials.is_some_and(|(user, _)| user.contains(':')) {
        return Err(invalid("it carries a password, which would show wherever it is used"));
    }
    Ok(())
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn invalid(reason: &str) -> InvalidStoreUrl {
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
        .map_err(|_| invalid("it is not UTF-8 text once its % are resolved"))?;
    if text.to_ascii_uppercase().contains("AGE-SECRET-KEY-") {
        return Err(invalid("a secret key is given where a name or the path of its file belongs"));
    }
    Ok(text)
}
