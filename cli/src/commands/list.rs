//! list: lists all profiles.

use std::io::{self, IsTerminal};

use serde_json::json;

use crate::context::Context;
use crate::describe::for_shell;
use crate::failure::{DONE, Failure, Outcome};
use crate::profile::Profile;

pub(super) fn list(context: &Context, json: bool) -> Outcome {
    if context.selection.is_given() {
        return Err(Failure::usage("this lists all profiles; `tokenkeep status` is about one"));
    }
    let profiles = Profile::all()?;
    if json {
        let rows = profiles.iter().map(|(name, profile)| match profile {
            Ok(profile) => {
                json!({ "profile": name, "store": profile.store.to_text(), "error": null })
            }
            Err(failure) => json!({ "profile": name, "store": null, "error": failure.message() }),
        });
        context.terminal.print_json(&json!(rows.collect::<Vec<_>>()))?;
        return DONE;
    }
    if profiles.is_empty() {
        context.terminal.say("there are no profiles; `tokenkeep init` makes one");
    }
    // People get a table. Scripts get tabs between the columns.
    let is_table = io::stdout().is_terminal();
    let width = profiles.iter().map(|(name, _)| name.len()).max().filter(|_| is_table);
    let (width, gap) = width.map_or((0, "\t"), |width| (width, "  "));
    for (name, profile) in &profiles {
        let store = match profile {
            Ok(profile) if is_table => for_shell(profile.store.to_text()),
            Ok(profile) => profile.store.to_text(),
            Err(failure) => failure.message().to_owned(),
        };
        context.terminal.print(&format!("{name:width$}{gap}{store}"))?;
    }
    DONE
}
