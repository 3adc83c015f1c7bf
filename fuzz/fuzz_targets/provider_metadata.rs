//! Reads the metadata that a provider publishes, and makes a client of it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tokenkeep::oauth2::{OAuth2Client, ProviderMetadata};
use tokenkeep_fuzz::assert_hidden;

const ISSUER: &str = "https://issuer.example";

fuzz_target!(|data: &[u8]| {
    let metadata = match ProviderMetadata::from_json(ISSUER, data) {
        Ok(metadata) => metadata,
        Err(error) => return assert_hidden(&format!("{error} {error:?}"), data),
    };
    assert_eq!(metadata.issuer(), ISSUER);
    let others = [
        metadata.authorization_endpoint(),
        metadata.device_authorization_endpoint(),
        metadata.revocation_endpoint(),
    ];
    for url in others.into_iter().flatten().chain([metadata.token_endpoint()]) {
        assert!(url.starts_with("https://") && !url.contains('#'), "{url}");
    }
    let kept = metadata.to_json();
    let again = ProviderMetadata::from_json(ISSUER, kept.as_bytes()).expect("it was written");
    assert!(again == metadata, "the metadata changed");
    OAuth2Client::from_metadata(&metadata, "app").expect("its URLs were checked");
});
