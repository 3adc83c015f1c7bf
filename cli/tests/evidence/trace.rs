//! Lists the system calls of a command that touch its files, and kills or fails one of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::scenes::{Done, Scene};
use crate::support::{available, can_trace};

/// A library that gives temporary files the same names in every run.
const SAME_NAMES: &str = "same_names.so";

/// A system call that concerns a file of a scene.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Call {
    pub(crate) name: String,
    /// The files and directories of the scene that are its arguments, by name or as descriptors.
    pub(crate) paths: Vec<String>,
    /// Its arguments, without the result.
    pub(crate) text: String,
    /// What selects it in strace: its name relative to a directory, or else its first path.
    selector: String,
    /// Its number among the calls of this name and selector in the same thread.
    nth: usize,
    /// The result.
    result: String,
}

/// What happens to a call.
pub(crate) enum Meddling<'a> {
    /// The process is killed at the call.
    Kill,
    /// The call is not made, and returns this error.
    Fail(&'a str),
}

impl Call {
    /// Returns the file that the call is about. If it has a name relative to a directory, that is part of it.
    pub(crate) fn about(&self) -> String {
        match relative_name(&self.text) {
            Some(name) => format!("{}/{name}", self.paths[0]),
            None => self.paths[0].clone(),
        }
    }

    /// Reports whether the call opens a directory only to go on from it.
    pub(crate) fn is_a_step(&self) -> bool {
        self.name == "openat" && self.text.contains("O_PATH")
    }

    fn is_the_same_as(&self, other: &Self) -> bool {
        let locks = self.is_unlock() == other.is_unlock();
        let same = (&self.name, &self.paths) == (&other.name, &other.paths);
        same && locks && self.about() == other.about()
    }

    /// Reports whether the call releases a lock. The end of the process releases it too.
    pub(crate) fn is_unlock(&self) -> bool {
        self.name == "flock" && self.text.contains("LOCK_UN")
    }
}

/// Reports whether calls can be listed and changed here.
pub(crate) fn can_meddle(test: &str) -> bool {
    can_trace(test) && available(test, "cc")
}

/// Runs the command of a scene once, and lists its calls.
pub(crate) fn calls(scene: &Scene) -> Vec<Call> {
    // strace selects calls by the whole path of a file, so a temporary file must have the same name in each
    // run.
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

/// Sets the scene up, and kills or fails this one call of its command.
///
/// # Panics
///
/// Panics if another call was hit, or none, because then this call was not tested.
pub(crate) fn meddle(scene: &Scene, call: &Call, meddling: &Meddling) -> Done {
    scene.fresh();
    let (name, nth) = (&call.name, call.nth);
    let what = match meddling {
        Meddling::Kill => "signal=SIGKILL".to_owned(),
        Meddling::Fail(error) => format!("error={error}"),
    };
    let (trace, inject) = (format!("trace={name}"), format!("inject={name}:{what}:when={nth}"));
    let mut arguments = vec!["-P", &call.selector, "-e", &trace, "-e", &inject];
    if let Meddling::Fail(_) = meddling {
        // With this option, other calls do not stop, which is faster. For a kill, the signal would come too
        // late.
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
            // strace counts the calls of each thread, so a call of another thread may be hit later.
            log.iter().find(|call| call.result.ends_with("(INJECTED)"))
        }
    };
    let hit_it = hit.is_some_and(|hit| hit.is_the_same_as(call));
    assert!(hit_it, "{}: expected to hit {call:?}, but hit {hit:?}", scene.name);
    done
}

/// Sets the scene up, and kills its command when a thread sends its `nth` message. Returns whether there
/// was such a message.
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

/// Reads the log of strace, and returns the calls that concern files of the scene.
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
        let relative = relative_name(text).map(str::to_owned);
        // Count for each path, because any of them may be the first path in the scene.
        for selector in paths.iter().chain(&relative) {
            let key = (thread.to_owned(), name.to_owned(), selector.clone());
            *counted.entry(key).or_default() += 1;
        }
        let paths: Vec<String> =
            paths.into_iter().filter(|path| Path::new(path).starts_with(&root)).collect();
        let Some(first) = paths.first() else { continue };
        let selector = relative.unwrap_or_else(|| first.clone());
        let nth = counted[&(thread.to_owned(), name.to_owned(), selector.clone())];
        calls.push(Call {
            name: name.to_owned(),
            text: text.to_owned(),
            selector,
            nth,
            result: result.to_owned(),
            paths,
        });
    }
    calls
}

/// Returns the name in the arguments of a call that is relative to a directory, if there is one.
fn relative_name(arguments: &str) -> Option<&str> {
    let name = arguments.split('"').nth(1)?;
    // `.` is the directory itself, and the path of its descriptor selects it.
    (!["", "."].contains(&name) && !name.starts_with('/')).then_some(name)
}

/// Returns the paths in the arguments of a call, each once: `6</open/file>` and `"/named"`.
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
