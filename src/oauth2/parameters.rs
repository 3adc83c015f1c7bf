//! Parameters that a provider wants beyond the standard, and where they are sent.

use oauth2::url::Url;

use super::OAuth2Error;

/// Gives each name with what an error says about it.
macro_rules! reserved {
    ($($name:literal,)*) => {
        [$(($name, concat!(
            "has the parameter ", $name, ", which is sent anyway; remove it, or use the setting for it"
        ))),*]
    };
}

/// The parameters that this crate sends itself. A second one of the same name is an error at most providers
/// (RFC 6749, 3.1 and 3.2), and could undo what the first one protects. Some providers ignore upper and lower case.
const RESERVED: [(&str, &str); 17] = reserved![
    "client_assertion",
    "client_assertion_type",
    "client_id",
    "client_secret",
    "code",
    "code_challenge",
    "code_challenge_method",
    "code_verifier",
    "device_code",
    "grant_type",
    "redirect_uri",
    "refresh_token",
    "response_type",
    "scope",
    "state",
    "token",
    "token_type_hint",
];

/// The longest name of a parameter. All registered ones are shorter.
const LONGEST_NAME: usize = 64;

/// The most bytes of a value. A value of this length still fits into a URL.
const LONGEST_VALUE: usize = 2048;

/// Names and values. A name that occurs more than once is sent as often.
pub(super) type Pairs = Vec<(String, String)>;

/// The parameters of each kind of request.
#[derive(Clone, Debug, Default)]
pub(super) struct Parameters {
    /// Of the URL at which a person signs in.
    pub(super) authorize: Pairs,
    /// Of the request for a device code.
    pub(super) device: Pairs,
    /// Of each request to the token endpoint.
    pub(super) token: Pairs,
    audience: Option<String>,
    resources: Vec<String>,
}

impl Parameters {
    pub(super) fn set_audience(&mut self, audience: String) -> Result<(), OAuth2Error> {
        check_value("audience", &audience)?;
        self.audience = Some(audience);
        Ok(())
    }

    /// Sets the resources: absolute URIs without a fragment (RFC 8707, 2).
    pub(super) fn set_resources(&mut self, resources: Vec<String>) -> Result<(), OAuth2Error> {
        for resource in &resources {
            check_value("resource", resource)?;
            if !Url::parse(resource).is_ok_and(|url| url.fragment().is_none()) {
                let reason = "is not an absolute URI without a fragment; correct it";
                return Err(OAuth2Error::InvalidSetting { setting: "resource", reason });
            }
        }
        self.resources = resources;
        Ok(())
    }

    /// Returns what is added to the URL at which a person signs in.
    pub(super) fn for_authorize(&self) -> impl Iterator<Item = (&str, &str)> {
        borrowed(&self.authorize).chain(self.audience()).chain(self.resources())
    }

    /// Returns what is added to the request for a device code.
    pub(super) fn for_device(&self) -> impl Iterator<Item = (&str, &str)> {
        borrowed(&self.device).chain(self.audience()).chain(self.resources())
    }

    /// Returns what is added to a request to the token endpoint for tokens of a person. The audience was sent
    /// at the start of the sign-in.
    pub(super) fn for_token(&self) -> impl Iterator<Item = (&str, &str)> {
        borrowed(&self.token).chain(self.resources())
    }

    /// Returns what is added to a request to the token endpoint for tokens of the client itself. This request
    /// is the only one.
    pub(super) fn for_client_credentials(&self) -> impl Iterator<Item = (&str, &str)> {
        self.for_token().chain(self.audience())
    }

    fn audience(&self) -> impl Iterator<Item = (&str, &str)> {
        self.audience.iter().map(|audience| ("audience", audience.as_str()))
    }

    fn resources(&self) -> impl Iterator<Item = (&str, &str)> {
        self.resources.iter().map(|resource| ("resource", resource.as_str()))
    }
}

fn borrowed(pairs: &Pairs) -> impl Iterator<Item = (&str, &str)> {
    pairs.iter().map(|(name, value)| (name.as_str(), value.as_str()))
}

/// Checks the parameters of one setting.
pub(super) fn checked<N: Into<String>, V: Into<String>>(
    setting: &'static str,
    pairs: impl IntoIterator<Item = (N, V)>,
) -> Result<Pairs, OAuth2Error> {
    let pairs = pairs.into_iter().map(|(name, value)| (name.into(), value.into()));
    pairs
        .map(|(name, value)| {
            let reserved = RESERVED.iter().find(|(reserved, _)| name.eq_ignore_ascii_case(reserved));
            if let Some(&(_, reason)) = reserved {
                return Err(OAuth2Error::InvalidSetting { setting, reason });
            }
            // An answer in a fragment does not reach a program, and one by script does not reach a port.
            if name.eq_ignore_ascii_case("response_mode") && !matches!(value.as_str(), "query" | "form_post") {
                let reason =
                    "has the parameter response_mode, which can only be query or form_post; correct it";
                return Err(OAuth2Error::InvalidSetting { setting, reason });
            }
            if !is_name(&name) {
                let reason =
                    "has a parameter whose name is not 1 to 64 letters, digits and -._; correct it";
                return Err(OAuth2Error::InvalidSetting { setting, reason });
            }
            check_value(setting, &value)?;
            Ok((name, value))
        })
        .collect()
}

/// RFC 6749 (A.) allows these characters in the name of a parameter. The others are for URNs, which some
/// providers use.
fn is_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
    (1..=LONGEST_NAME).contains(&name.len()) && name.bytes().all(fits)
}

fn check_value(setting: &'static str, value: &str) -> Result<(), OAuth2Error> {
    let reason = match value {
        "" => "is empty; give it a value, or remove it",
        value if value.chars().any(char::is_control) => "contains a control character; remove it",
        value if value.len() > LONGEST_VALUE => "has more than 2048 bytes; shorten it",
        _ => return Ok(()),
    };
    Err(OAuth2Error::InvalidSetting { setting, reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_that_is_sent_anyway_or_cannot_be_sent_is_refused() {
        let long = "x".repeat(2049);
        for (name, value) in RESERVED.iter().map(|it| (it.0, "canary")).chain([
            ("response_mode", "fragment"),
            ("", "canary"),
            ("Client_ID", "canary"),
            ("SCOPE", "canary"),
            ("a b", "canary"),
            ("a=b", "canary"),
            ("a&b", "canary"),
            ("näme", "canary"),
            ("a", ""),
            ("a", "canary\n"),
            ("a", "canary\0"),
            ("a", &long),
        ]) {
            let error = checked("token_parameters", [(name, value)]).unwrap_err().to_string();
            assert!(error.starts_with("token_parameters ") && !error.contains("canary"), "{error}");
            let is_known = RESERVED.iter().any(|it| it.0 == name) || name == "response_mode";
            assert!(!is_known || error.contains(name), "{error}");
        }
        let pairs = [("access_type", "offline"), ("x.y-z_1", "ä=&"), ("x.y-z_1", "b")];
        assert_eq!(checked("authorize_parameters", pairs).unwrap().len(), 3);
        checked("authorize_parameters", [("response_mode", "form_post")]).unwrap();
    }

    #[test]
    fn a_resource_is_an_absolute_uri_without_a_fragment() {
        let mut parameters = Parameters::default();
        for resource in ["", "api", "/api", "https://api.example/#a", "https://api.example/\n"] {
            let set = parameters.set_resources(vec![resource.to_owned()]);
            assert!(set.unwrap_err().to_string().starts_with("resource "), "{resource}");
        }
        parameters.set_resources(vec!["https://a.example/mcp".into(), "urn:b:c".into()]).unwrap();
        parameters.set_audience("api".into()).unwrap();
        let of =
            |pairs: Vec<(&str, &str)>| pairs.iter().map(|it| it.0.to_owned()).collect::<Vec<_>>();
        assert_eq!(of(parameters.for_authorize().collect()), ["audience", "resource", "resource"]);
        assert_eq!(of(parameters.for_device().collect()), ["audience", "resource", "resource"]);
        assert_eq!(of(parameters.for_token().collect()), ["resource", "resource"]);
        assert_eq!(
            of(parameters.for_client_credentials().collect()),
            ["resource", "resource", "audience"]
        );
    }
}
