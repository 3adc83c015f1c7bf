//! Tokens that are larger than a record may be.

use std::collections::BTreeSet;

use super::{MAX_RECORD, codec};
use crate::tokens::AuthTokens;

/// Returns the tokens without the longest of their other fields, if a record has no room for all of them. When
/// they come from a refresh, nothing else has the new tokens, and none may be lost because of another field.
pub(crate) fn fitted(mut tokens: AuthTokens) -> AuthTokens {
    let whole = codec::length(&tokens);
    if whole <= MAX_RECORD {
        return tokens;
    }
    let mut fields: Vec<(usize, String)> = tokens
        .typed_extras()
        .map(|(name, value, is_json)| {
            (codec::length_of_extra(name, value, is_json), name.to_owned())
        })
        .collect();
    fields.sort_unstable();
    let all: usize = fields.iter().map(|(length, _)| length).sum();
    let mut room = (MAX_RECORD + all).saturating_sub(whole);
    let kept: BTreeSet<String> = fields
        .into_iter()
        .map_while(|(length, name)| {
            room = room.checked_sub(length)?;
            Some(name)
        })
        .collect();
    tokens.retain_extras(|name| kept.contains(name));
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_fields_are_kept_whatever_their_length_as_json_is() {
        let tokens = || AuthTokens::new("a".repeat(20_000)).with_refresh_token("r");
        let quotes = "\"".repeat(39_000);
        let many = (0..6000).fold(tokens(), |tokens, index| {
            tokens.with_json_extra(format!("k{index}"), "1".into())
        });
        for (tokens, some) in [
            (
                tokens()
                    .with_extra("large", quotes.as_str().into())
                    .with_extra("scope", "s".into()),
                true,
            ),
            (tokens().with_extra("control", "\u{1}".repeat(12_000).into()), false),
            (many, true),
        ] {
            assert!(tokens.to_record("here").is_err());
            let fitted = fitted(tokens.clone());
            assert_eq!(fitted.access_token, tokens.access_token);
            assert_eq!(fitted.refresh_token, tokens.refresh_token);
            assert_eq!(fitted.extras().next().is_some(), some);
            fitted.to_record("here").unwrap();
        }
        // As many as there is room for.
        let full = (0..8000)
            .fold(tokens(), |tokens, index| tokens.with_extra(format!("k{index}"), "1".into()));
        assert!(codec::length(&fitted(full)) > MAX_RECORD - 30);
        let small = tokens().with_extra("scope", "s".into());
        assert_eq!(fitted(small.clone()), small);
    }
}
