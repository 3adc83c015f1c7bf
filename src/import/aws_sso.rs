//! AWS IAM Identity Center: the cache of `aws sso login`.
//!
//! Source: <https://github.com/boto/botocore> (`tokens.py`, `utils.py`).

use super::fields::Reason;
use super::text::Document;
use super::{Account, Fate, Format, Options, Provider, Read, Shape};

pub(super) const SHAPE: Shape = Shape {
    format: Format::AwsSso,
    name: "aws-sso",
    program: "the AWS command (aws sso login)",
    fits: |document| {
        document.object().is_some_and(|it| {
            it.has("dpopKey")
                || it.has("accessToken") && (it.has("startUrl") || it.has("registrationExpiresAt"))
                || it.has("clientId")
                    && it.has("clientSecret")
                    && it.has("expiresAt")
                    && !it.has("accessToken")
        })
    },
    read,
    sign_out: "`aws sso logout`",
};

fn read(document: &Document<'_>, _: &Options) -> Result<Read, Reason> {
    let fields = document.object().ok_or("it is not a JSON object")?;
    if fields.has("dpopKey") {
        return Err(
            "it is of `aws login`, whose tokens are bound to its dpopKey and work nowhere else"
                .into(),
        );
    }
    if !fields.has("accessToken") {
        return Err("it is the registration of a client and holds no tokens; \
                    the file with an accessToken is beside it"
            .into());
    }
    let mut tokens = fields.tokens("accessToken", "refreshToken")?;
    tokens.expires_at = fields.time_in_utc("expiresAt", Fate::Expiry)?;
    let mut tokens = fields.client_secret("clientSecret", tokens)?;
    let name = fields.plain("startUrl", Fate::Account)?;
    let region = fields.plain("region", Fate::Extra)?;
    // https://docs.aws.amazon.com/singlesignon/latest/OIDCAPIReference/API_CreateToken.html. It takes JSON, so no
    // client of OAuth 2.0 can refresh there.
    let provider =
        Provider { client_id: fields.plain("clientId", Fate::Provider)?, ..Provider::default() };
    for (field, value) in [("startUrl", &name), ("region", &region)] {
        if let Some(value) = value {
            tokens = tokens.with_extra(field, value.as_str().into());
        }
    }
    let name = name.unwrap_or_else(|| "aws".into());
    Ok(Read {
        accounts: vec![Account { name, tokens: fields.rest(tokens, None)?, provider }],
        // Only the AWS command can refresh them.
        has_more: true,
    })
}
