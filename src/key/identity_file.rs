use std::io;
use std::path::Path;

use age::x25519::{Identity, Recipient};
use chrono::{SecondsFormat, Utc};
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use crate::error::StoreError;
use crate::key::seal::{self, MAX_SEALED};
use crate::private_file::{self, Exposure, PrivateFile};
use crate::sys::wipe::Bytes;

/// Parses the identities in an identity file. An error names a line, but does not quote it.
pub(super) fn parse(text: &[u8]) -> Result<Vec<Identity>, String> {
    let text = str::from_utf8(text).map_err(|_| "it is not UTF-8 text".to_owned())?;
    let mut identities = Vec::new();
    for (number, line) in content_lines(text) {
        let identity = line.parse().map_err(|_| {
            format!(
                "line {number} is not an X25519 identity (\"AGE-SECRET-KEY-1\" and 58 more characters)"
            )
        })?;
        identities.push(identity);
    }
    if identities.is_empty() {
        return Err("it contains no identity".into());
    }
    Ok(identities)
}

/// Reads a file of recipients, with one recipient per line.
pub(super) fn read_recipients(
    path: &Path,
    group: Option<u32>,
) -> Result<Vec<Recipient>, StoreError> {
    let place = || path.display().to_string();
    let invalid = |reason| StoreError::InvalidKey { place: place(), reason };
    // Recipients are public. But a user who can write to this file can add a recipient, and then read the
    // tokens.
    let text = private_file::read_key_file(path, Exposure::Accepted, group)?.ok_or_else(|| {
        StoreError::Unavailable {
            place: place(),
            reason: "this list of recovery recipients does not exist".into(),
            advice: "put it back, or remove it from the store's URL".into(),
        }
    })?;
    let text = str::from_utf8(&text).map_err(|_| invalid("it is not UTF-8 text".into()))?;
    let recipients: Vec<Recipient> = content_lines(text)
        .map(|(number, line)| {
            line.parse().map_err(|_| invalid(format!("line {number} is not an X25519 recipient")))
        })
        .collect::<Result<_, _>>()?;
    if recipients.is_empty() {
        Err(invalid("it contains no recipient".into()))
    } else {
        Ok(recipients)
    }
}

/// Makes an identity and writes it to a new file, in the format of `age-keygen`.
pub(super) fn create(path: &Path, passphrase: Option<SecretString>) -> Result<(), StoreError> {
    let file = PrivateFile::new(path, MAX_SEALED);
    let (place, text) = (file.place(), text(&Identity::generate()));
    let content = match passphrase {
        Some(passphrase) => seal::seal_to_passphrase(passphrase, &text, &place)?,
        None => text,
    };
    if file.create(&content)? {
        return Ok(());
    }
    let reason = "it exists, and may be the only key of some tokens";
    let source = io::Error::new(io::ErrorKind::AlreadyExists, reason);
    Err(StoreError::io("create", place, source))
}

fn text(identity: &Identity) -> Bytes {
    let created = Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true);
    let secret = identity.to_string();
    #[expect(clippy::disallowed_methods, reason = "this is where identities are written")]
    let secret = secret.expose_secret();
    let head = format!("# created: {created}\n# public key: {}\n", identity.to_public());
    // The buffer has the exact size, so it does not grow and leave copies behind.
    let mut text = Zeroizing::new(Vec::with_capacity(head.len() + secret.len() + 1));
    text.extend_from_slice(head.as_bytes());
    text.extend_from_slice(secret.as_bytes());
    text.push(b'\n');
    text
}

/// Returns the lines that are neither blank nor comments, with their numbers.
fn content_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .map(str::trim)
        .enumerate()
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(index, line)| (index + 1, line))
}
