//! What records of other programs say about times, under whatever name.
//!
//! A record without our fields is another program's. It is taken over with its expiry, or refused by the name of
//! the field that cannot be read: tokens whose expiry is lost look as if they lived for ever.

use std::borrow::Cow;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::value::RawValue;

use crate::tokens::json;
use crate::tokens::time::{self, Time};

/// Returns whether an object is a record of this crate. Every version writes these three fields.
pub(crate) fn is_ours(fields: &[(Cow<'_, str>, &RawValue)]) -> bool {
    let has = |name: &str, fits: fn(&str) -> bool| {
        fields.iter().any(|(field, value)| field == name && fits(value.get()))
    };
    has("access_token", |_| true)
        && has("expires_at", |it| it == "null" || it.starts_with('"'))
        && has("version", |it| it.parse::<f64>().is_ok())
}

/// The times that a record names.
#[derive(Default)]
pub(crate) struct Stated {
    pub(crate) expires_at: Option<DateTime<Utc>>,
    pub(crate) refresh_expires_at: Option<DateTime<Utc>>,
    pub(crate) obtained_at: Option<DateTime<Utc>>,
    /// The fields that these times were read from, and what each says.
    pub(crate) fields: Vec<(String, Says)>,
}

/// What a field says about times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Says {
    Expiry,
    RefreshExpiry,
    Obtained,
    /// Nothing: it stands for "unknown".
    Unknown,
}

/// What a field says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    /// When the access token expires.
    Expiry,
    /// How long the access token lives, in units of so many to a second.
    Lifetime(u32),
    /// Either of the two: a small number is a lifetime.
    ExpiryOrLifetime,
    RefreshExpiry,
    RefreshLifetime(u32),
    /// When the tokens were obtained.
    Obtained,
    /// A lifetime in a unit that is not known.
    Unit,
    /// When something expires that may be the access token. It counts if nothing else does.
    Perhaps,
}

/// What is wrong with a lifetime if nothing says when it began.
pub(crate) const UNDATED: &str =
    "counts from a time that it does not name, so the expiry is unknown";

/// The first number of seconds since the epoch that is a date and no lifetime, where a field may be either: in
/// 2001. As a lifetime it is 31 years.
const EARLIEST: f64 = 1e9;

/// How far two fields may differ that say the same: one may have been rounded.
const ROUNDING: TimeDelta = TimeDelta::seconds(2);

/// Reads the times that these fields state. A lifetime counts from when the tokens were obtained: as the record
/// says, or from `now`, if the record has just been received.
///
/// `has_expiry` is whether the access token itself names its expiry.
pub(crate) fn stated(
    fields: &[(Cow<'_, str>, &RawValue)],
    now: Option<DateTime<Utc>>,
    has_expiry: bool,
) -> Result<Stated, String> {
    let mut stated = Stated::default();
    let (mut lifetime, mut refresh_lifetime) = (None, None);
    let mut perhaps = Vec::new();
    for (key, value) in fields {
        let Some(meaning) = meaning(key) else { continue };
        if value.get() == "null" {
            stated.fields.push((key.to_string(), Says::Unknown));
            continue;
        }
        let name = shown(key);
        let relative = |per_second| match seconds(value) {
            Some(seconds) => Ok(Some((name, seconds / f64::from(per_second)))),
            None => Err(format!("its {name} is not a number of seconds")),
        };
        let says = match meaning {
            Meaning::ExpiryOrLifetime if seconds(value).is_some_and(|number| number < EARLIEST) => {
                lifetime = relative(1)?;
                Says::Expiry
            }
            Meaning::Expiry | Meaning::ExpiryOrLifetime => {
                let date = date(name, value)?;
                set(&mut stated.expires_at, name, date)?;
                date.map_or(Says::Unknown, |_| Says::Expiry)
            }
            Meaning::Lifetime(per_second) => {
                lifetime = relative(per_second)?;
                Says::Expiry
            }
            Meaning::RefreshExpiry => {
                let date = date(name, value)?;
                set(&mut stated.refresh_expires_at, name, date)?;
                date.map_or(Says::Unknown, |_| Says::RefreshExpiry)
            }
            Meaning::RefreshLifetime(per_second) => {
                refresh_lifetime = relative(per_second)?;
                Says::RefreshExpiry
            }
            // It is only needed for a lifetime, and programs differ in what they mean by it.
            Meaning::Obtained => {
                let Some(Time::At(at)) = time::read(value) else { continue };
                stated.obtained_at = stated.obtained_at.or(Some(at));
                Says::Obtained
            }
            Meaning::Unit => return Err(format!("its {name} is in a unit that is not known")),
            Meaning::Perhaps => {
                perhaps.push((key, value));
                continue;
            }
        };
        stated.fields.push((key.to_string(), says));
    }
    if stated.expires_at.is_none() && lifetime.is_none() && !has_expiry {
        for (key, value) in perhaps {
            let name = shown(key);
            set(&mut stated.expires_at, name, date(name, value)?)?;
            stated.fields.push((key.to_string(), Says::Expiry));
        }
    }
    if stated.expires_at.is_none() && lifetime.is_none() && !has_expiry {
        refuse_nested(fields)?;
    }
    let after = |from: DateTime<Utc>, (name, seconds): (&str, f64)| {
        // A fraction is dropped, so that a token never seems to live longer than it does.
        let after = TimeDelta::try_seconds(seconds as i64);
        let after = after.and_then(|after| from.checked_add_signed(after));
        after.ok_or_else(|| format!("its {name} is beyond all dates"))
    };
    if let Some((_, seconds)) = lifetime
        && stated.obtained_at.is_none()
        && now.is_none()
        && let Some(expiry) = stated.expires_at
        && seconds > 0.0
    {
        stated.obtained_at = TimeDelta::try_seconds(seconds as i64)
            .and_then(|before| expiry.checked_sub_signed(before));
    }
    stated.obtained_at = stated.obtained_at.or(now);
    if let Some(lifetime) = lifetime
        && stated.expires_at.is_none()
    {
        match stated.obtained_at {
            Some(obtained) => stated.expires_at = Some(after(obtained, lifetime)?),
            None if has_expiry => {}
            None => {
                let name = lifetime.0;
                return Err(format!("its {name} {UNDATED}"));
            }
        }
    }
    // Keycloak writes 0 for a refresh token that does not expire.
    if let Some(lifetime) = refresh_lifetime.filter(|(_, seconds)| *seconds > 0.0)
        && stated.refresh_expires_at.is_none()
    {
        let obtained = stated.obtained_at.ok_or_else(|| format!("its {} {UNDATED}", lifetime.0))?;
        stated.refresh_expires_at = Some(after(obtained, lifetime)?);
    }
    Ok(stated)
}

/// Fails if an inner object says when something expires, and the record itself says nothing of the kind.
fn refuse_nested(fields: &[(Cow<'_, str>, &RawValue)]) -> Result<(), String> {
    fields
        .iter()
        .try_for_each(|(name, value)| refuse_within(shown(name), name, value.get(), DEEPEST))
}

/// How deep inner objects are looked into.
const DEEPEST: usize = 4;

fn refuse_within(outer: &str, name: &str, json: &str, depth: usize) -> Result<(), String> {
    let is_other = OTHERS.iter().any(|other| name.to_ascii_lowercase().starts_with(other));
    if depth == 0 || is_other {
        return Ok(());
    }
    // The error of `serde_json` for a text would quote it, and leave it in memory.
    if json.starts_with('[') {
        let values: Vec<&RawValue> = serde_json::from_str(json).unwrap_or_default();
        return values
            .into_iter()
            .try_for_each(|value| refuse_within(outer, name, value.get(), depth - 1));
    }
    if !json.starts_with('{') {
        return Ok(());
    }
    let Ok(inner) = json::object(json.as_bytes()) else { return Ok(()) };
    for (name, value) in &inner {
        let is_expiry = matches!(
            meaning(name),
            Some(
                Meaning::Expiry
                    | Meaning::ExpiryOrLifetime
                    | Meaning::Lifetime(_)
                    | Meaning::Perhaps
                    | Meaning::Unit
            )
        );
        if is_expiry && !matches!(value.get(), "null" | "true" | "false" | "0") {
            let name = shown(name);
            return Err(format!("its {outer}.{name} may be when the access token expires, or not"));
        }
        refuse_within(outer, name, value.get(), depth - 1)?;
    }
    Ok(())
}

/// Returns the name of a field for an error, if it is a word. A program could put a secret into a name.
fn shown(name: &str) -> &str {
    let is_word = |byte: u8| byte.is_ascii_alphabetic() || b"_-.".contains(&byte);
    let is_short = name.len() <= 40 && name.bytes().all(is_word);
    if is_short { name } else { "field with a long or odd name" }
}

fn set(
    to: &mut Option<DateTime<Utc>>,
    name: &str,
    date: Option<DateTime<Utc>>,
) -> Result<(), String> {
    match (*to, date) {
        (Some(there), Some(date)) if (there - date).abs() > ROUNDING => {
            Err(format!("its {name} is not the expiry that another field names"))
        }
        (None, _) => {
            *to = date;
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Reads a date. A value that stands for "unknown" is none.
fn date(name: &str, value: &RawValue) -> Result<Option<DateTime<Utc>>, String> {
    match time::read(value) {
        Some(Time::At(at)) => Ok(Some(at)),
        Some(Time::Unknown) => Ok(None),
        Some(Time::Zoneless(_)) => {
            Err(format!("its {name} has no time zone, so it may mean any of 25 hours"))
        }
        None => Err(format!("its {name} is not a time in any form that is known")),
    }
}

/// Reads a number, or a text that is one.
fn seconds(value: &RawValue) -> Option<f64> {
    let text = value.get();
    let number = match text.strip_prefix('"') {
        Some(rest) => rest.strip_suffix('"')?.trim().parse().ok()?,
        None => text.parse::<f64>().ok()?,
    };
    (number.is_finite() && number.abs() < 1e14).then_some(number)
}

/// Of what else something may be said to expire.
const OTHERS: [&str; 16] = [
    "account",
    "certificate",
    "client",
    "code",
    "cookie",
    "device",
    "ext",
    "extended",
    "id",
    "invitation",
    "license",
    "password",
    "registration",
    "secret",
    "subscription",
    "trial",
];

/// What the name of a lifetime begins with. Its unit follows.
const LIFETIMES: [&str; 7] =
    ["expiresin", "expirein", "lifetime", "maxage", "ttl", "validfor", "validity"];

/// Returns what a field of this name says, if it is about a time that matters here.
fn meaning(name: &str) -> Option<Meaning> {
    let name: String = name
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .map(|it| it.to_ascii_lowercase())
        .collect();
    // Intuit writes `x_refresh_token_expires_in`.
    let name = name.strip_prefix('x').filter(|rest| rest.starts_with("refresh")).unwrap_or(&name);
    let (name, is_refresh) = match name.strip_prefix("refresh") {
        Some(rest) => (rest.strip_prefix("token").unwrap_or(rest), true),
        None => {
            let before_token = ["access", "api", "auth", "bearer", "jwt", "oauth", "oauth2"];
            let rest = before_token.iter().filter_map(|word| name.strip_prefix(word)).next_back();
            let rest = rest.unwrap_or(name);
            (rest.strip_prefix("token").unwrap_or(rest), false)
        }
    };
    let lifetime = LIFETIMES.iter().find_map(|start| name.strip_prefix(start));
    let meaning = match name {
        "expiresafter" => Meaning::Lifetime(1),
        "expires" => Meaning::ExpiryOrLifetime,
        "exp" | "expat" | "expdate" | "exptime" | "exptimestamp" | "expts" | "expms"
        | "validuntil" | "validuntilms" | "validto" | "validtill" | "validthru" | "notafter"
        | "notonorafter" | "notvalidafter" | "invalidafter" | "gooduntil" => Meaning::Expiry,
        "expired" | "isexpired" => return None, // It is true or false.
        "obtainedat" | "createdat" | "issuedat" | "iat" | "receivedat" | "acquiredat"
        | "fetchedat" | "retrievedat" => Meaning::Obtained,
        _ if lifetime.is_some() => match lifetime.unwrap_or_default() {
            "" | "s" | "sec" | "secs" | "seconds" | "inseconds" => Meaning::Lifetime(1),
            "ms" | "millis" | "milliseconds" | "inms" => Meaning::Lifetime(1000),
            _ => Meaning::Unit,
        },
        _ if name.starts_with("expir") => Meaning::Expiry,
        // Of something else, or of a session, which may be that of the token.
        _ if !name.contains("expir") || OTHERS.iter().any(|other| name.starts_with(other)) => {
            return None;
        }
        _ => Meaning::Perhaps,
    };
    Some(match meaning {
        Meaning::Expiry | Meaning::ExpiryOrLifetime | Meaning::Perhaps if is_refresh => {
            Meaning::RefreshExpiry
        }
        Meaning::Lifetime(per_second) if is_refresh => Meaning::RefreshLifetime(per_second),
        Meaning::Obtained if is_refresh => return None,
        meaning => meaning,
    })
}
