use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE};
use http::header::{AUTHORIZATION, HeaderValue};
use oauth2::url::form_urlencoded::{byte_serialize, parse};
use zeroize::Zeroizing;

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
    let secrets = Secrets::of(&request(&form, Some("my-client-id:s3cret%2Fcanary")));
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
        let left = shown.trim_start_matches("the token ").trim_end_matches(" is unknown");
        assert_eq!(left.replace("[secret]", "").trim_matches([' ', '…']), "", "{shown}");
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

/// Returns the text with something after every 7 characters.
fn split(text: &str, by: &str) -> String {
    let parts: Vec<_> = text.as_bytes().chunks(7).map(|it| str::from_utf8(it).unwrap()).collect();
    parts.join(by)
}

fn each(text: &str, shown: impl Fn(u8) -> String) -> String {
    text.bytes().map(shown).collect()
}

/// RFC 4648, 6.
fn base32(text: &str) -> String {
    let bits = each(text, |byte| format!("{byte:08b}"));
    let digit = |bits: &[u8]| {
        let bits = str::from_utf8(bits).unwrap();
        let value = u8::from_str_radix(&format!("{bits:0<5}"), 2).unwrap();
        char::from(if value < 26 { b'A' + value } else { b'2' + value - 26 })
    };
    bits.as_bytes().chunks(5).map(digit).collect()
}

/// Returns ways in which an answer may repeat a secret.
fn repeated(secret: &str) -> Vec<(&'static str, String)> {
    let hex = each(secret, |byte| format!("{byte:02x}"));
    let utf16: Vec<u8> = secret.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let base64 = BASE64_STANDARD.encode(secret);
    vec![
        ("zero-width spaces", split(secret, "\u{200b}")),
        ("soft hyphens", split(secret, "\u{ad}")),
        ("escapes of a terminal", split(secret, "\u{1b}")),
        ("separators of lines", split(secret, "\u{2028}")),
        ("spaces", split(secret, " ")),
        ("line breaks", split(secret, "\r\n")),
        ("hyphens", split(secret, "-")),
        ("slashes", split(secret, "/")),
        ("letters of another alphabet's quotes", split(secret, "»")),
        ("upper case", secret.to_uppercase()),
        ("backwards", secret.chars().rev().collect()),
        ("backwards, in parts", split(&secret.chars().rev().collect::<String>(), " ")),
        ("hexadecimal", hex.clone()),
        ("hexadecimal, in parts", split(&hex, " ")),
        ("hexadecimal with colons", each(secret, |byte| format!("{byte:02X}:"))),
        ("decimal", each(secret, |byte| format!("{byte} "))),
        ("percent", each(secret, |byte| format!("%{byte:02X}"))),
        ("percent, twice", each(secret, |byte| format!("%25{byte:02X}"))),
        ("escapes of JSON", each(secret, |byte| format!("\\u{byte:04x}"))),
        ("escapes of JSON, in parts", each(secret, |byte| format!("\\u{byte:04x} "))),
        ("entities", each(secret, |byte| format!("&#{byte};"))),
        ("hexadecimal entities, in parts", each(secret, |byte| format!("&#x{byte:x}; "))),
        ("base32", base32(secret)),
        ("base64, in parts", split(&base64, " ")),
        ("base64 of base64", BASE64_STANDARD.encode(&base64)),
        ("base64 of UTF-16", BASE64_STANDARD.encode(utf16)),
        ("base64 with zero-width spaces", split(&base64, "\u{200b}")),
    ]
}

#[test]
fn a_secret_is_not_shown_in_any_way_in_which_a_provider_may_repeat_it() {
    for (way, repeated) in repeated(TOKEN) {
        let shown = said(&format!("the token {repeated} is unknown"));
        let left = shown.trim_start_matches("the token ").trim_end_matches("is unknown");
        assert!(shown.contains("[secret]"), "{way}: {shown}");
        assert_eq!(left.replace("[secret]", "").trim(), "", "{way}: {shown}");
        for name in ["timestamp", "trace_id", "suberror"] {
            let body = serde_json::json!({ "error": "x", name: repeated });
            let shown = read(400, &body.to_string()).unwrap().details;
            let left = shown[0].1.replace("[secret]", "");
            assert_eq!(left.trim(), "", "{way}: {shown:?}");
        }
        let body = serde_json::json!({
            "error": "x", "message": "m", "error_uri": format!("https://x.example/{repeated}"),
            "error_codes": [repeated],
        });
        let shown = read(400, &body.to_string()).unwrap();
        assert_eq!((shown.uri, shown.details), (None, Vec::new()), "{way}");
    }
}

#[test]
fn no_part_of_a_word_with_a_secret_is_shown() {
    for repeated in [
        TOKEN.replace('/', "&#47;").replace('+', "&#43;"),
        TOKEN.replace('/', "\\/").replace('+', "\\u002b"),
        format!("{}&amp;{}", &TOKEN[..14], &TOKEN[14..]),
        format!("<{}&tail", &TOKEN[..14]),
        format!("token={TOKEN}tail"),
    ] {
        assert_eq!(said(&format!("no {repeated} here")), "no [secret] here");
    }
}

#[test]
fn a_secret_that_is_not_in_the_request_is_not_shown_if_it_looks_like_one() {
    for other in [
        "oldaccess-8f14e45fceea167a",
        "ya29.a0AfH6SMBx-Qm3T5example",
        "gho_16C7e42F292c6912E7710c838347Ae178B4a",
        "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln",
        "'QmFzZVNpeHR5Rm91cldpdGhvdXQ='",
        "04804904704704811410",
    ] {
        assert_eq!(said(&format!("old token {other} expired")), "old token [secret] expired");
    }
}

#[test]
fn what_helps_a_person_stays_readable() {
    for text in [
        "AADSTS700082: The refresh token has expired due to inactivity. The token was issued on \
         2026-05-02T09:41:12.1234567Z and was inactive for 90.00:00:00.",
        "Trace ID: 7e1a2b3c-0d1e-4f5a-8b6c-9d0e1f2a3b4c Correlation ID: \
         0d1e7e1a-2b3c-4f5a-8b6c-9d0e1f2a3b4c Timestamp: 2026-11-27 04:51:43Z",
        "20261127T045143Z+00:00: 100% of 3, R&D, see https://login.microsoftonline.com/error?code=50076.",
        "NotAuthorizedException: INSUFFICIENT_AUTHENTICATION_LEVEL, invalid_refresh_token_family",
        "https://www.googleapis.com/auth/userinfo.email is not in the allowed list of scopes",
        "Das Aktualisierungstoken ist ungültig (Zeitüberschreitungsfehler), リフレッシュトークンは無効です",
    ] {
        assert_eq!(said(text), text);
    }
    let body = r#"{"error":"x","error_codes":[50076, 700082],"timestamp":"2026-11-27 04:51:43Z","trace_id":"7e1a2b3c-0d1e-4f5a-8b6c-9d0e1f2a3b4c"}"#;
    let shown = read(400, body).unwrap().details;
    let shown: Vec<_> = shown.iter().map(|(_, value)| value.as_str()).collect();
    let id = "7e1a2b3c-0d1e-4f5a-8b6c-9d0e1f2a3b4c";
    assert_eq!(shown, ["[50076, 700082]", id, "2026-11-27 04:51:43Z"]);
}

#[test]
fn a_short_secret_and_one_with_few_letters_are_found_too() {
    for secret in ["s3cr", "hunter-2", "!a!b!c!?", "пароль123"] {
        let mut secrets = Secrets::default();
        secrets.add(secret);
        let shown = secrets.replaced_in(&format!("no {secret} here"));
        assert_eq!(shown, "no [secret] here", "{secret}");
    }
}

#[test]
fn an_error_code_that_repeats_a_secret_is_none() {
    let secrets = Secrets::of(&request("refresh_token=only_letters_in_a_token&code=client", None));
    let refused = StatusCode::BAD_REQUEST;
    for (status, code, is_kept) in [
        (refused, "only_letters_in_a_token", false),
        (refused, "no_only_letters_in_a_token", false),
        (refused, "letters_in_a", false),
        (refused, "nekot_a_ni_srettel", false),
        (refused, "strange_client", false),
        (refused, "strange_error", true),
        // It decides what the failure means, and says nothing about the secret.
        (refused, "invalid_client", true),
        // These are tokens and no refusal.
        (StatusCode::OK, "letters_in_a", true),
    ] {
        let body = format!(r#"{{"error":"{code}","access_token":"x","message":"m"}}"#).into_bytes();
        let mut judged = Zeroizing::new(body.clone());
        secrets.remove_from_code(status, &mut judged);
        assert_eq!(*judged == body, is_kept, "{code}");
        if status == refused {
            let refusal = Report::to(|_| {}).read("issuer.example", status, &body, &secrets);
            assert_eq!(refusal.unwrap().code.is_some(), is_kept, "{code}");
        }
    }
}
