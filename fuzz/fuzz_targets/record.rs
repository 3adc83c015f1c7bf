//! Reads a record or a bare access token, as in a plaintext file, on standard input or in a keychain item.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tokenkeep::AuthTokens;
use tokenkeep::store::Record;
use tokenkeep_fuzz::{
    assert_ages, assert_hidden, assert_record_round_trip, assert_redacted, assert_round_trip,
};

fuzz_target!(|data: &[u8]| {
    for read in [AuthTokens::from_record, AuthTokens::from_text] {
        match read(data, "here") {
            Ok(tokens) => {
                assert_round_trip(&tokens);
                assert_redacted(&tokens);
                assert_ages(&tokens);
            }
            Err(error) => assert_hidden(&format!("{error} {error:?}"), data),
        }
    }
    if let Ok(record) = Record::decode(data, "here") {
        assert_record_round_trip(&record);
        let tokens = AuthTokens::from_record(data, "here").expect("it is a record");
        assert!(tokens == record.tokens, "tokens are read in two ways");
    }
});
