//! The parts that every age store needs: tokens of a usual size, and decryption with age.

use std::io::Read;
use std::iter;

use age::Decryptor;
use tokenkeep::AuthTokens;
use tokenkeep::chrono::{TimeDelta, Utc};

pub fn tokens() -> AuthTokens {
    AuthTokens::new("a".repeat(2_000))
        .with_refresh_token("r".repeat(900))
        .with_expires_at(Utc::now() + TimeDelta::hours(12))
}

pub fn open(identity: &dyn age::Identity, sealed: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    let decryptor = Decryptor::new_buffered(sealed).unwrap();
    decryptor.decrypt(iter::once(identity)).unwrap().read_to_end(&mut plain).unwrap();
    plain
}
