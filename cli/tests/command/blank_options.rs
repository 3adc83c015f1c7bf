//! Options with a blank value, as a script gives them whose variable is not set.

use crate::home::{Home, done};

const COMMANDS: [&str; 17] = [
    "backup",
    "clear",
    "doctor",
    "exec",
    "get",
    "init",
    "keygen",
    "list",
    "login",
    "man",
    "migrate",
    "profile remove",
    "refresh",
    "rekey",
    "restore",
    "set",
    "status",
];

/// Returns the options of a command that take a value, as its help shows them.
fn options(home: &Home, command: &str) -> Vec<String> {
    let help = home.run(&format!("{command} -h")).ok();
    let options = help.lines().filter_map(|line| {
        let (_, option) = line.split_once("--").filter(|(before, _)| before.trim().len() <= 3)?;
        let end = option.find('>')?;
        let closed = option[end + 1..].starts_with(']');
        Some(format!("--{}", &option[..=end + usize::from(closed)]))
    });
    options.filter(|option| option.contains(" <") || option.contains(" [<")).collect()
}

#[test]
fn each_option_with_a_blank_value_is_named_and_nothing_is_written() {
    let home = Home::new();
    let mut of_init = Vec::new();
    for command in COMMANDS {
        let options = options(&home, command);
        for option in &options {
            let (name, _) = option.split_once(' ').unwrap();
            for blank in ["", " ", "\t\n"] {
                let mut line = home.command();
                line.args(command.split(' ')).args([name, blank]);
                let failed = done(&mut line, "");
                let says = format!(
                    "tokenkeep: `{option}` is blank; give it a value, or leave it out; see `tokenkeep COMMAND --help`\n"
                );
                assert_eq!((failed.code, &*failed.err), (2, &*says), "{command}");
            }
        }
        if command == "init" {
            of_init = options;
        }
    }
    // The help was read as it is meant.
    for known in ["--client-id <ID>", "--issuer <URL>", "--provider [<NAME>]", "--scope <SCOPE>"] {
        assert!(of_init.iter().any(|option| option == known), "{known}: {of_init:?}");
    }
    assert!(of_init.len() >= 10, "{of_init:?}");
    assert!(!home.path("config").exists() && !home.path("state").exists());
}
