//! Programs in JavaScript that use google-auth-library or googleapis: the `Credentials` of the library.
//!
//! Source: <https://github.com/googleapis/google-auth-library-nodejs> (`credentials.ts`). `expiry_date` is in
//! milliseconds. A file without it has the form of RFC 6749.

use super::{Account, Fate, Format, Read, Shape};

pub(super) const SHAPE: Shape = Shape {
    format: Format::GoogleAuthLibrary,
    name: "google-auth-library",
    program: "a program in JavaScript (google-auth-library, googleapis)",
    fits: |document| {
        document.object().is_some_and(|it| {
            it.has("expiry_date") && (it.has("access_token") || it.has("refresh_token"))
        })
    },
    read: |document, _| {
        let fields = document.object().ok_or("it is not a JSON object")?;
        let mut tokens = fields.tokens("access_token", "refresh_token")?;
        tokens.expires_at = fields.time("expiry_date", Fate::Expiry)?;
        let provider = fields.provider()?;
        let tokens = fields.rest(tokens, None)?;
        let account = Account { name: "token".into(), tokens, provider };
        Ok(Read { accounts: vec![account], has_more: false })
    },
    sign_out: "delete its token file, so that it signs in anew",
};
