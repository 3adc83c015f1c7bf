//! The proxies that the environment names, and connections through them.

use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::fmt;
use std::sync::Arc;

use http::Uri;
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::{SocksV5, Tunnel};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::net::{TcpStream, lookup_host};
use tower_service::Service;

use super::loopback::is_loopback;
use super::unreached::Unreached;

/// A connection to a server, below its own TLS. It has TLS of its own if it leads through a proxy with TLS.
pub(crate) type Transport = MaybeHttpsStream<TokioIo<TcpStream>>;

/// The variables that name the proxy for `https:` URLs. The first that is set counts.
///
/// `HTTP_PROXY` is for `http:` URLs, and none of those leads to a proxy. So it is not read, and a request that
/// sets it in a CGI program (httpoxy, CVE-2016-5385) does nothing.
const NAMING: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];

/// The variables that name the hosts without a proxy.
const EXCLUDING: [&str; 2] = ["NO_PROXY", "no_proxy"];

/// The port of a SOCKS proxy whose URL has none (IANA, service "socks").
const SOCKS_PORT: u16 = 1080;

/// The most bytes of a user and of a password (RFC 1929, 2).
const LONGEST_SOCKS_USER: usize = 255;

const FORM: &str = "write http://, https://, socks5:// or socks5h://, and HOST:PORT, with % and two digits for each \
                    special character of a password";

const REFUSES: &str = "check whether it allows that, and whether it can reach it";

/// A proxy of the environment.
#[derive(Clone)]
pub(crate) struct Proxy {
    url: Uri,
    intercept: Intercept,
    variable: &'static str,
}

impl Proxy {
    /// Returns the proxy for this URL, if the environment names one. This machine has none, and neither has
    /// plain HTTP. An error names a variable that cannot be used. It does not quote the value, because that may
    /// contain a password.
    pub(crate) fn of(url: &Uri) -> Result<Option<Self>, Unreached> {
        Self::named_by(|name| env::var_os(name), url)
    }

    fn named_by(
        get: impl Fn(&str) -> Option<OsString>,
        url: &Uri,
    ) -> Result<Option<Self>, Unreached> {
        if url.scheme_str() != Some("https") || url.host().is_none_or(is_this_machine) {
            return Ok(None);
        }
        let first = |names: &[&'static str]| {
            let set = |name: &&'static str| get(name).filter(|value| !value.is_empty());
            names.iter().find_map(|name| set(name).map(|value| (*name, value)))
        };
        let Some((variable, value)) = first(&NAMING) else { return Ok(None) };
        let text = |variable: &str, value: OsString| {
            let wrong = |_| Unreached::new(format!("{variable} is not text"), "correct it");
            value.into_string().map_err(wrong)
        };
        if let Some((variable, hosts)) = first(&EXCLUDING)
            && is_listed(url, &text(variable, hosts)?)
        {
            return Ok(None);
        }
        let mut value = text(variable, value)?;
        // A scheme may be written in capitals (RFC 3986, 3.1), and the matcher does not know it then.
        if let Some(end) = value.find("://") {
            value[..end].make_ascii_lowercase();
        }
        let named = Matcher::builder().https(value.trim()).build().intercept(url);
        let usable = named.and_then(|it| Some((with_port(it.uri())?, it)));
        let (url, intercept) = usable
            .ok_or_else(|| Unreached::new(format!("{variable} is not the URL of a proxy"), FORM))?;
        let is_long = |text: &str| text.len() > LONGEST_SOCKS_USER;
        if intercept.raw_auth().is_some_and(|(user, password)| is_long(user) || is_long(password)) {
            let what = format!("{variable} has a user or a password of more than 255 bytes");
            return Err(Unreached::new(what, "SOCKS5 allows no more; shorten it"));
        }
        Ok(Some(Self { url, intercept, variable }))
    }

    /// Connects to the host and port of a URL, through the proxy. The proxy sees nothing else of the URL.
    pub(super) async fn connect(
        self,
        to: Uri,
        tcp: HttpConnector,
        tls: Arc<ClientConfig>,
    ) -> Result<Transport, Unreached> {
        let host = to.authority().map_or_else(String::new, ToString::to_string);
        if self.is_socks() {
            let to = self.resolved(to).await?;
            let mut socks = SocksV5::new(self.url.clone(), tcp);
            if let Some((user, password)) = self.intercept.raw_auth() {
                socks = socks.with_auth(user.to_owned(), password.to_owned());
            }
            let stream = socks.call(to).await.map_err(|error| self.socks_failed(&host, &error))?;
            return Ok(Transport::Http(stream));
        }
        // The client's certificate is for the server, so `tls` must have none.
        let mut tunnel = Tunnel::new(self.url.clone(), HttpsConnector::from((tcp, tls)));
        if let Some(user) = self.intercept.basic_auth() {
            tunnel = tunnel.with_auth(user.clone());
        }
        tunnel.call(to).await.map_err(|error| self.tunnel_failed(&host, &error))
    }

    fn is_socks(&self) -> bool {
        self.url.scheme_str().is_some_and(|scheme| scheme.starts_with("socks"))
    }

    fn has_user(&self) -> bool {
        self.intercept.basic_auth().is_some() || self.intercept.raw_auth().is_some()
    }

    /// Returns the URL with an address instead of a name, if this machine resolves names. `SocksV5` would block
    /// the thread meanwhile.
    async fn resolved(&self, to: Uri) -> Result<Uri, Unreached> {
        let host = to.host().unwrap_or_default().to_owned();
        if self.url.scheme_str() != Some("socks5") || host.starts_with('[') {
            return Ok(to);
        }
        let port = to.port_u16().unwrap_or(443);
        let found = lookup_host((host.as_str(), port)).await.ok().and_then(|mut all| all.next());
        let uri = found.and_then(|at| format!("https://{at}").parse().ok());
        let variable = self.variable;
        uri.ok_or_else(|| {
            Unreached::new(
                format!("the name {host} cannot be resolved"),
                format!(
                    "check it, or write socks5h:// in {variable}, so that the proxy resolves it"
                ),
            )
        })
    }

    fn tunnel_failed(&self, host: &str, error: &TunnelError) -> Unreached {
        match error {
            TunnelError::ConnectFailed(error) => self.not_reached(&**error),
            TunnelError::ProxyAuthRequired => self.wants_a_user(),
            // Some proxies answer 401 or 403 to a wrong password, and not 407.
            TunnelError::TunnelUnsuccessful if self.has_user() => self.failed(
                &format!("does not connect to {host}"),
                format!(
                    "check the user and the password in {}, and whether it allows that",
                    self.variable
                ),
            ),
            TunnelError::TunnelUnsuccessful => {
                self.failed(&format!("does not connect to {host}"), REFUSES.to_owned())
            }
            _ => self.broken("an HTTP proxy"),
        }
    }

    fn socks_failed(&self, host: &str, error: &SocksError) -> Unreached {
        match error {
            SocksError::Inner(error) => self.not_reached(error),
            SocksError::V5(error) => {
                // The texts of this library are constants.
                let said = error.to_string();
                if said.contains("auth") || said.contains("credentials") {
                    return self.wants_a_user();
                }
                self.failed(&format!("does not connect to {host} ({said})"), REFUSES.to_owned())
            }
            _ => self.broken("a SOCKS5 proxy"),
        }
    }

    fn not_reached(&self, error: &(dyn Error + 'static)) -> Unreached {
        let place = self.to_string();
        let found = Unreached::because(&place, error);
        let variable = self.variable;
        Unreached { advice: format!("{}, or correct {variable}", found.advice), ..found }
    }

    fn wants_a_user(&self) -> Unreached {
        let variable = self.variable;
        if self.has_user() {
            // `SocksV5` offers no method besides these two.
            let or = if self.is_socks() { ", or remove them if it wants none" } else { "" };
            let advice = format!("correct them in {variable}{or}");
            return self.failed("does not accept the user and the password", advice).lasting();
        }
        let scheme = self.url.scheme_str().unwrap_or_default();
        let advice = format!("put them into {variable}, as in {scheme}://USER:PASSWORD@HOST:PORT");
        self.failed("wants a user and a password", advice).lasting()
    }

    fn broken(&self, what: &str) -> Unreached {
        let advice = format!("check whether it is {what}, or correct {}", self.variable);
        self.failed("gave no usable answer", advice)
    }

    fn failed(&self, what: &str, advice: String) -> Unreached {
        Unreached::new(format!("{self} {what}"), advice)
    }
}

type TunnelError = <Tunnel<HttpConnector> as Service<Uri>>::Error;
type SocksError = <SocksV5<HttpConnector> as Service<Uri>>::Error;

/// Shows the host and the port, and no password.
impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.url.authority().map_or("", |it| it.as_str());
        write!(f, "the proxy {host}")
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Proxy").field(&self.url).finish()
    }
}

/// Returns whether a list of hosts, domains and networks has the host of this URL. Such lists are written for many
/// programs: separated by commas or blanks, with a port, a dot before or behind a name, or `*`.
fn is_listed(url: &Uri, list: &str) -> bool {
    let port = url.port_u16().unwrap_or(443);
    let host = url.host().unwrap_or_default().trim_end_matches('.');
    let Ok(url) = format!("https://{host}/").parse() else { return false };
    list.split(|it: char| it == ',' || it.is_whitespace()).any(|entry| {
        let (name, only) = match entry.rsplit_once(':') {
            // The other colons of an IPv6 address or network are part of it.
            Some((name, port)) if !name.contains(':') || name.ends_with(']') => (name, Some(port)),
            _ => (entry, None),
        };
        if only.is_some_and(|only| only.parse() != Ok(port)) {
            return false;
        }
        let name = name.trim_start_matches('[').trim_end_matches([']', '.']);
        let name = if name == "*" { name } else { name.trim_start_matches('*') };
        // The matcher says only whether a URL has a proxy, so it is asked about any proxy.
        let others = Matcher::builder().https("http://any").no(name).build();
        name == "*" || others.intercept(&url).is_none()
    })
}

/// Returns whether a host is this machine: a loopback address, or a name that is reserved for it (RFC 6761, 6.3).
fn is_this_machine(host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    is_loopback(&host) || host == "localhost" || host.ends_with(".localhost")
}

/// Returns the URL of a proxy with its port. Returns `None` for a scheme that is not supported, and for a number
/// that is no port.
fn with_port(url: &Uri) -> Option<Uri> {
    // `Uri` accepts any digits, and then has no port.
    if url.port_u16().is_none() && url.authority()?.as_str() != url.host()? {
        return None;
    }
    let port = match (url.port_u16(), url.scheme_str()?) {
        (port, "http") => port.unwrap_or(80),
        (port, "https") => port.unwrap_or(443),
        (port, "socks5" | "socks5h") => port.unwrap_or(SOCKS_PORT),
        _ => return None,
    };
    let authority = format!("{}:{port}", url.host()?);
    let parts = Uri::builder().scheme(url.scheme_str()?).authority(authority);
    parts.path_and_query("/").build().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "https://issuer.example/token";

    /// Returns the proxy for a URL, with these variables.
    fn named(url: &str, variables: &[(&str, &str)]) -> Result<Option<Proxy>, Unreached> {
        let get = |name: &str| {
            let value = variables.iter().find(|(other, _)| *other == name);
            value.map(|(_, value)| OsString::from(value))
        };
        Proxy::named_by(get, &url.parse().unwrap())
    }

    fn shown(url: &str, variables: &[(&str, &str)]) -> Option<String> {
        named(url, variables).unwrap().map(|proxy| proxy.url.to_string())
    }

    #[test]
    fn the_first_variable_that_is_set_names_the_proxy() {
        for (variables, expected) in [
            (&[][..], None),
            (&[("HTTPS_PROXY", "")], None),
            (&[("HTTPS_PROXY", "http://p:3128")], Some("http://p:3128/")),
            (&[("https_proxy", "p:3128")], Some("http://p:3128/")),
            (&[("https_proxy", " http://p:3128\n")], Some("http://p:3128/")),
            (&[("ALL_PROXY", "socks5://p")], Some("socks5://p:1080/")),
            (&[("ALL_PROXY", "SOCKS5H://p")], Some("socks5h://p:1080/")),
            (&[("all_proxy", "socks5h://[::1]:9")], Some("socks5h://[::1]:9/")),
            (&[("HTTPS_PROXY", "http://p"), ("https_proxy", "http://q")], Some("http://p:80/")),
            (&[("HTTPS_PROXY", ""), ("https_proxy", "https://q/")], Some("https://q:443/")),
            (&[("ALL_PROXY", "http://a"), ("https_proxy", "http://p")], Some("http://p:80/")),
            // It is for plain HTTP. In a CGI program, a request can set it.
            (&[("HTTP_PROXY", "http://p"), ("REQUEST_METHOD", "GET")], None),
            (&[("HTTP_PROXY", "http://p"), ("http_proxy", "http://p")], None),
            (&[("ALL_PROXY", "http://p"), ("REQUEST_METHOD", "GET")], Some("http://p:80/")),
        ] {
            assert_eq!(shown(URL, variables).as_deref(), expected, "{variables:?}");
        }
    }

    #[test]
    fn excluded_hosts_and_this_machine_have_no_proxy() {
        let proxy = ("ALL_PROXY", "http://p:3128");
        for (url, excluded, is_direct) in [
            ("https://127.0.0.1/a", "", true),
            ("https://127.1.2.3:8443/a", "", true),
            ("https://[::1]/a", "", true),
            ("https://localhost:8443/a", "", true),
            ("https://App.LocalHost/a", "", true),
            ("http://127.0.0.1/a", "", true),
            ("http://169.254.169.254/latest", "", true),
            (URL, "", false),
            (URL, "other.example", false),
            (URL, "uer.example", false),
            (URL, "example", true),
            (URL, "a, .issuer.example ", true),
            (URL, "*", true),
            (URL, "other.example, *", true),
            (URL, "*:443", true),
            (URL, "a.test b.test\tissuer.example", true),
            (URL, "*.example", true),
            (URL, "*.issuer.example.", true),
            (URL, ".example", true),
            (URL, "Issuer.Example.", true),
            (URL, "issuer.example:443", true),
            (URL, "issuer.example:8443", false),
            (URL, "issuer.example:", false),
            (URL, " , ,", false),
            (URL, "*uer.example", false),
            ("https://issuer.example.:8443/a", "issuer.example:8443", true),
            ("https://0.0.0.0/a", "*", true),
            ("https://10.1.2.3:9/a", "10.1.2.3:9", true),
            ("https://10.1.2.3/a", "10.1.2.3:9", false),
            ("https://[fd00::1]:9/a", "[fd00::1]:9", true),
            ("https://[fd00::1]/a", "[fd00::1]", true),
            ("https://[fd00::1]/a", "fd00::1", true),
            ("https://[fd00::1]/a", "a, *", true),
            ("https://10.1.2.3/a", "10.0.0.0/8", true),
            ("https://11.1.2.3/a", "10.0.0.0/8", false),
            ("https://[fd00::1]/a", "fd00::/8", true),
        ] {
            for name in EXCLUDING {
                let found = named(url, &[proxy, (name, excluded)]).unwrap();
                assert_eq!(found.is_none(), is_direct, "{url} {excluded}");
            }
        }
    }

    #[test]
    fn a_variable_that_cannot_be_used_is_named_and_not_quoted() {
        for value in [
            "canary://p:1",
            "socks4://p",
            "http://me:canary word@p:3128",
            "http://canary:99999999",
            "http://",
            "/canary",
            "http://p:0x50",
        ] {
            let error = named(URL, &[("https_proxy", value)]).unwrap_err().to_string();
            assert!(error.starts_with("https_proxy is not the URL of a proxy; write "), "{error}");
            assert!(!error.contains("canary"), "{error}");
            // It is not used for this host.
            let excluded = [("https_proxy", value), ("NO_PROXY", "issuer.example")];
            assert!(named(URL, &excluded).unwrap().is_none(), "{value}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_variable_that_is_not_text_is_named() {
        use std::os::unix::ffi::OsStringExt;
        for name in ["HTTPS_PROXY", "NO_PROXY"] {
            let get = |other: &str| match other {
                _ if other == name => Some(OsString::from_vec(b"\xff".into())),
                "HTTPS_PROXY" => Some("http://p".into()),
                _ => None,
            };
            let error = Proxy::named_by(get, &URL.parse().unwrap()).unwrap_err();
            assert_eq!(error.to_string(), format!("{name} is not text; correct it"));
        }
    }

    #[test]
    fn a_password_that_does_not_fit_into_socks_is_refused() {
        let with = |scheme: &str, length| {
            let value = format!("{scheme}://me:{}@p", "x".repeat(length));
            named(URL, &[("ALL_PROXY", &value)]).map_err(|error| error.to_string())
        };
        assert!(with("socks5h", 255).is_ok() && with("http", 256).is_ok());
        let error = with("socks5", 256).unwrap_err();
        assert!(error.starts_with("ALL_PROXY has a user or a password of more than"), "{error}");
    }

    #[test]
    fn a_proxy_of_either_kind_that_refuses_the_user_has_to_be_corrected_first() {
        for (value, or) in [("http://me:canary@p", false), ("socks5://me:canary@p", true)] {
            let proxy = named(URL, &[("ALL_PROXY", value)]).unwrap().unwrap();
            let error = proxy.wants_a_user();
            assert!(error.is_lasting);
            assert_eq!(error.advice.ends_with("or remove them if it wants none"), or, "{value}");
        }
    }

    #[test]
    fn a_password_is_decoded_and_shown_nowhere() {
        let variables = [("HTTPS_PROXY", "http://m%40e:can%3Aary%21@p:3128")];
        let proxy = named(URL, &variables).unwrap().unwrap();
        let header = proxy.intercept.basic_auth().unwrap();
        // "m@e:can:ary!" in base64.
        assert_eq!(header, "Basic bUBlOmNhbjphcnkh");
        let variables = [("HTTPS_PROXY", "socks5://m%40e:can%3Aary%21@p")];
        let socks = named(URL, &variables).unwrap().unwrap();
        assert_eq!(socks.intercept.raw_auth(), Some(("m@e", "can:ary!")));
        for proxy in [proxy, socks] {
            let shown = format!("{proxy} {proxy:?} {:?}", proxy.intercept);
            assert!(!shown.contains("can") && !shown.contains("bUBl"), "{shown}");
            assert!(proxy.wants_a_user().to_string().contains("correct them in HTTPS_PROXY"));
        }
    }
}
