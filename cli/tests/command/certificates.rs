//! The certificates of servers: each fault has its own words and its own advice.
#![cfg(unix)]

use std::fs;

use crate::home::{Done, Home, done};
use crate::issuing::{Authority, VALID, self_signed};
use crate::login::by_device;
use crate::token_server::TokenServer;

/// Signs in, with this root certificate as the only one that is trusted.
fn login(home: &Home, trusted: &str) -> Done {
    fs::write(home.path("roots.pem"), trusted).unwrap();
    let mut command = home.command();
    command.arg("login").env("SSL_CERT_FILE", home.path("roots.pem")).env_remove("SSL_CERT_DIR");
    done(&mut command, "")
}

#[test]
fn each_fault_of_a_certificate_is_named_and_nothing_is_sent() {
    let authority = Authority::new("ours");
    let (ours, other) = (authority.pem(), Authority::new("other").pem());
    let same_name = Authority::new("ours").pem();
    let lone = self_signed("localhost", true);
    let own = lone.certificate.clone();
    for (issued, trusted, what, advice) in [
        (authority.issue("localhost", (2000, 2001)), &ours, "has expired", "check the clock"),
        (authority.issue("localhost", (2998, 2999)), &ours, "is not valid yet", "check the clock"),
        (
            authority.issue("canary.example", VALID),
            &ours,
            "for another name",
            "the name of the host",
        ),
        (
            authority.issue("localhost", VALID),
            &other,
            "of an authority that is not trusted",
            "add its certificate to the root certificates",
        ),
        (
            authority.issue("localhost", VALID),
            &same_name,
            "of an authority that is not trusted",
            "add its certificate to the root certificates",
        ),
        (
            self_signed("localhost", false),
            &other,
            "has a self-signed certificate;",
            "add the certificate to the root certificates",
        ),
        // This is what `openssl req -x509` makes. It is not accepted, even if it is trusted.
        (lone, &own, "that is meant for an authority", "signed by that authority"),
    ] {
        let server = TokenServer::start_with_certificate("localhost", &issued);
        let said = login(&by_device(&server), trusted).failed(1);
        assert!(said.contains("tokenkeep: localhost:") && said.contains(what), "{what}: {said}");
        assert!(said.contains(advice), "{what}: {said}");
        assert_eq!(server.requests().len(), 0, "{said}");
    }
    let server =
        TokenServer::start_with_certificate("localhost", &authority.issue("localhost", VALID));
    login(&by_device(&server), &ours).ok();
}
