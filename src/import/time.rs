//! The forms in which other programs write when a token expires.

use std::borrow::Cow;

use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime, TimeDelta, Utc};
use serde_json::value::RawValue;

/// From this number on, a time is in milliseconds: as seconds it would be in the year 5138. As milliseconds it
/// is in 1973, before any token.
const MILLISECONDS: f64 = 1e11;

/// From this number on, a time is in microseconds: as milliseconds it would be in the year 5138.
const MICROSECONDS: f64 = 1e14;

/// From this number on, it is no time of any kind.
const NO_TIME: f64 = 1e17;

/// What a file says about the expiry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Time {
    At(DateTime<Utc>),
    /// A value that stands for "unknown": 0, a negative number, the year 1, an empty text.
    Unknown,
}

/// Reads a time in any form. Returns `None` for a value that is none.
pub(super) fn read(json: &RawValue) -> Option<Time> {
    let json = json.get();
    match json.as_bytes().first()? {
        b'"' => text(&serde_json::from_str::<Cow<'_, str>>(json).ok()?),
        b'[' => parts(&serde_json::from_str::<Vec<i64>>(json).ok()?),
        b'n' => Some(Time::Unknown),
        _ => number(json.parse().ok()?),
    }
}

/// Reads a text: a number, or a date.
pub(super) fn text(text: &str) -> Option<Time> {
    let text = text.trim();
    if text.is_empty() {
        return Some(Time::Unknown);
    }
    if let Ok(seconds) = text.parse::<f64>() {
        return number(seconds);
    }
    // AWS writes `2020-06-17T10:02:08UTC`.
    let without_zone = text.strip_suffix("UTC").map(str::trim_end);
    if let (None, Ok(date)) = (without_zone, text.parse::<DateTime<Utc>>()) {
        return Some(dated(date));
    }
    if let Ok(date) = DateTime::parse_from_rfc2822(text) {
        return Some(dated(date.to_utc()));
    }
    // Without a zone, Google's libraries mean UTC.
    let bare = without_zone.unwrap_or(text);
    let forms = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f"];
    let date = forms.iter().find_map(|form| NaiveDateTime::parse_from_str(bare, form).ok())?;
    Some(dated(date.and_utc()))
}

/// Reads seconds, milliseconds or microseconds since the epoch. They are told apart by their size.
fn number(number: f64) -> Option<Time> {
    if !number.is_finite() || number >= NO_TIME {
        return None;
    }
    if number <= 0.0 {
        return Some(Time::Unknown);
    }
    let microseconds = if number >= MICROSECONDS {
        number
    } else if number >= MILLISECONDS {
        number * 1e3
    } else {
        number * 1e6
    };
    // All of these are below 2^63 microseconds.
    DateTime::from_timestamp_micros(microseconds.round() as i64).map(Time::At)
}

/// Reads `[year, day of the year, hour, minute, second, nanosecond, hours, minutes and seconds of the offset]`,
/// as the `time` crate writes it.
fn parts(parts: &[i64]) -> Option<Time> {
    let &[year, ordinal, hour, minute, second, nanos, ref offset @ ..] = parts else { return None };
    let offset: [i64; 3] = offset.try_into().ok()?;
    let small = |number: i64| u32::try_from(number).ok();
    let date = NaiveDate::from_yo_opt(i32::try_from(year).ok()?, small(ordinal)?)?;
    let date =
        date.and_hms_nano_opt(small(hour)?, small(minute)?, small(second)?, small(nanos)?)?;
    if offset.iter().any(|part| part.abs() >= 60) {
        return None;
    }
    let offset = TimeDelta::seconds(offset[0] * 3600 + offset[1] * 60 + offset[2]);
    Some(dated(date.and_utc().checked_sub_signed(offset)?))
}

/// Go writes the first moment of the year 1 for "no expiry".
fn dated(date: DateTime<Utc>) -> Time {
    if date.year() <= 1 { Time::Unknown } else { Time::At(date) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(json: &str) -> Option<Time> {
        read(&RawValue::from_string(json.to_owned()).unwrap())
    }

    fn at(text: &str) -> Option<Time> {
        Some(Time::At(text.parse().unwrap()))
    }

    #[test]
    fn every_form_names_the_exact_time() {
        for (json, expected) in [
            (r#""2020-11-22T10:00:00Z""#, "2020-11-22T10:00:00Z"),
            (r#""2020-11-22T10:00:00.123456789+02:00""#, "2020-11-22T08:00:00.123456789Z"),
            (r#""2020-11-22T10:00:00.123456Z""#, "2020-11-22T10:00:00.123456Z"),
            (r#""2020-11-22T10:00:00.123456""#, "2020-11-22T10:00:00.123456Z"),
            (r#""2020-11-22T10:00:00""#, "2020-11-22T10:00:00Z"),
            (r#""2020-11-22 10:00:00""#, "2020-11-22T10:00:00Z"),
            (r#""2020-11-22T10:00:00UTC""#, "2020-11-22T10:00:00Z"),
            (r#""Sun, 22 Nov 2020 10:00:00 GMT""#, "2020-11-22T10:00:00Z"),
            ("1606039200", "2020-11-22T10:00:00Z"),
            ("1606039200.5", "2020-11-22T10:00:00.5Z"),
            ("1.6060392e9", "2020-11-22T10:00:00Z"),
            (r#""1606039200""#, "2020-11-22T10:00:00Z"),
            ("1606039200123", "2020-11-22T10:00:00.123Z"),
            (r#""1606039200123""#, "2020-11-22T10:00:00.123Z"),
            ("1606039200123456", "2020-11-22T10:00:00.123456Z"),
            ("[2020,327,10,0,0,5,0,0,0]", "2020-11-22T10:00:00.000000005Z"),
            ("[2020,327,12,30,0,0,2,30,0]", "2020-11-22T10:00:00Z"),
        ] {
            assert_eq!(time(json), at(expected), "{json}");
        }
    }

    #[test]
    fn a_value_that_stands_for_unknown_is_no_time_and_no_fault() {
        for json in
            ["0", "-1", "0.0", "null", r#""""#, r#"" ""#, r#""0""#, r#""0001-01-01T00:00:00Z""#]
        {
            assert_eq!(time(json), Some(Time::Unknown), "{json}");
        }
    }

    #[test]
    fn a_value_that_is_no_time_is_refused() {
        for json in [
            r#""soon""#,
            "true",
            "{}",
            "[]",
            "[2020]",
            "[2020,400,0,0,0,0,0,0,0]",
            "1e17",
            "1e400",
            r#""2020-13-01T00:00:00Z""#,
            r#""2020-11-22""#,
            "[2020,327,10,0,0,5,99,0,0]",
        ] {
            assert_eq!(time(json), None, "{json}");
        }
    }
}
