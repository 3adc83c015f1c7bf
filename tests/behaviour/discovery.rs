//! The endpoints of a provider, found by its issuer, and the issuers of a server's tokens.

use tokenkeep::TokenRefresher;
use tokenkeep::oauth2::{OAuth2Client, OAuth2Error, ProtectedResource, ProviderMetadata};
use tokenkeep::refresh::RefreshPermit;

use crate::token_server::{Act, TokenServer, fetch};

const OPENID: &str = "/tenant/.well-known/openid-configuration";
const RFC_8414: &str = "/.well-known/oauth-authorization-server/tenant";
const OPENID_BEFORE: &str = "/.well-known/openid-configuration/tenant";
const RESOURCE: &str = "/.well-known/oauth-protected-resource/mcp";
const RESOURCE_OF_ALL: &str = "/.well-known/oauth-protected-resource";

fn says(error: &OAuth2Error, words: &str) {
    let text = error.to_string();
    assert!(text.contains(words) && !text.contains("canary"), "{text}");
}

#[tokio::test]
async fn metadata_is_taken_from_the_first_place_that_has_a_document() {
    for (place, before) in [
        (OPENID, &[][..]),
        (RFC_8414, &[(OPENID, 404, "")]),
        (RFC_8414, &[(OPENID, 200, "<html>canary</html>")]),
        (RFC_8414, &[(OPENID, 302, "")]),
        (OPENID_BEFORE, &[(OPENID, 403, r#"{"error":"canary"}"#), (RFC_8414, 401, "canary")]),
    ] {
        let server = TokenServer::start();
        let issuer = server.url("/tenant");
        for (path, status, body) in before {
            server.publish(path, *status, body);
        }
        server.publish(place, 200, &server.metadata(&issuer));
        let metadata = ProviderMetadata::discover(&issuer).await.unwrap();
        assert_eq!(metadata.token_endpoint(), server.token_url());
        assert_eq!(server.looked_up().last().unwrap(), place);
        assert_eq!(server.looked_up().len(), before.len() + 1);
    }
}

#[tokio::test]
async fn a_document_of_another_issuer_or_a_server_that_cannot_answer_ends_the_search() {
    for (status, body, words) in [
        (200, r#"{"issuer":"https://canary.example","token_endpoint":"canary"}"#, "another issuer"),
        (200, r#"{"issuer":"#, "it ends too early"),
        (200, r"{}", "does not name its issuer"),
        (429, "canary", "answered 429; try again later"),
        (408, "canary", "answered 408; try again later"),
        (500, "canary", "answered 500; try again later"),
        (503, "{}", "answered 503; try again later"),
    ] {
        let server = TokenServer::start();
        let issuer = server.url("/tenant");
        server.publish(OPENID, status, body);
        server.publish(RFC_8414, 200, &server.metadata(&issuer));
        let error = ProviderMetadata::discover(&issuer).await.unwrap_err();
        says(&error, words);
        assert_eq!(matches!(error, OAuth2Error::Unavailable { .. }), status != 200, "{error}");
        assert_eq!(server.looked_up(), [OPENID]);
    }
}

#[tokio::test]
async fn a_server_that_asks_to_wait_may_have_the_metadata_later() {
    for status in [302, 404, 425, 429, 500, 503] {
        let server = TokenServer::start();
        let issuer = server.url("/tenant");
        server.script_at(OPENID, [Act::answer(status, "canary").header("Retry-After", "7")]);
        server.publish(RFC_8414, 200, &server.metadata(&issuer));
        let error = ProviderMetadata::discover(&issuer).await.unwrap_err();
        let OAuth2Error::Unavailable { retry_after, .. } = error else { panic!("{error:?}") };
        assert_eq!(retry_after, Some(std::time::Duration::from_secs(7)), "{status}");
        assert_eq!(server.looked_up(), [OPENID]);
    }
}

#[tokio::test]
async fn an_issuer_without_metadata_is_an_error_that_names_what_each_place_answered() {
    let server = TokenServer::start();
    server.publish(RFC_8414, 200, "<html>canary</html>");
    let error = ProviderMetadata::discover(&server.url("/tenant")).await.unwrap_err();
    let expected = format!(
        "has no metadata: it answered 404 at {OPENID} and 200 without JSON at {RFC_8414} and 404 at {OPENID_BEFORE}"
    );
    says(&error, &expected);
    says(&error, "check this URL");

    let long = format!("{{\"padding\":\"{}\"", "canary".repeat(50_000));
    server.publish(OPENID, 200, &long);
    let error = ProviderMetadata::discover(&server.url("/tenant")).await.unwrap_err();
    says(&error, "256 KiB");

    // Nobody listens on this port any more.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let gone = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let error = ProviderMetadata::discover(&gone).await.unwrap_err();
    assert!(matches!(error, OAuth2Error::Unavailable { .. }), "{error}");
    let error = ProviderMetadata::discover("https://a.example/?canary").await.unwrap_err();
    says(&error, "issuer has a query");
}

#[tokio::test]
async fn a_client_made_from_metadata_signs_in_refreshes_and_revokes_without_another_discovery() {
    let server = TokenServer::start();
    let issuer = server.url("");
    server.publish("/.well-known/openid-configuration", 200, &server.metadata(&issuer));
    let metadata = ProviderMetadata::discover(&issuer).await.unwrap();
    let kept = ProviderMetadata::from_json(&issuer, metadata.to_json().as_bytes()).unwrap();
    let client = OAuth2Client::from_metadata(&kept, "app").unwrap();
    let sign_in = client.sign_in_by_browser(0).await.unwrap();
    let url = sign_in.url().to_owned();
    let browser = std::thread::spawn(move || {
        let (_, back, _) = fetch(&url);
        fetch(&back.unwrap()).0
    });
    let tokens = sign_in.tokens().await.unwrap();
    assert_eq!(browser.join().unwrap(), 200);
    let tokens = client.refresh(tokens, &RefreshPermit::unlimited()).await.unwrap();
    client.revoke(&tokens).await.unwrap();
    let device = client.sign_in_by_device().await.unwrap();
    assert_eq!(device.verification_url(), server.url("/device"));
    assert_eq!(server.looked_up().len(), 1);
}

#[tokio::test]
async fn a_client_registers_itself_and_only_one_without_a_secret_is_taken() {
    let server = TokenServer::start();
    let issuer = server.url("");
    let with_endpoint = |url: &str| {
        let field = format!(r#"{{"registration_endpoint":"{url}","#);
        let json = server.metadata(&issuer).replacen('{', &field, 1);
        ProviderMetadata::from_json(&issuer, json.as_bytes()).unwrap()
    };
    let metadata = with_endpoint(&server.url("/register"));
    let redirect = "http://127.0.0.1/callback";
    for (status, body, words) in [
        (200, r#"{"client_id":"a b"}"#, ""),
        (
            201,
            r#"{"client_id":"a","token_endpoint_auth_method":"none","client_secret":"canary"}"#,
            "",
        ),
        (201, r#"{"client_id":"a","client_secret":""}"#, ""),
        (201, r#"{"client_id":"a","client_secret":"canary"}"#, "the client has a secret"),
        (201, r#"{"client_id":""}"#, "no client_id"),
        (201, r#"{"client_id":"can\u001bary"}"#, "no client_id"),
        (201, r#"{"client_id":5}"#, "client_id has a value of the wrong type"),
        (201, "<html>canary", "not valid JSON"),
        (400, r#"{"error":"invalid_redirect_uri"}"#, "answered 400 invalid_redirect_uri"),
        (403, "canary", "answered 403"),
        (302, "", "a redirect, which is not followed"),
        (503, "", "answered 503; try again later"),
    ] {
        server.publish("/register", status, body);
        let registered = metadata.register_client("name", redirect, &["a", "b"]).await;
        match registered {
            Ok(id) => assert!(words.is_empty() && !id.is_empty(), "{body}"),
            Err(error) => says(&error, words),
        }
    }
    let request = server.requests().pop().unwrap();
    let sent: serde_json::Value = serde_json::from_str(&request.body).unwrap();
    assert_eq!(request.headers["content-type"], "application/json");
    assert_eq!(sent["redirect_uris"], serde_json::json!([redirect]));
    assert_eq!(sent["token_endpoint_auth_method"], "none");
    assert_eq!((&sent["scope"], &sent["client_name"]), (&"a b".into(), &"name".into()));

    // An endpoint that must not be used counts as missing.
    for url in ["http://canary.example/", ""] {
        let metadata = with_endpoint(url);
        assert!(!metadata.registers_clients());
        let error = metadata.register_client("name", redirect, &[]).await.unwrap_err();
        says(&error, "registers no clients");
    }
    let json = server.metadata(&issuer);
    let metadata = ProviderMetadata::from_json(&issuer, json.as_bytes()).unwrap();
    says(
        &metadata.register_client("name", redirect, &[]).await.unwrap_err(),
        "registers no clients",
    );
}

#[tokio::test]
async fn a_server_names_the_issuers_of_its_tokens_at_its_path_or_at_its_root() {
    let server = TokenServer::start();
    let resource = server.url("/mcp");
    let document = |resource: &str, issuers: &str| {
        format!(r#"{{"resource":"{resource}","authorization_servers":{issuers}}}"#)
    };
    let at_root = document(&server.url(""), r#"["https://root.example"]"#);
    server.publish(RESOURCE_OF_ALL, 200, &at_root);
    let found = ProtectedResource::discover(&resource).await.unwrap();
    assert_eq!(found.issuers(), ["https://root.example"]);
    assert_eq!(found.resource(), server.url(""));
    assert_eq!(server.looked_up(), [RESOURCE, RESOURCE_OF_ALL]);

    let issuers = r#"["https://a.example","https://b.example/x"]"#;
    server.publish(RESOURCE, 200, &document(&resource, issuers));
    let found = ProtectedResource::discover(&resource).await.unwrap();
    assert_eq!(found.issuers(), ["https://a.example", "https://b.example/x"]);
    assert_eq!(found.resource(), resource);

    for (body, words) in [
        (document("https://canary.example/mcp", issuers), "about another resource"),
        (document(&server.url("/other"), issuers), "about another resource"),
        (document(&resource, r#"["http://canary.example"]"#), "must begin with https://"),
        (document(&resource, "5"), "wrong type"),
    ] {
        server.publish(RESOURCE, 200, &body);
        says(&ProtectedResource::discover(&resource).await.unwrap_err(), words);
    }
    server.publish(RESOURCE, 200, &format!(r#"{{"resource":"{resource}"}}"#));
    assert!(ProtectedResource::discover(&resource).await.unwrap().issuers().is_empty());
}
