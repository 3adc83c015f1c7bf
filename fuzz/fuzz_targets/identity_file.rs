//! Reads an age identity file, with or without a passphrase, and a file of recovery recipients.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tokenkeep::AgeKey;
use tokenkeep_fuzz::{File, IDENTITY, assert_hidden, passphrase_for, wait};

static FILE: LazyLock<File> = LazyLock::new(|| File::new("key.txt"));

fuzz_target!(|data: &[u8]| {
    FILE.write(data);
    let own = AgeKey::identity_file(FILE.path()).with_passphrase(passphrase_for(data));
    let recovery = AgeKey::custom("the key", || Ok(IDENTITY.to_owned().into()));
    let recovery = recovery.with_recovery_recipients_file(FILE.path());
    for (key, others) in [(own, 0), (recovery, 1)] {
        match wait(key.recipients()) {
            Ok(recipients) => {
                assert!(recipients.len() > others, "a key without recipients");
                assert!(recipients.iter().all(|it| it.starts_with("age1") && it.len() == 62));
            }
            Err(error) => assert_hidden(&format!("{error} {error:?} {key:?}"), data),
        }
    }
});
