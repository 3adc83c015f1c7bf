//! The server of a request.

use std::str::FromStr;

use http::Uri;

use crate::net::loopback::is_loopback;
use crate::net::server_url::{is_endpoint, is_port};

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
        let host = uri.host()?;
        let authority = uri.authority()?.as_str();
        let server = authority.rsplit_once('@').map_or(authority, |(_, server)| server);
        // `Uri` gives no port for `:99999`, as it does for no port at all.
        let port = match server.strip_prefix(host)? {
            "" if is_tls => 443,
            "" => 80,
            port => port.strip_prefix(':').filter(|port| is_port(port))?.parse().ok()?,
        };
        Some(Self { is_tls, host: host.to_ascii_lowercase(), port })
    }
}

impl FromStr for Origin {
    type Err = InvalidOrigin;

    fn from_str(text: &str) -> Result<Self, InvalidOrigin> {
        let form =
            InvalidOrigin("must be a scheme, a host and optionally a port: https://api.example");
        // Schemes and hosts have no case.
        let server = text.strip_suffix('/').unwrap_or(text).to_ascii_lowercase();
        let uri: Uri = text.parse().map_err(|_| form)?;
        if !is_endpoint(&server) || uri.path_and_query().is_some_and(|it| it.as_str() != "/") {
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
            "https://api.example:99999/",
            "https://api.example:0/",
            "https://api.example:/",
            "https://api.example:00443443/",
        ] {
            assert_ne!(Origin::of(&uri.parse().unwrap()), Some(known.clone()), "{uri}");
        }
        assert_eq!(origin("http://[::1]:8080/"), origin("http://[::1]:8080"));
        assert_eq!(origin("HTTPS://API.Example:443/"), known);
        assert_eq!(origin("https://192.0.2.1").port, 443);
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
            "https://api.example:",
            "https://api.example:/",
            "https://api.example:0",
            "https://api.example:99999",
            "https://api.example:65536",
            "https://api.example:+443",
            "https://api.example:-1",
            "https://api.example:443:443",
            "https://api.example: 443",
            "https://api.example:0x1bb",
            "https://api.example:４４３",
            "https://:443",
            "https://\u{2a}.example",
            "https://\u{2a}",
            "https://.example",
            "https://api..example",
            "https://api.example.",
            "https://-api.example",
            "https://api-.example",
            "https://api%2eexample",
            "https://api.example\\",
            "https://api.example\\@evil.example",
            "https://api.example,evil.example",
            "https://api.example#canary",
            "https://api.example//",
            "https://api.example/.",
            "https:/api.example",
            "https:api.example",
            "https:///api.example",
            "https://аpi.example",
            "https://api.example ",
            " https://api.example",
            "https://api.example\n",
            "https://api\u{200b}.example",
            "https://127.1",
            "https://0x7f000001",
            "https://2130706433",
            "https://256.0.0.1",
            "http://127.1:8080",
            "https://[::1",
            "https://::1",
            "https://[::1%25eth0]",
            "https://[::1]443",
            "https://[fe80::1%eth0]:443",
            "https://[127.0.0.1]",
        ] {
            let error = text.parse::<Origin>().unwrap_err().to_string();
            assert!(!error.contains("canary"), "{error}");
        }
    }
}
