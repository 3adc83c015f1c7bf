//! Where a browser is redirected to after a sign-in (RFC 8252, 7).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use oauth2::RedirectUrl;
use oauth2::url::Url;
use tokio::net::TcpListener;

use super::super::OAuth2Error;
use crate::sys::clock::random;

/// The redirect URI of a client that has set none.
const USUAL: &str = "http://127.0.0.1/callback";

/// How many free ports are tried until one is free at both addresses of `localhost`.
const ATTEMPTS: usize = 8;

/// The first port of those that no program is registered for (RFC 6335, 6), and their number.
const DYNAMIC_PORTS: (u16, f64) = (49152, 16384.0);

/// A redirect URI as it is registered at the provider. Providers compare its text.
#[derive(Clone, Debug)]
pub(in super::super) struct Redirect {
    text: String,
    path: String,
    /// If it leads to a port of this machine.
    loopback: Option<Loopback>,
}

#[derive(Clone, Debug)]
struct Loopback {
    addresses: &'static [IpAddr],
    /// The port, or 0 for any.
    port: u16,
    /// The text before the port, and the one after it.
    around: (String, String),
}

/// A redirect URI that is used now, and the port that it leads to.
pub(super) struct Listening {
    pub(super) uri: RedirectUrl,
    pub(super) path: String,
    pub(super) listeners: Vec<TcpListener>,
}

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

impl Redirect {
    /// Returns the redirect URI of a client that has set none.
    pub(super) fn usual() -> Self {
        Self::parse(USUAL).expect("it is a loopback address")
    }

    /// Reads a redirect URI. No error quotes it.
    pub(super) fn parse(text: &str) -> Result<Self, OAuth2Error> {
        let url = Url::parse(text).map_err(|_| wrong("is not a URI"))?;
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(wrong("contains a character that a URI cannot have"));
        }
        if url.fragment().is_some() {
            return Err(wrong("has a fragment (#), which no provider accepts; remove it"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(wrong("contains a user or a password; remove it"));
        }
        let loopback = match url.scheme() {
            "http" => Some(Loopback::parse(text)?),
            "data" | "file" | "ftp" | "javascript" | "ws" | "wss" => {
                return Err(wrong("has a scheme to which no provider redirects"));
            }
            // `https` (RFC 8252, 7.2), or a scheme of the program's own (7.1).
            _ => None,
        };
        Ok(Self { text: text.to_owned(), path: url.path().to_owned(), loopback })
    }

    /// Listens on its port, or on this one if it names none. Only this machine can reach it.
    pub(super) async fn listen(self, port: u16) -> Result<Listening, OAuth2Error> {
        let Some(loopback) = self.loopback else {
            return Err(wrong(
                "does not lead to this machine, so its answer has to be pasted; use sign_in_by_paste",
            ));
        };
        let port = if loopback.port == 0 { port } else { loopback.port };
        let (listeners, port) = bind(loopback.addresses, port).await?;
        Ok(Listening { uri: loopback.uri(port), path: self.path, listeners })
    }

    /// Returns it for a sign-in whose answer is pasted. No port is opened. If any port will do, it is a random one, so
    /// that hardly any program listens there on the machine of the browser.
    pub(super) fn without_port(self) -> Listening {
        let (first, count) = DYNAMIC_PORTS;
        let uri = match &self.loopback {
            None => RedirectUrl::new(self.text).expect("it was parsed"),
            Some(loopback) if loopback.port == 0 => loopback.uri(first + (random() * count) as u16),
            Some(loopback) => loopback.uri(loopback.port),
        };
        Listening { uri, path: self.path, listeners: Vec::new() }
    }
}

impl Loopback {
    fn parse(text: &str) -> Result<Self, OAuth2Error> {
        let not_loopback = || {
            wrong(
                "is http, so its host must be 127.0.0.1, [::1] or localhost, with or without a port",
            )
        };
        let rest = text.strip_prefix("http://").ok_or_else(not_loopback)?;
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port),
            _ => (authority, "0"),
        };
        let addresses: &[IpAddr] = match host {
            "127.0.0.1" => &[V4],
            "[::1]" => &[V6],
            "localhost" => &[V4, V6],
            _ => return Err(not_loopback()),
        };
        let port = port.parse().map_err(|_| not_loopback())?;
        Ok(Self { addresses, port, around: (format!("http://{host}"), path.to_owned()) })
    }

    fn uri(&self, port: u16) -> RedirectUrl {
        let (before, after) = &self.around;
        RedirectUrl::new(format!("{before}:{port}{after}")).expect("it was parsed without the port")
    }
}

/// Listens on the same port of all these addresses. Port 0 is a free one.
///
/// A browser chooses which address of `localhost` it connects to. If another program listens on the second one, it
/// could get the code. If this machine has no IPv6, nobody can.
async fn bind(addresses: &[IpAddr], port: u16) -> Result<(Vec<TcpListener>, u16), OAuth2Error> {
    let mut attempt = 0;
    'attempts: loop {
        attempt += 1;
        let (mut listeners, mut chosen) = (Vec::new(), port);
        for address in addresses {
            let listener = TcpListener::bind((*address, chosen)).await.and_then(|listener| {
                chosen = listener.local_addr()?.port();
                Ok(listener)
            });
            match listener {
                Ok(listener) => listeners.push(listener),
                Err(error) if listeners.is_empty() || is_taken(&error) => {
                    if port == 0 && !listeners.is_empty() && attempt < ATTEMPTS {
                        continue 'attempts;
                    }
                    return Err(OAuth2Error::Unavailable {
                        reason: format!(
                            "port {chosen} of {address} cannot be used ({})",
                            error.kind()
                        ),
                        retry_after: None,
                    });
                }
                Err(_) => {}
            }
        }
        return Ok((listeners, chosen));
    }
}

/// Returns whether the port cannot be used, although the address can be.
fn is_taken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied)
}

fn wrong(reason: &'static str) -> OAuth2Error {
    OAuth2Error::InvalidSetting { setting: "redirect_uri", reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_a_redirect_uri_stays_except_for_its_port() {
        for (text, uri, path) in [
            ("http://127.0.0.1/callback", "http://127.0.0.1:7/callback", "/callback"),
            ("http://127.0.0.1:0/callback", "http://127.0.0.1:7/callback", "/callback"),
            ("http://[::1]/", "http://[::1]:7/", "/"),
            ("http://[::1]:0", "http://[::1]:7", "/"),
            ("http://localhost", "http://localhost:7", "/"),
            ("http://localhost/a%20b/?x=1", "http://localhost:7/a%20b/?x=1", "/a%20b/"),
            ("http://localhost?x=1", "http://localhost:7?x=1", "/"),
        ] {
            let redirect = Redirect::parse(text).unwrap();
            let loopback = redirect.loopback.as_ref().unwrap();
            assert_eq!(loopback.port, 0, "{text}");
            assert_eq!((loopback.uri(7).as_str(), &*redirect.path), (uri, path));
            assert_ne!(redirect.clone().without_port().uri, redirect.without_port().uri, "{text}");
        }
        for text in ["http://127.0.0.1:8912/cb", "https://app.example/cb", "com.example.app:/cb"] {
            assert_eq!(Redirect::parse(text).unwrap().without_port().uri.as_str(), text);
        }
    }

    #[test]
    fn a_redirect_uri_leads_to_this_machine_or_is_pasted() {
        for text in [
            "canary",
            "http://issuer.example/canary",
            "http://127.0.0.2/canary",
            "http://127.0.0.1.example/canary",
            "http://localhost.example/canary",
            "http://localhost:65536/canary",
            "http://localhost:canary/",
            "http://localhost@canary.example/",
            "http://me:canary@localhost/",
            "http://localhost\\@canary.example/",
            "HTTP://localhost/canary",
            "http://localhost/canary#canary",
            "http://localhost/\tcanary",
            "https://me:canary@app.example/",
            "javascript:canary",
            "file:///canary",
            "data:canary",
        ] {
            let error = Redirect::parse(text).unwrap_err().to_string();
            assert!(
                error.starts_with("redirect_uri ") && !error.contains("canary"),
                "{text}: {error}"
            );
        }
    }

    #[tokio::test]
    async fn localhost_is_the_same_port_of_both_addresses() {
        let localhost = || Redirect::parse("http://localhost/").unwrap();
        let listening = localhost().listen(0).await.unwrap();
        let port = listening.listeners[0].local_addr().unwrap().port();
        for listener in &listening.listeners {
            let address = listener.local_addr().unwrap();
            assert!(address.ip().is_loopback() && address.port() == port, "{address}");
        }
        assert_eq!(listening.uri.as_str(), format!("http://localhost:{port}/"));
        let has_v6 = std::net::TcpListener::bind((V6, 0)).is_ok();
        assert_eq!(listening.listeners.len(), 1 + usize::from(has_v6));
        if has_v6 {
            // The other address alone is taken.
            let [first, _second] = <[TcpListener; 2]>::try_from(listening.listeners).unwrap();
            drop(first);
            let error = localhost().listen(port).await.err().unwrap();
            assert!(error.to_string().contains(&format!("port {port} of ::1")), "{error}");
            assert_ne!(localhost().listen(0).await.unwrap().uri.url().port(), Some(port));
        }
    }
}
