//! The URL of a server.

/// The form of an endpoint, for an error.
pub(crate) const FORM: &str =
    "an endpoint is https://HOST, optionally with a port and a path, or http:// for this machine";

/// Returns whether this is `http` or `https`, a host, and optionally a port and a path. It must have no
/// user, no query, and no character that two parsers could read differently.
pub(crate) fn is_endpoint(text: &str) -> bool {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let Some(rest) = rest else { return false };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let in_brackets = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_host = match in_brackets {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && has_only(host, b"-._"),
    };
    let is_port = port.is_none_or(|port| has_only(port, b"") && port.parse::<u16>().is_ok());
    is_host && is_port && has_only(path, b"-._~/")
}

fn has_only(text: &str, others: &[u8]) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || others.contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_names_a_server_and_nothing_that_could_be_a_secret() {
        for text in [
            "https://s3.example",
            "https://s3.example:9000/tokens/a_b~c.d-e",
            "http://127.0.0.1:10000/devstoreaccount1",
            "http://[::1]:9000",
            "https://[fd00::1]",
        ] {
            assert!(is_endpoint(text), "{text}");
        }
        for text in [
            "",
            "s3.example",
            "ftp://s3.example",
            "https://",
            "https:///s3.example",
            "https:///KEY:SECRET@s3.example",
            "https://KEY:SECRET@s3.example",
            "https://KEY@s3.example",
            "https://h%20ost",
            "https://h ost",
            "https://s3.example:port",
            "https://s3.example:+80",
            "https://s3.example:99999",
            "https://s3.example?sig=SECRET",
            "https://s3.example/a#b",
            "https://s3.example/%2F",
            "https://s3.example\\@evil.example",
            "https://s3.example/\n",
            "https://[::1",
            "https://[canary]",
            "https://höst",
        ] {
            assert!(!is_endpoint(text), "{text}");
        }
    }
}
