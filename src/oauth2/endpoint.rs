//! The rules for URLs to which secrets are sent.

use oauth2::url::Url;

use super::OAuth2Error;
use crate::net::loopback::is_loopback;

/// Parses a URL to which secrets or a person are sent. No error quotes it.
pub(super) fn endpoint(setting: &'static str, text: &str) -> Result<Url, OAuth2Error> {
    let wrong = |reason| OAuth2Error::InvalidSetting { setting, reason };
    let url = Url::parse(text).map_err(|_| wrong("is not a URL"))?;
    let host = url.host_str().ok_or_else(|| wrong("has no host"))?;
    if url.scheme() != "https" && !(url.scheme() == "http" && is_loopback(host)) {
        return Err(wrong(
            "must begin with https://; http:// is accepted only for loopback addresses like 127.0.0.1",
        ));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("contains a user or a password; remove it"));
    }
    if url.fragment().is_some() {
        return Err(wrong("has a fragment (#), which is not sent to a server; remove it"));
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_go_to_https_or_to_a_loopback_address() {
        for text in ["https://issuer.example/token", "http://127.0.0.1:8080/t", "http://[::1]/t"] {
            assert_eq!(endpoint("token_url", text).unwrap().as_str(), text);
        }
        for text in [
            "http://issuer.example/token",
            "http://localhost/token",
            "http://127.0.0.1.example/token",
            "ftp://issuer.example/canary",
            "canary",
            "data:canary",
            "https://canary@issuer.example/token",
            "https://me:canary@issuer.example/token",
            "https://issuer.example/token#canary",
        ] {
            let error = endpoint("token_url", text).unwrap_err().to_string();
            assert!(error.starts_with("token_url ") && !error.contains("canary"), "{error}");
        }
    }
}
