//! Reads the object of a slot from a server that is not trusted.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tokenkeep::fuzzing::bucket_object;

fuzz_target!(|data: &[u8]| {
    if let Ok(written) = bucket_object(data) {
        // An object that was read and written stays the same when it is read and written again.
        assert_eq!(bucket_object(&written).expect("it was written so"), written);
    }
});
