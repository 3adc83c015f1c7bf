use super::*;

const ISSUER: &str = "https://issuer.example/tenant";

fn read(json: &str) -> Result<ProviderMetadata, String> {
    ProviderMetadata::from_json(ISSUER, json.as_bytes()).map_err(|error| error.to_string())
}

/// Returns a document of the issuer with these fields besides.
fn with(fields: &str) -> String {
    format!(r#"{{"issuer":"{ISSUER}","token_endpoint":"https://issuer.example/token"{fields}}}"#)
}

#[test]
fn metadata_is_looked_for_where_openid_connect_and_rfc_8414_put_it() {
    let places = |issuer: &str| -> Vec<String> {
        places_of(&Url::parse(issuer).unwrap()).into_iter().map(String::from).collect()
    };
    let of_host = [
        "https://issuer.example/.well-known/openid-configuration",
        "https://issuer.example/.well-known/oauth-authorization-server",
    ];
    assert_eq!(places("https://issuer.example"), of_host);
    assert_eq!(places("https://issuer.example/"), of_host);
    let of_tenant = [
        "https://issuer.example:8443/a/b/.well-known/openid-configuration",
        "https://issuer.example:8443/.well-known/oauth-authorization-server/a/b",
        "https://issuer.example:8443/.well-known/openid-configuration/a/b",
    ];
    assert_eq!(places("https://issuer.example:8443/a/b"), of_tenant);
    assert_eq!(places("https://issuer.example:8443/a/b/"), of_tenant);
}

#[test]
fn an_issuer_is_compared_exactly_and_the_error_says_what_to_write() {
    for (wanted, found, words) in [
        ("https://a.example", "https://a.example/", "write the issuer with it"),
        ("https://a.example/", "https://a.example", "write the issuer without it"),
        ("https://a.example/t", "https://a.example/T", "another issuer"),
        ("https://a.example", "https://a.example:443", "another issuer"),
        ("https://a.example", "https://A.example", "another issuer"),
        ("https://a.example", "http://a.example", "another issuer"),
        ("https://a.example/common/v2.0", "https://a.example/{tenantid}/v2.0", "id of the tenant"),
        ("https://a.example", "", "does not name its issuer"),
    ] {
        let json = format!(r#"{{"issuer":"{found}","token_endpoint":"https://a.example/t"}}"#);
        let error = ProviderMetadata::from_json(wanted, json.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(words), "{wanted} {found}: {error}");
        let json = json.replace(found, wanted);
        if !found.is_empty() {
            ProviderMetadata::from_json(wanted, json.as_bytes()).unwrap();
        }
    }
    for wrong in [
        "https://a.example?x",
        "http://a.example",
        "https://a.example/#a",
        "canary",
        "HTTPS://a.example",
        " https://a.example",
        "https://a.example/ ",
        "https://a.exa\tmple",
        "https://a.example/\n",
        "https:\\\\a.example",
        "https://ä.example",
        "https://A.example",
        "https:a.example",
    ] {
        let error = ProviderMetadata::from_json(wrong, b"{}").unwrap_err().to_string();
        assert!(error.starts_with("issuer ") && !error.contains("canary"), "{error}");
    }
}

#[test]
fn an_endpoint_that_must_not_be_used_counts_as_missing_and_spoils_nothing_else() {
    for name in [
        "authorization_endpoint",
        "device_authorization_endpoint",
        "registration_endpoint",
        "revocation_endpoint",
        "mtls_endpoint_aliases",
        "scopes_supported",
        "token_endpoint_auth_methods_supported",
        "authorization_response_iss_parameter_supported",
    ] {
        for wrong in [
            r#""http://issuer.example/canary""#,
            r#""http://127.0.0.1:1/canary""#,
            r#""https://me:canary@issuer.example/""#,
            r#""https://issuer.example/#canary""#,
            r#""canary""#,
            r#""""#,
            "[]",
            "5",
        ] {
            let kept = read(&with(&format!(r#","{name}":{wrong}"#))).unwrap().to_json();
            let is_list = name.ends_with("_supported") && wrong == "[]";
            assert!(
                is_list || kept == read(&with("")).unwrap().to_json(),
                "{name} {wrong}: {kept}"
            );
            let json = with("").replace(r#""https://issuer.example/token""#, wrong);
            let error = read(&json).unwrap_err();
            let is_told = error.starts_with("the metadata of issuer.example cannot be used: ");
            assert!(is_told && error.contains("token_endpoint"), "{error}");
            assert!(!error.contains("canary"), "{error}");
        }
    }
    read(&with(r#","userinfo_endpoint":"canary","jwks_uri":5,"revocation_endpoint":null"#))
        .unwrap();
    assert!(read(&format!(r#"{{"issuer":"{ISSUER}"}}"#)).unwrap_err().contains("token_endpoint"));
    let sends_issuer = r#","authorization_response_iss_parameter_supported":"true""#;
    assert!(read(&with(sends_issuer)).unwrap().always_sends_issuer());
    // A server on this machine may name its other ports.
    let local = r#"{"issuer":"http://127.0.0.1:1","token_endpoint":"http://127.0.0.1:2/token"}"#;
    ProviderMetadata::from_json("http://127.0.0.1:1", local.as_bytes()).unwrap();
}

#[test]
fn a_document_that_two_programs_could_read_differently_is_refused() {
    for (json, words) in [
        (with(r#","token_endpoint":"https://evil.example/""#), "the same field twice"),
        ("[]".to_owned(), "not a JSON object"),
        (String::new(), "it is empty"),
        (with("").replace('}', ""), "ends too early"),
        (with("") + "canary", "not valid JSON"),
    ] {
        let error = read(&json).unwrap_err();
        assert!(error.contains(words) && !error.contains("canary"), "{json}: {error}");
    }
}

#[test]
fn what_the_provider_supports_decides_how_the_client_is_set_up() {
    let in_body = |methods: &str| {
        let field = format!(r#","token_endpoint_auth_methods_supported":{methods}"#);
        read(&with(&field)).unwrap().needs_secret_in_body()
    };
    assert!(in_body(r#"["client_secret_post"]"#));
    assert!(in_body(r#"["private_key_jwt","client_secret_post"]"#));
    assert!(!in_body(r#"["client_secret_post","client_secret_basic"]"#));
    assert!(!in_body(r#"["none"]"#) && !in_body("null"));
    assert!(!read(&with("")).unwrap().needs_secret_in_body());

    let challenge = |methods: &str, endpoint: &str| {
        read(&with(&format!(r#","code_challenge_methods_supported":{methods}{endpoint}"#)))
    };
    let endpoint = r#","authorization_endpoint":"https://issuer.example/a""#;
    assert!(challenge(r#"["plain"]"#, endpoint).unwrap_err().contains("S256"));
    assert!(challenge("[]", endpoint).is_err());
    challenge(r#"["plain","S256"]"#, endpoint).unwrap();
    challenge("null", endpoint).unwrap();
    challenge(r#"["plain"]"#, "").unwrap();

    let metadata = read(&with(r#","scopes_supported":["openid","offline_access"]"#)).unwrap();
    assert!(metadata.offers_scope("offline_access") && !metadata.offers_scope("offline"));
}

#[test]
fn metadata_that_was_kept_is_the_same_again_and_only_for_its_issuer() {
    let metadata = read(&with(
        r#","authorization_endpoint":"https://login.example/authorize?a=b",
        "device_authorization_endpoint":"https://issuer.example/device",
        "revocation_endpoint":"https://issuer.example/revoke",
        "authorization_response_iss_parameter_supported":true,
        "token_endpoint_auth_methods_supported":["client_secret_post"],
        "code_challenge_methods_supported":["S256"],
        "scopes_supported":["openid"],"unknown":"canary""#,
    ))
    .unwrap();
    assert!(metadata.always_sends_issuer());
    let kept = metadata.to_json();
    assert!(!kept.contains("canary") && !kept.contains("null"), "{kept}");
    assert_eq!(read(&kept).unwrap(), metadata);
    let small = read(&with("")).unwrap();
    assert_eq!(read(&small.to_json()).unwrap(), small);
    let other = ProviderMetadata::from_json("https://other.example", kept.as_bytes());
    assert!(other.unwrap_err().to_string().contains("another issuer"));

    let client = OAuth2Client::from_metadata(&metadata, "app").unwrap();
    assert_eq!(client.token_url.as_str(), "https://issuer.example/token");
    let urls = [client.authorization_url, client.device_authorization_url, client.revocation_url];
    assert!(urls.iter().all(Option::is_some));
    assert!(matches!(client.auth_type, oauth2::AuthType::RequestBody));
}

#[tokio::test]
async fn a_server_that_never_answers_does_not_delay_a_search_for_long() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let issuer = Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
    let limit = std::time::Duration::from_millis(50);
    let fetched = Document::fetch(&Http::new(), &places_of(&issuer), limit).await;
    let error = fetched.err().unwrap();
    assert!(matches!(error, OAuth2Error::Unavailable { .. }), "{error}");
    assert!(error.to_string().contains("did not answer within 0 seconds; try again later"));
}

#[test]
fn a_client_with_a_certificate_gets_the_endpoints_for_it() {
    let aliases = r#","revocation_endpoint":"https://issuer.example/revoke","mtls_endpoint_aliases":
        {"token_endpoint":"https://mtls.example/token","userinfo_endpoint":5}"#;
    let metadata = read(&with(aliases)).unwrap();
    // What is kept has them too.
    let metadata = read(&metadata.to_json()).unwrap();
    assert_eq!(metadata.token_endpoint(), "https://issuer.example/token");
    let for_it = metadata.for_client_certificate();
    assert_eq!(for_it.token_endpoint(), "https://mtls.example/token");
    assert_eq!(for_it.revocation_endpoint(), Some("https://issuer.example/revoke"));
    let without = read(&with("")).unwrap();
    assert_eq!(without.for_client_certificate(), without);
    for wrong in [r#"{"token_endpoint":"http://127.0.0.1/canary"}"#, r#"{"token_endpoint":5}"#, "5"]
    {
        let metadata = read(&with(&format!(r#","mtls_endpoint_aliases":{wrong}"#))).unwrap();
        assert_eq!(metadata, without, "{wrong}");
    }
}

#[test]
fn a_server_with_protected_resources_names_only_issuers_that_are_as_safe_as_it_is() {
    let read = |issuer: &str| {
        let wanted = "https://mcp.example/api";
        let json = json!({"resource": wanted, "authorization_servers": [issuer]}).to_string();
        let document = Document::new("canary.example".into(), json.into_bytes());
        ProtectedResource::read(wanted, &Url::parse(wanted).unwrap(), &document)
    };
    assert_eq!(read("https://a.example").unwrap().issuers(), ["https://a.example"]);
    for wrong in ["http://127.0.0.1:1", "https://a.exa\nmple", "https://\u{430}.example", ""] {
        let error = read(wrong).unwrap_err().to_string();
        assert!(error.contains("authorization_servers") && error.is_ascii(), "{error}");
    }
}
