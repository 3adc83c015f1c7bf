//! The forms in which other programs write a point in time.

use std::borrow::Cow;

use chrono::{DateTime, NaiveDate, NaiveDateTime, TimeDelta, Utc};
use serde_json::value::RawValue;

/// Below this number of seconds, which is in 2001, a number is a lifetime or a mistake: there were no tokens then.
const EARLIEST: f64 = 1e9;

/// From this number on, a time is in milliseconds: as seconds it would be in the year 5138. As milliseconds it
/// is in 1973, before any token.
const MILLISECONDS: f64 = 1e11;

/// From this number on, it is in microseconds: as milliseconds it would be in the year 5138.
const MICROSECONDS: f64 = 1e14;

/// From this number on, it is in nanoseconds: as microseconds it would be in the year 5138.
const NANOSECONDS: f64 = 1e17;

/// From this number on, it is no time of any kind.
const NO_TIME: f64 = 1e20;

/// What a value says about a point in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Time {
    At(DateTime<Utc>),
    /// A date that names no time zone, so that it is not known which moment is meant.
    Zoneless(NaiveDateTime),
    /// A value that stands for "unknown": a number of 0 or less, the year 1, an empty text.
    Unknown,
}

/// Reads a time in any form. Returns `None` for a value that is none.
pub(crate) fn read(json: &RawValue) -> Option<Time> {
    let json = json.get();
    match json.as_bytes().first()? {
        b'"' => text(&serde_json::from_str::<Cow<'_, str>>(json).ok()?),
        b'[' => parts(&serde_json::from_str::<Vec<i64>>(json).ok()?),
        b'n' => Some(Time::Unknown),
        _ => number(json),
    }
}

/// Reads a text: a number, or a date.
fn text(text: &str) -> Option<Time> {
    let text = text.trim();
    if text.is_empty() {
        return Some(Time::Unknown);
    }
    if let Some(time) = number(text) {
        return Some(time);
    }
    // AWS writes `2020-06-17T10:02:08UTC`, and Go's `String` `2020-06-17 10:02:08 +0000 UTC`.
    let without_utc = text.strip_suffix("UTC").map(str::trim_end);
    let bare = without_utc.unwrap_or(text);
    let date = bare.parse::<DateTime<Utc>>().ok();
    if let Some(date) =
        date.or_else(|| DateTime::parse_from_rfc2822(bare).ok().map(|it| it.to_utc()))
    {
        return Some(dated(date));
    }
    // The `time` crate writes `2020-11-22 10:00:00.0 +00:00:00`, with the seconds of the offset.
    let with_offset = |text| DateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f %:z").ok();
    if let Some(date) = text.strip_suffix(":00").and_then(with_offset) {
        return Some(dated(date.to_utc()));
    }
    let forms = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f"];
    let date = forms.iter().find_map(|form| NaiveDateTime::parse_from_str(bare, form).ok())?;
    match without_utc {
        Some(_) => Some(dated(date.and_utc())),
        None if dated(date.and_utc()) == Time::Unknown => Some(Time::Unknown),
        None => Some(Time::Zoneless(date)),
    }
}

/// Reads seconds, milliseconds, microseconds or nanoseconds since the epoch. They are told apart by their size.
fn number(text: &str) -> Option<Time> {
    let number: f64 = text.parse().ok()?;
    if !number.is_finite() || number >= NO_TIME {
        return None;
    }
    if number <= 0.0 {
        return Some(Time::Unknown);
    }
    let per_second = match number {
        _ if number >= NANOSECONDS => 1e9,
        _ if number >= MICROSECONDS => 1e6,
        _ if number >= MILLISECONDS => 1e3,
        _ => 1.0,
    };
    // Ticks of .NET, and a date in the year 9999, would be some time before there were tokens.
    if number / per_second < EARLIEST {
        return None;
    }
    // A float has 15 exact digits, which nanoseconds need more than. An integer is read as one.
    let date = match text.parse::<i64>() {
        Ok(whole) => {
            let per_second = per_second as i64;
            let nanos = whole % per_second * (1_000_000_000 / per_second);
            DateTime::from_timestamp(whole / per_second, u32::try_from(nanos).ok()?)
        }
        // All of these are below 2^63 microseconds.
        Err(_) => DateTime::from_timestamp_micros((number / per_second * 1e6).round() as i64),
    };
    date.map(Time::At)
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

/// Go writes the first moment of the year 1 for "no expiry", and others the epoch.
fn dated(date: DateTime<Utc>) -> Time {
    if date <= DateTime::UNIX_EPOCH { Time::Unknown } else { Time::At(date) }
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
            (r#""2020-11-22 10:00:00+00:00""#, "2020-11-22T10:00:00Z"),
            (r#""2020-11-22 12:00:00 +0200""#, "2020-11-22T10:00:00Z"),
            (r#""2020-11-22 10:00:00 +0000 UTC""#, "2020-11-22T10:00:00Z"),
            (r#""2020-11-22 10:00:00.000000005 +00:00:00""#, "2020-11-22T10:00:00.000000005Z"),
            (r#""2020-11-22 12:30:00.0 +02:30:00""#, "2020-11-22T10:00:00Z"),
            (r#""2020-11-22T10:00:00UTC""#, "2020-11-22T10:00:00Z"),
            (r#""Sun, 22 Nov 2020 10:00:00 GMT""#, "2020-11-22T10:00:00Z"),
            ("1606039200", "2020-11-22T10:00:00Z"),
            ("1606039200.5", "2020-11-22T10:00:00.5Z"),
            ("1.6060392e9", "2020-11-22T10:00:00Z"),
            (r#""1606039200""#, "2020-11-22T10:00:00Z"),
            ("1606039200123", "2020-11-22T10:00:00.123Z"),
            (r#""1606039200123""#, "2020-11-22T10:00:00.123Z"),
            ("1606039200123456", "2020-11-22T10:00:00.123456Z"),
            ("1606039200123456789", "2020-11-22T10:00:00.123456789Z"),
            ("[2020,327,10,0,0,5,0,0,0]", "2020-11-22T10:00:00.000000005Z"),
            ("[2020,327,12,30,0,0,2,30,0]", "2020-11-22T10:00:00Z"),
        ] {
            assert_eq!(time(json), at(expected), "{json}");
        }
    }

    #[test]
    fn a_date_without_a_time_zone_names_no_moment() {
        for json in
            [r#""2020-11-22T10:00:00.5""#, r#""2020-11-22T10:00:00""#, r#""2020-11-22 10:00:00""#]
        {
            assert!(matches!(time(json), Some(Time::Zoneless(_))), "{json}");
        }
    }

    #[test]
    fn a_value_that_stands_for_unknown_is_no_time_and_no_fault() {
        for json in [
            "0",
            "-1",
            "0.0",
            "null",
            r#""""#,
            r#"" ""#,
            r#""0""#,
            r#""0001-01-01T00:00:00Z""#,
            r#""0001-01-01T00:00:00""#,
            r#""1970-01-01T00:00:00Z""#,
        ] {
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
            "1e20",
            "253402300799",
            "637134336000000000",
            "3600",
            r#""3600""#,
            r#""inf""#,
            r#""NaN""#,
            "1e400",
            r#""2020-13-01T00:00:00Z""#,
            r#""2020-11-22""#,
            "[2020,327,10,0,0,5,99,0,0]",
        ] {
            assert_eq!(time(json), None, "{json}");
        }
    }
}
