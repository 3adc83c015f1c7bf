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

    /// Returns the whole answer. If the answer ended too early, returns it only if all that counts has arrived, and
    /// else this failure.
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

    /// Returns whether all that counts has arrived: the tokens, or the error and the wait.
    fn is_complete(&self, body: &[u8]) -> bool {
        let has_error = || {
            json::object(body).is_ok_and(|fields| fields.iter().any(|(name, _)| name == "error"))
        };
        // A failure may repeat the refresh token that was sent.
        match self.status.is_success() {
            true => Answer::is_partly_in(body),
            false => Answer::is_in(body) || self.retry_after.is_some() || has_error(),
        }
    }

    fn too_long(&self, place: &str) -> Failed {
        let (status, retry_after) = (self.status.as_u16(), self.retry_after);
        let reason = format!("{place} answered {status} with more than 256 KiB");
        // The wait is in the head, which is whole.
        if retry_after.is_some() && !self.status.is_success() {
            return Failed::Answered { status, reason, retry_after };
        }
        Failed::Unreadable { reason }
    }
}

fn is_deflated(headers: &HeaderMap) -> bool {
    let lists = headers.get_all(CONTENT_ENCODING).into_iter();
    let mut names = lists.flat_map(|list| list.as_bytes().split(|byte| *byte == b','));
    names.any(|name| name.trim_ascii().eq_ignore_ascii_case(b"deflate"))
}
