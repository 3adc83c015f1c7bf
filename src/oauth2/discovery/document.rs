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
            Err(OAuth2Error::Unavailable { reason })
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
                status @ 200..=499 if !matches!(status, 408 | 429) => {
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

    /// Returns an object in the document, or `None` if it is missing or `null`.
    pub(super) fn inner(&self, name: &str) -> Result<Option<Document>, OAuth2Error> {
        let json = self.get::<Option<Box<RawValue>>>(name)?.flatten();
        let place = format!("{} in {}", name, self.document.place);
        Ok(json.map(|json| Document::new(place, json.get().as_bytes().to_vec())))
    }

    /// Returns the URL of an endpoint, with the rules for one that was set by hand.
    pub(super) fn endpoint(
        &self,
        name: &'static str,
        only_https: bool,
    ) -> Result<Option<String>, OAuth2Error> {
        let Some(text) = self.get::<String>(name)? else { return Ok(None) };
        let url = endpoint(name, &text).map_err(|wrong| self.document.wrong(wrong.to_string()))?;
        // A document from elsewhere must not send tokens to a port of this machine.
        if only_https && url.scheme() != "https" {
            let what = format!("{name} must begin with https://, as the issuer does");
            return Err(self.document.wrong(what));
        }
        Ok(Some(url.into()))
    }
}
