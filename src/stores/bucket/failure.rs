//! Turns the errors of a server into those of this crate.

use std::error::Error as _;

use object_store::Error;

use super::http::names_metadata;
use super::{Bucket, TRIAL};
use crate::error::StoreError;
use crate::net::unreached::Unreached;

/// What the text of an error contains before the answer of the server.
const STATUS: &str = "status code: ";

/// Returns the error of a store. It quotes nothing that was sent or received.
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
            "create it, or check the endpoint and the account",
        ),
        Error::NotFound { .. } => unavailable(
            "it answered 404, but not with the error code for a missing object",
            "check the endpoint",
        ),
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
            let key = &bucket.key;
            let advice = format!(
                "allow the credentials in the environment to get and put {key} and {key}{TRIAL}"
            );
            StoreError::Denied { place, advice }
        }
        // If no credentials are set, they are requested from the cloud's metadata service. That service may
        // be unreachable for a moment.
        error if names_metadata(&request_of(error)) => unavailable(
            "there are no credentials for it in the environment, and none from the cloud's metadata service",
            "set credentials in the environment, or give this machine a role",
        ),
        error => match not_reached(error) {
            Some(Unreached { reason, advice, .. }) => unavailable(reason, advice),
            None => unavailable(&status(error), "check whether it is running, and its settings"),
        },
    }
}

/// Returns whether the server said that the object does not exist. A 404 alone does not say that.
pub(super) fn is_no_object(error: &Error) -> bool {
    matches!(error, Error::NotFound { .. }) && says(error, &["NoSuchKey", "BlobNotFound"])
}

/// Returns whether a write was not done because its condition was not met.
pub(super) fn is_unmet(error: &Error) -> bool {
    matches!(error, Error::AlreadyExists { .. } | Error::Precondition { .. })
}

/// Returns whether a write came too soon after another write of the same object.
pub(super) fn is_too_often(error: &Error) -> bool {
    answer_of(error).is_some_and(|answer| answer.starts_with("429"))
}

fn not_reached(error: &Error) -> Option<&Unreached> {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

/// Returns the status of an answer as a reason.
fn status(error: &Error) -> String {
    let status = answer_of(error).and_then(|answer| answer.get(..3).map(str::to_owned));
    match status.filter(|status| status.bytes().all(|byte| byte.is_ascii_digit())) {
        Some(status) => format!("it answered {status}"),
        None => "it sent no usable answer".into(),
    }
}

/// Returns whether the server answered with one of these error codes.
fn says(error: &Error, codes: &[&str]) -> bool {
    let answer = answer_of(error).unwrap_or_default();
    codes.iter().any(|code| answer.contains(&format!("<Code>{code}</Code>")))
}

/// Returns the text of an error up to the answer of the server. It contains the URL that was requested.
fn request_of(error: &Error) -> String {
    let text = error.to_string();
    text.split_once(STATUS).map_or(text.clone(), |(request, _)| request.to_owned())
}

/// Returns the answer of the server, from the status on. The error contains it only in its text. The text
/// before the status contains the name of the object.
fn answer_of(error: &Error) -> Option<String> {
    error.to_string().split_once(STATUS).map(|(_, answer)| answer.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_names_the_metadata_service_is_not_taken_for_it() {
        let is_about_metadata = |text: &str| {
            let error = Error::Generic { store: "S3", source: text.into() };
            names_metadata(&request_of(&error))
        };
        let answered = "Server returned non-2xx status code: 403 Forbidden:";
        let theirs = "http://169.254.169.254/latest metadata.google.internal";
        let request = "Error performing GET http://127.0.0.1:9000/a in 1ms - ";
        assert!(!is_about_metadata(&format!("{request}{answered} {theirs}")));
        let request = "Error performing PUT http://169.254.169.254/latest in 1ms - ";
        assert!(is_about_metadata(&format!("{request}{answered} no")));
        assert!(is_about_metadata("metadata.google.internal cannot be reached"));
    }
}
