//! The part of an answer that has arrived.

use std::time::Duration;

use chrono::Utc;
use http::header::{CONTENT_ENCODING, HeaderMap};
use http::{StatusCode, response};
use zeroize::Zeroizing;

use super::{LONGEST_BODY, Reply, retry_after};
use crate::oauth2::answer::Answer;
use crate::oauth2::body::{TooLong, decompressed, readable};
use crate::oauth2::failure::Failed;
use crate::tokens::json;

/// The head of an answer, and the part of its body that has arrived.
pub(super) struct Arrived {
    status: StatusCode,
    retry_after: Option<Duration>,
    is_deflated: bool,
    /// The buffer has its full size, so it does not grow and leave copies behind.
    body: Zeroizing<Vec<u8>>,
}

impl Arrived {
    pub(super) fn new(head: &response::Parts) -> Self {
        Self {
            status: head.status,
            retry_after: retry_after(&head.headers, Utc::now()),
            is_deflated: is_deflated(&head.headers),
            body: Zeroizing::new(Vec::with_capacity(LONGEST_BODY)),
        }
    }

    /// Adds a part of the body.
    pub(super) fn add(&mut self, data: &[u8], place: &str) -> Result<(), Failed> {
        if data.len() > LONGEST_BODY - self.body.len() {
            return Err(self.too_long(place));
        }
        self.body.extend_from_slice(data);
        Ok(())
    }

    /// Returns the whole answer. If the answer ended too early, returns it only if the tokens or the error have
    /// arrived, and else this failure.
    pub(super) fn ended(mut self, early: Option<Failed>, place: &str) -> Result<Reply, Failed> {
        let body = std::mem::take(&mut self.body);
        let (body, is_whole) = decompressed(body, self.is_deflated, LONGEST_BODY)
            .map_err(|TooLong| self.too_long(place))?;
        let body = readable(body, is_whole && early.is_none());
        match early {
            Some(failed) if !self.is_complete(&body) => Err(failed),
            _ => Ok(Reply { status: self.status, retry_after: self.retry_after, body }),
        }
    }

    /// Returns whether all that counts has arrived: the tokens, or the error.
    fn is_complete(&self, body: &[u8]) -> bool {
        if self.status.is_success() {
            return Answer::is_in(body);
        }
        json::object(body).is_ok_and(|fields| fields.iter().any(|(name, _)| name == "error"))
    }

    fn too_long(&self, place: &str) -> Failed {
        let status = self.status.as_u16();
        Failed::Unreadable { reason: format!("{place} answered {status} with more than 256 KiB") }
    }
}

fn is_deflated(headers: &HeaderMap) -> bool {
    let encoding = headers.get(CONTENT_ENCODING);
    encoding.is_some_and(|name| name.as_bytes().trim_ascii().eq_ignore_ascii_case(b"deflate"))
}
