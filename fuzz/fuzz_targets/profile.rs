//! Reads the text of a profile of the command, and the text after the command changed it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tokenkeep_cli::fuzzing::profile;
use tokenkeep_fuzz::assert_hidden;

fuzz_target!(|text: &str| {
    if let Err(shown) = profile(text) {
        assert_hidden(&shown, text.as_bytes());
    }
});
