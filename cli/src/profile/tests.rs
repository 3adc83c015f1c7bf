use super::*;

fn parsed(text: &str) -> Profile {
    let parsed = Profile::parse("default", "/default.toml".into(), text.to_owned());
    parsed.unwrap_or_else(|failure| panic!("{text:?}: {}", failure.message()))
}

fn url(text: &str) -> StoreUrl {
    text.parse().unwrap()
}

#[test]
fn a_byte_order_mark_stays_first_when_a_move_is_recorded() {
    let profile = parsed("\u{feff}store = \"env:A\"\r\n");
    let moving = parsed(&profile.with_move(&url("env:B")));
    assert_eq!(moving.text, "\u{feff}moving_to = \"env:B\"\nstore = \"env:A\"\r\n");
    assert_eq!(moving.without_move(), profile.text);
}

#[test]
fn a_note_of_a_move_is_taken_out_however_it_is_written_and_nothing_else_is() {
    for (text, without) in [
        ("  moving_to = 'env:B'\nstore = 'env:A'\n", "  store = 'env:A'\n"),
        ("store = 'env:A'\n\"moving_to\" = 'env:B' # soon\n", "store = 'env:A'\n # soon\n"),
        ("store = 'env:A'\r\nmoving_to = 'env:B'\r\n", "store = 'env:A'\r\n"),
        ("store = 'env:A'\nmoving_to = 'env:B'", "store = 'env:A'\n"),
    ] {
        let profile = parsed(text);
        assert_eq!(profile.without_move(), without);
        assert!(parsed(without).moving_to.is_none());
        let moved = profile.with_store(&url("env:C"));
        assert_eq!(moved, without.replace("'env:A'", "\"env:C\""));
    }
    let text = "store = 'env:A'\n[oauth2]\ntoken_url = 'https://a'\nclient_id = \"\"\"\nmoving_to = \
                mine\"\"\"\n";
    assert_eq!(parsed(text).without_move(), text);
}

#[tokio::test]
async fn what_somebody_else_wrote_meanwhile_is_not_overwritten() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("default.toml");
    fs::write(&path, "store = 'env:A'\n").unwrap();
    let load =
        || Profile::parse("default", path.clone(), fs::read_to_string(&path).unwrap()).unwrap();
    let (mut one, mut other) = (load(), load());
    one.set_store(&url("env:B")).await.unwrap();
    let refused = other.set_store(&url("env:C")).await.unwrap_err();
    assert!(
        refused.is(Code::Conflict) && refused.message().contains("default.toml"),
        "{refused:?}"
    );
    assert_eq!(load().store, url("env:B"));
    // Two writers that want the same change do not conflict.
    other.set_store(&url("env:B")).await.unwrap();
    one.set_store(&url("env:D")).await.unwrap();
    assert_eq!(load().store, url("env:D"));
}

#[test]
fn a_port_counts_in_the_base_that_it_is_written_in() {
    let text = "store = 'env:A'\n[oauth2]\ntoken_url = 'https://a'\nclient_id = 'b'\nredirect_port = \
                0x1F_90\n";
    assert_eq!(parsed(text).provider.map(|provider| provider.redirect_port), Some(8080));
}
