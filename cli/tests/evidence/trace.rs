//! The system calls of a command that touch its files: listing them, and meddling with one of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::scenes::{Done, Scene};
use crate::support::{available, can_trace};

/// What makes the names of temporary files the same in every run.
const SAME_NAMES: &str = "same_names.so";

/// A system call that concerns a file of a scene.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Call {
    pub(crate) name: String,
    /// The files and directories of the scene that it names or has open.
    pub(crate) paths: Vec<String>,
    /// As it was made, without what came of it.
    pub(crate) text: String,
    /// Which one it is of its thread's calls of that name that concern its first path.
    nth: usize,
    /// What came of it.
    result: String,
}

/// What is done to a call.
pub(crate) enum Meddling<'a> {
    /// The process is killed instead.
    Kill,
    /// It is not made, and returns this error.
    Fail(&'a str),
}

impl Call {
    /// The file that it is about: for what is opened by its name, that name.
    pub(crate) fn about(&self) -> String {
        let directory = &self.paths[0];
        match self.text.split('"').nth(1) {
            Some(name) if !name.is_empty() && !name.starts_with('/') => {
                format!("{directory}/{name}")
            }
            _ => directory.clone(),
        }
    }

    fn is_the_same_as(&self, other: &Self) -> bool {
        let locks = self.is_unlock() == other.is_unlock();
        let same = (&self.name, &self.paths) == (&other.name, &other.paths);
        same && locks && self.about() == other.about()
    }

    /// Whether a lock is given up, as it is by any end of the process.
    pub(crate) fn is_unlock(&self) -> bool {
        self.name == "flock" && self.text.contains("LOCK_UN")
    }
}

/// Whether calls can be listed and meddled with here.
pub(crate) fn can_meddle(test: &str) -> bool {
    can_trace(test) && available(test, "cc")
}

/// Runs the command of a scene once, and lists its calls.
pub(crate) fn calls(scene: &Scene) -> Vec<Call> {
    // strace selects calls by the whole path of a file. One with a random name in it would be another file in
    // each run.
    let made = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(scene.aside(SAME_NAMES))
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/evidence/trace/same_names.c"))
        .status();
    assert!(made.unwrap().success());
    scene.fresh();
    let done = scene.play_in(strace(scene, &["-e", "trace=%file,%desc"]));
    assert_eq!(done.code, Some(0), "{}: {done:?}", scene.name);
    let found = scene.look();
    assert!(scene.is_done(&found), "{}: {found:?}", scene.name);
    let calls = read_log(scene);
    assert!(calls.len() > 10, "{}: {calls:?}", scene.name);
    calls
}

/// Sets the scene up, and runs its command with that one call meddled with.
///
/// # Panics
///
/// If it was another call, or none: then a point would be taken for tried that was not.
pub(crate) fn meddle(scene: &Scene, call: &Call, meddling: &Meddling) -> Done {
    scene.fresh();
    let (name, nth) = (&call.name, call.nth);
    let what = match meddling {
        Meddling::Kill => "signal=SIGKILL".to_owned(),
        Meddling::Fail(error) => format!("error={error}"),
    };
    let (trace, inject) = (format!("trace={name}"), format!("inject={name}:{what}:when={nth}"));
    let mut arguments = vec!["-P", &call.paths[0], "-e", &trace, "-e", &inject];
    if let Meddling::Fail(_) = meddling {
        // Other calls do not even stop then, which is faster; a signal would come too late.
        arguments.push("--seccomp-bpf");
    }
    let done = scene.play_in(strace(scene, &arguments));
    let log = read_log(scene);
    let hit = match meddling {
        Meddling::Kill => {
            assert_eq!(done.code, None, "{}: not killed at {call:?}: {done:?}", scene.name);
            log.last()
        }
        Meddling::Fail(_) => {
            // Each thread is counted by itself, so another one's may be hit later on.
            log.iter().find(|call| call.result.ends_with("(INJECTED)"))
        }
    };
    let hit_it = hit.is_some_and(|hit| hit.is_the_same_as(call));
    assert!(hit_it, "{}: {call:?} was meant, and not {hit:?}", scene.name);
    done
}

/// Sets the scene up, and kills its command at a message that it sends. Returns whether it lived long
/// enough to send it.
pub(crate) fn kill_at_message(scene: &Scene, nth: usize) -> bool {
    scene.fresh();
    let inject = format!("inject=sendmsg:signal=SIGKILL:when={nth}");
    let done = scene.play_in(strace(scene, &["-e", "trace=sendmsg", "-e", &inject]));
    match done.code {
        None => true,
        Some(0) => false,
        Some(_) => panic!("{}, killed at message {nth}: {done:?}", scene.name),
    }
}

fn strace(scene: &Scene, arguments: &[&str]) -> Command {
    let mut strace = scene.program("strace");
    strace.args(["-f", "-y", "-s", "0", "--quiet=attach,personality,path-resolution", "-o"]);
    strace.arg(scene.aside("log")).args(arguments);
    strace.arg("-E").arg(format!("LD_PRELOAD={}", scene.aside(SAME_NAMES).display()));
    strace.arg(env!("CARGO_BIN_EXE_tokenkeep")).args(scene.arguments());
    strace
}

/// Reads what strace wrote: those calls that concern files of the scene.
fn read_log(scene: &Scene) -> Vec<Call> {
    let log = fs::read_to_string(scene.aside("log")).unwrap();
    let root = scene.root();
    let mut counted: BTreeMap<(String, String, String), usize> = BTreeMap::new();
    let mut calls = Vec::new();
    for line in log.lines() {
        let (thread, line) = line.split_once(' ').unwrap();
        let Some((name, rest)) = line.trim_start().split_once('(') else { continue };
        if name.starts_with(['<', '+', '-']) {
            continue;
        }
        let (text, result) = rest.rsplit_once(") = ").unwrap_or((rest, ""));
        let paths = paths_in(text);
        // Of each of them, because any may be the one that counts.
        for path in &paths {
            let key = (thread.to_owned(), name.to_owned(), path.clone());
            *counted.entry(key).or_default() += 1;
        }
        let paths: Vec<String> =
            paths.into_iter().filter(|path| Path::new(path).starts_with(&root)).collect();
        let Some(first) = paths.first() else { continue };
        let nth = counted[&(thread.to_owned(), name.to_owned(), first.clone())];
        calls.push(Call {
            name: name.to_owned(),
            text: text.to_owned(),
            nth,
            result: result.to_owned(),
            paths,
        });
    }
    calls
}

/// The paths in the arguments of a call: `6</open/file>` and `"/named"`, each once.
fn paths_in(arguments: &str) -> Vec<String> {
    let mut paths = Vec::new();
    let mut add = |path: &str| {
        if path.starts_with('/') && !paths.iter().any(|known| known == path) {
            paths.push(path.to_owned());
        }
    };
    for (index, part) in arguments.split('"').enumerate() {
        if index % 2 == 1 {
            add(part);
            continue;
        }
        for open in part.split('<').skip(1) {
            add(open.split('>').next().unwrap());
        }
    }
    paths
}
