//! Every command, when it succeeds.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::{Scene, text};
use crate::canaries::{Canary, Search, record};
use crate::figures::figure;
use crate::support::{can_trace, skip};
use crate::token_server::fetch;

#[test]
fn a_canary_is_found_in_every_form() {
    let canary = Canary::of("A", "aZ3/x+Q9=kLmN0pQrStUvWxY\"z1234567890abcdef");
    let search = Search::new(std::slice::from_ref(&canary));
    let json = serde_json::to_string(&canary.text).unwrap().into_bytes();
    let percent = canary.text.replace('/', "%2F").replace('+', "%2B").replace('=', "%3D");
    let debug = format!("{:?}", canary.text.as_bytes()).into_bytes();
    let more = [json, percent.into_bytes(), debug, canary.text.as_bytes()[20..30].to_vec()];
    for (form, planted) in
        canary.forms().into_iter().chain(more.map(|planted| ("another form", planted)))
    {
        let around = [b"before ".as_slice(), &planted, b" after"].concat();
        assert!(!search.find(&around).is_empty(), "{form}");
    }
    // In memory, at any alignment, and with the first 16 bytes overwritten.
    for (form, planted) in canary.forms() {
        for at in 0..8 {
            let memory = [vec![0; at], planted[16..].to_vec(), vec![0; 8]].concat();
            assert!(!search.find_long(&memory).is_empty(), "{form}");
        }
    }
    assert!(search.find(b"AGE-SECRET-KEY-1 is no secret, and neither is aZ3/x+Q").is_empty());
}

#[test]
fn no_command_shows_a_secret_that_it_was_not_asked_for() {
    let scene = Scene::new();
    let record = record();
    let (copy, plain, moved) = (scene.age("copy"), scene.plaintext("plain"), scene.age("moved"));
    let other: age::x25519::Identity = scene.keys[1].parse().unwrap();
    let recipient = other.to_public().to_string();
    scene.quiet(&["init", "--profile", "another", "--store", &copy], "");
    scene.quiet(&["init", "--profile", "third"], "");
    scene.quiet(&["set"], &record);
    scene.prints(&["mine"], &["get"]);
    scene.prints(&["mine"], &["get", "--header"]);
    scene.prints(&["my refresh"], &["get", "--field", "refresh"]);
    scene.prints(&["mine", "my refresh", "extra"], &["get", "--field", "json"]);
    for command in ["status", "list", "doctor"] {
        scene.quiet(&[command], "");
        scene.quiet(&[command, "--json"], "");
    }
    for words in [&["completions", "bash"][..], &["man"], &["--help"], &["--version"]] {
        scene.quiet(words, "");
    }
    scene.quiet(&["backup", "--to", &copy], "");
    scene.quiet(&["status", "--store", &copy], "");
    scene.quiet(&["backup", "--to", "sealed.age", "--passphrase"], "");
    scene.quiet(&["backup", "--to", "other.age", "--recipient", &recipient], "");
    scene.quiet(&["restore", "--from", "sealed.age", "--overwrite"], "");
    let other = ["restore", "--from", "other.age", "--identity", "config/keys/other.txt"];
    scene.quiet(&[&other[..], &["--overwrite"]].concat(), "");
    scene.quiet(&["migrate", "--to", &moved, "--dry-run"], "");
    scene.quiet(&["migrate", "--to", &plain, "--keep-source"], "");
    scene.quiet(&["migrate", "--to", &moved], "");
    scene.quiet(&["migrate", "--all", "--to", &scene.age("all-{profile}")], "");
    scene.quiet(&["rekey", "--recipient", &recipient], "");
    scene.quiet(&["rekey", "--identity", "config/keys/other.txt"], "");
    scene.quiet(&["keygen", "-o", "new.txt"], "");
    scene.quiet(&["keygen", "-o", "protected.txt", "--passphrase"], "");
    scene.quiet(&["rekey", "--identity", "protected.txt"], "");
    scene.prints(&["mine"], &["get"]);
    scene.quiet(&["login", "--device"], "");
    scene.prints(&["access"], &["get"]);
    scene.quiet(&["refresh"], "");
    scene.prints(&["refresh"], &["get", "--field", "refresh"]);
    let exec = ["exec", "--prefix", "APP", "--", "sh", "-c", "printf %s $APP_ACCESS_TOKEN"];
    scene.prints(&["access"], &exec);
    browser(&scene);
    scene.quiet(&["clear", "--revoke"], "");
    scene.quiet(&["clear"], "");
    let files = scene.assert_files_show_nothing();
    assert!(files > 20, "there are files to look at: {files}");
    figure(
        "leaks",
        format!("{} runs of 17 commands, {files} files", scene.runs.get()),
        "0 secrets shown",
    );
}

/// Signs in as a browser on this machine would.
fn browser(scene: &Scene) {
    let mut login = scene.tokenkeep(&["login", "--browser"]);
    let mut login = login.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(login.stderr.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    let (_, back, _) = fetch(line.trim_end().rsplit(' ').next().unwrap());
    let (_, _, page) = fetch(&back.unwrap());
    scene.assert_shows_nothing("the page in the browser", page.as_bytes());
    said.read_to_string(&mut line).unwrap();
    assert!(login.wait().unwrap().success());
    scene.assert_shows_nothing("a sign-in by browser", line.as_bytes());
}

#[test]
fn a_program_that_exec_starts_gets_the_token_and_no_other_secret() {
    if !can_trace("a_program_that_exec_starts_gets_the_token_and_no_other_secret") {
        return;
    }
    let scene = Scene::new();
    scene.quiet(&["login", "--device"], "");
    for (more, secrets) in
        [(&[][..], &["access"][..]), (&["--with-refresh-token"], &["access", "refresh"])]
    {
        let mut strace = scene.home.wrapped("strace");
        strace.args(["-f", "-qq", "-v", "-s", "100000", "-e", "trace=execve", "-o", "execs.txt"]);
        strace.arg(env!("CARGO_BIN_EXE_tokenkeep")).arg("exec").args(more);
        strace.args(["--", "sh", "-c", "env true"]);
        strace.env("CANARY_CLIENT_SECRET", text("CLIENT"));
        strace.env("TOKENKEEP_PASSPHRASE", text("PASSPHRASE"));
        scene.ends(0, &mut strace, "");
        let log = fs::read_to_string(scene.home.path("execs.txt")).unwrap();
        fs::remove_file(scene.home.path("execs.txt")).unwrap();
        let starts: Vec<_> = log.lines().filter(|line| line.ends_with(" = 0")).collect();
        assert_eq!(starts.len(), 4, "the command, and three programs");
        for (index, start) in starts.iter().enumerate() {
            let (arguments, environment) = start.split_once("], [").unwrap();
            scene.assert_shows_nothing("arguments", arguments.as_bytes());
            let found = scene.search.find(environment.as_bytes());
            let mut names: Vec<_> = found.iter().map(|found| found.name).collect();
            names.sort_unstable();
            let given = ["CLIENT", "PASSPHRASE"];
            assert_eq!(names, if index == 0 { &given } else { secrets });
        }
    }
}

#[test]
fn a_command_that_is_killed_during_a_refresh_leaves_no_core_dump() {
    const NAME: &str = "a_command_that_is_killed_during_a_refresh_leaves_no_core_dump";
    let scene = Scene::new();
    scene.quiet(&["login", "--device"], "");
    let dumping = |program: &str, arguments: &[&str]| {
        let mut shell = scene.home.wrapped("sh");
        shell.args(["-c", "ulimit -c unlimited && exec \"$0\" \"$@\"", program]).args(arguments);
        shell.env("CANARY_CLIENT_SECRET", text("CLIENT"));
        shell.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        shell
    };
    let dumps = || {
        let names = fs::read_dir(scene.home.path("")).unwrap().map(|entry| entry.unwrap().path());
        let is_dump = |path: &std::path::PathBuf| {
            path.file_name().unwrap().to_string_lossy().starts_with("core")
        };
        names.filter(is_dump).collect::<Vec<_>>()
    };
    // A shell that is killed this way leaves a core dump, unless the system writes none here.
    dumping("sh", &["-c", "kill -ABRT $$"]).status().unwrap();
    if dumps().is_empty() {
        return skip(NAME, "no core dumps are written into the working directory here");
    }
    dumps().iter().for_each(|dump| fs::remove_file(dump).unwrap());
    for signal in ["ABRT", "SEGV", "QUIT"] {
        let held = scene.server.hold();
        let refresh = dumping(env!("CARGO_BIN_EXE_tokenkeep"), &["refresh"]).spawn().unwrap();
        // The request has been sent.
        drop(held.wait());
        let proc = |file: &str| fs::read(format!("/proc/{}/{file}", refresh.id())).unwrap();
        scene.assert_shows_nothing("its arguments", &proc("cmdline"));
        let given = Search::new(&[Canary::new("access"), Canary::new("refresh")]);
        assert!(given.find(&proc("environ")).is_empty());
        end_by(refresh, signal);
        held.release();
        assert!(dumps().is_empty(), "{signal}: {:?}", dumps());
        scene.quiet(&["login", "--device"], "");
    }
    scene.assert_files_show_nothing();
}

fn end_by(mut process: std::process::Child, signal: &str) {
    let kill = std::process::Command::new("kill")
        .args([&format!("-{signal}"), &process.id().to_string()])
        .status();
    assert!(kill.unwrap().success());
    let deadline = Instant::now() + Duration::from_secs(20);
    while process.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "{signal} does not end the process");
        std::thread::yield_now();
    }
}
