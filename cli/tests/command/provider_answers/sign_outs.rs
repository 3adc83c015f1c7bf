//! Answers of the revocation endpoint.

use super::{EXPIRED, answer, error, home, record};
use crate::token_server::{Act, TokenServer};

#[test]
fn a_token_that_the_provider_does_not_know_is_revoked_and_the_refresh_token_decides() {
    let ok = || answer(200, "", "");
    let unknown = || error(400, "invalid_token");
    let refused = || error(401, "invalid_client");
    // The answers for the refresh token and for the access token, the exit code, and the number of requests.
    let rows = [
        ("both are revoked", vec![ok(), ok()], 0, 2),
        ("revoking the first one took the second too", vec![ok(), unknown()], 0, 2),
        ("neither is known", vec![unknown(), unknown()], 0, 2),
        ("neither is a grant", vec![error(400, "invalid_grant"), ok()], 0, 2),
        ("no refresh token is revoked", vec![error(400, "unsupported_token_type"), ok()], 1, 2),
        (
            "the access token cannot be revoked",
            vec![ok(), error(400, "unsupported_token_type")],
            0,
            2,
        ),
        ("the access token gets a page", vec![ok(), answer(503, "", "<html>canary</html>")], 0, 2),
        ("the access token gets no answer", vec![ok(), Vec::new()], 0, 2),
        ("the answer is JSON", vec![answer(200, "", "{}"), answer(200, "", "{}")], 0, 2),
        ("the client is unknown", vec![refused(), refused()], 1, 1),
        ("the server is down", vec![answer(503, "", ""), ok()], 1, 1),
    ];
    let ended = ["expired_token", "invalid_refresh_token", "token_expired", "token_revoked"];
    let ended = ended.map(|code| (code, vec![error(400, code), error(400, code)], 0, 2));
    let not = [
        ("declined", vec![error(400, "access_denied")], 1, 1),
        ("over", vec![error(400, "code_expired")], 1, 1),
    ];
    for (name, answers, code, requests) in rows.into_iter().chain(ended).chain(not) {
        let server = TokenServer::start();
        let home = home(&server, EXPIRED);
        server.script_at("/revoke", answers.into_iter().map(Act::Raw));
        let cleared = home.run("clear --revoke");
        assert_eq!(cleared.code, code, "{name}: {cleared:?}");
        assert!(!cleared.err.contains("canary"), "{name}: {cleared:?}");
        assert!(!cleared.err.contains("nobody signed in"), "{name}: {cleared:?}");
        let unsure = cleared.err.contains("may be accepted until they expire");
        assert_eq!(unsure, code != 0, "{name}: {cleared:?}");
        // No token is left to try again with.
        assert!(!cleared.err.contains("try again"), "{name}: {cleared:?}");
        assert!(record(&home).is_null(), "{name}");
        assert_eq!(server.requests().len(), requests, "{name}");
    }
}
