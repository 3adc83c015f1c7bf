//! A JSON document at a well-known place, and its fields.

use std::time::Duration;

use oauth2::url::Url;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use tokio::time::timeout;

use super::super::OAuth2Error;
use super::super::endpoint::endpoint;
use super::super::http::Http;
use crate::tokens::json;

/// How long a search may take at all places together. It is less than the 30 s that a refresh has by default, because
/// a refresh may have to begin with it.
pub(super) const LONGEST_SEARCH: Duration = Duration::from_secs(20);

pub(super) struct Document {
    /// Where it was found, for errors.
    place: String,
    json: Vec<u8>,
}

/// The fields of a document. No error quotes a value.
pub(super) struct Fields<'a> {
    document: &'a Document,
    fields: json::Fields<'a>,
}

impl Document {
    pub(super) fn new(place: String, json: Vec<u8>) -> Self {
        Self { place, json }
    }

    /// Fetches the first of these documents that exists.
    ///
    /// Where there is none, servers answer with a status, lead to a page for people, or send that page at once. A
    /// failure that may end is an error: the document that comes next may be an older one.
    pub(super) async fn fetch(
        http: &Http,
        places: &[Url],
        limit: Duration,
    ) -> Result<Self, OAuth2Error> {
        let host = places.first().map_or("", |url| url.authority());
        timeout(limit, Self::search(http, places, host)).await.unwrap_or_else(|_| {
            let reason = format!("{host} did not answer within {} seconds", limit.as_secs());
            Err(OAuth2Error::Unavailable { reason, retry_after: None })
        })
    }

    async fn search(http: &Http, places: &[Url], host: &str) -> Result<Self, OAuth2Error> {
        let mut answers = Vec::new();
        for url in places {
            let reply = http.get(url).await?;
            match reply.status.as_u16() {
                200..=299 if reply.body.trim_ascii_start().starts_with(b"{") => {
                    let place = format!("{}{}", url.authority(), url.path());
                    return Ok(Self::new(place, reply.body.to_vec()));
                }
                // A server that asks to wait, whatever it answers, may have the document later.
                status @ 200..=499
                    if !matches!(status, 408 | 425 | 429)
                        && (status < 300 || reply.retry_after.is_none()) =>
                {
                    let what = if status < 300 { " without JSON" } else { "" };
                    answers.push(format!("{status}{what} at {}", url.path()));
                }
                _ => {
                    reply.judge(url.authority())?;
                }
            }
        }
        let reason = format!(
            "{host} has no metadata: it answered {}; check this URL, or set the URLs of the provider yourself",
            answers.join(" and ")
        );
        Err(OAuth2Error::Misconfigured { reason })
    }

    pub(super) fn wrong(&self, what: impl AsRef<str>) -> OAuth2Error {
        OAuth2Error::Misconfigured {
            reason: format!("{} cannot be used: {}", self.place, what.as_ref()),
        }
    }

    /// Fails if a document from elsewhere leads to a port of this machine, where tokens must not go.
    pub(super) fn check_scheme(
        &self,
        name: &str,
        url: &Url,
        from: &Url,
    ) -> Result<(), OAuth2Error> {
        if from.scheme() == "https" && url.scheme() != "https" {
            let what = format!("{name} must begin with https://, as {} does", from.authority());
            return Err(self.wrong(what));
        }
        Ok(())
    }

    pub(super) fn fields(&self) -> Result<Fields<'_>, OAuth2Error> {
        let fields = json::object(&self.json).map_err(|what| self.wrong(what))?;
        Ok(Fields { document: self, fields })
    }
}

impl Fields<'_> {
    /// Returns a value, or `None` if it is missing or `null`.
    pub(super) fn get<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, OAuth2Error> {
        let found = self.fields.iter().find(|(found, _)| found == name);
        let Some((_, value)) = found else { return Ok(None) };
        serde_json::from_str(value.get())
            .map_err(|_| self.document.wrong(format!("{name} has a value of the wrong type")))
    }

    /// Returns a value that is not needed. One of the wrong type counts as missing.
    pub(super) fn optional<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        self.get(name).unwrap_or_default()
    }

    /// Returns whether this is `true`, also as a text, which some providers write.
    pub(super) fn flag(&self, name: &str) -> bool {
        let is_text = || self.optional::<String>(name).is_some_and(|text| text == "true");
        self.optional(name).unwrap_or_else(is_text)
    }

    /// Returns an object in the document, or `None` if it is missing or `null`.
    pub(super) fn inner(&self, name: &str) -> Option<Document> {
        let json = self.optional::<Option<Box<RawValue>>>(name).flatten()?;
        let place = format!("{} in {}", name, self.document.place);
        Some(Document::new(place, json.get().as_bytes().to_vec()))
    }

    /// Returns the URL of an endpoint, with the rules for one that was set by hand. An empty one is missing.
    pub(super) fn endpoint(
        &self,
        name: &'static str,
        issuer: &Url,
    ) -> Result<Option<String>, OAuth2Error> {
        let Some(text) = self.get::<String>(name)?.filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        let url = endpoint(name, &text).map_err(|wrong| self.document.wrong(wrong.to_string()))?;
        self.document.check_scheme(name, &url, issuer)?;
        Ok(Some(url.into()))
    }
}
