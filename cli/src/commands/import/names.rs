//! The names of the profiles that an import of several accounts makes.

use sha2::{Digest, Sha256};
use tokenkeep::import::{Account, Source};

use crate::context::Context;

/// Returns the name of the profile of each account, if there are several. No two have the same, and an account has the
/// same one each time.
pub(super) fn profile_names(
    context: &Context,
    source: &Source,
    chosen: &[&Account],
) -> Vec<Option<String>> {
    if chosen.len() == 1 {
        return vec![None];
    }
    let base = context.selection.profile.clone();
    let base = base.unwrap_or_else(|| source.format.name().into());
    let plain: Vec<_> =
        chosen.iter().map(|account| profile_name(&base, &account.name, "")).collect();
    let is_unique = |name: &Result<String, String>| {
        name.is_ok() && plain.iter().filter(|other| *other == name).count() == 1
    };
    let names = chosen.iter().zip(&plain).map(|(account, name)| match name {
        Ok(unique) if is_unique(name) => unique.clone(),
        _ => {
            // What is left out of the name tells these accounts apart.
            let digest = Sha256::digest(&account.name);
            let digest =
                format!("-{:02x}{:02x}{:02x}{:02x}", digest[0], digest[1], digest[2], digest[3]);
            profile_name(&base, &account.name, &digest).unwrap_or_else(|cut| cut)
        }
    });
    names.map(Some).collect()
}

/// The most characters of the name of a profile.
const LONGEST_NAME: usize = 64;

/// Returns the name of a profile for an account. The error is a name in which something of the account is missing.
fn profile_name(base: &str, account: &str, end: &str) -> Result<String, String> {
    let (mut name, mut is_whole) = (format!("{base}-"), true);
    for character in account.chars().flat_map(char::to_lowercase) {
        let fits = character.is_ascii_lowercase() || character.is_ascii_digit();
        is_whole &= character.is_ascii();
        if fits {
            name.push(character);
        } else if !name.ends_with('-') {
            name.push('-');
        }
    }
    is_whole &= name.len() + end.len() <= LONGEST_NAME;
    name.truncate(LONGEST_NAME - end.len());
    let name = format!("{}{end}", name.trim_end_matches('-'));
    if is_whole { Ok(name) } else { Err(name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_profile_is_made_of_the_account() {
        for (account, expected) in [
            ("me@example.com", Ok("msal-me-example-com".to_owned())),
            ("Me (https://graph/.default)", Ok("msal-me-https-graph-default".to_owned())),
            ("ü", Err("msal".to_owned())),
        ] {
            assert_eq!(profile_name("msal", account, ""), expected);
        }
        let long = profile_name("msal", &"x".repeat(100), "-12345678").unwrap_err();
        assert!(long.len() == 64 && long.ends_with("-12345678"), "{long}");
    }
}
