//! Turns the errors of a server into those of this crate.

use std::error::Error as _;
use std::io;

use tokio_postgres::Error;
use tokio_postgres::error::SqlState;

use crate::error::StoreError;
use crate::net::certificate::Fault;
use crate::printable::printable;

/// The most characters of the server's own message that an error shows.
const MAX_MESSAGE: usize = 200;

/// The length of each code in the list of PostgreSQL ("PostgreSQL Error Codes").
const MAX_CODE: usize = 5;

/// The client's error if the server demands a password and the client has none.
const NO_PASSWORD: &str = "password missing";

const PASSWORD: &str = "put the password of this user in the file that $PGPASSFILE names";

/// Returns the error of a store. It quotes nothing that was sent. Of the server's own text it quotes only the
/// code and the printable beginning of the message.
pub(super) fn explain(error: &Error, place: &str) -> StoreError {
    let denied = |advice: &str| StoreError::Denied { place: place.into(), advice: advice.into() };
    let Some(said) = error.as_db_error() else {
        if let Some(error) = tls_error(error) {
            return match Fault::of(error) {
                Some(Fault { what, advice }) => {
                    unavailable(place, &format!("it has {what}"), advice)
                }
                None => {
                    unavailable(place, "it does not agree on TLS", "check its settings for TLS")
                }
            };
        }
        let why = error.source().map(ToString::to_string);
        if why.as_deref() == Some(NO_PASSWORD) {
            return denied(PASSWORD);
        }
        // Some errors of the driver quote the server.
        let why = why.map(|why| format!(" (\"{}\")", printable(&why, MAX_MESSAGE)));
        let reason = format!("{error}{}", why.unwrap_or_default());
        let advice = "check whether it is running, and is the PostgreSQL server that you want";
        return unavailable(place, &reason, advice);
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
            let code = said.code().code().chars().filter(char::is_ascii_alphanumeric);
            let code: String = code.take(MAX_CODE).collect();
            let message = printable(said.message(), MAX_MESSAGE);
            let reason = format!("error {code}; the server says \"{message}\"");
            unavailable(place, &reason, "check the server's log")
        }
    }
}

/// Returns the error of TLS that is the cause of this one.
fn tls_error(error: &Error) -> Option<&rustls::Error> {
    error.source()?.downcast_ref::<io::Error>()?.get_ref()?.downcast_ref()
}

pub(super) fn unavailable(place: &str, reason: &str, advice: &str) -> StoreError {
    StoreError::Unavailable {
        place: place.to_owned(),
        reason: reason.to_owned(),
        advice: advice.to_owned(),
    }
}
