//! The object of a slot, as a server that nobody trusts gives it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tokenkeep::fuzzing::bucket_object;

fuzz_target!(|data: &[u8]| {
    if let Ok(written) = bucket_object(data) {
        // What is understood is kept: written again and again, it stays the same.
        assert_eq!(bucket_object(&written).expect("it was written so"), written);
    }
});
