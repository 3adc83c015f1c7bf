//! Why there is no connection to a server.

use std::error::Error;
use std::fmt;
use std::io;

use super::certificate::{Fault, fails_the_handshake, refuses_the_client};

/// Why there is no connection, and what to do. The texts are this crate's own, because an error of another crate
/// may quote the server, or the URL of a proxy with its password.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Unreached {
    pub(crate) reason: String,
    pub(crate) advice: String,
    /// Whether trying again does not help: a setting has to change first.
    pub(crate) is_lasting: bool,
}

impl Unreached {
    pub(crate) fn new(reason: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { reason: reason.into(), advice: advice.into(), is_lasting: false }
    }

    /// Returns it as one after which trying again does not help.
    pub(super) fn lasting(self) -> Self {
        Self { is_lasting: true, ..self }
    }

    /// Returns the reason of an error that the connection to `place` ended with.
    pub(crate) fn because(place: &str, error: &(dyn Error + 'static)) -> Self {
        let has = |what, advice| Self::new(format!("{place} {what}"), advice);
        let mut cause = Some(error);
        let mut found = has("cannot be reached", "check the network and the name of the host");
        while let Some(error) = cause {
            if let Some(reason) = error.downcast_ref::<Self>() {
                return reason.clone();
            }
            if let Some(error) = error.downcast_ref::<rustls::Error>() {
                return match Fault::of(error) {
                    Some(Fault { what, advice }) => has(&format!("has {what}"), advice),
                    None if refuses_the_client(error) => has(
                        "does not accept the client's certificate, or wants one",
                        "set the certificate that is registered there",
                    )
                    .lasting(),
                    // With TLS 1.2, a server that wants a certificate may say no more than this.
                    None if fails_the_handshake(error) => has(
                        "does not agree on TLS, or wants a certificate of the client",
                        "check the URL, and whether a certificate is registered there",
                    )
                    .lasting(),
                    None => has("does not agree on TLS", "check the URL"),
                };
            }
            if let Some(error) = error.downcast_ref::<io::Error>() {
                if error.kind() == io::ErrorKind::ConnectionRefused {
                    found =
                        has("refused the connection", "check the port, and whether it is running");
                }
                // `source` of an I/O error skips the error that it wraps.
                if let Some(inner) = error.get_ref() {
                    cause = Some(inner);
                    continue;
                }
            }
            cause = error.source();
        }
        found
    }
}

impl fmt::Display for Unreached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.reason, self.advice)
    }
}

impl Error for Unreached {}
