//! Reads the expiry in an access token. The input is a token, and then the claims of a token.
#![no_main]

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use libfuzzer_sys::fuzz_target;
use tokenkeep::AuthTokens;
use tokenkeep::chrono::{DateTime, Utc};
use tokenkeep_fuzz::{assert_ages, assert_round_trip, now};

fuzz_target!(|data: &[u8]| {
    let claims = BASE64_URL_SAFE_NO_PAD.encode(data);
    let token = str::from_utf8(data).unwrap_or_default();
    for token in [token, &format!("eyJhbGciOiJIUzI1NiJ9.{claims}.c2ln")] {
        let tokens = AuthTokens::new(token);
        assert_ages(&tokens);
        let claimed = tokens.expiry();
        if !token.is_empty() {
            assert_round_trip(&tokens);
        }
        for moment in
            [DateTime::<Utc>::MIN_UTC, DateTime::UNIX_EPOCH, now(), DateTime::<Utc>::MAX_UTC]
        {
            let obtained = tokens.clone().with_obtained_at(moment);
            assert_ages(&obtained);
            // The time at which a token was obtained can move its expiry, but cannot add or remove one.
            assert_eq!(obtained.expiry().is_some(), claimed.is_some());
            // The expiry that the server sent is used before that of the claims.
            assert_eq!(obtained.with_expires_at(moment).expiry(), Some(moment));
        }
    }
});
