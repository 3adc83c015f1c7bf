//! Seals bytes to age recipients, and opens them. `age -d -i` opens the sealed files too.

use std::borrow::Cow;
use std::io::{BufRead, Cursor, Read, Write};
use std::iter;
use std::sync::{Mutex, PoisonError};

use age::armor::ArmoredReader;
use age::{DecryptError, Decryptor, Encryptor, Identity, Recipient};
use secrecy::SecretString;
use zeroize::Zeroizing;

use crate::error::StoreError;
use crate::record::MAX_STORED;
use crate::sys::wipe::Bytes;

/// The scrypt work factor (log2 N) for sealing: 0.3 s and 128 MiB on a machine of 2025. It is fixed,
/// because the `age` crate would calibrate it at each call: then a slow machine refuses the files of a fast
/// one.
const WORK_FACTOR: u8 = 17;

/// The highest work factor that is accepted: 3 seconds and 1 GiB.
const MAX_WORK_FACTOR: u8 = 20;

/// The most bytes of a sealed record: the largest record for the most recipients, in armor, which adds a third.
pub(crate) const MAX_SEALED: usize = 128 * 1024;

/// The most stanzas of a header. Each X25519 stanza costs one key agreement for each identity that is tried,
/// about 0.1 ms.
const MAX_STANZAS: usize = 64;

/// The most bytes of a header: that of 64 X25519 stanzas has 6.4 KB. The time for parsing grows with the square
/// of the number of lines.
const MAX_HEADER: usize = 16 * 1024;

/// The most recipients of a record. The `age` crate adds one random stanza ("grease").
pub(crate) const MAX_RECIPIENTS: usize = MAX_STANZAS - 1;

// Armor has a line of 65 bytes for each 48 bytes, and 2 lines more.
const _: () = assert!(sealed_size(MAX_STORED, MAX_RECIPIENTS).div_ceil(48) * 65 + 80 <= MAX_SEALED);

/// Returns the largest size of `plain` bytes after they are sealed to this many recipients.
///
/// The sizes follow from age's format (age-encryption.org/v1): 22 bytes for the header line, at most 98 for
/// an X25519 stanza and fewer for that of a passphrase, 48 for the line of the MAC, 16 for the nonce, and a
/// tag of 16 for each chunk of 64 KiB. The `age` crate adds one random stanza of at most about 400 bytes.
pub(crate) const fn sealed_size(plain: usize, recipients: usize) -> usize {
    const CHUNK: usize = 64 * 1024;

    22 + 98 * recipients + 512 + 48 + 16 + plain + 16 * (plain / CHUNK + 1)
}

const ARMOR: &[u8] = b"-----BEGIN AGE ENCRYPTED FILE-----";
const HEADER: &[u8] = b"age-encryption.org/v1";

/// Why sealed bytes could not be opened.
pub(crate) enum OpenError {
    /// They are not an age file, or a damaged one.
    Corrupt(String),
    /// They are sealed to other keys.
    NoMatchingKeys,
    /// Their header has too many stanzas. None of them was tried.
    TooManyStanzas,
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

fn decryptor(sealed: &[u8]) -> Result<Decryptor<impl BufRead>, OpenError> {
    if sealed.is_empty() {
        return Err(OpenError::Corrupt("it is empty".into()));
    }
    if !is_sealed(sealed) {
        return Err(OpenError::Corrupt("it is not an age file".into()));
    }
    let trimmed = sealed.trim_ascii_start();
    let binary = if trimmed.starts_with(ARMOR) {
        let mut binary = Vec::with_capacity(trimmed.len());
        let read = ArmoredReader::new(trimmed).read_to_end(&mut binary);
        read.map_err(|error| sort(DecryptError::Io(error)))?;
        Cow::Owned(binary)
    } else {
        Cow::Borrowed(sealed)
    };
    check_header(&binary)?;
    Decryptor::new_buffered(Cursor::new(binary)).map_err(sort)
}

/// Refuses a header that would take long to parse or to try. This takes one pass over the header.
fn check_header(binary: &[u8]) -> Result<(), OpenError> {
    let (mut stanzas, mut length) = (0, 0);
    for line in binary.split_inclusive(|byte| *byte == b'\n') {
        if line.starts_with(b"---") {
            return Ok(());
        }
        length += line.len();
        stanzas += usize::from(line.starts_with(b"->"));
        if stanzas > MAX_STANZAS || length > MAX_HEADER {
            return Err(OpenError::TooManyStanzas);
        }
    }
    // It has no end. The `age` crate says so.
    Ok(())
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

#[cfg(test)]
mod tests {
    use age::x25519;

    use super::*;

    fn sealed_to(recipients: usize) -> (x25519::Identity, Vec<u8>) {
        let (identity, other) = (x25519::Identity::generate(), x25519::Identity::generate());
        let others = iter::repeat_n(other.to_public(), recipients - 1);
        let all: Vec<_> = others.chain([identity.to_public()]).collect();
        let all = all.iter().map(|recipient| recipient as &dyn Recipient);
        let sealed = seal(all, b"canary", "here").unwrap();
        (identity, sealed.to_vec())
    }

    fn opened(identity: &x25519::Identity, sealed: &[u8]) -> Result<Bytes, OpenError> {
        open(iter::once(identity as &dyn Identity), sealed)
    }

    /// Returns the file with another header.
    fn with_header(header: &str) -> Vec<u8> {
        format!("age-encryption.org/v1\n{header}--- {}\n", "A".repeat(43)).into_bytes()
    }

    const STANZA: &str = "-> X25519 AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n\
                          AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n";

    #[test]
    fn as_many_recipients_as_are_accepted_can_open_a_record_in_armor_too() {
        let (identity, sealed) = sealed_to(MAX_RECIPIENTS);
        assert_eq!(opened(&identity, &sealed).ok().unwrap().as_slice(), b"canary");
        let mut armored = Vec::new();
        let format = age::armor::Format::AsciiArmor;
        let mut writer = age::armor::ArmoredWriter::wrap_output(&mut armored, format).unwrap();
        writer.write_all(&sealed).unwrap();
        writer.finish().unwrap();
        assert_eq!(opened(&identity, &armored).ok().unwrap().as_slice(), b"canary");
    }

    #[test]
    fn a_header_of_more_than_64_stanzas_is_refused_before_one_is_tried() {
        for header in [
            STANZA.repeat(65),
            STANZA.repeat(1300),
            "->X25519\n".repeat(65),
            // A single stanza with a long body is as slow to parse.
            format!("-> a\n{}\n", format!("{}\n", "A".repeat(64)).repeat(256)),
        ] {
            let bytes = with_header(&header);
            let untried = iter::from_fn(|| -> Option<&dyn Identity> { panic!("one was tried") });
            let refused = open(untried, &bytes).err();
            assert!(matches!(refused, Some(OpenError::TooManyStanzas)), "{header:.40}");
            let refused = is_sealed_to_a_passphrase(&bytes).err();
            assert!(matches!(refused, Some(OpenError::TooManyStanzas)), "{header:.40}");
        }
    }

    #[test]
    fn a_header_of_64_stanzas_is_tried() {
        let identity = x25519::Identity::generate();
        let refused = opened(&identity, &with_header(&STANZA.repeat(MAX_STANZAS))).err();
        assert!(!matches!(refused, Some(OpenError::TooManyStanzas) | None));
    }

    #[test]
    fn the_size_that_is_reserved_is_enough() {
        for recipients in [1, 2, MAX_RECIPIENTS] {
            // The random stanza has another size each time.
            for _ in 0..20 {
                let (_, sealed) = sealed_to(recipients);
                assert!(sealed.len() <= sealed_size(b"canary".len(), recipients));
            }
        }
    }
}
