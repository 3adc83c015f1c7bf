// A page links to another one by a name. The last lines of the page give the name a file, which is right where
// somebody reads the file: `[fleets]: fleets.md`. Here links.md comes before the page, and gives the same name a
// module. The first definition of a name counts. Doctests need no links, and name the first file as theirs.
#![cfg_attr(not(doctest), doc = include_str!("docs/links.md"))]
#![doc = include_str!("../docs/README.md")]

macro_rules! pages {
    ($($name:ident = $file:literal,)*) => {$(
        #[cfg_attr(not(doctest), doc = include_str!("docs/links.md"))]
        #[doc = include_str!($file)]
        pub mod $name {}
    )*};
}

pages! {
    architecture = "../docs/architecture.md",
    authentication = "../docs/authentication.md",
    command = "../docs/command.md",
    evidence = "../docs/evidence.md",
    fleets = "../docs/fleets.md",
    formats = "../docs/formats.md",
    from_axiomtrade_rs = "../docs/from-axiomtrade-rs.md",
    glossary = "../docs/glossary.md",
    guide = "../docs/guide.md",
    importing = "../docs/importing.md",
    providers = "../docs/providers.md",
    security = "../SECURITY.md",
    speed = "../docs/speed.md",
}

/// How to sign in at each of these providers, and what it does differently.
pub mod provider_pages {
    pages! {
        atlassian = "../docs/providers/atlassian.md",
        auth0 = "../docs/providers/auth0.md",
        github = "../docs/providers/github.md",
        gitlab = "../docs/providers/gitlab.md",
        google = "../docs/providers/google.md",
        keycloak = "../docs/providers/keycloak.md",
        mcp = "../docs/providers/mcp.md",
        microsoft = "../docs/providers/microsoft.md",
        okta = "../docs/providers/okta.md",
        salesforce = "../docs/providers/salesforce.md",
        slack = "../docs/providers/slack.md",
        spotify = "../docs/providers/spotify.md",
    }
}

macro_rules! examples {
    ($($name:literal = $file:literal,)*) => {
        /// # Examples
        ///
        /// Programs in the folder `examples`. The comment at the top of each says how to run it.
        $(
            #[doc = concat!("## ", $name, "\n\n```rust,ignore")]
            #[doc = include_str!($file)]
            #[doc = "```"]
        )*
        #[cfg(not(doctest))]
        pub mod examples {}
    };
}

examples! {
    "axiom" = "../examples/axiom/main.rs",
    "custom_store" = "../examples/custom_store.rs",
    "fleet" = "../examples/fleet.rs",
    "headless" = "../examples/headless.rs",
}
