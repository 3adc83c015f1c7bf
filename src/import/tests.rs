#![allow(clippy::disallowed_methods, reason = "tests look at what they made")]

use proptest::prelude::*;
use serde_json::json;

use super::*;

/// A JWT whose `exp` is 2020-11-22T10:00:00Z.
const JWT: &str = "eyJhbGciOiJub25lIn0.eyJleHAiOjE2MDYwMzkyMDB9.c2ln";

/// Returns what was found, in one line for each account: its name, its tokens, its expiry, the names of its
/// other fields, and its provider.
fn found(text: &str) -> Result<(Format, bool, Vec<String>), String> {
    let import =
        Source::parse(text.as_bytes(), &Options::default()).map_err(|error| error.to_string())?;
    let lines = import.accounts.iter().map(|account| {
        let Account { name, tokens, provider } = account;
        let refresh = tokens.refresh_token.as_ref().map_or("-", |token| token.expose_secret());
        let expiry = tokens.expiry().map_or("-".to_owned(), |expiry| expiry.to_rfc3339());
        let extra: Vec<_> = tokens.extras().map(|(name, _)| name).collect();
        let secret = if tokens.client_secret().is_some() { " secret" } else { "" };
        let of = |text: &Option<String>| text.clone().unwrap_or_default();
        format!(
            "{name}: {} {refresh} {expiry} [{}]{secret} {}{}{}",
            tokens.access_token.expose_secret(),
            extra.join(" "),
            of(&provider.token_url),
            of(&provider.issuer),
            provider.client_id.as_ref().map_or_else(String::new, |id| format!(" {id}")),
        )
        .trim_end()
        .to_owned()
    });
    Ok((import.format, import.is_only_tokens, lines.collect()))
}

#[test]
fn every_form_is_told_by_its_content_and_taken_over_whole() {
    let at = "2020-11-22T10:00:00+00:00";
    let jwt = JWT;
    for (text, format, is_only_tokens, accounts) in [
        (
            r#"{"access_token":"a","token_type":"Bearer","refresh_token":"r","expiry":"2020-11-22T12:00:00+02:00"}"#
                .to_owned(),
            Format::Golang,
            true,
            vec![format!("token: a r {at} [token_type]")],
        ),
        (
            r#"{"access_token":"a","expiry":"0001-01-01T00:00:00Z"}"#.to_owned(),
            Format::Golang,
            true,
            vec!["token: a - - []".to_owned()],
        ),
        (
            "[drive]\ntype = drive\nclient_id = c\nclient_secret = s\ntoken = {\"access_token\":\"a\",\"refresh_token\":\"r\",\"expiry\":\"2020-11-22T10:00:00Z\"}\n\n[other]\ntype = local\n"
                .to_owned(),
            Format::Rclone,
            false,
            vec![format!("drive: a r {at} [] secret  c")],
        ),
        (
            r#"{"drive":{"client_id":"c","client_secret":"s","password":"p","token":"{\"access_token\":\"a\",\"refresh_token\":\"r\",\"expiry\":\"2020-11-22T10:00:00Z\"}","type":"drive"},"other":{"type":"local"}}"#
                .to_owned(),
            Format::Rclone,
            false,
            vec![format!("drive: a r {at} [] secret  c")],
        ),
        (
            r#"{"token":"a","refresh_token":"r","token_uri":"https://t.example/","client_id":"c","client_secret":"s","scopes":["x"],"universe_domain":"u","account":"","expiry":"2020-11-22T10:00:00.000000Z"}"#
                .to_owned(),
            Format::Google,
            true,
            vec![format!("google: a r {at} [account client_id scopes token_uri universe_domain] secret https://t.example/ c")],
        ),
        (
            r#"{"account":"me@example","client_id":"c","client_secret":"s","quota_project_id":"q","refresh_token":"r","type":"authorized_user"}"#
                .to_owned(),
            Format::Google,
            false,
            vec!["me@example:  r - [account client_id quota_project_id type] secret https://oauth2.googleapis.com/token c".to_owned()],
        ),
        (
            r#"{"token":"a","universe_domain":"u","account":"","expiry":"2020-11-22T10:00:00.5Z"}"#.to_owned(),
            Format::Google,
            true,
            vec!["google: a - 2020-11-22T10:00:00.500+00:00 [account universe_domain]".to_owned()],
        ),
        (
            r#"{"access_token":"a","refresh_token":"r","scope":"s","token_type":"Bearer","expiry_date":1606039200000}"#
                .to_owned(),
            Format::GoogleAuthLibrary,
            true,
            vec![format!("token: a r {at} [scope token_type]")],
        ),
        (
            r#"{"client_id":"c","token_response":{"access_token":"a","token_type":"bearer","expires_in":3600,"refresh_token":"r"},"granted_scopes":["s"],"token_received_at":1606035600,"issuer":"https://i.example"}"#
                .to_owned(),
            Format::Rmcp,
            true,
            vec![format!("https://i.example: a r {at} [client_id granted_scopes issuer token_type] https://i.example c")],
        ),
        (
            r#"[{"scopes":["x","y"],"token":{"access_token":"a","refresh_token":"r","expires_at":[2020,327,10,0,0,0,0,0,0],"id_token":null}}]"#
                .to_owned(),
            Format::YupOauth2,
            true,
            vec![format!("x y: a r {at} [scope]")],
        ),
        (
            r#"{"access_token":"a","token_type":"Bearer","expires_in":3600,"scope":"s","expires_at":1606039200,"refresh_token":"r"}"#
                .to_owned(),
            Format::TokenResponse,
            true,
            vec![format!("token: a r {at} [scope token_type]")],
        ),
        (
            r#"{"access_token":"a","expires_in":3600,"created_at":1606035600,"scope":["s"]}"#.to_owned(),
            Format::TokenResponse,
            true,
            vec![format!("token: a - {at} [scope]")],
        ),
        (
            r#"{"access_token":"a","refresh_token":"r","expires":1606039200,"token_type":"Bearer"}"#.to_owned(),
            Format::TokenResponse,
            true,
            vec![format!("token: a r {at} [token_type]")],
        ),
        (
            r#"{"access_token":"a","expires_in":"3599","expires_on":"1606039200","ext_expires_in":"3599","resource":"r"}"#
                .to_owned(),
            Format::TokenResponse,
            true,
            vec![format!("token: a - {at} [ext_expires_in resource]")],
        ),
        (
            "access_token=gho_a%2Bb&scope=repo%20user&token_type=bearer\n".to_owned(),
            Format::TokenResponse,
            true,
            vec!["token: gho_a+b - - [scope token_type]".to_owned()],
        ),
        (
            format!(r#"{{"OPENAI_API_KEY":null,"tokens":{{"id_token":"i","access_token":"{jwt}","refresh_token":"r","account_id":"acc"}},"last_refresh":"2020-11-22T09:00:00Z"}}"#),
            Format::Codex,
            true,
            vec![format!("acc: {jwt} r {at} [account_id id_token] https://auth.openai.com")],
        ),
        (
            r#"{"srv|1":{"server_name":"srv","server_url":"https://m.example","client_id":"c","access_token":"a","expires_at":1606039200000,"refresh_token":"r","scopes":[]},"two|2":{"server_name":"two","server_url":"https://n.example","client_id":"d","access_token":"b"}}"#
                .to_owned(),
            Format::Codex,
            false,
            vec![
                format!("srv: a r {at} [client_id scopes server_name server_url]  c"),
                "two: b - - [client_id server_name server_url]  d".to_owned(),
            ],
        ),
        (
            r#"{"claudeAiOauth":{"accessToken":"a","refreshToken":"r","expiresAt":1606039200000,"scopes":["x"],"subscriptionType":"max"}}"#
                .to_owned(),
            Format::ClaudeCode,
            true,
            vec![format!("claude-code: a r {at} [scopes subscriptionType]")],
        ),
        (
            r#"{"startUrl":"https://d.awsapps.com/start","region":"eu-west-1","accessToken":"a","expiresAt":"2020-11-22T10:00:00UTC","clientId":"c","clientSecret":"s","registrationExpiresAt":"2021-01-01T00:00:00Z","refreshToken":"r"}"#
                .to_owned(),
            Format::AwsSso,
            false,
            vec![format!("https://d.awsapps.com/start: a r {at} [clientId region registrationExpiresAt startUrl] secret  c")],
        ),
        (
            r#"{"AccessToken":{"k":{"credential_type":"AccessToken","secret":"a","home_account_id":"h","environment":"login.microsoftonline.com","client_id":"c","target":"s1","realm":"t","cached_at":"1606035600","expires_on":"1606039200"}},"RefreshToken":{"k":{"secret":"r","home_account_id":"h","client_id":"c"}},"IdToken":{},"Account":{"k":{"home_account_id":"h","username":"me@example"}},"AppMetadata":{}}"#
                .to_owned(),
            Format::Msal,
            false,
            vec![format!("me@example (s1): a r {at} [client_id credential_type environment home_account_id realm scope target] https://login.microsoftonline.com/t/oauth2/v2.0/token c")],
        ),
        (
            r#"{"AccessToken":{"k":{"secret":"a","home_account_id":null,"client_id":"c","target":"s1","expires_on":"1606039200"}}}"#
                .to_owned(),
            Format::Msal,
            false,
            vec![format!("c (s1): a - {at} [client_id scope target]  c")],
        ),
        (
            format!(r#"{{"id_token":"{jwt}","refresh_token":"r"}}"#),
            Format::Kubelogin,
            true,
            vec![format!("kubernetes: {jwt} r {at} []")],
        ),
        (
            "github.com:\n    users:\n        octocat:\n            oauth_token: gho_a\n    oauth_token: gho_a\n    user: octocat\nghe.example:\n    oauth_token: \"gho_b\"\n"
                .to_owned(),
            Format::Gh,
            false,
            vec!["github.com: gho_a - - [host]".to_owned(), "ghe.example: gho_b - - [host]".to_owned()],
        ),
        (
            r#"{"auths":{"https://index.docker.io/v1/":{"auth":"x","identitytoken":"r"},"other":{}}}"#.to_owned(),
            Format::Docker,
            false,
            vec!["https://index.docker.io/v1/:  r - []".to_owned()],
        ),
    ] {
        let found = found(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(found, (format, is_only_tokens, accounts), "{text}");
        assert_eq!(recognize(text.as_bytes()), Some(format), "{text}");
    }
}

#[test]
fn what_cannot_be_taken_over_whole_is_refused_by_name_and_without_its_content() {
    for (text, says) in [
        (r#"{"access_token":"canary","expiry":"canary"}"#, "its expiry is not a time"),
        (r#"{"access_token":"canary","expires_at":"canary"}"#, "its expires_at is not a time"),
        (r#"{"access_token":"canary","expires_in":3600}"#, "its expires_in counts from a time"),
        (r#"{"access_token":"canary","expires_in":"canary"}"#, "its expires_in is not a number"),
        (
            r#"{"access_token":"canary","refresh_expires_in":5}"#,
            "its refresh_expires_in counts from a time",
        ),
        ("access_token=canary&expires=5183944", "its expires counts from a time"),
        (r#"{"access_token":"canary","expires_in_weeks":4}"#, "its expires_in_weeks is in a unit"),
        (r#"{"access_token":5}"#, "its access_token is not a text"),
        (r#"{"OPENAI_API_KEY":"canary"}"#, "it holds an API key"),
        (r#"{"dpopKey":"canary","accessToken":{}}"#, "dpopKey"),
        (r#"{"clientId":"c","clientSecret":"canary","expiresAt":"x"}"#, "registration of a client"),
        (r#"{"auths":{},"credsStore":"desktop"}"#, "credsStore"),
        (
            r#"{"type":"service_account","client_id":"c","refresh_token":"canary"}"#,
            "authorized_user",
        ),
        ("canary", "none of the forms"),
        ("# Encrypted rclone configuration File\n\nRCLONE_ENCRYPT_V0:\ncanary", "it is encrypted"),
        (
            r#"{"client_id":"c","token_response":{"access_token":"canary","expires_in":5}}"#,
            "in its token_response: its expires_in counts from a time",
        ),
        (r#"{"client_id":"canary","token_response":null}"#, "it holds no tokens"),
        (
            "github.com:\n    users:\n        canary:\n    git_protocol: https\n    user: canary\n",
            "gh keeps them in the keychain",
        ),
        ("{}", "none of the forms"),
        ("[server]\ntoken = canary\n", "none of the forms"),
        (r#"{"server":{"type":"bearer","token":"canary"}}"#, "none of the forms"),
        (r#"{"access_token":"canary","access_token":"b","expiry":"x"}"#, "none of the forms"),
    ] {
        let error = found(text).unwrap_err();
        assert!(error.contains(says) && !error.contains("canary"), "{text}: {error}");
    }
}

#[test]
fn a_text_of_powershell_and_a_value_of_go_keyring_are_read() {
    let text = r#"{"access_token":"a","expiry":"2020-11-22T10:00:00Z"}"#;
    let utf16 = |mark: bool| {
        let units = mark.then_some(0xfeff).into_iter().chain(text.encode_utf16());
        units.flat_map(u16::to_le_bytes).collect::<Vec<u8>>()
    };
    let hex = text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
    use base64::Engine;
    let base64 = base64::prelude::BASE64_STANDARD.encode(text);
    for bytes in [
        utf16(true),
        utf16(false),
        [&b"\xef\xbb\xbf"[..], text.as_bytes()].concat(),
        format!("go-keyring-base64:{base64}").into_bytes(),
        format!("go-keyring-encoded:{hex}").into_bytes(),
    ] {
        let import = Source::parse(&bytes, &Options::default()).unwrap();
        assert_eq!(import.accounts[0].tokens.access_token.expose_secret(), "a");
    }
    assert!(Source::parse(b"\xff\xfe\x00", &Options::default()).is_err());
}

#[test]
fn a_refresh_token_keeps_its_own_expiry() {
    for (rest, expected) in [
        (r#""refresh_token_expires_at":1606042800"#, Some("2020-11-22T11:00:00Z")),
        // Both lifetimes count from 09:00:00.
        (
            r#""expires_at":1606039200,"expires_in":3600,"refresh_expires_in":7200"#,
            Some("2020-11-22T11:00:00Z"),
        ),
        (
            r#""created_at":1606035600,"refresh_token_expires_in":"7200""#,
            Some("2020-11-22T11:00:00Z"),
        ),
        (r#""expires_at":1606039200,"expires_in":3600,"refresh_expires_in":0"#, None),
    ] {
        let text = format!(r#"{{"access_token":"a","refresh_token":"r",{rest}}}"#);
        let import = Source::parse(text.as_bytes(), &Options::default()).unwrap();
        let [account] = &import.accounts[..] else { panic!("{text}") };
        let expected = expected.map(|time| time.parse().unwrap());
        assert_eq!(account.tokens.refresh_expires_at, expected, "{text}");
        assert_eq!(account.tokens.extras().count(), 0, "{text}");
    }
}

/// Names under which programs write when an access token expires.
const EXPIRIES: [&str; 8] = [
    "expires_at",
    "expiry",
    "expires_on",
    "expiry_date",
    "expiresAt",
    "token_expiry",
    "Expiration",
    "exp",
];

fn any_expiry() -> impl Strategy<Value = serde_json::Value> {
    prop_oneof![
        (1_000_000_000_i64..90_000_000_000).prop_map(|seconds| json!(seconds)),
        (1_000_000_000_i64..9_000_000_000).prop_map(|seconds| json!(seconds * 1000)),
        (1_000_000_000_i64..9_000_000_000).prop_map(|seconds| json!(seconds.to_string())),
        (1_000_000_000_i64..9_000_000_000)
            .prop_map(|seconds| json!(DateTime::from_timestamp(seconds, 0).unwrap().to_rfc3339())),
        (0_i64..1_000_000_000).prop_map(|seconds| json!(seconds)),
        ".*".prop_map(|text| json!(text)),
        Just(json!({})),
        Just(json!([2020, 327, 10, 0, 0, 0, 0, 0, 0])),
    ]
}

proptest! {
    /// What is accepted has the expiry, unless the value stands for "unknown".
    #[test]
    fn no_accepted_input_loses_an_expiry(
        name in proptest::sample::select(&EXPIRIES[..]),
        expiry in any_expiry(),
        has_refresh_token in any::<bool>(),
        lifetime in proptest::option::of(0_u32..100_000),
    ) {
        let mut fields = json!({"access_token": "a", name: expiry});
        if has_refresh_token {
            fields["refresh_token"] = json!("r");
        }
        if let Some(lifetime) = lifetime {
            fields["expires_in"] = json!(lifetime);
        }
        let is_unknown = match &expiry {
            serde_json::Value::Number(number) => number.as_i64() == Some(0),
            serde_json::Value::String(text) => {
                text.trim().is_empty() || text.trim().parse::<f64>().is_ok_and(|it| it <= 0.0)
            }
            _ => false,
        };
        let text = fields.to_string();
        let imported = Source::parse(text.as_bytes(), &Options::default());
        let read = AuthTokens::from_record(text.as_bytes(), "here");
        for tokens in imported.into_iter().map(|it| it.accounts[0].tokens.clone()).chain(read) {
            prop_assert!(tokens.expires_at.is_some() || is_unknown && lifetime.is_none(), "{}", text);
        }
    }
}
