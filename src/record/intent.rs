use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use chrono::{DateTime, SecondsFormat, Utc};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::sys::wipe;
use crate::tokens::RefreshToken;

const FORMAT: &str = "tokenkeep-intent/1";

/// The intent to send a refresh token: which token, and since when.
///
/// It is saved in the record before the token is sent. It is removed when the new tokens are saved, or when
/// it is proven that the token was not spent. If a later holder of the lease finds an intent, the earlier
/// holder ended in between. Then the token may be spent.
///
/// An intent contains a salted SHA-256 digest of the token, and never the token.
///
/// Its text form (`Display`, `FromStr`) is one line of ASCII.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    at: DateTime<Utc>,
    of: Fingerprint,
}

/// A salted SHA-256 digest of a secret. It recognizes the secret but does not reveal it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    salt: [u8; 16],
    digest: [u8; 32],
}

impl Intent {
    /// Makes the intent to send `token` at `now`.
    ///
    /// # Panics
    ///
    /// Panics if the operating system gives no random bytes.
    #[must_use]
    pub fn new(token: &RefreshToken, now: DateTime<Utc>) -> Self {
        Self { at: now, of: Fingerprint::new(token, "") }
    }

    /// Returns when the token was about to be sent, by the clock of the machine that sent it.
    #[must_use]
    pub fn at(&self) -> DateTime<Utc> {
        self.at
    }

    /// Returns whether this is the intent to send `token`.
    #[must_use]
    pub fn is_for(&self, token: &RefreshToken) -> bool {
        self.of.is_of(token, "")
    }
}

impl Fingerprint {
    /// Makes the fingerprint of a token and of the client that sends it.
    pub(super) fn new(token: &RefreshToken, client: &str) -> Self {
        let mut salt = [0; 16];
        getrandom::fill(&mut salt).expect("the operating system gives random bytes");
        Self { salt, digest: digest(&salt, token, client) }
    }

    pub(super) fn is_of(&self, token: &RefreshToken, client: &str) -> bool {
        digest(&self.salt, token, client).ct_eq(&self.digest).into()
    }
}

/// Writes the salt and the digest, as two words of base64.
impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let base64 = |bytes: &[u8]| BASE64_STANDARD_NO_PAD.encode(bytes);
        write!(f, "{} {}", base64(&self.salt), base64(&self.digest))
    }
}

impl FromStr for Fingerprint {
    type Err = InvalidIntent;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (salt, digest) = text.split_once(' ').ok_or(InvalidIntent(()))?;
        Ok(Self { salt: bytes(salt)?, digest: bytes(digest)? })
    }
}

impl fmt::Display for Intent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.at.to_rfc3339_opts(SecondsFormat::AutoSi, true);
        write!(f, "{FORMAT} {at} {}", self.of)
    }
}

impl FromStr for Intent {
    type Err = InvalidIntent;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut words = text.trim_end().splitn(3, ' ');
        let mut word = || words.next().ok_or(InvalidIntent(()));
        if word()? != FORMAT {
            return Err(InvalidIntent(()));
        }
        Ok(Self { at: word()?.parse().map_err(|_| InvalidIntent(()))?, of: word()?.parse()? })
    }
}

/// A text that is not the text form of an [`Intent`].
#[derive(Debug, thiserror::Error)]
#[error("not an intent of a version that this program knows")]
pub struct InvalidIntent(());

fn digest(salt: &[u8], token: &RefreshToken, client: &str) -> [u8; 32] {
    #[expect(clippy::disallowed_methods, reason = "only the salted digest is kept")]
    let token = token.expose_secret();
    wipe::with_wiped_stack(|| {
        let mut digest = Sha256::new().chain_update(salt).chain_update(token);
        if !client.is_empty() {
            // No token contains a line end. So a token with a client never has the digest of another token.
            digest.update("\n");
            digest.update(client);
        }
        digest.finalize().into()
    })
}

fn bytes<const N: usize>(base64: &str) -> Result<[u8; N], InvalidIntent> {
    let decoded = BASE64_STANDARD_NO_PAD.decode(base64).map_err(|_| InvalidIntent(()))?;
    decoded.try_into().map_err(|_| InvalidIntent(()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_intent_recognises_its_token_after_it_was_written_and_read() {
        let token = RefreshToken::from("canary");
        let now = Utc::now();
        let intent = Intent::new(&token, now);
        let text = intent.to_string();
        assert!(!text.contains("canary") && !text.contains('\n'), "{text}");
        let read: Intent = text.parse().unwrap();
        assert_eq!(read, intent);
        assert_eq!(read.at(), now);
        assert!(read.is_for(&token));
        assert!(!read.is_for(&RefreshToken::from("other")));
    }

    #[test]
    fn two_intents_for_one_token_cannot_be_linked() {
        let token = RefreshToken::from("canary");
        let now = Utc::now();
        assert_ne!(Intent::new(&token, now).of.digest, Intent::new(&token, now).of.digest);
    }

    #[test]
    fn a_truncated_intent_or_one_of_another_version_is_refused() {
        let text = Intent::new(&RefreshToken::from("t"), Utc::now()).to_string();
        for end in 0..text.len() {
            assert!(text[..end].parse::<Intent>().is_err(), "{}", &text[..end]);
        }
        assert!(format!("{text} more").parse::<Intent>().is_err());
        assert!(text.replacen("/1", "/2", 1).parse::<Intent>().is_err());
    }

    fn any_time() -> impl Strategy<Value = DateTime<Utc>> {
        let (first, last) = (DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::MAX_UTC);
        prop_oneof![
            Just(first),
            Just(last),
            // A leap second counts up to two billion nanoseconds.
            (first.timestamp()..=last.timestamp(), 0..1_000_000_000_u32)
                .prop_map(|(secs, nanos)| DateTime::from_timestamp(secs, nanos).unwrap()),
            Just("2016-12-31T23:59:60.5Z".parse().unwrap()),
        ]
    }

    proptest! {
        #[test]
        fn any_intent_recognises_only_its_token_after_it_was_written_and_read(
            token in ".*",
            tail in ".{0,3}",
            at in any_time(),
        ) {
            // This one begins with the same characters.
            let other = RefreshToken::from(format!("{token}{tail}"));
            let token = RefreshToken::from(token);
            let text = Intent::new(&token, at).to_string();
            prop_assert!(text.len() < 1024 && text.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            let read: Intent = format!("{text}\n").parse().unwrap();
            prop_assert_eq!(read.at(), at);
            prop_assert_eq!(&read.to_string(), &text);
            prop_assert!(read.is_for(&token));
            prop_assert_eq!(read.is_for(&other), other == token);
        }

        #[test]
        fn no_text_makes_it_panic_and_a_value_is_the_same_after_a_round_trip(
            text in ".{0,40}|tokenkeep-intent/1 .{0,40}|tokenkeep-intent/1 [0-9TZ:.+-]{20} .{0,60}",
        ) {
            if let Ok(intent) = text.parse::<Intent>() {
                prop_assert_eq!(intent.to_string().parse::<Intent>().unwrap(), intent);
            }
        }
    }
}
