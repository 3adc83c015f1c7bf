//! Whether a host is a loopback address.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Returns whether the host of a URL is a loopback address: 127.0.0.0/8 or `[::1]`.
///
/// `localhost` is not one: it is a name, and its address depends on a hosts file or a resolver.
pub(crate) fn is_loopback(host: &str) -> bool {
    let v6 = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    match v6 {
        Some(host) => host.parse().is_ok_and(|address: Ipv6Addr| address.is_loopback()),
        None => host.parse().is_ok_and(|address: Ipv4Addr| address.is_loopback()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_address_is_loopback() {
        for host in ["127.0.0.1", "127.255.255.254", "[::1]"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["localhost", "127.0.0.1.example", "128.0.0.1", "[::2]", "::1", "0.0.0.0", ""] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
