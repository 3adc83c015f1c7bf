//! The provider of a new profile: its `[oauth2]` table, which is written and never typed.

use std::fmt::Write as _;
use std::io::{self, IsTerminal};

use tokenkeep::oauth2::{ProtectedResource, ProviderMetadata};

use crate::arguments::Init;
use crate::context::Context;
use crate::failure::{DONE, Failure, Outcome};
use crate::known_providers::{Domain, KNOWN_PROVIDERS, KnownProvider, Redirect};
use crate::profile::{NewProvider, Profile, quoted};
use crate::target::NO_SIGN_IN;
use crate::terminal::FOR_PROVIDER;

/// Ask for a refresh token at providers of `OpenID` Connect. `offline_access` counts only beside `openid` (Core 1.0, 11).
const OFFLINE: [&str; 2] = ["openid", "offline_access"];

/// A provider may ignore `offline_access` without this (Core 1.0, 11).
const CONSENT: [(&str, &str); 1] = [("prompt", "consent")];

/// The provider that the options of `init` name.
pub(super) struct WantedProvider<'a> {
    init: &'a Init,
    known: Option<&'static KnownProvider>,
    /// The scopes that were asked for, each once.
    asked: Vec<&'a str>,
}

/// Where the provider is, and what it says about itself.
pub(super) struct FoundProvider {
    urls: Vec<(&'static str, String)>,
    metadata: Option<ProviderMetadata>,
}

impl<'a> WantedProvider<'a> {
    /// Returns `None` if no option names a provider.
    pub(super) fn of(init: &'a Init) -> Result<Option<Self>, Failure> {
        let named = init.provider.iter().flatten().next();
        let known = named.map(|name| KnownProvider::named(name)).transpose()?;
        if known.is_none() && init.issuer.is_none() && init.resource.is_none() {
            return if init.describes_a_client() {
                Err(Failure::usage(
                    "these options are for a provider; name it with --provider, --issuer or --resource",
                ))
            } else {
                Ok(None)
            };
        }
        if init.client_id.is_none() && !init.register {
            return Err(Failure::usage(
                "a provider needs --client-id, the id under which your client is registered there",
            ));
        }
        if init.client_id.as_deref().is_some_and(|id| !is_client_id(id)) {
            return Err(Failure::usage(
                "--client-id has a blank at its beginning or end, or contains a control character; give \
                 the id as the provider shows it",
            ));
        }
        let asked = scopes_of(&init.scope)?;
        if let Some(variable) = &init.client_secret_env
            && !is_variable(variable)
        {
            return Err(Failure::usage(
                "--client-secret-env takes the name of a variable, which has letters, digits and _; never give \
                 the secret",
            ));
        }
        if let Some(known) = known
            && known.needs_secret
            && init.client_secret_env.is_none()
        {
            return Err(Failure::usage(format!(
                "every client of {} has a secret; name the variable that holds it with --client-secret-env",
                known.title
            )));
        }
        Ok(Some(Self { init, known, asked }))
    }

    /// Fetches the metadata of the issuer if there is one, and checks everything as a later command does. Changes
    /// nothing here or at the provider.
    pub(super) async fn find(&self, context: &Context) -> Result<FoundProvider, Failure> {
        let urls = self.urls(context).await?;
        let draft = Profile::draft(&self.table(&urls, None, self.client_id()))?;
        let metadata = {
            let _waiting = context.terminal.waiting_for(FOR_PROVIDER);
            match draft.provider {
                Some(provider) => provider.discover().await?,
                None => None,
            }
        };
        Profile::draft(&self.table(&urls, metadata.as_ref(), self.client_id()))?;
        if self.init.register && !metadata.as_ref().is_some_and(ProviderMetadata::registers_clients)
        {
            return Err(Failure::usage(
                "this provider registers no clients by itself; register one there, and give --client-id",
            ));
        }
        if metadata.as_ref().is_some_and(|metadata| {
            metadata.authorization_endpoint().or(metadata.device_authorization_endpoint()).is_none()
        }) {
            context.terminal.say(&format!("WARNING: {NO_SIGN_IN}"));
        }
        Ok(FoundProvider { urls, metadata })
    }

    /// Writes the `[oauth2]` table of this profile. Registers the client if that was asked for, as the last thing that can
    /// fail: nobody removes a client that was registered in vain.
    pub(super) async fn to_new(
        &self,
        context: &Context,
        profile: &str,
        found: FoundProvider,
    ) -> Result<NewProvider, Failure> {
        let FoundProvider { urls, metadata } = found;
        let client_id = match &metadata {
            Some(metadata) if self.init.register => {
                Profile::check_writable(profile)?;
                let _waiting = context.terminal.waiting_for(FOR_PROVIDER);
                self.register(metadata).await?
            }
            _ => self.client_id().to_owned(),
        };
        let table = self.table(&urls, metadata.as_ref(), &client_id);
        Profile::draft(&table)?;
        Ok(NewProvider { table, metadata })
    }

    /// Returns the id that was given. A client that is not registered yet has another one for now.
    fn client_id(&self) -> &str {
        self.init.client_id.as_deref().unwrap_or("none")
    }

    /// Returns whether a client is registered for this profile.
    pub(super) fn registers(&self) -> bool {
        self.init.register
    }

    async fn register(&self, metadata: &ProviderMetadata) -> Result<String, Failure> {
        let redirect = Redirect::FixedPort.url();
        let scopes = self.scopes(Some(metadata));
        Ok(metadata.register_client("tokenkeep", &redirect, &scopes).await?)
    }

    /// Returns the settings that say where the provider is.
    async fn urls(&self, context: &Context) -> Result<Vec<(&'static str, String)>, Failure> {
        let mut settings = match (self.known, &self.init.issuer) {
            (Some(known), _) => known.urls(self.init.domain.as_deref())?,
            (None, Some(issuer)) => vec![("issuer", issuer.clone())],
            (None, None) => Vec::new(),
        };
        let Some(resource) = &self.init.resource else { return Ok(settings) };
        if settings.is_empty() {
            let found = {
                let _waiting = context.terminal.waiting_for(FOR_PROVIDER);
                ProtectedResource::discover(resource).await?
            };
            let issuer = match found.issuers() {
                [issuer] => issuer,
                [] => {
                    return Err(Failure::usage(format!(
                        "{resource} names no issuer; name the one that its documentation names with --issuer"
                    )));
                }
                several => {
                    return Err(Failure::usage(format!(
                        "{resource} names {} issuers; choose yours with --issuer: {}",
                        several.len(),
                        several.join(" ")
                    )));
                }
            };
            context.terminal.say(&format!("{resource} accepts tokens of {issuer}"));
            settings.push(("issuer", issuer.clone()));
            settings.push(("resource", found.resource().to_owned()));
        } else {
            settings.push(("resource", resource.clone()));
        }
        Ok(settings)
    }

    /// Returns the text of the table, with what the provider does differently before it.
    fn table(
        &self,
        urls: &[(&str, String)],
        metadata: Option<&ProviderMetadata>,
        client_id: &str,
    ) -> String {
        let mut text = String::from("\n");
        if let Some(known) = self.known {
            let page = format!("docs/providers/{}.md", known.name);
            let habits = [format!("{}; see {page}.", known.title)];
            let habits = habits.iter().map(String::as_str).chain(known.habits.iter().copied());
            habits.for_each(|habit| text += &format!("# {habit}\n"));
        }
        text += "[oauth2]\n";
        let mut settings: Vec<(&str, String)> =
            urls.iter().map(|(name, url)| (*name, quoted(url))).collect();
        settings.push(("client_id", quoted(client_id)));
        if let Some(variable) = &self.init.client_secret_env {
            settings.push(("client_secret_env", quoted(variable)));
        }
        let scopes = self.scopes(metadata);
        if !scopes.is_empty() {
            let scopes: Vec<_> = scopes.into_iter().map(quoted).collect();
            settings.push(("scopes", format!("[{}]", scopes.join(", "))));
        }
        settings.extend(match self.known {
            Some(known) => known.settings(),
            // It was registered with this port.
            None if self.init.register => Redirect::FixedPort.settings(),
            None => Vec::new(),
        });
        if let Some(audience) = &self.init.audience {
            settings.retain(|(name, _)| *name != "audience");
            settings.push(("audience", quoted(audience)));
        }
        for (name, value) in settings {
            writeln!(text, "{name} = {value}").expect("a String takes everything");
        }
        let parameters = match self.known {
            Some(known) => known.authorize_parameters,
            None if offers_offline_access(metadata) => &CONSENT,
            None => &[],
        };
        if !parameters.is_empty() {
            text += "\n[oauth2.authorize_parameters]\n";
        }
        for (name, value) in parameters {
            writeln!(text, "{name} = {}", quoted(value)).expect("a String takes everything");
        }
        text
    }

    /// Returns the scopes that were asked for, and those that bring a refresh token.
    fn scopes<'b>(&'b self, metadata: Option<&ProviderMetadata>) -> Vec<&'b str> {
        let mut scopes: Vec<&str> = self.asked.clone();
        if let Some(known) = self.known.filter(|_| scopes.is_empty()) {
            scopes.extend(known.default_scopes);
        }
        let offline = match (self.known, metadata) {
            (Some(known), _) => known.scopes,
            (None, metadata) if offers_offline_access(metadata) => &OFFLINE,
            (None, _) => &[],
        };
        for scope in offline {
            if !scopes.contains(scope) {
                scopes.push(scope);
            }
        }
        scopes
    }

    /// Says what has to be registered, and how to sign in.
    pub(super) fn say_what_comes_next(&self, context: &Context, profile: &str) {
        let redirect = match self.known {
            _ if self.init.register => Redirect::Nothing,
            Some(known) => known.redirect,
            None => Redirect::AnyPort,
        };
        if redirect != Redirect::Nothing {
            let url = redirect.url();
            context
                .terminal
                .say(&format!("for a sign-in by browser, register the redirect URL {url}"));
        }
        context.terminal.say(&format!("sign in with `tokenkeep login --profile {profile}`"));
    }
}

/// Providers compare an id exactly. Some have blanks in it.
fn is_client_id(id: &str) -> bool {
    id.trim() == id && !id.chars().any(char::is_control)
}

/// Returns the scopes of all these texts, each once. A text may be a list with blanks, as a provider writes it.
fn scopes_of(texts: &[String]) -> Result<Vec<&str>, Failure> {
    let mut scopes = Vec::new();
    for text in texts {
        // RFC 6749, 3.3.
        let is_part = |char: char| matches!(char, ' '..='~') && !matches!(char, '"' | '\\');
        if !text.chars().all(is_part) {
            return Err(Failure::usage(
                "--scope contains a character that no scope has, such as a line end, a quote or a \
                 letter outside ASCII; write it as the provider does",
            ));
        }
        for scope in text.split(' ').filter(|scope| !scope.is_empty()) {
            if !scopes.contains(&scope) {
                scopes.push(scope);
            }
        }
    }
    Ok(scopes)
}

/// Lists the known providers, and what each needs.
pub(super) fn list(context: &Context) -> Outcome {
    // People get a table. Scripts get tabs between the columns.
    let is_table = io::stdout().is_terminal();
    let width = KNOWN_PROVIDERS.iter().map(|known| known.name.len()).max().filter(|_| is_table);
    let (width, gap) = width.map_or((0, "\t"), |width| (width, "  "));
    for known in &KNOWN_PROVIDERS {
        let domain = match known.domain {
            Domain::None => String::new(),
            Domain::Default(default) => format!(" [--domain {default}]"),
            Domain::Required(example) => format!(" --domain {example}"),
        };
        let secret = if known.needs_secret { " --client-secret-env VARIABLE" } else { "" };
        let name = known.name;
        context.terminal.print(&format!("{name:width$}{gap}--client-id ID{secret}{domain}"))?;
    }
    context.terminal.say_to_person("any other provider: --issuer URL --client-id ID");
    DONE
}

fn offers_offline_access(metadata: Option<&ProviderMetadata>) -> bool {
    metadata.is_some_and(|metadata| metadata.offers_scope("offline_access"))
}

fn is_variable(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    name.bytes().all(fits) && name.starts_with(|first: char| !first.is_ascii_digit())
}
