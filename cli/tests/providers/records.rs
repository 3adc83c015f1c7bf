//! What a session left in its record.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::Value;

use crate::home::Home;

/// Returns a value of the record in a home.
pub(crate) fn recorded(home: &Home, pointer: &str) -> Value {
    let record: Value = serde_json::from_str(&home.run("get --field json").ok()).unwrap();
    record.pointer(pointer).cloned().unwrap_or_default()
}

/// Returns the claims of a JSON Web Token. Its signature is not checked.
pub(crate) fn claims(token: &str) -> Value {
    let claims = token.split('.').nth(1).unwrap_or_else(|| panic!("no JSON Web Token: {token}"));
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap()
}
