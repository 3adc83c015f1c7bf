//! Reads a sealed record from its file. An input that begins with `{` is sealed first, so that the fuzzer
//! also tests the code after the decryption. Any other input is the file.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tokenkeep::store::Record;
use tokenkeep::stores::AgeFileStore;
use tokenkeep::{AgeKey, TokenStore};
use tokenkeep_fuzz::{
    File, IDENTITY, assert_hidden, assert_record_round_trip, assert_redacted, passphrase_for, wait,
};

static FILE: LazyLock<File> = LazyLock::new(|| File::new("tokens.age"));

fuzz_target!(|data: &[u8]| {
    let is_plain = data.starts_with(b"{");
    let sealed = if is_plain { seal(data) } else { data.to_vec() };
    FILE.write(&sealed);
    let key = AgeKey::custom("the key", || Ok(IDENTITY.to_owned().into()));
    let key = key.with_passphrase(passphrase_for(&sealed));
    let loaded = wait(AgeFileStore::new(FILE.path(), key).load());
    match &loaded {
        Ok(stored) => {
            let record = &stored.as_ref().expect("there is a file, and so it is not empty").record;
            assert_record_round_trip(record);
            assert_redacted(&record.tokens);
        }
        Err(error) => assert_hidden(&format!("{error} {error:?}"), data),
    }
    if is_plain {
        match (loaded, Record::decode(data, "here")) {
            (Ok(Some(stored)), Ok(record)) => assert!(stored.record == record),
            (Err(_), Err(_)) => {}
            (_, alone) => {
                panic!(
                    "the sealed and the plain record differ; the plain one can be read: {}",
                    alone.is_ok()
                )
            }
        }
    }
});

fn seal(plain: &[u8]) -> Vec<u8> {
    let identity: age::x25519::Identity = IDENTITY.parse().expect("it is an identity");
    age::encrypt(&identity.to_public(), plain).expect("there is a recipient")
}
