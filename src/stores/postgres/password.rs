//! The password file of PostgreSQL's clients: `$PGPASSFILE` or `~/.pgpass`.

use std::env;
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use crate::error::StoreError;
use crate::private_file::{self, Exposure};
use crate::sys::blocking;

/// A password from the file, for the driver.
pub(super) struct Password(SecretString);

impl Password {
    pub(super) fn as_bytes(&self) -> &[u8] {
        #[expect(clippy::disallowed_methods, reason = "the driver sends it")]
        self.0.expose_secret().as_bytes()
    }
}

/// The first four fields of a line: a host, a port, a database and a user.
type Wanted = [String; 4];

/// Finds the password of this user for this database on this server.
pub(super) async fn find(
    host: &str,
    port: u16,
    database: &str,
    user: &str,
) -> Result<Option<Password>, StoreError> {
    let Some(path) = path() else { return Ok(None) };
    // libpq uses the name `localhost` for a socket.
    let host = if host.starts_with('/') { "localhost" } else { host };
    let wanted = [host.to_owned(), port.to_string(), database.to_owned(), user.to_owned()];
    blocking::run(&path.display().to_string(), {
        let path = path.clone();
        move || read(&path, &wanted)
    })
    .await
}

/// Returns the path in `$PGPASSFILE`, or else `~/.pgpass`.
fn path() -> Option<PathBuf> {
    let named = env::var_os("PGPASSFILE").filter(|path| !path.is_empty()).map(PathBuf::from);
    let usual = || {
        if cfg!(windows) {
            env::var_os("APPDATA").map(|data| Path::new(&data).join("postgresql/pgpass.conf"))
        } else {
            env::home_dir().map(|home| home.join(".pgpass"))
        }
    };
    named.or_else(usual)
}

fn read(path: &Path, wanted: &Wanted) -> Result<Option<Password>, StoreError> {
    let Some(text) = private_file::read_key_file(path, Exposure::Refused, None)? else {
        return Ok(None);
    };
    let text = str::from_utf8(&text).map_err(|_| StoreError::Unavailable {
        place: path.display().to_string(),
        reason: "it is not UTF-8 text".into(),
        advice: "write lines of HOST:PORT:DATABASE:USER:PASSWORD".into(),
    })?;
    Ok(text.lines().find_map(|line| password(line, wanted)))
}

/// Returns the password in a line, if its other fields match.
fn password(line: &str, wanted: &Wanted) -> Option<Password> {
    if line.starts_with('#') {
        return None;
    }
    let mut rest = line.trim_end_matches('\r');
    for wanted in wanted {
        let (field, after) = field(rest);
        rest = after?;
        if field != "*" && unescaped(field) != *wanted {
            return None;
        }
    }
    let password = Zeroizing::new(unescaped(field(rest).0));
    // The buffer has the exact size, so it is not moved and leaves no copy behind.
    Some(Password(SecretString::from(Box::<str>::from(&**password))))
}

/// Splits at the first colon that is not escaped by a backslash.
fn field(text: &str) -> (&str, Option<&str>) {
    let mut escaped = false;
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            b':' if !escaped => return (&text[..index], Some(&text[index + 1..])),
            b'\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    (text, None)
}

fn unescaped(text: &str) -> String {
    // The buffer has its full size, so it does not grow and leave copies behind.
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        plain.extend(if character == '\\' { characters.next() } else { Some(character) });
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(line: &str) -> Option<String> {
        let wanted = ["db.example", "5432", "app", "me"].map(String::from);
        password(line, &wanted).map(|found| String::from_utf8(found.as_bytes().to_vec()).unwrap())
    }

    #[test]
    fn a_line_is_for_its_host_port_database_and_user() {
        for (line, expected) in [
            ("db.example:5432:app:me:secret", Some("secret")),
            ("*:*:*:*:secret", Some("secret")),
            ("*:*:*:me:with\\:colon and \\\\", Some("with:colon and \\")),
            ("*:*:*:me:up to here:not this", Some("up to here")),
            ("db\\.example:5432:app:me:secret\r", Some("secret")),
            ("other:5432:app:me:secret", None),
            ("db.example:5433:app:me:secret", None),
            ("db.example:5432:app:you:secret", None),
            ("#*:*:*:*:secret", None),
            ("*:*:*", None),
            ("", None),
        ] {
            assert_eq!(found(line).as_deref(), expected, "{line}");
        }
    }
}
