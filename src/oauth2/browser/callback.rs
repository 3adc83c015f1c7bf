//! The answer of a provider to a sign-in, in the request of a browser or in a text that a person pasted.

use std::borrow::Cow;

use oauth2::url::form_urlencoded::parse;
use oauth2::{AuthorizationCode, CsrfToken};
use subtle::ConstantTimeEq;

use super::super::failure::{Failed, error_code};
use super::super::refusal::Report;

/// The code, or why there is none.
pub(super) type Brought = Result<AuthorizationCode, Failed>;

/// What the answer to a sign-in has to contain.
pub(in super::super) struct Expected {
    pub(in super::super) path: String,
    pub(in super::super) state: CsrfToken,
    pub(in super::super) issuer: Option<Issuer>,
    /// Gets what the provider says when it refuses the sign-in.
    pub(in super::super) report: Report,
    /// The name of the provider, for the report.
    pub(in super::super) host: String,
}

/// The issuer of the provider (RFC 9207).
#[derive(Clone, Debug)]
pub(in super::super) struct Issuer {
    pub(in super::super) url: String,
    /// Whether each answer names it.
    pub(super) is_always_sent: bool,
}

/// The parameters of an answer (RFC 6749, 4.1.2, and RFC 9207, 2).
#[derive(Default)]
struct Parameters<'a> {
    code: Option<Cow<'a, str>>,
    error: Option<Cow<'a, str>>,
    iss: Option<Cow<'a, str>>,
    state: Option<Cow<'a, str>>,
}

impl<'a> Parameters<'a> {
    /// Reads the parameters. No parameter may be there twice (RFC 6749, 3.1).
    fn read(query: &'a [u8]) -> Option<Self> {
        let mut read = Self::default();
        // No `Url` is made, because it would be one more copy of the code.
        for (name, value) in parse(query) {
            let parameter = match &*name {
                "code" => &mut read.code,
                "error" => &mut read.error,
                "iss" => &mut read.iss,
                "state" => &mut read.state,
                _ => continue,
            };
            if parameter.replace(value).is_some() {
                return None;
            }
        }
        Some(read)
    }

    /// Returns the state, if there is one.
    fn state(&self) -> Option<&str> {
        self.state.as_deref().filter(|state| !state.is_empty())
    }
}

impl Expected {
    /// Returns the code or the error in a request, if it belongs to this sign-in: a GET, or the POST of a form
    /// (OAuth 2.0 Form Post Response Mode).
    pub(in super::super) fn read(&self, request: &[u8]) -> Option<Brought> {
        let (method, target) = line(request)?;
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        if path != self.path || is_prefetch(request) {
            return None;
        }
        let query = match method {
            "GET" => query.as_bytes(),
            "POST" => &request[head(request)?..],
            _ => return None,
        };
        // A page of another site can send requests to this port, but not open it in a window unseen. Browsers say
        // which of the two a request is.
        let is_seen = header(request, "sec-fetch-dest").is_none_or(|value| value == b"document");
        self.answer(query, is_seen)
    }

    /// Returns the code or the error in a pasted address, or in its query alone.
    pub(super) fn read_pasted(&self, text: &str) -> Option<Brought> {
        let text = text.trim();
        let query = text.split_once('?').map_or(text, |(_, query)| query);
        let query = query.split('#').next().unwrap_or_default();
        self.answer(query.as_bytes(), true)
    }

    /// Judges an answer, and reports what it says if it is a refusal of this sign-in.
    fn answer(&self, query: &[u8], may_lack_state: bool) -> Option<Brought> {
        let parameters = Parameters::read(query)?;
        let brought = self.judge(&parameters, may_lack_state)?;
        // Without the state, the text may be that of any page.
        if matches!(brought, Err(Failed::Refused { .. })) && parameters.state().is_some() {
            self.report.redirected(&self.host, &[self.state.secret()], |wanted| {
                parse(query).find(|(name, _)| name == wanted).map(|(_, value)| value)
            });
        }
        Some(brought)
    }

    /// Judges an answer. Some providers send an error without the state, or with an empty one. If `may_lack_state`, it counts: the worst
    /// that it can do is to end this sign-in.
    fn judge(&self, answer: &Parameters<'_>, may_lack_state: bool) -> Option<Brought> {
        match answer.state() {
            Some(state) => {
                let is_ours: bool = state.as_bytes().ct_eq(self.state.secret().as_bytes()).into();
                if !is_ours {
                    return None;
                }
            }
            None => {
                let error = answer.error.as_deref().filter(|error| !error.trim().is_empty())?;
                let counts = may_lack_state && answer.code.is_none();
                return counts.then(|| Err(stateless(error)));
            }
        }
        if answer.code.is_none() && answer.error.is_none() {
            return None;
        }
        if let Some(reason) = self.issuer.as_ref().and_then(|it| it.refuses(answer.iss.as_deref()))
        {
            return Some(Err(Failed::Unreadable { reason }));
        }
        Some(match (&answer.code, &answer.error) {
            (Some(code), _) => Ok(AuthorizationCode::new(code.clone().into_owned())),
            (None, error) => Err(refused(error.as_deref().unwrap_or_default())),
        })
    }
}

impl Issuer {
    /// Returns why an answer that names this issuer, or none, is not used.
    fn refuses(&self, named: Option<&str>) -> Option<String> {
        let url = &self.url;
        let what = match named {
            Some(named) if named != url => format!("another issuer than {url}"),
            None if self.is_always_sent => format!("no issuer, although {url} names itself"),
            _ => return None,
        };
        Some(format!(
            "the answer to the sign-in names {what}, so it is not used; check issuer and \
             authorization_url"
        ))
    }
}

/// Returns the failure of a sign-in with an error code. Any other text is not repeated.
fn refused(error: &str) -> Failed {
    let code = error_code(error).unwrap_or_default().to_owned();
    let said = if code.is_empty() { "an error code that is not registered" } else { &code };
    let asks_nothing = matches!(
        &*code,
        "account_selection_required"
            | "consent_required"
            | "interaction_required"
            | "login_required"
    );
    // OpenID Connect Core, 3.1.2.6.
    let advice = if asks_nothing {
        ", as if it may ask nothing; remove prompt=none from the parameters of the sign-in if it is there"
    } else {
        ""
    };
    let reason = format!("the provider answered the sign-in with {said}{advice}");
    Failed::Refused { code, reason, retry_after: None }
}

/// Returns the failure of a sign-in with an error code in an answer without the state. It proves nothing about the
/// person: any program of this machine can send such an answer.
fn stateless(error: &str) -> Failed {
    let error = error_code(error).unwrap_or("an error code that is not registered");
    let reason = format!(
        "an answer without the state of this sign-in says {error}, and may be from somebody else; if you did not \
         decline, start the sign-in again"
    );
    Failed::Refused { code: String::new(), reason, retry_after: None }
}

/// Returns the method and the target of a request.
pub(super) fn line(request: &[u8]) -> Option<(&str, &str)> {
    let line = str::from_utf8(request.split(|&byte| byte == b'\r').next()?).ok()?;
    let (method, target) = line.strip_suffix(" HTTP/1.1")?.split_once(' ')?;
    // No browser sends control characters.
    (!target.contains(|character: char| character.is_ascii_control())).then_some((method, target))
}

/// Returns the length of a request's head, if the head is complete.
pub(super) fn head(request: &[u8]) -> Option<usize> {
    let end = b"\r\n\r\n";
    Some(request.windows(end.len()).position(|it| it == end)? + end.len())
}

/// Returns the value of a header with this name in lower case.
pub(super) fn header<'a>(request: &'a [u8], wanted: &str) -> Option<&'a [u8]> {
    let head = &request[..head(request)?];
    head.split(|&byte| byte == b'\n').skip(1).find_map(|line| {
        let colon = line.iter().position(|&byte| byte == b':')?;
        let is_wanted = line[..colon].eq_ignore_ascii_case(wanted.as_bytes());
        is_wanted.then(|| line[colon + 1..].trim_ascii())
    })
}

/// Returns whether a browser only prepares for a page that the person may never open.
pub(super) fn is_prefetch(request: &[u8]) -> bool {
    ["sec-purpose", "purpose", "x-moz"].iter().any(|name| {
        header(request, name)
            .is_some_and(|value| value.to_ascii_lowercase().starts_with(b"prefetch"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected() -> Expected {
        let (path, state) = ("/callback".to_owned(), CsrfToken::new("right".into()));
        let (report, host) = (Report::default(), String::new());
        Expected { path, state, issuer: None, report, host }
    }

    fn shown(brought: Option<Brought>) -> Option<Result<String, String>> {
        Some(brought?.map(AuthorizationCode::into_secret).map_err(|failed| failed.to_string()))
    }

    fn brought(request: &str) -> Option<Result<String, String>> {
        shown(expected().read(request.as_bytes()))
    }

    #[test]
    fn only_the_answer_to_this_sign_in_is_accepted() {
        let code = Some(Ok("a+b".to_owned()));
        assert_eq!(brought("GET /callback?code=a%2Bb&state=right HTTP/1.1\r\n\r\n"), code);
        assert_eq!(brought("GET /callback?state=right&x=&code=a%2Bb HTTP/1.1\r\nHost: x"), code);
        assert_eq!(brought("POST /callback HTTP/1.1\r\nA: b\r\n\r\nstate=right&code=a%2Bb"), code);
        for request in [
            "GET /callback?code=a&state=wrong HTTP/1.1\r\n",
            "GET /callback?code=a&state= HTTP/1.1\r\n",
            "GET /callback?code=a HTTP/1.1\r\n",
            "GET /callback?state=right HTTP/1.1\r\n",
            "GET /callback HTTP/1.1\r\n",
            "GET /callback/?code=a&state=right HTTP/1.1\r\n",
            "GET /favicon.ico HTTP/1.1\r\n",
            "GET //callback?code=a&state=right HTTP/1.1\r\n",
            "GET @elsewhere/callback?code=a&state=right HTTP/1.1\r\n",
            "GET http://elsewhere/callback?code=a&state=right HTTP/1.1\r\n",
            "GET /callback?code=a&state=ri\nght HTTP/1.1\r\n",
            "GET /call\tback?code=a&state=right HTTP/1.1\r\n",
            "HEAD /callback?code=a&state=right HTTP/1.1\r\n\r\n",
            "OPTIONS /callback?code=a&state=right HTTP/1.1\r\n\r\n",
            // The answer to a POST is in its body.
            "POST /callback?code=a&state=right HTTP/1.1\r\n\r\n",
            "POST /callback HTTP/1.1\r\n\r\ncode=a&state=wrong",
            // Nothing may be there twice.
            "GET /callback?code=a&code=b&state=right HTTP/1.1\r\n\r\n",
            "GET /callback?code=a&state=right&state=right HTTP/1.1\r\n\r\n",
            "GET /callback?code=a&state=right&iss=a&iss=a HTTP/1.1\r\n\r\n",
            // The person may never see the page.
            "GET /callback?code=a&state=right HTTP/1.1\r\nSec-Purpose: prefetch;prerender\r\n\r\n",
            "GET /callback?code=a&state=right HTTP/1.1\r\npurpose:Prefetch\r\n\r\n",
            "",
        ] {
            assert_eq!(brought(request), None, "{request}");
        }
    }

    #[test]
    fn an_error_shows_only_a_registered_code() {
        let failed = |query: &str| {
            let request = format!("GET /callback?state=right&{query} HTTP/1.1\r\n\r\n");
            brought(&request).unwrap().unwrap_err()
        };
        let denied = failed("error=access_denied&error_description=canary");
        assert!(denied.ends_with("with access_denied"), "{denied}");
        let other = failed("error=canary-1%1b%5b2J");
        assert!(other.ends_with("that is not registered"), "{other}");
    }

    #[test]
    fn an_error_without_state_counts_if_the_person_sees_it() {
        let sent = |query: &str, header: &str| {
            brought(&format!("GET /callback?{query} HTTP/1.1\r\n{header}\r\n"))
        };
        let denied = "error=access_denied&error_description=canary";
        for header in ["", "Sec-Fetch-Dest: document\r\n"] {
            let failed = sent(denied, header).unwrap().unwrap_err();
            assert!(
                failed.contains("without the state of this sign-in says access_denied,"),
                "{failed}"
            );
            assert!(!failed.contains("canary"), "{failed}");
        }
        for error in ["AADSTS65004", "access-denied", "ACCESS_DENIED", "canary%1b%5b2J"] {
            for state in ["", "&state="] {
                let failed = sent(&format!("error={error}{state}"), "").unwrap().unwrap_err();
                assert!(failed.contains("says an error code that is not registered,"), "{failed}");
            }
        }
        assert!(sent("error=access_denied&state=", "").unwrap().is_err());
        for (query, header) in [
            (denied, "Sec-Fetch-Dest: image\r\n"),
            (denied, "sec-fetch-dest: iframe\r\n"),
            ("error=access_denied&state=wrong", ""),
            ("error=access_denied&code=a", ""),
            ("error=", ""),
            ("error=%20", ""),
            ("code=a&state=", ""),
        ] {
            assert_eq!(sent(query, header), None, "{query} {header}");
        }
    }

    #[test]
    fn another_issuer_is_refused_and_a_missing_one_if_it_is_always_sent() {
        for (query, is_always_sent, is_accepted) in [
            ("iss=https%3A%2F%2Fissuer.example", false, true),
            ("iss=https%3A%2F%2Fissuer.example", true, true),
            ("", false, true),
            ("", true, false),
            ("iss=", false, false),
            // Only the same text is the same issuer (RFC 9207, 2.4).
            ("iss=https%3A%2F%2Fissuer.example%2F", false, false),
            ("iss=https%3A%2F%2Fcanary.example", false, false),
        ] {
            let issuer = Issuer { url: "https://issuer.example".into(), is_always_sent };
            let expected = Expected { issuer: Some(issuer), ..expected() };
            for answer in ["code=a", "error=access_denied"] {
                let request =
                    format!("GET /callback?{answer}&state=right&{query} HTTP/1.1\r\n\r\n");
                let brought = shown(expected.read(request.as_bytes())).unwrap();
                match brought {
                    Ok(_) => assert!(is_accepted, "{request}"),
                    Err(reason) if answer == "code=a" || !is_accepted => {
                        assert!(
                            !is_accepted && reason.contains("so it is not used; check issuer"),
                            "{request}: {reason}"
                        );
                        assert!(!reason.contains("canary"), "{reason}");
                    }
                    Err(reason) => {
                        assert!(reason.ends_with("access_denied"), "{request}: {reason}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_pasted_address_counts_whole_or_in_part() {
        let code = Some(Ok("a+b".to_owned()));
        for text in [
            "http://127.0.0.1:1234/callback?code=a%2Bb&state=right",
            " http://127.0.0.1/callback?state=right&code=a%2Bb&scope=x#\n",
            "https://app.example/cb?code=a%2Bb&state=right#_=_",
            "com.example.app:/cb?code=a%2Bb&state=right",
            "?code=a%2Bb&state=right",
            "code=a%2Bb&state=right",
        ] {
            assert_eq!(shown(expected().read_pasted(text)), code, "{text}");
        }
        let denied = shown(expected().read_pasted("http://127.0.0.1/?error=access_denied"));
        assert!(denied.unwrap().is_err());
        for text in [
            "",
            "a+b",
            "code=a",
            "http://127.0.0.1/callback?code=a",
            "http://127.0.0.1/callback?code=a&state=wrong",
            "https://issuer.example/authorize?client_id=app&state=right",
            "http://127.0.0.1/callback?code=a&code=b&state=right",
        ] {
            assert_eq!(shown(expected().read_pasted(text)), None, "{text}");
        }
    }
}
