//! Seals bytes to age recipients, and opens them. `age -d -i` opens the sealed files too.

use std::io::{Read, Write};
use std::iter;
use std::sync::{Mutex, PoisonError};

use age::armor::ArmoredReader;
use age::{DecryptError, Decryptor, Encryptor, Identity, Recipient};
use secrecy::SecretString;
use zeroize::Zeroizing;

use crate::error::StoreError;
use crate::sys::wipe::Bytes;

/// The scrypt work factor (log2 N) for sealing: 0.3 s and 128 MiB on a machine of 2025. It is fixed,
/// because the `age` crate would calibrate it at each call: then a slow machine refuses the files of a fast
/// one.
const WORK_FACTOR: u8 = 17;

/// The highest work factor that is accepted: 3 seconds and 1 GiB.
const MAX_WORK_FACTOR: u8 = 20;

/// The most bytes of a sealed record: 64 KiB in armor, and a header for a few hundred recipients. The time
/// for parsing grows with the square of the header's length, so the length is checked first.
pub(crate) const MAX_SEALED: usize = 128 * 1024;

/// Returns the largest size of `plain` bytes after they are sealed to this many recipients.
///
/// The sizes follow from age's format (age-encryption.org/v1): 22 bytes for the header line, at most 98 for
/// an X25519 stanza and fewer for that of a passphrase, 48 for the line of the MAC, 16 for the nonce, and a
/// tag of 16 for each chunk of 64 KiB. The `age` crate adds one random stanza of at most about 400 bytes.
pub(crate) fn sealed_size(plain: usize, recipients: usize) -> usize {
    const CHUNK: usize = 64 * 1024;

    22 + 98 * recipients.max(1) + 512 + 48 + 16 + plain + 16 * (plain / CHUNK + 1)
}

/// The reason of the error if a record of the largest size could not be read again.
pub(crate) const TOO_MANY: &str =
    "it has too many recovery recipients for the largest record; name at most 500";

const ARMOR: &[u8] = b"-----BEGIN AGE ENCRYPTED FILE-----";
const HEADER: &[u8] = b"age-encryption.org/v1";

/// Why sealed bytes could not be opened.
pub(crate) enum OpenError {
    /// They are not an age file, or a damaged one.
    Corrupt(String),
    /// They are sealed to other keys.
    NoMatchingKeys,
    /// They are sealed to another passphrase.
    WrongPassphrase,
    /// They are sealed to a passphrase with a work factor that is too high.
    WorkFactor(u8),
}

/// Returns whether this looks like an age file, binary or armored.
pub(crate) fn is_sealed(bytes: &[u8]) -> bool {
    let bytes = bytes.trim_ascii_start();
    bytes.starts_with(HEADER) || bytes.starts_with(ARMOR)
}

/// Returns whether this is an age file that is sealed to a passphrase.
pub(crate) fn is_sealed_to_a_passphrase(bytes: &[u8]) -> Result<bool, OpenError> {
    decryptor(bytes).map(|decryptor| decryptor.is_scrypt())
}

/// Returns whether this is a binary age file that is sealed to X25519 keys only. Random stanzas are
/// ignored. It is not sealed to a passphrase, because another person would have chosen its work factor, and
/// not to a plugin.
#[cfg(any(feature = "postgres", feature = "object-store"))]
pub(crate) fn is_sealed_to_keys_alone(bytes: &[u8]) -> bool {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    if lines.next() != Some(HEADER) {
        return false;
    }
    lines
        .take_while(|line| !line.starts_with(b"---"))
        .filter_map(|line| line.strip_prefix(b"-> "))
        .all(|stanza| {
            let kind = stanza.split(|byte| *byte == b' ').next().unwrap_or_default();
            kind == b"X25519" || kind.ends_with(b"-grease")
        })
}

/// Seals to all these recipients. No identity is needed.
pub(crate) fn seal<'a>(
    recipients: impl Iterator<Item = &'a dyn Recipient>,
    plain: &[u8],
    place: &str,
) -> Result<Bytes, StoreError> {
    let failed = |reason: &str| StoreError::KeyMissing {
        place: place.to_owned(),
        reason: reason.to_owned(),
        advice: "name at least one recipient".into(),
    };
    let encryptor = Encryptor::with_recipients(recipients)
        .map_err(|_| failed("these recipients cannot seal together"))?;
    // Ciphertext is not a secret, so the buffer may grow.
    let mut sealed = Vec::with_capacity(plain.len() + 1024);
    let write = |sealed: &mut Vec<u8>| -> std::io::Result<()> {
        let mut writer = encryptor.wrap_output(sealed)?;
        writer.write_all(plain)?;
        writer.finish().map(drop)
    };
    write(&mut sealed).map_err(|error| StoreError::io("seal", place, error))?;
    Ok(Zeroizing::new(sealed))
}

/// Seals to a passphrase, with a fixed work factor.
pub(crate) fn seal_to_passphrase(
    passphrase: SecretString,
    plain: &[u8],
    place: &str,
) -> Result<Bytes, StoreError> {
    let mut recipient = age::scrypt::Recipient::new(passphrase);
    recipient.set_work_factor(WORK_FACTOR);
    seal(iter::once(&recipient as &dyn Recipient), plain, place)
}

/// Opens with a passphrase.
pub(crate) fn open_with_passphrase(
    passphrase: SecretString,
    sealed: &[u8],
) -> Result<Bytes, OpenError> {
    // Only one call at a time, because each takes up to 1 GiB.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut identity = age::scrypt::Identity::new(passphrase);
    identity.set_max_work_factor(MAX_WORK_FACTOR);
    open(iter::once(&identity as &dyn Identity), sealed)
}

/// Opens with the first identity that matches.
pub(crate) fn open<'a>(
    identities: impl Iterator<Item = &'a dyn Identity>,
    sealed: &[u8],
) -> Result<Bytes, OpenError> {
    let mut reader = decryptor(sealed)?.decrypt(identities).map_err(sort)?;
    // Plaintext is shorter than ciphertext, so the buffer never grows and leaves no copies behind.
    let mut plain = Zeroizing::new(vec![0; sealed.len()]);
    let mut filled = 0;
    while filled < plain.len() {
        match reader.read(&mut plain[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) => return Err(sort(DecryptError::Io(error))),
        }
    }
    plain.truncate(filled);
    Ok(plain)
}

fn decryptor(sealed: &[u8]) -> Result<Decryptor<Box<dyn std::io::BufRead + '_>>, OpenError> {
    let trimmed = sealed.trim_ascii_start();
    if sealed.is_empty() {
        return Err(OpenError::Corrupt("it is empty".into()));
    }
    if !is_sealed(sealed) {
        return Err(OpenError::Corrupt("it is not an age file".into()));
    }
    let input: Box<dyn std::io::BufRead + '_> = if trimmed.starts_with(ARMOR) {
        Box::new(std::io::BufReader::new(ArmoredReader::new(trimmed)))
    } else {
        Box::new(sealed)
    };
    Decryptor::new_buffered(input).map_err(sort)
}

/// Converts an error of the `age` crate. The input is in memory, so a failed read means damage.
fn sort(error: DecryptError) -> OpenError {
    match error {
        DecryptError::ExcessiveWork { required, .. } => OpenError::WorkFactor(required),
        DecryptError::NoMatchingKeys => OpenError::NoMatchingKeys,
        DecryptError::DecryptionFailed | DecryptError::KeyDecryptionFailed => {
            OpenError::WrongPassphrase
        }
        DecryptError::Io(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            OpenError::Corrupt("it ends too early".into())
        }
        DecryptError::InvalidHeader | DecryptError::InvalidMac => {
            OpenError::Corrupt("its age header is damaged".into())
        }
        DecryptError::UnknownFormat => {
            OpenError::Corrupt("its age format is unknown to this program".into())
        }
        _ => OpenError::Corrupt("its content was changed or cut off".into()),
    }
}
