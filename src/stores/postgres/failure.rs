//! Turns the errors of a server into those of this crate.

use std::error::Error as _;

use tokio_postgres::Error;
use tokio_postgres::error::SqlState;

use crate::error::StoreError;
use crate::sys::printable::printable;

/// The most characters of the server's own message that an error shows.
const MAX_MESSAGE: usize = 200;

/// The length of each code in the list of PostgreSQL ("PostgreSQL Error Codes").
const MAX_CODE: usize = 5;

/// The client's error if the server demands a password and the client has none.
const NO_PASSWORD: &str = "password missing";

const PASSWORD: &str = "put the password of this user in the file that $PGPASSFILE names";

/// Returns the error of a store. It quotes nothing that was sent.
pub(super) fn explain(error: &Error, place: &str) -> StoreError {
    let denied = |advice: &str| StoreError::Denied { place: place.into(), advice: advice.into() };
    let Some(said) = error.as_db_error() else {
        let why = error.source().map(ToString::to_string);
        if why.as_deref() == Some(NO_PASSWORD) {
            return denied(PASSWORD);
        }
        let why = why.map(|why| format!(" ({why})")).unwrap_or_default();
        return unavailable(place, &format!("{error}{why}"), "check whether it is running");
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
            reason: "the server is a standby, or is set to read-only".into(),
        },
        SqlState::INVALID_CATALOG_NAME => {
            unavailable(place, "the server has no such database", "create it with `createdb`")
        }
        // A role may have a stricter isolation level than this crate needs. Then a conflict fails at once.
        SqlState::T_R_SERIALIZATION_FAILURE | SqlState::T_R_DEADLOCK_DETECTED => {
            StoreError::Conflict { place: place.into() }
        }
        SqlState::UNDEFINED_TABLE | SqlState::UNDEFINED_COLUMN => unavailable(
            place,
            "it has no table tokenkeep, or one with unknown columns",
            "create it with `tokenkeep init`, or with the SQL in the documentation of PostgresStore",
        ),
        _ => {
            let code = printable(said.code().code(), MAX_CODE);
            let message = printable(said.message(), MAX_MESSAGE);
            let reason = format!("error {code}; the server says \"{message}\"");
            unavailable(place, &reason, "check the server's log")
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
