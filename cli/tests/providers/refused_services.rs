//! Clients that act without a person, and that the provider refuses.

use crate::home::done;
use crate::visits::{at_each, command, home_with, run};

#[test]
fn a_service_whose_secret_is_refused_is_not_told_to_sign_in() {
    at_each(
        "refused_services::a_service_whose_secret_is_refused_is_not_told_to_sign_in",
        |provider| {
            let home = home_with(&format!(
                "[oauth2]\ngrant_type = \"client_credentials\"\nclient_id = \"service-basic\"\ntoken_url = \"{}\"\n\
             client_secret_env = \"APP_SECRET\"\n",
                provider.token_url()
            ));
            run(&home, "get").line();
            let refused = done(command(&home, "refresh").env("APP_SECRET", "wrong"), "");
            assert_eq!(refused.code, 1, "{provider:?}: {refused:?}");
            assert!(refused.err.contains("invalid_client"), "{provider:?}: {refused:?}");
            assert!(!refused.err.contains("sign in"), "{provider:?}: {refused:?}");
        },
    );
}
