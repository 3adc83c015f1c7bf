//! Reads requests at the port of a sign-in by browser. The input is a request, and then the code in a
//! request.
#![no_main]

use std::fmt::Write;

use libfuzzer_sys::fuzz_target;
use tokenkeep::fuzzing::callback;
use tokenkeep_fuzz::assert_hidden;

const STATE: &str = "the-right-state";

fuzz_target!(|data: &[u8]| {
    if let Some(brought) = callback(data, STATE) {
        let has = |part: &[u8]| data.windows(part.len()).any(|window| window == part);
        // Only an error may come without the state.
        let is_ours = has(STATE.as_bytes()) || has(b"%");
        assert!(is_ours || brought.is_err(), "the request does not contain the state");
        if let Err(error) = brought {
            assert_hidden(&format!("{error} {error:?}"), data);
        }
    }
    let Ok(code) = str::from_utf8(data) else { return };
    let escaped = code.bytes().fold(String::new(), |mut escaped, byte| {
        write!(escaped, "%{byte:02x}").expect("a String takes everything");
        escaped
    });
    for (state, expected) in [(STATE, Some(Ok(code.to_owned()))), ("another", None)] {
        let request = format!("GET /callback?code={escaped}&state={state} HTTP/1.1\r\n\r\n");
        assert!(callback(request.as_bytes(), STATE) == expected, "{request}");
    }
});
