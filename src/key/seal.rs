//! Sealing: bytes to age recipients, and back. The files open with the stock `age -d -i`.

use std::io::{Read, Write};
use std::iter;
use std::sync::{Mutex, PoisonError};

use age::armor::ArmoredReader;
use age::{DecryptError, Decryptor, Encryptor, Identity, Recipient};
use secrecy::SecretString;
use zeroize::Zeroizing;

use crate::error::StoreError;
use crate::sys::wipe::Bytes;

/// scrypt work factor (log2 N) of what is written: a third of a second and 128 MiB on a machine
/// of 2025. `age` itself would calibrate at each call, and a slow machine then refuses what a fast
/// one wrote.
const WORK_FACTOR: u8 = 17;

/// The highest work factor that is accepted: 3 seconds and 1 GiB.
const MAX_WORK_FACTOR: u8 = 20;

/// The most bytes of a sealed record: 64 KiB in armor, and a header for a few hundred recipients.
/// Parsing takes time in the square of the header's length, so it is bounded first.
pub(crate) const MAX_SEALED: usize = 128 * 1024;

/// Returns the most bytes that so many bytes have when they are sealed to so many recipients.
///
/// By age's format (age-encryption.org/v1): a header line of 22 bytes, at most 98 for an X25519 stanza and
/// fewer for that of a passphrase, 48 for the MAC's line, a nonce of 16, and a tag of 16 for each chunk of
/// 64 KiB. The `age` crate adds one stanza that means nothing, of at most some 400 bytes.
pub(crate) fn sealed_size(plain: usize, recipients: usize) -> usize {
    const CHUNK: usize = 64 * 1024;

    22 + 98 * recipients.max(1) + 512 + 48 + 16 + plain + 16 * (plain / CHUNK + 1)
}

/// Why a record of the largest size could not be read again.
pub(crate) const TOO_MANY: &str =
    "it has too many recovery recipients for the largest record; name some 500 at most";

const ARMOR: &[u8] = b"-----BEGIN AGE ENCRYPTED FILE-----";
const HEADER: &[u8] = b"age-encryption.org/v1";

/// Why something could not be opened.
pub(crate) enum OpenError {
    /// It is no age file, or no longer a whole one.
    Corrupt(String),
    /// It is sealed to other keys.
    NoMatchingKeys,
    /// It is sealed to a passphrase, and this is not it.
    WrongPassphrase,
    /// It is sealed to a passphrase with a work factor that nobody should have to pay.
    WorkFactor(u8),
}

/// Tells whether this looks like an age file, binary or armored.
pub(crate) fn is_sealed(bytes: &[u8]) -> bool {
    let bytes = bytes.trim_ascii_start();
    bytes.starts_with(HEADER) || bytes.starts_with(ARMOR)
}

/// Tells whether this is an age file that a passphrase opens.
pub(crate) fn is_sealed_to_a_passphrase(bytes: &[u8]) -> Result<bool, OpenError> {
    decryptor(bytes).map(|decryptor| decryptor.is_scrypt())
}

/// Tells whether this is a binary age file whose header names nothing but X25519 keys, and what is
/// there to be ignored: no passphrase, whose work somebody else chose, and no plugin.
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

/// Seals to every one of these recipients. Nobody's private key is needed.
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
    // Ciphertext is no secret, so it may grow.
    let mut sealed = Vec::with_capacity(plain.len() + 1024);
    let write = |sealed: &mut Vec<u8>| -> std::io::Result<()> {
        let mut writer = encryptor.wrap_output(sealed)?;
        writer.write_all(plain)?;
        writer.finish().map(drop)
    };
    write(&mut sealed).map_err(|error| StoreError::io("seal", place, error))?;
    Ok(Zeroizing::new(sealed))
}

/// Seals to a passphrase, at a fixed work factor.
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
    // One at a time, because each takes up to 1 GiB.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut identity = age::scrypt::Identity::new(passphrase);
    identity.set_max_work_factor(MAX_WORK_FACTOR);
    open(iter::once(&identity as &dyn Identity), sealed)
}

/// Opens with whichever of these identities fits.
pub(crate) fn open<'a>(
    identities: impl Iterator<Item = &'a dyn Identity>,
    sealed: &[u8],
) -> Result<Bytes, OpenError> {
    let mut reader = decryptor(sealed)?.decrypt(identities).map_err(sort)?;
    // Plaintext is shorter than ciphertext, so this never grows and leaves no copies behind.
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

/// Reading from memory, every failure to read means damage.
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
            OpenError::Corrupt("it is of an age format that this program does not know".into())
        }
        _ => OpenError::Corrupt("its content was changed or cut off".into()),
    }
}
