//! What a server says, in words of this crate.

use std::error::Error as _;

use tokio_postgres::Error;
use tokio_postgres::error::SqlState;

use crate::error::StoreError;

/// What the client says of a server that asks for a password where it was given none.
const NO_PASSWORD: &str = "password missing";

const PASSWORD: &str = "put the password of this user in the file that $PGPASSFILE names";

/// Says what went wrong, without what was sent.
pub(super) fn explain(error: &Error, place: &str) -> StoreError {
    let denied = |advice: &str| StoreError::Denied { place: place.into(), advice: advice.into() };
    let Some(said) = error.as_db_error() else {
        let why = error.source().map(ToString::to_string);
        if why.as_deref() == Some(NO_PASSWORD) {
            return denied(PASSWORD);
        }
        let why = why.map(|why| format!(" ({why})")).unwrap_or_default();
        return unavailable(place, &format!("{error}{why}"), "see whether it is up");
    };
    match *said.code() {
        SqlState::INVALID_PASSWORD | SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
            denied(PASSWORD)
        }
        SqlState::INSUFFICIENT_PRIVILEGE => {
            denied("grant SELECT, INSERT and UPDATE on the table tokenkeep to this user")
        }
        SqlState::READ_ONLY_SQL_TRANSACTION => StoreError::ReadOnly {
            place: place.into(),
            reason: "the server is a standby, or was made read-only".into(),
        },
        SqlState::INVALID_CATALOG_NAME => {
            unavailable(place, "the server has no such database", "make it with `createdb`")
        }
        // A role may ask for more than one statement needs, and then others are not waited for.
        SqlState::T_R_SERIALIZATION_FAILURE | SqlState::T_R_DEADLOCK_DETECTED => {
            StoreError::Conflict { place: place.into() }
        }
        SqlState::UNDEFINED_TABLE | SqlState::UNDEFINED_COLUMN => unavailable(
            place,
            "it has no table tokenkeep of the form that this program knows",
            "make it with `tokenkeep init`, or with the SQL that README shows",
        ),
        _ => {
            // It may be meant for a terminal.
            let message = said.message().replace(char::is_control, " ");
            let reason = format!("{message} ({})", said.code().code());
            unavailable(place, &reason, "see what the server's log says")
        }
    }
}

pub(super) fn unavailable(place: &str, reason: &str, advice: &str) -> StoreError {
    StoreError::Unavailable {
        place: place.to_owned(),
        reason: reason.to_owned(),
        advice: advice.to_owned(),
    }
}
