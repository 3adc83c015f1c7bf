//! The fields of another program's JSON, and what becomes of each.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret, SecretString};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use super::{Fate, Field, Provider};
use crate::tokens::foreign::{self, Says};
use crate::tokens::form::checked_token;
use crate::tokens::json;
use crate::tokens::time::{self, Time};
use crate::tokens::{AuthTokens, RefreshToken};

/// Why a file cannot be taken over. It names a field and quotes no value.
pub(super) type Reason = String;

/// What became of the fields of a whole document, and when its tokens were obtained, if that was said.
#[derive(Clone, Default)]
pub(super) struct Trail {
    fields: Rc<RefCell<Vec<Field>>>,
    obtained: Option<DateTime<Utc>>,
}

impl Trail {
    pub(super) fn new(obtained: Option<DateTime<Utc>>) -> Self {
        Self { fields: Rc::default(), obtained }
    }

    pub(super) fn note(&self, name: String, fate: Fate) {
        self.fields.borrow_mut().push(Field { name, fate });
    }

    pub(super) fn take(&self) -> Vec<Field> {
        self.fields.take()
    }
}

/// The most fields of an object. A cache with hundreds of accounts has fewer.
const MOST: usize = 4096;

/// Returns whether a field is the secret of a client, or an object with one.
fn holds_client_secret(name: &str, value: &RawValue) -> bool {
    let is_secret = |text: &str| {
        let letters =
            text.bytes().filter(u8::is_ascii_alphanumeric).map(|it| it.to_ascii_lowercase());
        let mut text = Zeroizing::new(Vec::with_capacity(text.len()));
        text.extend(letters);
        ["clientsecret", "consumersecret", "appsecret"]
            .iter()
            .any(|secret| text.windows(secret.len()).any(|part| part == secret.as_bytes()))
    };
    is_secret(name) || value.get().starts_with(['{', '[']) && is_secret(value.get())
}

/// Fields that belong to tokens, although this crate has no use for them.
const OF_TOKENS: [&str; 23] = [
    "account_id",
    "audience",
    "auth_mode",
    "client_id",
    "created_at",
    "credential_type",
    "ext_expires_in",
    "granted_scopes",
    "id_token",
    "issued_at",
    "last_refresh",
    "rapt_token",
    "registrationExpiresAt",
    "resource",
    "scope",
    "scopes",
    "session_state",
    "subscriptionType",
    "token_id",
    "token_received_at",
    "token_type",
    "universe_domain",
    "user_id",
];

/// An object.
pub(super) struct Fields<'a> {
    fields: json::Fields<'a>,
    /// Its place in the document, with a dot at the end. It is empty for the document itself.
    path: String,
    /// The names of the fields that were taken.
    taken: RefCell<BTreeMap<String, Fate>>,
    trail: Trail,
}

impl<'a> Fields<'a> {
    /// Splits an object that stands at this place of a document.
    pub(super) fn of(json: &'a [u8], path: &str, trail: &Trail) -> Result<Self, Reason> {
        let fields = json::object(json)?;
        if fields.len() > MOST {
            return Err(format!("it has an object with more than {MOST} fields"));
        }
        Ok(Self { fields, path: path.to_owned(), taken: RefCell::default(), trail: trail.clone() })
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.raw(name).is_some_and(|value| value.get() != "null")
    }

    /// Returns whether this is a record of this crate.
    pub(super) fn is_record(&self) -> bool {
        foreign::is_ours(&self.fields)
    }

    /// Returns whether a field is a text that is not blank.
    pub(super) fn has_text(&self, name: &str) -> bool {
        let text = self.raw(name).map(RawValue::get).and_then(|text| text.strip_prefix('"'));
        text.is_some_and(|text| !text.trim_end_matches('"').trim().is_empty())
    }

    /// Returns whether a field is an object.
    pub(super) fn has_object(&self, name: &str) -> bool {
        self.raw(name).is_some_and(|value| value.get().starts_with('{'))
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.fields.iter().map(|(name, _)| name.as_ref())
    }

    /// Takes the value of a field. `null` is no value.
    pub(super) fn take(&self, name: &str, fate: Fate) -> Option<&'a RawValue> {
        let value = self.raw(name)?;
        self.note(name, fate);
        Some(value).filter(|value| value.get() != "null")
    }

    /// Takes a text. An empty one is none.
    pub(super) fn text(&self, name: &str, fate: Fate) -> Result<Option<SecretString>, Reason> {
        let Some(value) = self.take(name, fate) else { return Ok(None) };
        let text = json::secret(value).ok_or_else(|| format!("its {name} is not a text"))?;
        #[expect(clippy::disallowed_methods, reason = "looks at the length only")]
        let is_empty = text.expose_secret().trim().is_empty();
        Ok((!is_empty).then_some(text))
    }

    /// Takes a text that is no secret, such as a URL or a client's id.
    pub(super) fn plain(&self, name: &str, fate: Fate) -> Result<Option<String>, Reason> {
        #[expect(clippy::disallowed_methods, reason = "of fields that hold no secrets")]
        Ok(self.text(name, fate)?.map(|text| text.expose_secret().to_owned()))
    }

    /// Takes a token, without the spaces around it.
    pub(super) fn token(&self, name: &str, fate: Fate) -> Result<Option<SecretString>, Reason> {
        let Some(text) = self.text(name, fate)? else { return Ok(None) };
        checked_token(text).map(Some).map_err(|reason| format!("its {name} {reason}"))
    }

    /// Takes a time. A value that stands for "unknown" is none.
    pub(super) fn time(&self, name: &str, fate: Fate) -> Result<Option<DateTime<Utc>>, Reason> {
        self.read_time(name, fate, false)
    }

    /// Takes a time of a program that means UTC if it names no time zone.
    pub(super) fn time_in_utc(
        &self,
        name: &str,
        fate: Fate,
    ) -> Result<Option<DateTime<Utc>>, Reason> {
        self.read_time(name, fate, true)
    }

    fn read_time(
        &self,
        name: &str,
        fate: Fate,
        is_utc: bool,
    ) -> Result<Option<DateTime<Utc>>, Reason> {
        let Some(value) = self.raw(name) else { return Ok(None) };
        match time::read(value) {
            Some(Time::At(at)) => {
                self.note(name, fate);
                Ok(Some(at))
            }
            Some(Time::Zoneless(at)) if is_utc => {
                self.note(name, fate);
                Ok(Some(at.and_utc()))
            }
            Some(Time::Zoneless(_)) => {
                Err(format!("its {name} has no time zone, so it may mean any of 25 hours"))
            }
            Some(Time::Unknown) => {
                self.note(name, Fate::Unknown);
                Ok(None)
            }
            None => Err(format!("its {name} is not a time in any form that is known")),
        }
    }

    /// Takes an object.
    pub(super) fn object(&self, name: &str) -> Result<Option<Fields<'a>>, Reason> {
        let Some(value) = self.raw(name).filter(|value| value.get() != "null") else {
            return Ok(None);
        };
        self.note(name, Fate::Within);
        let path = format!("{}{name}.", self.path);
        let within = |reason| format!("in its {name}: {reason}");
        Fields::of(value.get().as_bytes(), &path, &self.trail).map(Some).map_err(within)
    }

    /// Makes tokens of the fields with these names. Needs an access token or a refresh token.
    pub(super) fn tokens(&self, access: &str, refresh: &str) -> Result<AuthTokens, Reason> {
        let refresh_token = self.token(refresh, Fate::RefreshToken)?.map(RefreshToken::from);
        let mut tokens = match (self.token(access, Fate::AccessToken)?, &refresh_token) {
            (Some(token), _) => AuthTokens::new(token),
            (None, Some(_)) => AuthTokens::new(""),
            (None, None) => return Err(format!("it has neither {access} nor {refresh}")),
        };
        tokens.refresh_token = refresh_token;
        Ok(tokens)
    }

    /// Takes the secret of the client.
    pub(super) fn client_secret(
        &self,
        name: &str,
        tokens: AuthTokens,
    ) -> Result<AuthTokens, Reason> {
        Ok(match self.text(name, Fate::ClientSecret)? {
            Some(secret) => tokens.with_client_secret(secret),
            None => tokens,
        })
    }

    /// Adds the other fields, each with its type, and what they say about times. What names the provider or the account
    /// is among them, so that nothing of the file is lost. A lifetime counts from `obtained` if the fields do not say
    /// when the tokens were obtained.
    pub(super) fn rest(
        &self,
        mut tokens: AuthTokens,
        obtained: Option<DateTime<Utc>>,
    ) -> Result<AuthTokens, Reason> {
        for name in ["client_secret", "clientSecret"] {
            if tokens.client_secret().is_none() && !self.is_taken(name) && self.has_text(name) {
                tokens = self.client_secret(name, tokens)?;
            }
        }
        let left: json::Fields<'_> = self
            .fields
            .iter()
            .filter(|(name, _)| !self.is_taken(name))
            .map(|(name, value)| (name.clone(), *value))
            .collect();
        let obtained = obtained.or(tokens.obtained_at).or(self.trail.obtained);
        let has_expiry = tokens.has_access_token() && tokens.expiry().is_some();
        let stated = foreign::stated(&left, obtained, has_expiry)?;
        for (name, says) in &stated.fields {
            let fate = match says {
                Says::Expiry => Fate::Expiry,
                Says::RefreshExpiry => Fate::RefreshExpiry,
                Says::Obtained => Fate::Obtained,
                Says::Unknown => Fate::Unknown,
            };
            self.note(name, fate);
        }
        tokens.expires_at = tokens.expires_at.or(stated.expires_at);
        tokens.refresh_expires_at = tokens.refresh_expires_at.or(stated.refresh_expires_at);
        tokens.obtained_at = tokens.obtained_at.or(stated.obtained_at);
        for (name, value) in &self.fields {
            let fate = self.taken.borrow().get(name.as_ref()).copied();
            if fate.is_some_and(|fate| !matches!(fate, Fate::Provider | Fate::Account)) {
                continue;
            }
            if value.get() == "null" {
                self.note(name, Fate::Unknown);
                continue;
            }
            // A secret of the client must not come out as a field, and there is one place for it.
            if holds_client_secret(name, value) {
                self.note(name, Fate::Left);
                continue;
            }
            let is_of_tokens = OF_TOKENS.contains(&name.as_ref());
            self.note(name, if is_of_tokens { Fate::Extra } else { Fate::Other });
            if tokens.extra(name).is_some() {
                continue;
            }
            tokens = match json::secret(value) {
                Some(text) => tokens.with_extra(name.as_ref(), text),
                None => tokens.with_json_extra(name.as_ref(), Box::<str>::from(value.get()).into()),
            };
        }
        Ok(tokens)
    }

    /// Takes what names the provider, under the names that libraries use.
    pub(super) fn provider(&self) -> Result<Provider, Reason> {
        let mut provider = Provider::default();
        for name in ["token_uri", "token_url", "token_endpoint"] {
            if provider.token_url.is_none() && self.has_text(name) {
                provider.token_url = self.plain(name, Fate::Provider)?;
            }
        }
        for (name, to) in [("client_id", &mut provider.client_id), ("issuer", &mut provider.issuer)]
        {
            if self.has_text(name) {
                *to = self.plain(name, Fate::Provider)?;
            }
        }
        Ok(provider)
    }

    /// Notes that the fields that were not taken stay in the file.
    pub(super) fn leave_rest(&self) {
        for (name, _) in &self.fields {
            if !self.is_taken(name) {
                self.note(name, Fate::Left);
            }
        }
    }

    fn note(&self, name: &str, fate: Fate) {
        let mut taken = self.taken.borrow_mut();
        if !taken.contains_key(name) {
            taken.insert(name.to_owned(), fate);
            self.trail.note(format!("{}{name}", self.path), fate);
        }
    }

    fn is_taken(&self, name: &str) -> bool {
        self.taken.borrow().contains_key(name)
    }

    fn raw(&self, name: &str) -> Option<&'a RawValue> {
        self.fields.iter().find(|(field, _)| field == name).map(|&(_, value)| value)
    }
}
