//! Reads a keychain item of another program: a record or a bare token, in UTF-8 or UTF-16.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tokenkeep::AuthTokens;
use tokenkeep::fuzzing::keychain_item;
use tokenkeep_fuzz::{assert_hidden, assert_redacted, assert_round_trip};

fuzz_target!(|data: &[u8]| {
    match keychain_item(data) {
        Ok(tokens) => {
            assert_round_trip(&tokens);
            assert_redacted(&tokens);
        }
        Err(error) => {
            let narrow: Vec<u8> = data.iter().copied().filter(|&byte| byte != 0).collect();
            let shown = format!("{error} {error:?}");
            assert_hidden(&shown, data);
            assert_hidden(&shown, &narrow);
        }
    }
    // If a text can be read, the same text in the form of Credential Manager gives the same tokens.
    // A text with zeros is in that form already.
    if !data.contains(&0)
        && let (Ok(text), Ok(tokens)) = (str::from_utf8(data), AuthTokens::from_text(data, "here"))
    {
        assert!(keychain_item(data).expect("it is a record") == tokens);
        let wide: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert!(keychain_item(&wide).expect("it is the same text") == tokens);
    }
});
