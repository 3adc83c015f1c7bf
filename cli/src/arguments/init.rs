//! The options of `init`.

use clap::{Args, ValueHint};

#[derive(Args)]
pub(crate) struct Init {
    /// The provider to sign in at. Without a NAME: lists those that are known
    #[arg(long, value_name = "NAME", num_args = 0..=1, conflicts_with = "issuer")]
    pub(crate) provider: Option<Option<String>>,
    /// The issuer to sign in at. Its metadata names the URLs (RFC 8414)
    #[arg(long, value_name = "URL", value_hint = ValueHint::Url)]
    pub(crate) issuer: Option<String>,
    /// The host of the provider, or your tenant there
    #[arg(long, value_name = "DOMAIN", requires = "provider")]
    pub(crate) domain: Option<String>,
    /// The id under which your client is registered at the provider
    #[arg(long, value_name = "ID")]
    pub(crate) client_id: Option<String>,
    /// Register a client there (RFC 7591), instead of --client-id. It has no secret
    #[arg(long, conflicts_with_all = ["client_id", "client_secret_env"])]
    pub(crate) register: bool,
    /// The variable that holds the client's secret. Its name, not the secret
    #[arg(long, value_name = "VARIABLE")]
    pub(crate) client_secret_env: Option<String>,
    /// A scope to ask for, or several with blanks between them. May be repeated
    #[arg(long, value_name = "SCOPE")]
    pub(crate) scope: Vec<String>,
    /// The API that the tokens are for, at providers that want its name
    #[arg(long, value_name = "NAME")]
    pub(crate) audience: Option<String>,
    /// The server that the tokens are for, such as an MCP server (RFC 8707). Without --issuer and
    /// --provider: the issuer that this server names (RFC 9728)
    #[arg(long, value_name = "URL", value_hint = ValueHint::Url)]
    pub(crate) resource: Option<String>,
}

impl Init {
    /// Returns whether there are options that make sense only for a provider.
    pub(crate) fn describes_a_client(&self) -> bool {
        let texts = [&self.client_id, &self.client_secret_env, &self.audience, &self.domain];
        texts.into_iter().any(Option::is_some) || !self.scope.is_empty() || self.register
    }
}
