//! The server of a request.

use std::str::FromStr;

use http::Uri;

use crate::net::loopback::is_loopback;

/// A server must not get tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a server for tokens {0}")]
pub struct InvalidOrigin(&'static str);

/// A scheme, a host and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    is_tls: bool,
    host: String,
    port: u16,
}

impl Origin {
    /// Returns the server in the URI of a request, if there is one.
    pub(super) fn of(uri: &Uri) -> Option<Self> {
        let is_tls = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let host = uri.host()?.to_ascii_lowercase();
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        Some(Self { is_tls, host, port })
    }
}

impl FromStr for Origin {
    type Err = InvalidOrigin;

    fn from_str(text: &str) -> Result<Self, InvalidOrigin> {
        let form =
            InvalidOrigin("must be a scheme, a host and optionally a port: https://api.example");
        let uri: Uri = text.parse().map_err(|_| form)?;
        let has_more = uri.path_and_query().is_some_and(|it| it.as_str() != "/");
        if has_more || uri.authority().is_none_or(|authority| authority.as_str().contains('@')) {
            return Err(form);
        }
        let origin = Self::of(&uri).ok_or(form)?;
        if !origin.is_tls && !is_loopback(&origin.host) {
            return Err(InvalidOrigin(
                "must begin with https://; http:// is accepted only for loopback addresses like 127.0.0.1",
            ));
        }
        Ok(origin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(text: &str) -> Origin {
        text.parse().unwrap()
    }

    #[test]
    fn scheme_host_and_port_have_to_match() {
        let known = origin("https://api.example");
        for uri in
            ["https://api.example/a?b", "https://API.EXAMPLE:443/", "https://me@api.example/"]
        {
            assert_eq!(Origin::of(&uri.parse().unwrap()), Some(known.clone()), "{uri}");
        }
        for uri in [
            "http://api.example/",
            "http://api.example:443/",
            "https://api.example:8443/",
            "https://api.example.evil.example/",
            "https://evil.example/api.example",
            "https://api.example@evil.example/",
            "https://sub.api.example/",
            "https://api.example./",
            "ftp://api.example/",
            "/relative",
        ] {
            assert_ne!(Origin::of(&uri.parse().unwrap()), Some(known.clone()), "{uri}");
        }
        assert_eq!(origin("http://[::1]:8080/"), origin("http://[::1]:8080"));
    }

    #[test]
    fn an_origin_that_must_not_get_tokens_is_refused() {
        for text in [
            "api.example",
            "api.example:443",
            "http://api.example",
            "http://localhost:8080",
            "ftp://127.0.0.1",
            "https://api.example/path",
            "https://api.example?query",
            "https://canary@api.example",
            "https://",
            "",
        ] {
            let error = text.parse::<Origin>().unwrap_err().to_string();
            assert!(!error.contains("canary"), "{error}");
        }
    }
}
