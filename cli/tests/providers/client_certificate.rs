//! Clients that prove who they are by a certificate (RFC 8705).

use crate::home::{Home, done};
use crate::real_provider::{Make, RealProvider};
use crate::visits::{command, home_with};

fn service(provider: &RealProvider, more: &str) -> Home {
    home_with(&format!(
        "[oauth2]\ngrant_type = \"client_credentials\"\nclient_id = \"mtls\"\ntoken_url = \"{}\"\n{more}",
        provider.token_url()
    ))
}

#[test]
fn a_service_with_a_certificate_gets_tokens() {
    let test = "client_certificate::a_service_with_a_certificate_gets_tokens";
    if !Make::OidcProvider.is_here(test) {
        return;
    }
    let provider = RealProvider::start_with_tls();
    let run = |home: &Home, line: &str| {
        let mut command = command(home, line);
        command.env("SSL_CERT_FILE", provider.certificate("ca.pem")).env_remove("SSL_CERT_DIR");
        done(&mut command, "")
    };
    let of = |name: &str| {
        format!(
            "client_certificate = \"{}\"\nclient_certificate_key = \"{}\"\n",
            provider.certificate(&format!("{name}.pem")).display(),
            provider.certificate(&format!("{name}-key.pem")).display()
        )
    };
    let home = service(&provider, &of("client"));
    run(&home, "get").line();
    // Neither no certificate nor that of somebody else is accepted.
    for more in [String::new(), of("server")] {
        let refused = run(&service(&provider, &more), "get");
        assert_eq!(refused.code, 1, "{refused:?}");
        assert!(refused.err.contains("invalid_client"), "{refused:?}");
    }
}
