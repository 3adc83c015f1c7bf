//! Values of options that are blank, as a script gives them whose variable is not set.

use std::any::TypeId;
use std::ffi::OsStr;
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, StringValueParser, TypedValueParser};
use clap::{Arg, Command};

/// Refuses a blank value of each option that takes a text or a path.
pub(super) fn refused(command: Command) -> Command {
    command.mut_args(of).mut_subcommands(refused)
}

fn of(argument: Arg) -> Arg {
    let takes = argument.get_value_parser().type_id();
    if takes == TypeId::of::<String>() {
        argument.value_parser(StringValueParser::new().try_map(written))
    } else if takes == TypeId::of::<PathBuf>() {
        // clap's parser of paths refuses an empty one itself, in other words.
        let path = |path| written(path).map(PathBuf::from);
        argument.value_parser(OsStringValueParser::new().try_map(path))
    } else {
        argument
    }
}

/// Fails for a blank value. The report of the error says so, and names the option.
pub(super) fn written<T: AsRef<OsStr>>(value: T) -> Result<T, &'static str> {
    let is_blank = value.as_ref().to_str().is_some_and(|text| text.trim().is_empty());
    if is_blank { Err("") } else { Ok(value) }
}
