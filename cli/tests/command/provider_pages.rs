//! The pages of `docs/providers/`: what they show is what `init` writes, and each profile that any page shows can be
//! read.
#![cfg(unix)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::home::{Home, done};
use crate::token_server::TokenServer;

const PROJECT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Returns the texts of all Markdown pages, by their paths.
fn pages() -> BTreeMap<PathBuf, String> {
    let mut pages = BTreeMap::new();
    for directory in ["", "docs", "docs/providers"] {
        for entry in fs::read_dir(Path::new(PROJECT).join(directory)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|it| it == "md") {
                pages.insert(path.clone(), fs::read_to_string(path).unwrap());
            }
        }
    }
    pages
}

/// Returns the blocks of code in this language.
fn blocks<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    let start = format!("```{language}\n");
    page.split(&start).skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

/// Returns the pages about one provider each, by its name.
fn of_providers() -> BTreeMap<String, String> {
    let of_one = |(path, text): (PathBuf, String)| {
        let directory = path.parent()?.file_name()?;
        let name = path.file_stem()?.to_str()?.to_owned();
        (directory == "providers").then_some((name, text))
    };
    pages().into_iter().filter_map(of_one).collect()
}

/// Returns the host of the URL that follows these words.
fn host_after<'a>(text: &'a str, words: &str) -> Option<&'a str> {
    text.split_once(words)?.1.split(['/', '"', ' ', '\n']).next()
}

#[test]
fn each_page_shows_what_init_writes() {
    let (server, certificate) = TokenServer::start_with_tls();
    let authority = server.url("").replace("https://", "");
    let all = of_providers();
    for (name, page) in &all {
        let home = Home::new();
        let command = blocks(page, "sh")[0].lines().next().unwrap();
        let shown = blocks(page, "toml")[0];
        // The test's server stands for the hosts of the example.
        let hosts =
            [host_after(shown, "issuer = \"https://"), host_after(shown, "resource = \"https://")];
        let (mut command, mut shown) = (command.to_owned(), shown.to_owned());
        for host in hosts.into_iter().flatten() {
            command = command.replace(host, &authority);
            shown = shown.replace(&format!("\"https://{host}"), &format!("\"{}", server.url("")));
        }
        if let Some(issuer) = shown.lines().find_map(|line| line.strip_prefix("issuer = ")) {
            let issuer = issuer.trim_matches('"');
            let path = issuer.strip_prefix(&server.url("")).unwrap().trim_end_matches('/');
            let place = format!("{path}/.well-known/openid-configuration");
            let endpoint = format!(r#"{{"registration_endpoint":"{}","#, server.url("/register"));
            let metadata = server.metadata(issuer).replacen('{', &endpoint, 1);
            server.publish(&place, 200, &metadata);
            server.publish("/register", 201, r#"{"client_id":"ID"}"#);
            let resource = format!(
                r#"{{"resource":"{}","authorization_servers":["{issuer}"]}}"#,
                server.url("/mcp")
            );
            server.publish("/.well-known/oauth-protected-resource/mcp", 200, &resource);
        }
        home.write("roots.pem", &certificate);
        let mut init = home.command();
        let words = command.strip_prefix("tokenkeep ").unwrap().split(' ');
        init.args(words).env("SSL_CERT_FILE", home.path("roots.pem")).env_remove("SSL_CERT_DIR");
        done(&mut init, "").ok();
        let written = fs::read_to_string(home.path("config/profiles/default.toml")).unwrap();
        let (_, table) = written.split_once("\n\n").unwrap();
        assert_eq!(table, shown, "docs/providers/{name}.md");
        // What comes next is said for each.
        assert!(page.lines().any(|line| line == "tokenkeep login"), "docs/providers/{name}.md");
    }
    let home = Home::new();
    let listed = home.run("init --provider").ok();
    let mut listed: Vec<_> = listed.lines().map(|line| line.split('\t').next().unwrap()).collect();
    listed.push("mcp");
    listed.sort_unstable();
    assert_eq!(listed, all.keys().collect::<Vec<_>>());
}

#[test]
fn each_profile_in_the_pages_can_be_read() {
    let home = Home::new();
    let mut written = 0;
    for (path, page) in pages() {
        for block in blocks(&page, "toml").into_iter().filter(|block| block.contains("[oauth2]")) {
            // Some pages show only the settings that they describe.
            let client =
                "[oauth2]\nclient_id = \"app\"\ntoken_url = \"https://issuer.example/token\"\n";
            let is_whole = block.contains("client_id = ");
            let block =
                if is_whole { block.to_owned() } else { block.replace("[oauth2]\n", client) };
            let store = if block.contains("store = ") { "" } else { "store = \"env:A\"\n" };
            home.write(&format!("config/profiles/{written}.toml"), format!("{store}{block}"));
            let listed: serde_json::Value =
                serde_json::from_str(&home.run("list --json").ok()).unwrap();
            assert!(listed[0]["error"].is_null(), "{}: {block}\n{listed}", path.display());
            fs::remove_file(home.path(format!("config/profiles/{written}.toml"))).unwrap();
            written += 1;
        }
    }
    assert!(written > 12, "{written} profiles were found");
}
