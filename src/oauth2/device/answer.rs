//! The answer of a device authorization endpoint (RFC 8628, 3.2), and what differs from it in practice.

use std::time::Duration;

use serde_json::value::RawValue;
use zeroize::Zeroizing;

use crate::tokens::json;

/// The pause between two polls if the provider names none (RFC 8628, 3.2).
const USUAL_INTERVAL: Duration = Duration::from_secs(5);

/// The longest pause between two polls. A code does not live much longer.
pub(super) const LONGEST_INTERVAL: Duration = Duration::from_secs(300);

/// How long a code lives if the provider does not say it: 15 minutes, as at GitHub and Microsoft. RFC 8628 (3.2)
/// requires the field.
const USUAL_LIFETIME: Duration = Duration::from_secs(15 * 60);

/// The longest wait for a person: 1 day.
const LONGEST_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// Returns the answer as the `oauth2` crate reads it. Returns `None` if it has no codes or no URL.
///
/// Google names its URL `verification_url`. Numbers come as strings and with fractions. Where a number is missing,
/// is not one, or is not positive, the usual one counts.
pub(super) fn standard(body: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let fields = json::object(body).ok()?;
    let field = |wanted: &str| fields.iter().find(|(name, _)| name == wanted).map(|(_, it)| *it);
    let text = |names: [&str; 2]| names.into_iter().filter_map(field).find_map(text);
    let number = |name: &str, usual: Duration, longest: Duration| {
        field(name).and_then(seconds).unwrap_or(usual).min(longest).as_secs()
    };
    let answer = serde_json::json!({
        "device_code": field("device_code").and_then(self::text)?,
        "user_code": field("user_code").and_then(self::text)?,
        "verification_uri": text(["verification_uri", "verification_url"])?,
        "verification_uri_complete":
            text(["verification_uri_complete", "verification_url_complete"]),
        "expires_in": number("expires_in", USUAL_LIFETIME, LONGEST_LIFETIME),
        "interval": number("interval", USUAL_INTERVAL, LONGEST_INTERVAL),
    });
    serde_json::to_vec(&answer).ok().map(Zeroizing::new)
}

/// Returns the new interval in an answer to a poll. GitHub sends one with `slow_down`.
pub(super) fn interval(body: &[u8]) -> Option<Duration> {
    let fields = json::object(body).ok()?;
    fields.iter().find(|(name, _)| name == "interval").and_then(|(_, value)| seconds(value))
}

/// Returns a string that is not empty.
fn text(json: &RawValue) -> Option<String> {
    serde_json::from_str(json.get()).ok().filter(|text: &String| !text.is_empty())
}

/// Reads a positive number of seconds, in a string or not. A fraction is rounded up.
fn seconds(json: &RawValue) -> Option<Duration> {
    let text = text(json);
    let number: f64 = text.as_deref().unwrap_or(json.get()).trim().parse().ok()?;
    // The conversion saturates.
    (number > 0.0).then(|| Duration::from_secs(number.ceil() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(fields: &str) -> Option<serde_json::Value> {
        let body = format!(r#"{{"device_code":"d","user_code":"WDJB"{fields}}}"#);
        standard(body.as_bytes()).map(|json| serde_json::from_slice(&json).unwrap())
    }

    #[test]
    fn a_number_may_have_any_form_and_a_useless_one_is_replaced_by_the_usual_one() {
        for (json, interval, lifetime) in [
            ("7", 7, 7),
            (r#""7""#, 7, 7),
            (r#"" 7 ""#, 7, 7),
            ("6.5", 7, 7),
            (r#""7.0""#, 7, 7),
            ("7e0", 7, 7),
            ("0.2", 1, 1),
            ("0", 5, 900),
            ("-1", 5, 900),
            ("null", 5, 900),
            ("true", 5, 900),
            ("[]", 5, 900),
            (r#""""#, 5, 900),
            (r#""soon""#, 5, 900),
            ("18446744073709551616", 300, 86_400),
            ("1e400", 300, 86_400),
        ] {
            let url = r#","verification_uri":"https://issuer.example/""#;
            let answer = read(&format!(r#"{url},"interval":{json},"expires_in":{json}"#)).unwrap();
            assert_eq!(
                (&answer["interval"], &answer["expires_in"]),
                (&interval.into(), &lifetime.into()),
                "{json}"
            );
        }
        let answer = read(r#","verification_uri":"https://issuer.example/""#).unwrap();
        assert_eq!((&answer["interval"], &answer["expires_in"]), (&5.into(), &900.into()));
    }

    #[test]
    fn the_url_has_either_name() {
        let google = read(r#","verification_url":"https://g.example/""#).unwrap();
        assert_eq!(google["verification_uri"], "https://g.example/");
        let both =
            r#","verification_url":"https://g.example/","verification_uri":"https://i.example/""#;
        assert_eq!(read(both).unwrap()["verification_uri"], "https://i.example/");
        let complete = r#","verification_uri":"https://i.example/","verification_uri_complete":"https://i.example/?c""#;
        assert_eq!(read(complete).unwrap()["verification_uri_complete"], "https://i.example/?c");
        for unusable in ["", r#","verification_uri":"""#, r#","verification_uri":5"#] {
            assert!(read(unusable).is_none(), "{unusable}");
        }
        for unusable in
            ["", "<html>", "[]", r#"{"user_code":"a","verification_uri":"https://i.example/"}"#]
        {
            assert!(standard(unusable.as_bytes()).is_none(), "{unusable}");
        }
    }
}
