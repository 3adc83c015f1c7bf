//! Providers whose endpoints are public, and what each of them does differently. This is data: no client and no secret
//! of anybody.

use crate::failure::Failure;

/// The port for providers that accept only the redirect URL that was registered, port included. No well-known service
/// uses it.
const PORT: u16 = 8417;

#[derive(Debug)]
pub(crate) struct KnownProvider {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    /// What stands for `{}` in the URLs.
    pub(crate) domain: Domain,
    /// The settings that are URLs, `issuer` among them, in the order of the profile.
    urls: &'static [(&'static str, &'static str)],
    /// The scopes that are requested if none is named.
    pub(crate) default_scopes: &'static [&'static str],
    /// The scopes that are always requested: without them there is no refresh token.
    pub(crate) scopes: &'static [&'static str],
    /// Other settings, and their values in TOML.
    settings: &'static [(&'static str, &'static str)],
    /// Parameters of the URL at which a person signs in.
    pub(crate) authorize_parameters: &'static [(&'static str, &'static str)],
    /// Whether every client has a secret.
    pub(crate) needs_secret: bool,
    /// The redirect URL to register for a sign-in by browser.
    pub(crate) redirect: Redirect,
    /// What the profile says about the provider, one sentence a line.
    pub(crate) habits: &'static [&'static str],
}

#[derive(Debug)]
pub(crate) enum Domain {
    None,
    /// The domain of most users. Others give their own.
    Default(&'static str),
    /// An example.
    Required(&'static str),
}

/// The redirect URL to register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Redirect {
    /// Nothing is registered for a desktop client.
    Nothing,
    /// Any port of 127.0.0.1 is accepted (RFC 8252, 7.3).
    AnyPort,
    /// 127.0.0.1 with the port that was registered.
    FixedPort,
    /// `localhost` with any port.
    LocalhostAnyPort,
    /// `localhost` with the port that was registered.
    Localhost,
}

/// In alphabetical order.
pub(crate) const KNOWN_PROVIDERS: [KnownProvider; 11] = [
    KnownProvider {
        name: "atlassian",
        title: "Atlassian",
        domain: Domain::None,
        urls: &[
            ("authorization_url", "https://auth.atlassian.com/authorize"),
            ("token_url", "https://auth.atlassian.com/oauth/token"),
        ],
        default_scopes: &["read:me"],
        scopes: &["offline_access"],
        settings: &[("audience", "\"api.atlassian.com\""), ("client_secret_in_body", "true")],
        authorize_parameters: &[("prompt", "consent")],
        needs_secret: true,
        redirect: Redirect::Localhost,
        habits: &[
            "Each refresh token is valid once, and ends after 90 days without use.",
            "The tokens work at https://api.atlassian.com/ex/..., and not at the URL of a site.",
        ],
    },
    KnownProvider {
        name: "auth0",
        title: "Auth0",
        domain: Domain::Required("tenant.eu.auth0.com"),
        urls: &[("issuer", "https://{}/")],
        default_scopes: &[],
        scopes: &["openid", "offline_access"],
        settings: &[],
        authorize_parameters: &[],
        needs_secret: false,
        redirect: Redirect::FixedPort,
        habits: &[
            "Without an audience, the access token works at Auth0 itself and at no API.",
            "There is a refresh token only if the API allows offline access.",
        ],
    },
    KnownProvider {
        name: "github",
        title: "GitHub",
        domain: Domain::Default("github.com"),
        urls: &[
            ("authorization_url", "https://{}/login/oauth/authorize"),
            ("device_authorization_url", "https://{}/login/device/code"),
            ("token_url", "https://{}/login/oauth/access_token"),
        ],
        default_scopes: &[],
        scopes: &[],
        settings: &[],
        authorize_parameters: &[],
        needs_secret: false,
        redirect: Redirect::AnyPort,
        habits: &[
            "A sign-in by device needs no secret. One by browser needs client_secret_env, also with PKCE.",
            "Tokens of an OAuth app do not expire. Those of a GitHub App expire after 8 hours, and ignore scopes.",
            "GitHub has no revocation endpoint. Revoke tokens in your settings there.",
        ],
    },
    KnownProvider {
        name: "gitlab",
        title: "GitLab",
        domain: Domain::Default("gitlab.com"),
        urls: &[
            ("authorization_url", "https://{}/oauth/authorize"),
            ("device_authorization_url", "https://{}/oauth/authorize_device"),
            ("revocation_url", "https://{}/oauth/revoke"),
            ("token_url", "https://{}/oauth/token"),
        ],
        default_scopes: &[],
        scopes: &[],
        settings: &[],
        authorize_parameters: &[],
        needs_secret: false,
        redirect: Redirect::FixedPort,
        habits: &[
            "Access tokens expire after 2 hours. Each refresh token is valid once.",
            "A client that is not confidential needs no secret.",
            "Before GitLab 17.1 there is no sign-in by device.",
        ],
    },
    KnownProvider {
        name: "google",
        title: "Google",
        domain: Domain::None,
        urls: &[
            ("authorization_url", "https://accounts.google.com/o/oauth2/v2/auth"),
            ("revocation_url", "https://oauth2.googleapis.com/revoke"),
            ("token_url", "https://oauth2.googleapis.com/token"),
        ],
        default_scopes: &["openid", "email"],
        scopes: &[],
        settings: &[],
        authorize_parameters: &[("access_type", "offline"), ("prompt", "consent")],
        needs_secret: true,
        redirect: Redirect::Nothing,
        habits: &[
            "Without access_type there is no refresh token; without prompt, only the first sign-in brings one.",
            "A client of the type \"Desktop app\" has a secret, which Google wants although it is in every copy.",
            "While the project is in the state \"Testing\", refresh tokens end after 7 days.",
        ],
    },
    KnownProvider {
        name: "keycloak",
        title: "Keycloak",
        domain: Domain::Required("keycloak.example/realms/REALM"),
        urls: &[("issuer", "https://{}")],
        default_scopes: &[],
        scopes: &["openid", "offline_access"],
        settings: &[],
        authorize_parameters: &[],
        needs_secret: false,
        redirect: Redirect::AnyPort,
        habits: &[
            "Without offline_access, the refresh token ends with the session, after 30 minutes without use.",
            "A sign-in by device has to be turned on for the client.",
        ],
    },
    KnownProvider {
        name: "microsoft",
        title: "Microsoft",
        domain: Domain::Default("common"),
        urls: &[
            ("authorization_url", "https://login.microsoftonline.com/{}/oauth2/v2.0/authorize"),
            (
                "device_authorization_url",
                "https://login.microsoftonline.com/{}/oauth2/v2.0/devicecode",
            ),
            ("token_url", "https://login.microsoftonline.com/{}/oauth2/v2.0/token"),
        ],
        default_scopes: &[],
        scopes: &["openid", "offline_access"],
        settings: &[],
        authorize_parameters: &[],
        needs_secret: false,
        redirect: Redirect::LocalhostAnyPort,
        habits: &[
            "The tenant stands in each URL. `common` is for accounts of any tenant and for personal ones.",
            "Many tenants forbid the sign-in by device; use `tokenkeep login --browser` there.",
            "Microsoft has no revocation endpoint.",
        ],
    },
    KnownProvider {
        name: "okta",
        title: "Okta",
        domain: Domain::Required("org.okta.com/oauth2/default"),
        urls: &[("issuer", "https://{}")],
        default_scopes: &[],
        scopes: &["openid", "offline_access"],
        settings: &[],
        authorize_parameters: &[],
        needs_secret: false,
        redirect: Redirect::FixedPort,
        habits: &[
            "org.okta.com/oauth2/default issues tokens for your APIs, and org.okta.com those for Okta's own.",
            "The client needs the grant type \"Refresh Token\".",
        ],
    },
    KnownProvider {
        name: "salesforce",
        title: "Salesforce",
        domain: Domain::Default("login.salesforce.com"),
        urls: &[
            ("authorization_url", "https://{}/services/oauth2/authorize"),
            ("revocation_url", "https://{}/services/oauth2/revoke"),
            ("token_url", "https://{}/services/oauth2/token"),
        ],
        default_scopes: &["api"],
        scopes: &["refresh_token"],
        settings: &[("expires_after", "7200")],
        authorize_parameters: &[],
        needs_secret: false,
        redirect: Redirect::Localhost,
        habits: &[
            "Salesforce does not say when tokens expire. 2 hours is its default for a session.",
            "instance_url in the record is the host of the API.",
            "A sandbox is at test.salesforce.com, or at its own domain.",
        ],
    },
    KnownProvider {
        name: "slack",
        title: "Slack",
        domain: Domain::None,
        urls: &[
            ("authorization_url", "https://slack.com/oauth/v2_user/authorize"),
            ("token_url", "https://slack.com/api/oauth.v2.user.access"),
        ],
        default_scopes: &["users:read"],
        scopes: &[],
        settings: &[],
        authorize_parameters: &[],
        needs_secret: false,
        redirect: Redirect::Localhost,
        habits: &[
            "These are the endpoints for a user's token. Scopes are those of users.",
            "Only an app with token rotation gets a refresh token. With PKCE it ends after 30 days.",
            "Slack reports an error with status 200, and has no standard revocation endpoint.",
        ],
    },
    KnownProvider {
        name: "spotify",
        title: "Spotify",
        domain: Domain::None,
        urls: &[
            ("authorization_url", "https://accounts.spotify.com/authorize"),
            ("token_url", "https://accounts.spotify.com/api/token"),
        ],
        default_scopes: &[],
        scopes: &[],
        settings: &[],
        authorize_parameters: &[],
        needs_secret: false,
        redirect: Redirect::AnyPort,
        habits: &[
            "Access tokens expire after 1 hour. A refresh may or may not bring a new refresh token.",
            "Spotify has no revocation endpoint, and no sign-in by device.",
        ],
    },
];

impl KnownProvider {
    pub(crate) fn named(name: &str) -> Result<&'static Self, Failure> {
        KNOWN_PROVIDERS.iter().find(|known| known.name == name).ok_or_else(|| {
            let names: Vec<_> = KNOWN_PROVIDERS.iter().map(|known| known.name).collect();
            Failure::usage(format!(
                "that provider is not known; --provider takes {}, and --issuer takes the URL of any other",
                names.join(", ")
            ))
        })
    }

    /// Returns the URLs at this domain, each with the name of its setting.
    pub(crate) fn urls(
        &self,
        domain: Option<&str>,
    ) -> Result<Vec<(&'static str, String)>, Failure> {
        let domain = match (&self.domain, domain) {
            (Domain::None, Some(_)) => {
                let message = format!("{} has one domain; leave out --domain", self.title);
                return Err(Failure::usage(message));
            }
            (Domain::Required(example), None) => {
                let message = format!("{} needs --domain {example}, with yours", self.title);
                return Err(Failure::usage(message));
            }
            (Domain::None, None) => String::new(),
            (Domain::Default(default), None) => (*default).to_owned(),
            (Domain::Default(_) | Domain::Required(_), Some(given)) => bare(given)?,
        };
        let at = |(name, url): &(&'static str, &str)| (*name, url.replace("{}", &domain));
        Ok(self.urls.iter().map(at).collect())
    }

    /// Returns the settings that are no URLs of the provider, in TOML.
    pub(crate) fn settings(&self) -> Vec<(&'static str, String)> {
        let own = self.settings.iter().map(|(name, value)| (*name, (*value).to_owned()));
        own.chain(self.redirect.settings()).collect()
    }
}

impl Redirect {
    /// Returns the settings, in TOML, for a sign-in that ends there.
    pub(crate) fn settings(self) -> Vec<(&'static str, String)> {
        match self {
            Self::Nothing | Self::AnyPort => Vec::new(),
            Self::FixedPort => vec![("redirect_port", PORT.to_string())],
            Self::LocalhostAnyPort | Self::Localhost => {
                vec![("redirect_uri", format!("\"{}\"", self.url()))]
            }
        }
    }

    /// Returns the URL to register.
    pub(crate) fn url(self) -> String {
        match self {
            Self::Nothing => String::new(),
            Self::AnyPort => "http://127.0.0.1/callback".to_owned(),
            Self::FixedPort => format!("http://127.0.0.1:{PORT}/callback"),
            Self::LocalhostAnyPort => "http://localhost/callback".to_owned(),
            Self::Localhost => format!("http://localhost:{PORT}/callback"),
        }
    }
}

/// Returns the domain without the scheme and without the slash at its end, with its host in small letters. People
/// copy it from a browser.
fn bare(domain: &str) -> Result<String, Failure> {
    let bare = domain.strip_prefix("https://").unwrap_or(domain);
    let bare = bare.strip_suffix('/').unwrap_or(bare);
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:/".contains(&byte);
    if bare.is_empty() || !bare.bytes().all(fits) {
        return Err(Failure::usage(
            "--domain takes a host, or a host and a path, such as auth.example/realms/work",
        ));
    }
    let (host, path) = bare.split_at(bare.find('/').unwrap_or(bare.len()));
    Ok(host.to_ascii_lowercase() + path)
}
