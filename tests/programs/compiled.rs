//! Libraries in Go and Rust.

use std::fs;
use std::path::Path;
use std::pin::Pin;

use chrono::{DateTime, SecondsFormat};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use rmcp::transport::auth::StoredCredentials;
use serde_json::json;
use tokenkeep::import::Format;
use tokenkeep_test_support::scratch;
use tokenkeep_test_support::token_server::{Act, TokenServer};
use tokio::runtime::Runtime;
use yup_oauth2::authenticator_delegate::InstalledFlowDelegate;
use yup_oauth2::client::CustomHyperClientBuilder;
use yup_oauth2::{ApplicationSecret, InstalledFlowAuthenticator, InstalledFlowReturnMethod};

use crate::taken::{assert_taken, imported};
use crate::writers::go;

#[test]
fn a_token_of_go_keeps_its_expiry_to_the_nanosecond() {
    let test = "a_token_of_go_keeps_its_expiry_to_the_nanosecond";
    let Some(files) = go(test, "write_golang.go") else { return };
    let file = |name: &str| files.path().join(name);
    let expiry = fs::read_to_string(file("exchanged.expiry")).unwrap();
    let expiry = exact(expiry.parse().unwrap());
    let account =
        format!("token: access=access refresh=rotated expires={expiry} token_type=Bearer");
    assert_taken(&file("exchanged"), Format::Golang, &[&account]);
    let account = "token: access=access token_type=Bearer";
    assert_taken(&file("no-expiry"), Format::Golang, &[account]);
    assert_taken(&file("only-refresh-token"), Format::Golang, &["token: refresh=first"]);
}

#[test]
fn each_set_of_scopes_of_yup_oauth2_is_an_account() {
    let server = TokenServer::start();
    let directory = scratch();
    let file = directory.path().join("tokencache.json");
    let answer = |name: &str| {
        json!({
            "access_token": format!("access-to-{name}"),
            "expires_in": 3600,
            "id_token": format!("id-for-{name}"),
            "refresh_token": format!("refresh-for-{name}"),
            "token_type": "Bearer",
        })
    };
    server.script([Act::answer(200, &answer("mail").to_string())]);
    let (mail, _) = sign_in(&server, &file, &["mail.read", "mail.send"]).unwrap();
    let account = format!(
        "mail.read mail.send: access=access-to-mail refresh=refresh-for-mail expires={mail} \
         id_token=id-for-mail scope=mail.read mail.send"
    );
    assert_taken(&file, Format::YupOauth2, &[&account]);

    server.script([Act::answer(200, &answer("drive").to_string())]);
    sign_in(&server, &file, &["drive"]);
    let (import, text) = imported(&file);
    let mut names: Vec<_> = import.accounts.iter().map(|account| account.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["drive", "mail.read mail.send"], "{text}");
    assert!(!import.is_only_tokens, "{text}");

    fs::remove_file(&file).unwrap();
    let answer = r#"{"access_token":"access","refresh_token":"first","token_type":"Bearer"}"#;
    server.script([Act::answer(200, answer)]);
    sign_in(&server, &file, &["drive"]);
    let account = "drive: access=access refresh=first scope=drive";
    assert_taken(&file, Format::YupOauth2, &[account]);
}

/// Another crate in a program may turn on the feature `serde-human-readable` of `time`. It cannot be on here as well.
#[test]
fn the_text_that_the_time_crate_makes_of_an_expiry_is_the_same_expiry() {
    let server = TokenServer::start();
    let directory = scratch();
    let file = directory.path().join("tokencache.json");
    let answer = r#"{"access_token":"access","expires_in":3600,"token_type":"Bearer"}"#;
    server.script([Act::answer(200, answer)]);
    let (expiry, text) = sign_in(&server, &file, &["drive"]).unwrap();
    let mut entries: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let written = &mut entries[0]["token"]["expires_at"];
    assert!(written.is_array(), "{written}");
    *written = text.into();
    fs::write(&file, entries.to_string()).unwrap();
    let account = format!("drive: access=access expires={expiry} scope=drive");
    assert_taken(&file, Format::YupOauth2, &[&account]);
}

/// Signs in with yup-oauth2, which writes its file. Returns the expiry that it names, and its text.
fn sign_in(server: &TokenServer, file: &Path, scopes: &[&str]) -> Option<(String, String)> {
    struct Browser;

    impl InstalledFlowDelegate for Browser {
        fn present_user_url<'a>(
            &'a self,
            _: &'a str,
            _: bool,
        ) -> Pin<Box<dyn Future<Output = Result<String, String>> + Send + 'a>> {
            Box::pin(async { Ok("code".to_owned()) })
        }
    }

    let secret = ApplicationSecret {
        client_id: "client".into(),
        client_secret: "client-secret".into(),
        token_uri: server.token_url(),
        auth_uri: server.url("/authorize"),
        redirect_uris: vec!["http://127.0.0.1:9/".into()],
        ..ApplicationSecret::default()
    };
    let client = CustomHyperClientBuilder::from(
        Client::builder(TokioExecutor::new()).build_http::<String>(),
    );
    let method = InstalledFlowReturnMethod::Interactive;
    let builder = InstalledFlowAuthenticator::with_client(secret, method, client);
    let builder = builder.flow_delegate(Box::new(Browser)).persist_tokens_to_disk(file);
    // It does not wait until its file is written. The end of the runtime does.
    let runtime = Runtime::new().unwrap();
    let token =
        runtime.block_on(async { builder.build().await.unwrap().token(scopes).await.unwrap() });
    drop(runtime);
    let time = token.expiration_time()?;
    Some((exact(i64::try_from(time.unix_timestamp_nanos()).unwrap()), time.to_string()))
}

#[test]
fn stored_credentials_of_rmcp_count_their_lifetime_from_when_they_were_received() {
    let directory = scratch();
    let file = directory.path().join("credentials.json");
    let stored = |answer: serde_json::Value, scopes: &[&str], received: Option<u64>| {
        let answer = serde_json::from_value(answer).unwrap();
        let scopes = scopes.iter().map(|&scope| scope.to_owned()).collect();
        let mut stored = StoredCredentials::new("client".into(), Some(answer), scopes, received);
        stored.issuer = Some("https://provider.example".into());
        fs::write(&file, serde_json::to_string(&stored).unwrap()).unwrap();
    };
    let answer = json!({
        "access_token": "access",
        "expires_in": 3600,
        "refresh_token": "rotated",
        "scope": "read write",
        "token_type": "bearer",
        "workspace": {"id": 5},
    });
    stored(answer, &["read"], Some(1_606_035_600));
    let account = "https://provider.example: access=access refresh=rotated expires=2020-11-22T10:00:00Z \
                   obtained=2020-11-22T09:00:00Z granted_scopes=[\"read\"] scope=read write \
                   token_type=bearer workspace={\"id\":5} client_id=client \
                   issuer=https://provider.example";
    assert_taken(&file, Format::Rmcp, &[account]);

    stored(json!({"access_token": "access", "token_type": "bearer"}), &[], None);
    let account = "https://provider.example: access=access granted_scopes=[] token_type=bearer client_id=client \
                   issuer=https://provider.example";
    assert_taken(&file, Format::Rmcp, &[account]);
}

fn exact(nanoseconds: i64) -> String {
    DateTime::from_timestamp_nanos(nanoseconds).to_rfc3339_opts(SecondsFormat::AutoSi, true)
}
