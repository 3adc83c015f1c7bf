//! The URL of a server.

use std::net::{Ipv4Addr, Ipv6Addr};

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
    is_host(host) && port.is_none_or(is_port) && has_only(path, b"-._~/")
}

/// Returns whether this is a name of at most 253 characters, an IPv4 address, or an IPv6 address in brackets.
fn is_host(host: &str) -> bool {
    let in_brackets = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    if let Some(address) = in_brackets {
        return address.parse::<Ipv6Addr>().is_ok();
    }
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && has_only(label, b"-_")
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // Some parsers read `127.1` and `0x7f000001` as addresses, and others as names.
    let is_number = |label: &str| {
        label.bytes().all(|byte| byte.is_ascii_digit())
            || label.to_ascii_lowercase().starts_with("0x")
    };
    let is_address = || host.parse::<Ipv4Addr>().is_ok();
    host.len() <= 253
        && host.split('.').all(is_label)
        && (!host.rsplit('.').next().is_some_and(is_number) || is_address())
}

/// Returns whether this is the number of a port, in digits only.
pub(crate) fn is_port(port: &str) -> bool {
    let is_digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    is_digits && port.parse::<u16>().is_ok_and(|port| port > 0)
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
            "https://s3.example:",
            "https://s3.example:0",
            "https://s3..example",
            "https://s3.example.",
            "https://-s3.example",
            "https://\u{2a}.example",
            "https://127.1",
            "https://0x7f000001",
        ] {
            assert!(!is_endpoint(text), "{text}");
        }
    }
}
