//! Parameters beyond the standard ones: for the sign-in, for a resource, for a narrower scope.

use serde_json::json;

use crate::real_provider::RealProvider;
use crate::records::{claims, recorded};
use crate::visits::{home_with, login, oidc_provider, run, tokens};

const RESOURCE: &str = "https://api.example/";

fn table(provider: &RealProvider, scopes: &str, more: &str) -> String {
    format!(
        "[oauth2]\nclient_id = \"public\"\ntoken_url = \"{}\"\nauthorization_url = \"{}\"\n\
         device_authorization_url = \"{}\"\nscopes = {scopes}\n{more}",
        provider.token_url(),
        provider.url("/auth"),
        provider.device_authorization_url(),
    )
}

#[test]
fn parameters_of_a_sign_in_reach_the_provider() {
    let test = "parameters::parameters_of_a_sign_in_reach_the_provider";
    let Some(provider) = oidc_provider(test) else { return };
    let scopes = r#"["openid", "offline_access"]"#;
    let hint = "login_hint = \"somebody@else & others\"\n";
    for (how, more) in [
        ("--browser", format!("[oauth2.authorize_parameters]\nprompt = \"consent\"\n{hint}")),
        ("--device", format!("[oauth2.device_parameters]\n{hint}")),
    ] {
        let home = home_with(&table(&provider, scopes, &more));
        login(&provider, &home, how).ok();
        let id = recorded(&home, "/extra/id_token");
        assert_eq!(claims(id.as_str().unwrap())["sub"], "somebody@else & others", "{how}");
        run(&home, "refresh").ok();
    }
}

#[test]
fn a_resource_is_named_at_each_refresh_too() {
    let Some(provider) = oidc_provider("parameters::a_resource_is_named_at_each_refresh_too")
    else {
        return;
    };
    // Without the resource, this server answers a refresh with a token for something else.
    let settings = format!("resource = \"{RESOURCE}\"\n");
    let consent = "[oauth2.authorize_parameters]\nprompt = \"consent\"\n";
    let scopes = r#"["openid", "offline_access", "read"]"#;
    for how in ["--browser", "--device"] {
        let home = home_with(&table(&provider, scopes, &format!("{settings}{consent}")));
        login(&provider, &home, how).ok();
        for _ in 0..3 {
            assert_eq!(claims(&tokens(&home).0)["aud"], RESOURCE, "{how}");
            run(&home, "refresh").ok();
        }
        assert_eq!(claims(&tokens(&home).0)["aud"], RESOURCE, "{how}");
    }
}

#[test]
fn a_refresh_asks_for_the_scopes_that_are_set_for_it() {
    let test = "parameters::a_refresh_asks_for_the_scopes_that_are_set_for_it";
    let Some(provider) = oidc_provider(test) else { return };
    let consent = "[oauth2.authorize_parameters]\nprompt = \"consent\"\n";
    let scopes = r#"["openid", "offline_access", "read"]"#;
    for (more, after) in [("", None), ("refresh_scopes = [\"openid\"]\n", Some("openid"))] {
        let home = home_with(&table(&provider, scopes, &format!("{more}{consent}")));
        login(&provider, &home, "--browser").ok();
        let granted = recorded(&home, "/extra/scope");
        run(&home, "refresh").ok();
        assert_eq!(recorded(&home, "/extra/scope"), after.map_or(granted, |after| json!(after)));
    }
}
