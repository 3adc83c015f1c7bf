//! What a store says, in words of this crate.

use std::error::Error as _;

use object_store::Error;

use super::http::{NotReached, names_metadata};
use super::{Bucket, TRIAL};
use crate::error::StoreError;

/// Says what went wrong, without what was sent or what the server made of it.
pub(super) fn explain(error: &Error, bucket: &Bucket) -> StoreError {
    let place = bucket.to_string();
    let unavailable = |reason: &str, advice: &str| StoreError::Unavailable {
        place: place.clone(),
        reason: reason.to_owned(),
        advice: advice.to_owned(),
    };
    match error {
        error if says(error, &["NoSuchBucket", "ContainerNotFound"]) => unavailable(
            &format!("there is no bucket {}", bucket.name),
            "make it, or see whether the endpoint and the account are right",
        ),
        Error::NotFound { .. } => unavailable(
            "it answered 404, and not that there is no such object",
            "see whether the endpoint is that of a store",
        ),
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
            let key = &bucket.key;
            let advice = format!(
                "let the credentials in the environment get and put {key} and {key}{TRIAL}"
            );
            StoreError::Denied { place, advice }
        }
        // Where nothing is set, the cloud's own service is asked who this machine is. It may be away for a
        // moment.
        error if names_metadata(&error.to_string()) => unavailable(
            "there are no credentials for it in the environment, and none from the service that gives \
             them to the machines of a cloud",
            "see the environment, and whether this machine has a role there",
        ),
        error => match not_reached(error) {
            Some(reason) => unavailable(reason, "see whether it is up"),
            None => {
                unavailable(&status(error), "see whether it is up, and whether it is set up right")
            }
        },
    }
}

/// Tells whether a store said that there is no such object. That something answers 404 does not say that.
pub(super) fn is_no_object(error: &Error) -> bool {
    matches!(error, Error::NotFound { .. }) && says(error, &["NoSuchKey", "BlobNotFound"])
}

/// Tells whether a write was not done because its condition was not met.
pub(super) fn is_unmet(error: &Error) -> bool {
    matches!(error, Error::AlreadyExists { .. } | Error::Precondition { .. })
}

/// Tells whether a write came too soon after another one of the same object.
pub(super) fn is_too_often(error: &Error) -> bool {
    answer_of(error).is_some_and(|answer| answer.starts_with("429"))
}

fn not_reached(error: &Error) -> Option<&str> {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(NotReached(reason)) = error.downcast_ref() {
            return Some(reason);
        }
        cause = error.source();
    }
    None
}

/// Says with which status a store refused.
fn status(error: &Error) -> String {
    let status = answer_of(error).and_then(|answer| answer.get(..3).map(str::to_owned));
    match status.filter(|status| status.bytes().all(|byte| byte.is_ascii_digit())) {
        Some(status) => format!("it answered {status}"),
        None => "it gave no answer that can be used".into(),
    }
}

/// Tells whether a store gave one of these codes as its reason.
fn says(error: &Error, codes: &[&str]) -> bool {
    let answer = answer_of(error).unwrap_or_default();
    codes.iter().any(|code| answer.contains(&format!("<Code>{code}</Code>")))
}

/// What a store answered, from the status on, which its error has in its text alone. What stands before that
/// has the name of the object in it.
fn answer_of(error: &Error) -> Option<String> {
    error.to_string().split_once("status code: ").map(|(_, answer)| answer.to_owned())
}
