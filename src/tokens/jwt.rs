use base64::Engine;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use chrono::{DateTime, Utc};
use zeroize::Zeroizing;

use crate::tokens::json;

/// RFC 7515 demands no padding, but some issuers pad.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The two registered claims (RFC 7519, 4.1) that scheduling needs.
#[derive(Default)]
pub(super) struct Claims {
    pub(super) exp: Option<DateTime<Utc>>,
    pub(super) iat: Option<DateTime<Utc>>,
}

/// Reads the claims without verifying anything. A text that is not a JWT has no claims.
pub(super) fn claims(token: &str) -> Claims {
    let mut parts = token.split('.');
    let (Some(_header), Some(payload), Some(_signature), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Claims::default();
    };
    let mut decoded = Zeroizing::new(vec![0; payload.len()]);
    let Ok(length) = BASE64.decode_slice(payload, &mut decoded) else {
        return Claims::default();
    };
    let Ok(fields) = json::object(&decoded[..length]) else {
        return Claims::default();
    };
    let claim = |name| {
        let (_, value) = fields.iter().find(|(field, _)| field == name)?;
        numeric_date(value.get())
    };
    Claims { exp: claim("exp"), iat: claim("iat") }
}

/// Reads a `NumericDate`: seconds since the epoch. A fraction is dropped.
fn numeric_date(json: &str) -> Option<DateTime<Utc>> {
    let seconds = json.parse::<i64>().ok().or_else(|| {
        let seconds = json.parse::<f64>().ok()?;
        // A number outside this range is no date that chrono can hold.
        (seconds.abs() < 1e15).then_some(seconds as i64)
    })?;
    DateTime::from_timestamp(seconds, 0)
}

#[cfg(test)]
mod tests {
    use base64::prelude::{BASE64_URL_SAFE, BASE64_URL_SAFE_NO_PAD};

    use super::*;

    fn exp(token: &str) -> Option<i64> {
        claims(token).exp.map(|date| date.timestamp())
    }

    #[test]
    fn reads_whole_and_fractional_dates_padded_or_not() {
        for payload in [
            r#"{"exp":1700000000}"#,
            r#"{"exp":1700000000.9,"a":[1,{"exp":2}]}"#,
            r#"{ "exp" : 1.7e9 }"#,
        ] {
            assert_eq!(
                exp(&format!("e.{}.s", BASE64_URL_SAFE_NO_PAD.encode(payload))),
                Some(1_700_000_000)
            );
            assert_eq!(
                exp(&format!("e.{}.s", BASE64_URL_SAFE.encode(payload))),
                Some(1_700_000_000)
            );
        }
    }

    #[test]
    fn text_that_is_not_a_jwt_has_no_claims() {
        let payload = BASE64_URL_SAFE_NO_PAD.encode(r#"{"exp":1700000000}"#);
        for token in [
            String::new(),
            "opaque".into(),
            payload.clone(),
            format!("e.{payload}"),
            format!("e.{payload}.s.x"),
            "e.!!!.s".into(),
            format!("e.{}.s", BASE64_URL_SAFE_NO_PAD.encode(r#"{"exp":"1700000000"}"#)),
            format!("e.{}.s", BASE64_URL_SAFE_NO_PAD.encode(r#"{"exp":1e300}"#)),
            format!("e.{}.s", BASE64_URL_SAFE_NO_PAD.encode(r#"{"exp":1,"exp":2}"#)),
            format!("e.{}.s", BASE64_URL_SAFE_NO_PAD.encode("[1]")),
        ] {
            assert_eq!(exp(&token), None, "{token}");
        }
    }
}
