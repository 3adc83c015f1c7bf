//! Scenes for every command that changes files, in the states that it can find.

use crate::scenes::{NEW, OLD, Scene};

const PLAIN: &str = "plaintext:@/from/tokens.json";
const SEALED: &str = "age:@/from/tokens.age?identity=@/keys/key.txt";
const KEYCHAIN: &str = "keychain:axiomtrade/alice";

/// Sets a scene up. The test that plays it calls this, because some take a while.
pub(crate) type Stage = fn() -> Scene;

/// Each command once or twice, with files.
pub(crate) const ON_FILES: [Stage; 13] = [
    || {
        let scene = Scene::new("set, first", &[("init", "")]);
        scene.run("set", NEW).profile("default").holds(old_or_new_or_none, &["new"])
    },
    || {
        let scene = Scene::new("set, first, in new directories", &[]);
        let url = "plaintext:@/in/here/tokens.json";
        let scene = scene.run(&format!("--store {url} set"), NEW).store(url);
        scene.holds(old_or_new_or_none, &["new"])
    },
    replacing,
    || {
        let scene = Scene::new("clear", &[("init", ""), ("set", OLD)]);
        scene.run("clear", "").profile("default").holds(old_or_new_or_none, &["none"])
    },
    || {
        let scene = Scene::with_provider("refresh", &[("init", ""), ("set", OLD)]);
        scene.run("refresh", "").profile("default").holds(old_or_new, &["new"])
    },
    || migrate("migrate, plaintext to age", PLAIN, "age:@/to/tokens.age?identity=@/keys/key.txt"),
    || {
        let scene = Scene::new(
            "migrate --all",
            &[
                ("keygen -o @/keys/key.txt", ""),
                ("init --profile a --store plaintext:@/from/a.json", ""),
                ("--profile a set", OLD),
                ("init --profile b --store plaintext:@/from/b.json", ""),
                ("--profile b set", OLD),
            ],
        );
        let to = "age:@/to/{profile}.age?identity=@/keys/key.txt";
        let scene = scene.run(&format!("migrate --all --to {to}"), "");
        let scene = scene.store("plaintext:@/from/a.json").store(&to.replace("{profile}", "a"));
        let scene = scene.store("plaintext:@/from/b.json").store(&to.replace("{profile}", "b"));
        let done = &["none", "old", "none", "old", "old", "old"];
        let holds = |found: &[&str]| one_has_them(&found[..2]) && one_has_them(&found[2..4]);
        scene.profile("a").profile("b").holds(holds, done)
    },
    || {
        let scene = backup("backup", &[("set", OLD)]);
        let holds =
            |found: &[&str]| found[0] == "old" && ["none", "copy of old"].contains(&found[1]);
        scene.run(&format!("backup --to {COPY}"), "").holds(holds, &["old", "copy of old"])
    },
    || {
        let first = format!("backup --to {COPY}");
        let scene = backup("restore", &[("set", OLD), (&first, ""), ("clear", "")]);
        let holds = |found: &[&str]| old_or_new_or_none(&found[..1]) && found[1] == "copy of old";
        scene.run(&format!("restore --from {COPY}"), "").holds(holds, &["old", "copy of old"])
    },
    || {
        let first = format!("backup --to {COPY}");
        let scene = backup("restore, replacing", &[("set", OLD), (&first, ""), ("set", NEW)]);
        let holds = |found: &[&str]| old_or_new(&found[..1]) && found[1] == "copy of old";
        let line = format!("restore --overwrite --from {COPY}");
        scene.run(&line, "").holds(holds, &["old", "copy of old"])
    },
    || rekey("rekey", "", "rekey --identity @/other/key.txt"),
    || {
        let scene = Scene::new("keygen", &[]).run("keygen -o @/keys/key.txt", "");
        let holds = |found: &[&str]| ["none", "key"].contains(&found[0]);
        scene.key("@/keys/key.txt").holds(holds, &["key"]).done_already(1)
    },
    || {
        let scene = Scene::new("init", &[]).run("init", "").profile("default");
        let holds = |found: &[&str]| ["no profile", "none"].contains(&found[0]);
        scene.holds(holds, &["none"]).done_already(7)
    },
];

/// The same commands with other files. They make mostly the same calls.
pub(crate) const ON_OTHER_FILES: [Stage; 12] = [
    || {
        let scene = Scene::new("clear, of what was killed", &[("init", ""), ("set", OLD)]);
        let scene = scene.left("state/tokenkeep/default.age.0123456789abcdef.tmp");
        let scene = scene.left("state/tokenkeep/default.age.0123456789abcdef.next");
        // Names that earlier versions used.
        let scene = scene.left("state/tokenkeep/default.age.tmp");
        let scene = scene.left("state/tokenkeep/default.age.intent.tmp");
        scene.run("clear", "").profile("default").holds(old_or_new_or_none, &["none"])
    },
    || {
        let init = format!("init --store {PLAIN}");
        let scene = Scene::with_provider("refresh of plaintext", &[(&init, ""), ("set", OLD)]);
        scene.run("refresh", "").profile("default").holds(old_or_new, &["new"])
    },
    getting,
    || migrate("migrate, age to plaintext", SEALED, "plaintext:@/to/tokens.json"),
    || {
        let to = "age:@/to/tokens.age?identity=@/other/key.txt";
        migrate("migrate, age to another key", SEALED, to)
    },
    || migrate("migrate, plaintext to plaintext", PLAIN, "plaintext:@/to/tokens.json"),
    || {
        // Files of an interrupted save contain tokens in plaintext.
        let to = "age:@/to/tokens.age?identity=@/keys/key.txt";
        let scene = migrate("migrate, of what was killed", PLAIN, to);
        let scene = scene.left("from/tokens.json.0123456789abcdef.next");
        scene.left("from/tokens.json.0123456789abcdef.tmp").left("from/tokens.json.tmp")
    },
    || {
        let to = "plaintext:@/to/tokens.json";
        let set = format!("--store {PLAIN} set");
        let scene = Scene::new("migrate, without a profile", &[(&set, OLD)]);
        let scene = scene.run(&format!("migrate --from {PLAIN} --to {to}"), "");
        scene.store(PLAIN).store(to).holds(one_has_them, &["none", "old"])
    },
    || {
        let first = format!("backup --to {COPY}");
        let scene = backup("backup, replacing", &[("set", OLD), (&first, ""), ("set", NEW)]);
        let holds = |found: &[&str]| found[0] == "new" && found[1].starts_with("copy of ");
        scene.run(&first, "").holds(holds, &["new", "copy of new"])
    },
    || {
        let scene = backup("backup to a recipient", &[("set", OLD)]);
        let holds =
            |found: &[&str]| found[0] == "old" && ["none", "copy of old"].contains(&found[1]);
        let line = "backup --to @/copy/tokens.age --recipient RECIPIENT";
        scene.run(line, "").holds(holds, &["old", "copy of old"]).done_already(7)
    },
    || {
        let line = "rekey --identity @/other/key.txt --remove-recipient RECIPIENT";
        rekey("rekey, removing a recipient", "&recipient=RECIPIENT", line)
    },
    || {
        let url = "age:@/to/tokens.age?identity=@/keys/key.txt";
        let new = "age:@/to/tokens.age?identity=@/other/key.txt";
        let set = format!("--store {url} set");
        let keys = [("keygen -o @/keys/key.txt", ""), ("keygen -o @/other/key.txt", "")];
        let scene = Scene::new("rekey, without a profile", &[&keys[..], &[(&set, OLD)]].concat());
        let scene = scene.run(&format!("--store {url} rekey --identity @/other/key.txt"), "");
        let holds = |found: &[&str]| found.contains(&"old");
        scene.store(url).store(new).holds(holds, &["sealed to others", "old"])
    },
];

/// Scenes with a keychain.
pub(crate) const ON_A_KEYCHAIN: [Stage; 4] = [
    || {
        let scene = Scene::with_keychain("set, first, in a keychain", &[]);
        let scene = scene.run(&format!("--store {KEYCHAIN} set"), NEW).store(KEYCHAIN).item();
        // A file is never sealed to a key that no keychain holds.
        let holds = |found: &[&str]| found[0] == "none" || found == ["new", "item"];
        scene.holds(holds, &["new", "item"])
    },
    || {
        let set = format!("--store {KEYCHAIN} set");
        let scene = Scene::with_keychain("clear, of a keychain", &[(&set, OLD)]);
        let scene = scene.run(&format!("--store {KEYCHAIN} clear"), "").store(KEYCHAIN).item();
        let holds = |found: &[&str]| found[0] == "none" || found == ["old", "item"];
        scene.holds(holds, &["none", "no item"])
    },
    || {
        let set = format!("--store {KEYCHAIN} set");
        let steps = [("keygen -o @/keys/key.txt", ""), (&set, OLD)];
        let scene = Scene::with_keychain("migrate, keychain to age", &steps);
        let to = "age:@/to/tokens.age?identity=@/keys/key.txt";
        let scene = scene.run(&format!("migrate --from {KEYCHAIN} --to {to}"), "");
        let scene = scene.store(KEYCHAIN).store(to).item();
        scene.holds(|found| one_has_them(&found[..2]), &["none", "old", "no item"])
    },
    || {
        let set = format!("--store {SEALED} set");
        let steps = [("keygen -o @/keys/key.txt", ""), (&set, OLD)];
        let scene = Scene::with_keychain("migrate, age to keychain", &steps);
        let scene = scene.run(&format!("migrate --from {SEALED} --to {KEYCHAIN}"), "");
        let scene = scene.store(SEALED).store(KEYCHAIN).item();
        scene.holds(|found| one_has_them(&found[..2]), &["none", "old", "item"])
    },
];

const COPY: &str = "age:@/copy/tokens.age?identity=@/other/key.txt";

/// Replaces the tokens of a profile.
pub(crate) fn replacing() -> Scene {
    let scene = Scene::new("set, replacing", &[("init", ""), ("set", OLD)]);
    scene.run("set", NEW).profile("default").holds(old_or_new, &["new"])
}

/// Gets a token, when the saved one has expired.
pub(crate) fn getting() -> Scene {
    let scene = Scene::with_provider("get, refreshing", &[("init", ""), ("set", OLD)]);
    scene.run("get", "").profile("default").holds(old_or_new, &["new"])
}

/// Moves the tokens of a profile.
fn migrate(name: &'static str, from: &str, to: &str) -> Scene {
    let init = format!("init --store {from}");
    let keys = [("keygen -o @/keys/key.txt", ""), ("keygen -o @/other/key.txt", "")];
    let scene = Scene::new(name, &[&keys[..], &[(&init, ""), ("set", OLD)]].concat());
    let scene = scene.run(&format!("migrate --to {to}"), "").store(from).store(to);
    let holds = |found: &[&str]| one_has_them(&found[..2]) && old_or_new_or_none(&found[2..]);
    // Once the profile names the target, the command fails: source and target are the same slot.
    scene.profile("default").holds(holds, &["none", "old", "old"]).done_already(2)
}

/// Prepares a profile, and the key of its backup at `COPY`.
fn backup(name: &'static str, steps: &[(&str, &str)]) -> Scene {
    let made = [("init", ""), ("keygen -o @/other/key.txt", "")];
    Scene::new(name, &[&made[..], steps].concat()).profile("default").store(COPY)
}

fn rekey(name: &'static str, recipients: &str, line: &str) -> Scene {
    let old = "age:@/to/tokens.age?identity=@/keys/key.txt";
    let init = format!("init --store {old}{recipients}");
    let keys = [("keygen -o @/keys/key.txt", ""), ("keygen -o @/other/key.txt", "")];
    let scene = Scene::new(name, &[&keys[..], &[(&init, ""), ("set", OLD)]].concat());
    // The key that the profile names always opens the record. In the end, no other key does.
    let holds =
        |found: &[&str]| found[0] == "old" && ["old", "sealed to others"].contains(&found[1]);
    scene.run(line, "").profile("default").store(old).holds(holds, &["old", "sealed to others"])
}

fn old_or_new(found: &[&str]) -> bool {
    ["old", "new"].contains(&found[0])
}

fn old_or_new_or_none(found: &[&str]) -> bool {
    found[0] == "none" || old_or_new(found)
}

/// At least one store has the old tokens, and none has other tokens.
fn one_has_them(found: &[&str]) -> bool {
    found.contains(&"old") && found.iter().all(|side| ["none", "old"].contains(side))
}
