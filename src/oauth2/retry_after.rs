//! The wait that a server asks for.

use std::num::IntErrorKind;
use std::time::Duration;

use chrono::{DateTime, Datelike, Months, NaiveDate, NaiveDateTime, NaiveTime, Utc};
use http::header::{DATE, HeaderMap, HeaderName, RETRY_AFTER};

/// The longest wait that a server can ask for: 1 hour.
const LONGEST: Duration = Duration::from_secs(3600);

/// The wait if the server asks for one, and does not say in a known form how long, or names a time that is over.
const UNKNOWN: Duration = Duration::from_secs(30);

/// Reads `Retry-After` (RFC 9110, 10.2.3): seconds, or a date by the clock of the server.
pub(super) fn retry_after(headers: &HeaderMap, now: DateTime<Utc>) -> Option<Duration> {
    let text =
        |name: HeaderName| headers.get(name).map(|it| it.to_str().unwrap_or_default().trim());
    let wait = text(RETRY_AFTER)?;
    // The clock of this machine may differ from that of the server.
    let now = text(DATE).and_then(|date| http_date(date, now)).unwrap_or(now);
    let wait = match wait.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(error) if *error.kind() == IntErrorKind::PosOverflow => LONGEST,
        // A date in the past says that a clock is wrong.
        Err(_) => {
            let wait = http_date(wait, now).and_then(|date| (date - now).to_std().ok());
            wait.unwrap_or(UNKNOWN)
        }
    };
    Some(wait.min(LONGEST))
}

/// Reads a date in any of the three forms that a recipient has to know (RFC 9110, 5.6.7). The day of the week is
/// not checked.
fn http_date(text: &str, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let after_day = text.split_once(' ').map(|(_, rest)| rest.trim_start())?;
    let read = |form| NaiveDateTime::parse_from_str(after_day, form).ok();
    let date = read("%d %b %Y %H:%M:%S GMT")
        .or_else(|| read("%b %e %H:%M:%S %Y"))
        .or_else(|| rfc_850(after_day, now))?;
    Some(date.and_utc())
}

/// Reads a date of RFC 850. Its year has two digits: it is not more than 50 years from now.
fn rfc_850(text: &str, now: DateTime<Utc>) -> Option<NaiveDateTime> {
    let (date, time) = text.split_once(' ')?;
    let mut parts = date.split('-');
    let (day, month, year) = (parts.next()?, parts.next()?, parts.next()?);
    let year = Some(year).filter(|year| year.len() == 2)?.parse::<i32>().ok()?;
    let time = NaiveTime::parse_from_str(time, "%H:%M:%S GMT").ok()?;
    let in_century = |century: i32| {
        let date = format!("{day} {month} {}", 100 * century + year);
        Some(NaiveDate::parse_from_str(&date, "%d %b %Y").ok()?.and_time(time))
    };
    let century = now.year().div_euclid(100);
    let latest = now.checked_add_months(Months::new(50 * 12))?.naive_utc();
    // The next century comes into question at the end of this one.
    [century + 1, century, century - 1]
        .into_iter()
        .filter_map(in_century)
        .find(|date| *date <= latest)
}

#[cfg(test)]
mod tests {
    use http::header::HeaderValue;

    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn header(text: &str) -> Option<Duration> {
        dated(text, None, "1994-11-06T08:00:00Z")
    }

    fn dated(text: &str, date: Option<&str>, now: &str) -> Option<Duration> {
        let value = |text: &str| HeaderValue::from_bytes(text.as_bytes()).unwrap();
        let mut headers: HeaderMap = [(RETRY_AFTER, value(text))].into_iter().collect();
        headers.extend(date.map(|date| (DATE, value(date))));
        retry_after(&headers, at(now))
    }

    #[test]
    fn a_wait_is_seconds_or_a_date_and_an_hour_at_most() {
        for (text, seconds) in [
            ("0", 0),
            ("120", 120),
            (" 120 ", 120),
            ("Sun, 06 Nov 1994 08:01:30 GMT", 90),
            ("Sunday, 06-Nov-94 08:01:30 GMT", 90),
            ("Sun Nov  6 08:01:30 1994", 90),
            // The day of the week is not needed.
            ("Mon, 06 Nov 1994 08:01:30 GMT", 90),
            ("Sun, 06 Nov 1994 08:00:00 GMT", 0),
            ("86400", 3600),
            ("18446744073709551615", 3600),
            ("99999999999999999999999999", 3600),
            ("Fri, 31 Dec 9999 23:59:59 GMT", 3600),
            ("Sunday, 06-Nov-44 07:00:00 GMT", 3600),
        ] {
            assert_eq!(header(text), Some(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), at("1994-11-06T08:00:00Z")), None);
    }

    #[test]
    fn a_wait_that_cannot_be_read_or_is_over_is_30_seconds() {
        for text in [
            "-1",
            "-99999999999999999999999999",
            "1.5",
            "soon",
            "",
            "ä",
            "06-11-1994",
            "Sun, 06 Nov 1994 08:01:30",
            "Sunday, 06-Nov-1994 08:01:30 GMT",
            "Sunday, 29-Feb-95 08:01:30 GMT",
            // They are over.
            "Sun, 06 Nov 1994 07:59:59 GMT",
            "Sunday, 06-Nov-45 09:00:00 GMT",
        ] {
            assert_eq!(header(text), Some(UNKNOWN), "{text}");
        }
    }

    #[test]
    fn a_date_counts_from_the_clock_of_the_server() {
        let (date, wait) = ("Sun, 06 Nov 1994 08:00:00 GMT", "Sun, 06 Nov 1994 08:02:00 GMT");
        for now in ["1970-01-01T00:00:00Z", "1994-11-06T08:00:00Z", "2099-01-01T00:00:00Z"] {
            assert_eq!(dated(wait, Some(date), now), Some(Duration::from_secs(120)), "{now}");
        }
        let unreadable = dated(wait, Some("now"), "1994-11-06T08:00:00Z");
        assert_eq!(unreadable, Some(Duration::from_secs(120)));
    }

    #[test]
    fn a_year_of_two_digits_is_the_one_that_is_not_more_than_50_years_ahead() {
        for (now, text, year) in [
            ("1994-11-06T08:00:00Z", "Sunday, 06-Nov-94 08:00:00 GMT", 1994),
            ("2026-01-01T00:00:00Z", "Sunday, 06-Nov-70 08:00:00 GMT", 2070),
            ("2026-01-01T00:00:00Z", "Sunday, 06-Nov-77 08:00:00 GMT", 1977),
            ("2099-12-31T23:59:59Z", "Friday, 01-Jan-00 00:00:30 GMT", 2100),
            ("2100-01-01T00:00:00Z", "Thursday, 31-Dec-99 23:59:59 GMT", 2099),
        ] {
            assert_eq!(http_date(text, at(now)).unwrap().year(), year, "{now} {text}");
        }
    }
}
