use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE};
use http::header::HeaderValue;

use super::*;

const TOKEN: &str = "1//0refresh+canary/of=Alice";

fn request(body: &str, credentials: Option<&str>) -> HttpRequest {
    let mut request = HttpRequest::new(body.as_bytes().to_vec());
    if let Some(credentials) = credentials {
        let value = format!("Basic {}", BASE64_STANDARD.encode(credentials));
        request.headers_mut().insert(AUTHORIZATION, HeaderValue::from_str(&value).unwrap());
    }
    request
}

/// Returns what is reported for an answer to a refresh with [`TOKEN`].
fn read(status: u16, body: &str) -> Option<Refusal> {
    let token: String = byte_serialize(TOKEN.as_bytes()).collect();
    let form = format!("grant_type=refresh_token&refresh_token={token}&client_id=my-client-id");
    let report = Report::to(|_| {});
    let secrets = report.about(&request(&form, Some("my-client-id:s3cret%2Fcanary")));
    let status = StatusCode::from_u16(status).unwrap();
    report.read("issuer.example", status, body.as_bytes(), &secrets)
}

fn said(description: &str) -> String {
    let body = serde_json::json!({ "error": "invalid_grant", "error_description": description });
    read(400, &body.to_string()).unwrap().description.unwrap()
}

#[test]
fn a_refusal_says_in_one_line_what_the_provider_says() {
    for (status, body, shown) in [
        (
            400,
            r#"{"error":"invalid_grant","error_description":"AADSTS50076: use \"MFA\".\r\nTrace ID: 7","suberror":"basic_action",
                "error_codes":[50076,50078],"trace_id":"7-7","error_uri":"https://login.example/error?code=50076"}"#,
            "issuer.example says invalid_grant \"AADSTS50076: use 'MFA'.  Trace ID: 7\", suberror \"basic_action\", \
             error_codes \"[50076,50078]\", trace_id \"7-7\", see https://login.example/error?code=50076",
        ),
        (
            400,
            r#"{"error":"invalid_grant","error_subtype":"invalid_rapt"}"#,
            "issuer.example says invalid_grant, error_subtype \"invalid_rapt\"",
        ),
        (
            400,
            r#"{"error":{"message":"Error validating application","code":190}}"#,
            "issuer.example says \"Error validating application\"",
        ),
        (
            503,
            r#"{"message":"down for maintenance"}"#,
            "issuer.example says \"down for maintenance\"",
        ),
        (200, r#"{"ok":false,"error":"x","message":"y"}"#, "issuer.example says x \"y\""),
    ] {
        assert_eq!(read(status, body).unwrap().to_string(), shown, "{body}");
    }
}

#[test]
fn an_answer_that_says_no_more_than_a_code_is_not_reported() {
    for (status, body) in [
        (400, r#"{"error":"invalid_grant"}"#),
        (400, r#"{"error":"invalid_grant","error_description":" "}"#),
        (400, r#"{"error":"invalid_grant","error_description":{"a":"b"}}"#),
        (400, "<html>canary</html>"),
        (400, ""),
        (200, r#"{"access_token":"canary","message":"welcome"}"#),
        // They are a part of the device flow.
        (400, r#"{"error":"authorization_pending","error_description":"wait"}"#),
        (400, r#"{"error":"slow_down","error_description":"wait"}"#),
    ] {
        assert_eq!(read(status, body), None, "{body}");
    }
}

#[test]
fn a_secret_that_the_provider_repeats_is_not_shown() {
    let percent: String = byte_serialize(TOKEN.as_bytes()).collect();
    let mut repeated = vec![
        TOKEN.to_owned(),
        percent.to_lowercase(),
        percent.replace('+', "%20"),
        percent,
        BASE64_STANDARD.encode(TOKEN),
        BASE64_URL_SAFE.encode(TOKEN),
        BASE64_STANDARD.encode("my-client-id:s3cret%2Fcanary"),
        "s3cret/canary".to_owned(),
        "s3cret%2Fcanary".to_owned(),
        // A part of it.
        format!("{}…", &TOKEN[..12]),
    ];
    for before in ["", "a", "ab"] {
        repeated.push(BASE64_STANDARD.encode(format!("{before}{TOKEN}{before}")));
    }
    for repeated in repeated {
        let shown = said(&format!("the token {repeated} is unknown"));
        assert!(shown.starts_with("the token ") && shown.ends_with(" is unknown"), "{shown}");
        assert!(shown.contains("[secret]"), "{shown}");
        // What is left of it is shorter than a part that is recognized.
        let left = shown.trim_start_matches("the token ").trim_end_matches(" is unknown");
        let left = left.split("[secret]").map(str::len).max().unwrap();
        assert!(left < SHORTEST_PART, "{shown}");
    }
    let said = said("the client my-client-id is unknown");
    assert_eq!(said, "the client my-client-id is unknown", "its id is no secret");
    // Nor is a secret shown anywhere else.
    let body = serde_json::json!({
        "error": "invalid_grant", "error_uri": format!("https://x.example/{TOKEN}"),
        "trace_id": TOKEN, "message": "a new-token-canary b", "access_token": "new-token-canary",
    });
    let shown = read(400, &body.to_string()).unwrap();
    assert_eq!((shown.uri, shown.details), (None, vec![("trace_id", "[secret]".to_owned())]));
    assert_eq!(shown.description.unwrap(), "a [secret] b");
}

#[test]
fn what_a_provider_says_has_a_limited_length_and_nothing_that_a_terminal_obeys() {
    let shown = said(&"ä\u{1b}[2J\n\u{202e}".repeat(10_000));
    assert_eq!(shown.chars().count(), LONGEST_DESCRIPTION + 1);
    assert!(shown.starts_with("ä[2J ä[2J ") && shown.ends_with('…'), "{shown}");
    for uri in [
        "http://login.example/",
        "https://user@login.example/",
        "https://login.example/\u{202e}",
        "https://login.example/a b",
        "javascript:alert(1)",
        &format!("https://login.example/{}", "a".repeat(LONGEST_PART)),
    ] {
        let body = serde_json::json!({ "error": "x", "error_uri": uri, "message": "m" });
        assert_eq!(read(400, &body.to_string()).unwrap().uri, None, "{uri}");
    }
    let code = read(400, r#"{"error":"eyJhbGciOiJub25lIn0","message":"m"}"#).unwrap().code;
    assert_eq!(code, None);
}

#[test]
fn the_error_of_a_redirect_is_reported_without_the_secrets_of_the_sign_in() {
    let (send, reported) = std::sync::mpsc::channel();
    let report = Report::to(move |refusal| send.send(refusal.to_string()).unwrap());
    let query = "error=access_denied&error_description=no+state-canary&error_uri=x";
    report.redirected("issuer.example", &["state-canary"], |wanted| {
        Some(parse(query.as_bytes()).find(|(name, _)| name == wanted)?.1)
    });
    assert_eq!(reported.recv().unwrap(), "issuer.example says access_denied \"no [secret]\"");
    report.redirected("issuer.example", &[], |_| None);
    assert!(reported.try_recv().is_err());
}

#[test]
fn without_a_callback_no_copy_of_a_request_is_made() {
    let secrets = Report::default().about(&request("refresh_token=canary", None));
    assert!(secrets.0.is_empty());
}
