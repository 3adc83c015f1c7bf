//! Answers to a refresh.

use std::fs;

use serde_json::{Value, json};

use super::{
    EXPIRED, Row, answer, check, error, failed, fields, fields_with, home, kept, record, tokens,
};
use crate::home::done;
use crate::token_server::{Act, TokenServer};

const PADDING: usize = 70 << 10;

/// Returns the fields as a form, which is what GitHub sends by default.
fn form() -> String {
    "access_token=canary-new-a&expires_in=3600&refresh_token=canary-new-r&scope=repo%2Cgist&token_type=bearer"
        .to_owned()
}

#[test]
fn the_only_copy_of_a_rotated_token_is_kept_although_what_surrounds_it_is_wrong() {
    let json = fields().to_string();
    let with = |before: &str, after: &str| format!("{before}{json}{after}");
    let more = |field: &str| json.replacen('{', &format!("{{{field},"), 1);
    let apart =
        json!({ "refresh_token": "canary-new-r", "data": { "access_token": "canary-new-a" } });
    let utf16: Vec<u8> = json.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let many: String = (0..6000).map(|index| format!("\"k{index}\":1,")).collect();
    check([
        kept("a warning before it", answer(200, "", with("<br />\n<b>Warning</b>: x\n", ""))),
        kept("a prefix against scripts", answer(200, "", with(")]}'\n", ""))),
        kept("a list", answer(200, "", with("[", "]"))),
        kept("a comma too many", answer(200, "", json.replacen('}', ",}", 1))),
        kept("a line break in a text", answer(200, "", more("\"x\":\"a\nb\""))),
        kept("a number that is none", answer(200, "", more("\"x\":NaN"))),
        kept("UTF-16", answer(200, "", utf16)),
        kept(
            "an error that says nothing",
            answer(200, "", json!({ "error": "", "data": fields() }).to_string()),
        ),
        kept("tokens in two levels", answer(200, "", apart.to_string())),
        kept("encoded twice", answer(200, "", serde_json::to_string(&json).unwrap())),
        kept("chunks that are none", answer(200, "Transfer-Encoding: chunked\r\n", &json)),
        kept(
            "a form that says it has chunks",
            answer(200, "Transfer-Encoding: chunked\r\n", form()),
        ),
        kept("chunks with HTTP/1.0", {
            let chunks = format!("{:x}\r\n{json}\r\n0\r\n\r\n", json.len());
            let mut answer = answer(200, "Transfer-Encoding: chunked\r\n", chunks);
            answer[7] = b'0';
            answer
        }),
        kept(
            "33 KB of headers",
            answer(200, &format!("Set-Cookie: {}\r\n", "a".repeat(33_000)), &json),
        ),
        kept(
            "60 KB of headers",
            answer(200, &format!("Set-Cookie: {}\r\n", "a".repeat(60_000)), &json),
        ),
        kept("a NUL in a header", answer(200, "X-A: b\0c\r\n", &json)),
        kept("a space before a colon", answer(200, "X-Cache : HIT\r\n", &json)),
        kept("a header in two lines", answer(200, "X-A: b\r\n c\r\n", &json)),
        kept("a line without a colon", answer(200, "nonsense\r\n", &json)),
        kept("hundreds of headers", answer(200, &"X-A: b\r\n".repeat(300), &json)),
        kept(
            "more fields than a record has room for",
            answer(200, "", json.replacen('{', &format!("{{{many}"), 1)),
        ),
        kept(
            "a field that is longer as JSON",
            answer(200, "", more(&format!("\"x\":\"{}\"", "\\u0001".repeat(12_000)))),
        ),
        Row {
            kept: vec![
                ("/access_token", json!("canary-new-a")),
                ("/refresh_token", json!("canary-old-r")),
            ],
            ..kept("a word in place of a token", tokens(&json!({ "refresh_token": "undefined" })))
        },
    ]);
}

#[test]
fn the_only_copy_of_a_rotated_token_is_kept_whatever_form_it_has() {
    let json = fields().to_string();
    let inner = json!({ "ok": true, "authed_user": fields() }).to_string();
    let data = json!({ "data": fields() }).to_string();
    let twice = json.replace(
        r#""refresh_token""#,
        r#""refresh_token":"canary-new-r","access_token":"canary-new-a","refresh_token""#,
    );
    let latin_1 = [json.trim_end_matches('}').as_bytes(), b",\"name\":\"Zo\xeb\"}"].concat();
    let large = json.replacen('{', &format!(r#"{{"x":"{}","#, "x".repeat(PADDING)), 1);
    let chunk = format!("{:x}\r\n{json}\r\n", json.len());
    let (chunked, begun) = ("Transfer-Encoding: chunked\r\n", "5\r\n");
    check([
        kept("plain", answer(200, "", &json)),
        kept("a byte order mark", answer(200, "", format!("\u{feff}{json}"))),
        kept("white space around it", answer(200, "", format!("\r\n\t {json} \r\n\r\n"))),
        kept("a byte of ISO 8859-1 in another field", answer(200, "", latin_1)),
        kept("a form", answer(200, "Content-Type: application/x-www-form-urlencoded\r\n", form())),
        kept(
            "a form that says it is JSON",
            answer(200, "Content-Type: application/json\r\n", form()),
        ),
        kept("JSON that says it is a page", answer(200, "Content-Type: text/html\r\n", &json)),
        kept("no Content-Type", answer(200, "", &json)),
        kept("the status 201", answer(201, "", &json)),
        kept("the same tokens twice", answer(200, "", twice)),
        kept("tokens in authed_user", answer(200, "", inner)),
        kept("tokens in data", answer(200, "", data)),
        kept("a body of 70 KB", answer(200, "", &large)),
        kept("chunks without the last one", answer(200, chunked, &chunk)),
        kept("chunks with a part of another", answer(200, chunked, format!("{chunk}{begun}"))),
        kept(
            "a chunk with an extension",
            answer(200, chunked, format!("{:x};x=y\r\n{json}\r\n0\r\n\r\n", json.len())),
        ),
        kept("a length that is more than the body", answer(200, "Content-Length: 9999\r\n", &json)),
        kept(
            "an error code that is null",
            tokens(&json!({ "error": null, "error_description": "" })),
        ),
        kept("an unknown token_type", tokens(&json!({ "token_type": "DPoP-like" }))),
        kept("no token_type", tokens(&json!({ "token_type": null }))),
        kept("a token_type that is a number", tokens(&json!({ "token_type": 5 }))),
        kept("a scope that is a list", tokens(&json!({ "scope": ["read", "write"] }))),
    ]);
}

#[test]
fn a_rotated_refresh_token_is_kept_although_the_access_token_beside_it_cannot_be_used() {
    let with =
        |access: &str| format!(r#"{{"refresh_token":"canary-new-r","expires_in":3600,{access}}}"#);
    let cut = r#"{"refresh_token":"canary-new-r","expires_in":3600,"access_token":"canary-n"#;
    let cut_form = "refresh_token=canary-new-r&expires_in=3600&access_token=canary-n";
    let (length, chunks) = ("Content-Length: 3000\r\n", "Transfer-Encoding: chunked\r\n");
    let rows = [
        ("no access token", answer(200, "", r#"{"refresh_token":"canary-new-r"}"#)),
        ("null", answer(200, "", with(r#""access_token":null"#))),
        ("an empty one", answer(200, "", with(r#""access_token":"""#))),
        ("two different ones", answer(200, "", with(r#""access_token":"a","access_token":"b""#))),
        ("a word that is not ASCII", answer(200, "", with(r#""access_token":"canary-\u00fc""#))),
        ("an inner object", answer(200, "", r#"{"data":{"refresh_token":"canary-new-r"}}"#)),
        ("nearly JSON", answer(200, "", with(r#""access_token":null,"#))),
        ("a form", answer(200, "", "refresh_token=canary-new-r&access_token=")),
        ("the end is missing", answer(200, "", cut)),
        ("less than the length", answer(200, length, cut)),
        ("a chunk that is cut", answer(200, chunks, format!("fff\r\n{cut}"))),
        ("a form that is cut", answer(200, length, cut_form)),
    ];
    check(rows.into_iter().map(|(name, answer)| {
        let mut row = kept(name, answer);
        row.code = 1;
        row.kept[0].1 = json!("canary-old-a");
        row.says = vec!["had a new refresh token, which is saved", "try again later"];
        row
    }));
}

#[test]
fn a_refresh_token_alone_is_used_by_the_next_refresh_and_not_before_30_seconds() {
    let server = TokenServer::start();
    let alone = answer(200, "", r#"{"access_token":null,"refresh_token":"canary-new-r"}"#);
    server.script([Act::Raw(alone), Act::Raw(tokens(&json!({})))]);
    let home = home(&server, EXPIRED);
    for line in ["get", "get", "refresh", "get"] {
        let done = home.run(line);
        assert!(
            done.code == 1 && done.err.contains("a new refresh token, which is saved"),
            "{done:?}"
        );
        assert!(!done.err.contains("canary"), "{done:?}");
    }
    assert_eq!(server.calls(), 1);
    // 30 seconds later.
    let mut record = record(&home);
    let throttle = record.pointer_mut("/refresh/throttle").unwrap();
    throttle["from"] = json!("2020-01-01T00:00:00Z");
    throttle["until"] = json!("2020-01-01T00:00:30Z");
    home.write("tokens.json", record.to_string());
    let done = home.run("get");
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(server.calls(), 2);
    assert!(server.received()[1].contains("canary-new-r"), "{:?}", server.received());
}

#[test]
fn an_access_token_that_is_still_good_stays_beside_a_new_refresh_token() {
    let server = TokenServer::start();
    server.script([Act::Raw(answer(200, "", r#"{"refresh_token":"canary-new-r"}"#))]);
    let home = home(&server, &EXPIRED.replace("2020-01", "2120-01"));
    let done = home.run("refresh");
    assert_eq!(done.code, 1, "{done:?}");
    assert_eq!(home.run("get").out.trim(), "canary-old-a");
    assert_eq!(record(&home)["refresh_token"], "canary-new-r");
}

#[test]
fn an_answer_that_only_repeats_the_refresh_token_is_no_success() {
    let mut row = kept(
        "the same refresh token alone",
        answer(200, "", r#"{"access_token":"","refresh_token":"canary-old-r"}"#),
    );
    row.answers.push(tokens(&json!({})));
    row.requests = 2;
    check([row]);
}

#[test]
fn tokens_are_kept_whatever_the_status_is() {
    let json = fields().to_string();
    let mut rows: Vec<Row> = [302, 400, 401, 403, 404, 408, 425, 429, 500, 502, 503, 504]
        .into_iter()
        .map(|status| kept(format!("the status {status}"), answer(status, "", &json)))
        .collect();
    for nothing in ["none", "null", "0", " ", "False", "OK"] {
        let body = fields_with(&json!({ "error": nothing }));
        rows.push(kept(format!("the status 500 and the error {nothing:?}"), answer(500, "", body)));
    }
    let refused = fields_with(&json!({ "error": "invalid_grant" }));
    rows.push(failed("tokens beside an error", answer(400, "", refused), 4, vec!["invalid_grant"]));
    check(rows);
}

#[test]
fn tokens_are_kept_although_the_length_that_the_head_names_is_none() {
    let json = fields().to_string();
    let with = |lines: &str| kept(lines, answer(200, &format!("{lines}\r\n"), &json));
    check([
        with("Content-Length: many"),
        with("Content-Length:"),
        with("Content-Length: -1"),
        with("Content-Length: 0x40"),
        with("content-length : 12 bytes"),
        with("Content-Length: 1\r\nContent-Length: 2"),
        with("Content-Length: 99999999999999999999999999"),
    ]);
}

/// Returns these fields, and the type of the token that each answer names.
fn stays_with_type(fields: &Value) -> Value {
    let mut fields = fields.clone();
    fields["token_type"] = json!("Bearer");
    fields
}

#[test]
fn what_an_answer_does_not_repeat_stays_with_its_type() {
    let with = |name: &str, changes: &Value, more: &[(&'static str, Value)]| {
        let mut row = kept(name, tokens(changes));
        row.kept.extend(more.iter().cloned());
        row
    };
    let mut rows = vec![
        with(
            "nothing is repeated",
            &json!({}),
            &[
                ("/extra/scope", json!("read write")),
                ("/extra/id_token", json!("canary-i")),
                ("/extra/instance_url", json!("https://eu.example")),
                ("/extra/realmId", json!(7)),
            ],
        ),
        with(
            "everything is repeated",
            &json!({ "scope": "read", "id_token": "canary-j", "instance_url": "https://us.example", "realmId": 8 }),
            &[
                ("/extra/scope", json!("read")),
                ("/extra/id_token", json!("canary-j")),
                ("/extra/instance_url", json!("https://us.example")),
                ("/extra/realmId", json!(8)),
            ],
        ),
        with(
            "values of each type",
            &json!({ "a": 1, "b": 1.5, "c": true, "d": { "e": [1, "x"] }, "f": "7" }),
            &[
                ("/extra/a", json!(1)),
                ("/extra/b", json!(1.5)),
                ("/extra/c", json!(true)),
                ("/extra/d", json!({ "e": [1, "x"] })),
                ("/extra/f", json!("7")),
            ],
        ),
    ];
    for nothing in
        [json!(null), json!(false), json!(0), json!({}), json!([]), json!(""), json!("  ")]
    {
        let mut row = kept(
            format!("a refresh token that is {nothing}"),
            answer(
                200,
                "",
                json!({ "access_token": "canary-new-a", "refresh_token": nothing }).to_string(),
            ),
        );
        row.kept[1].1 = json!("canary-old-r");
        rows.push(row);
    }
    for nothing in [json!(null), json!(false), json!({}), json!([]), json!(""), json!("  ")] {
        let names = ["id_token", "instance_url", "realmId", "scope"];
        let sent = names.map(|name| (name.to_owned(), nothing.clone()));
        let sent = Value::Object(sent.into_iter().collect());
        let stays = json!({ "id_token": "canary-i", "instance_url": "https://eu.example", "realmId": 7,
            "scope": "read write" });
        let mut body = fields();
        body.as_object_mut().unwrap().extend(sent.as_object().unwrap().clone());
        let mut row =
            kept(format!("other fields that are {nothing}"), answer(200, "", body.to_string()));
        row.kept.push(("/extra", stays_with_type(&stays)));
        rows.push(row);
    }
    rows.push(with(
        "an ID token that is a number",
        &json!({ "id_token": 5 }),
        &[("/extra/id_token", json!("canary-i"))],
    ));
    let mut row = kept("no refresh token", tokens(&json!({ "refresh_token": null })));
    row.kept[1].1 = json!("canary-old-r");
    rows.push(row);
    check(rows);
}

#[test]
fn an_answer_says_whether_to_sign_in_again_to_wait_or_to_check_the_settings() {
    let mut rows = Vec::new();
    for code in [
        "bad_refresh_token",
        "consent_required",
        "expired_token",
        "interaction_required",
        "invalid_grant",
        "invalid_refresh_token",
        "invalid_token",
        "login_required",
        "token_expired",
        "token_revoked",
    ] {
        // Some providers send an error with status 200.
        for status in [200, 400, 401, 403] {
            rows.push(failed(
                format!("{status} {code}"),
                error(status, code),
                4,
                vec!["sign in again"],
            ));
        }
    }
    rows.extend([
        failed("ratelimited", error(400, "ratelimited"), 1, vec!["ratelimited"]),
        failed("ratelimited with 200", error(200, "ratelimited"), 1, vec!["ratelimited"]),
        failed("temporarily_unavailable", error(400, "temporarily_unavailable"), 1, vec![]),
        failed(
            "a page with 403",
            answer(403, "Content-Type: text/html\r\n", "<html>canary</html>"),
            1,
            vec!["403"],
        ),
        failed("429", answer(429, "", ""), 1, vec!["429"]),
        failed("503 with a page", answer(503, "", "<html>canary</html>"), 1, vec!["503"]),
        failed(
            "invalid_client",
            error(401, "invalid_client"),
            1,
            vec!["invalid_client", "check the client's id and secret"],
        ),
        failed(
            "unauthorized_client",
            error(400, "unauthorized_client"),
            1,
            vec!["check the client's id and secret"],
        ),
        failed("invalid_request", error(400, "invalid_request"), 1, vec!["invalid_request"]),
        failed("404", answer(404, "", "<html>canary</html>"), 1, vec!["404; check the URL"]),
    ]);
    // A client that is refused may be one whose session has ended.
    let may_end = |row: &Row| row.code == 4 || row.name.contains("client");
    for row in rows.iter_mut().filter(|row| !may_end(row)) {
        row.says_not.push("sign in again");
    }
    check(rows);
}

#[test]
fn an_answer_without_tokens_is_asked_for_once_more() {
    // The token may have been spent. It is sent again at once, so that the doubt is over.
    let mut rows: Vec<Row> = [
        ("an empty body", answer(200, "", "")),
        ("a page", answer(200, "Content-Type: text/html\r\n", "<html>canary</html>")),
        ("half of the tokens", answer(200, "", r#"{"access_token":"canary-new-a","refresh_to"#)),
        ("two different tokens", answer(200, "", r#"{"access_token":"a","access_token":"b"}"#)),
        ("more than 256 KiB", answer(200, "", format!(r#"{{"x":"{}"}}"#, "x".repeat(256 << 10)))),
        ("502", answer(502, "", "<html>canary</html>")),
        ("408", answer(408, "", "")),
        ("a redirect", answer(307, "Location: https://elsewhere.example/\r\n", "")),
        ("no answer", Vec::new()),
        ("a head that ends early", b"HTTP/1.1 200 OK\r\nContent-Le".to_vec()),
    ]
    .into_iter()
    .map(|(name, answer)| kept(name, answer))
    .collect();
    for row in &mut rows {
        row.answers.push(tokens(&json!({})));
        row.requests = 2;
    }
    check(rows);
}

#[test]
fn a_lifetime_is_read_in_each_form_that_providers_send() {
    let lives = |sent: &str, seconds: Value| {
        let body =
            format!(r#"{{"access_token":"canary-new-a","refresh_token":"canary-new-r",{sent}}}"#);
        let mut row = kept(sent, answer(200, "", body));
        row.line = "refresh";
        row.kept.push(("lifetime", seconds));
        row
    };
    check([
        lives(r#""expires_in":3600"#, json!(3600)),
        lives(r#""expires_in":3.1536E7"#, json!(31_536_000)),
        lives(r#""expires_in":"3.6e3""#, json!(3600)),
        lives(r#""expires_in":" 3600 ""#, json!(3600)),
        lives(r#""expires_in":3599.9"#, json!(3599)),
        // It has expired, and does not live for ever.
        lives(r#""expires_in":-1"#, json!(0)),
        lives(r#""expires_in":0"#, json!(0)),
        lives(r#""expires_in":null"#, Value::Null),
        lives(r#""expires_in":"soon""#, Value::Null),
        lives(r#""expires_in":1e400"#, Value::Null),
        lives(r#""expires_in":60,"expires_on":4102444800"#, json!(60)),
        // A time in the past is a token that has expired.
        lives(r#""expires_on":"1000000000""#, json!(0)),
    ]);
}

#[test]
fn expires_on_is_a_time_of_its_own() {
    let body = r#"{"access_token":"canary-new-a","refresh_token":"canary-new-r","expires_on":"4102444800"}"#;
    let mut row = kept("expires_on", answer(200, "", body));
    row.kept.push(("/expires_at", json!("2100-01-01T00:00:00Z")));
    check([row]);
}

#[test]
fn a_secret_may_end_with_the_line_that_it_was_in() {
    for ending in ["", "\n", "\r\n"] {
        let server = TokenServer::start();
        server.require_client("app", "canary-secret", true);
        let home = home(&server, EXPIRED);
        let path = home.path("config/profiles/default.toml");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("{text}client_secret_env = \"APP_SECRET\"\n")).unwrap();
        let mut refresh = home.command();
        refresh.arg("refresh").env("APP_SECRET", format!("canary-secret{ending}"));
        // The server does not know the refresh token, and looks at it only if it knows the client.
        let said = done(&mut refresh, "").failed(4);
        assert!(said.contains("invalid_grant"), "{ending:?}: {said}");
    }
}
