//! The command on a real pseudo-terminal.
#![cfg(unix)]

use std::fs;
use std::process::Command;

use crate::login::home;
use crate::refresh_command::expired;
use crate::support::{available, scratch};
use crate::token_server::TokenServer;

/// A Python program that acts as a person. It runs a command line on a terminal. After each prompt it
/// types the answer, waits, or sends a signal. It prints the exit code, the text on the screen, and
/// whether the terminal echoes again.
const PERSON: &str = r"
import json, os, pty, signal, sys, termios, time
screen = b''
signal.signal(signal.SIGALRM, lambda *_: sys.exit('waited for too long; the screen is: ' + repr(screen)))
signal.alarm(60)
home, line, answers = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
parent, child = pty.openpty()
pid = os.fork()
if pid == 0:
    os.setsid()
    os.close(parent)
    import fcntl
    fcntl.ioctl(child, termios.TIOCSCTTY, 0)
    for fd in (0, 1, 2):
        os.dup2(child, fd)
    os.chdir(home)
    # These signals may be ignored if the tests run in the background.
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    os.execvp('sh', ['sh', '-c', line])
for prompt, answer in answers:
    while prompt.encode() not in screen:
        more = os.read(parent, 1000)
        screen += more
    if answer == 'a wait':
        # Longer than the time after which the command says what it waits for.
        time.sleep(2.5)
    elif answer == 'a signal':
        os.kill(pid, signal.SIGTERM)
    elif answer.startswith('run '):
        # The screen is the input of a program, whose output is typed.
        import subprocess
        run = subprocess.run(['sh', '-c', answer[4:]], input=screen, stdout=subprocess.PIPE, check=True)
        os.write(parent, run.stdout)
    else:
        os.write(parent, answer.encode())
os.set_blocking(parent, False)
import select
status = None
while status is None:
    done, code = os.waitpid(pid, os.WNOHANG)
    if done:
        status = code
    while select.select([parent], [], [], 0.02)[0]:
        try:
            more = os.read(parent, 1000)
        except OSError:
            break
        if not more:
            break
        screen += more
echoes = bool(termios.tcgetattr(child)[3] & termios.ECHO)
code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
print(json.dumps([code, screen.decode(errors='replace'), echoes]))
";

pub(crate) struct Seen {
    pub(crate) code: i64,
    pub(crate) screen: String,
    echoes: bool,
}

pub(crate) fn person(home: &std::path::Path, line: &str, answers: &[(&str, &str)]) -> Seen {
    let answers = serde_json::to_string(answers).unwrap();
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_tokenkeep"));
    let path = std::env::var("PATH").unwrap();
    let output = Command::new("python3")
        .args(["-c", PERSON, home.to_str().unwrap(), line, &answers])
        .env_remove("NO_COLOR")
        .env_remove("TOKENKEEP_PASSPHRASE")
        .env_remove("TOKENKEEP_PROFILE")
        .env_remove("TOKENKEEP_STORE")
        .env("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nonexistent/bus")
        .env("PATH", format!("{}:{path}", program.parent().unwrap().display()))
        .env("TERM", "xterm")
        .env("TOKENKEEP_CONFIG_DIR", home.join("config"))
        .env("XDG_STATE_HOME", home.join("state"))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let seen: serde_json::Value = serde_json::from_str(&text)
        .unwrap_or_else(|_| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)));
    Seen {
        code: seen[0].as_i64().unwrap(),
        screen: seen[1].as_str().unwrap().to_owned(),
        echoes: seen[2].as_bool().unwrap(),
    }
}

fn can_play(test: &str) -> bool {
    available(&format!("terminal::{test}"), "python3")
}

#[test]
fn a_typed_token_is_not_shown_and_get_prints_it_with_a_newline() {
    if !can_play("a_typed_token_is_not_shown_and_get_prints_it_with_a_newline") {
        return;
    }
    let home = scratch();
    person(home.path(), "tokenkeep init", &[]);
    // Type a wrong letter, delete it, and type the rest.
    let seen = person(
        home.path(),
        "tokenkeep set",
        &[("Access token, or a record in one line: ", "canaryX\u{7f}-typed\r")],
    );
    assert_eq!(seen.code, 0, "{}", seen.screen);
    assert!(!seen.screen.contains("canary") && seen.echoes, "{}", seen.screen);
    let seen = person(home.path(), "tokenkeep get", &[]);
    assert_eq!(seen.screen, "canary-typed\r\n");
    // A record can be pasted. Other input that is not a token is refused.
    for (typed, code, token) in [
        ("{\"access_token\": \"canary-pasted\"}\r", 0, "canary-pasted"),
        ("{\r\"access_token\": \"canary\"}\r", 2, "canary-pasted"),
        ("\u{1b}[200~canary\u{1b}[201~\r", 2, "canary-pasted"),
        ("Bearer canary\r", 2, "canary-pasted"),
        ("\r", 2, "canary-pasted"),
    ] {
        let prompt = "Access token, or a record in one line: ";
        let seen = person(home.path(), "tokenkeep set", &[(prompt, typed)]);
        assert_eq!(seen.code, code, "{}", seen.screen);
        assert!(!seen.screen.contains("canary"), "{}", seen.screen);
        assert_eq!(person(home.path(), "tokenkeep get", &[]).screen, format!("{token}\r\n"));
    }
}

#[test]
fn a_passphrase_is_asked_for_and_ctrl_c_changes_nothing() {
    if !can_play("a_passphrase_is_asked_for_and_ctrl_c_changes_nothing") {
        return;
    }
    let home = scratch();
    let new = [("New passphrase: ", "canary one\r"), ("The same again: ", "canary one\r")];
    let seen = person(home.path(), "tokenkeep keygen -o key.txt --passphrase", &new);
    assert_eq!(seen.code, 0, "{}", seen.screen);
    assert!(seen.screen.contains("age1") && !seen.screen.contains("canary"), "{}", seen.screen);
    let other = [("New passphrase: ", "canary one\r"), ("The same again: ", "canary two\r")];
    let seen = person(home.path(), "tokenkeep keygen -o other.txt --passphrase", &other);
    assert!(seen.code == 1 && seen.screen.contains("not the same"), "{}", seen.screen);
    assert!(!home.path().join("other.txt").exists());

    let store = "--store 'age:tokens.age?identity=key.txt'";
    let answer = [("Passphrase of ", "canary one\r")];
    let line = format!("printf canary-a | tokenkeep set {store}");
    assert_eq!(person(home.path(), &line, &answer).code, 0);
    let before = fs::read(home.path().join("tokens.age")).unwrap();
    let seen = person(home.path(), &format!("tokenkeep get {store}"), &answer);
    assert!(seen.code == 0 && seen.screen.contains("canary-a\r\n"), "{}", seen.screen);
    assert!(seen.screen.contains("working on the passphrase"), "{}", seen.screen);

    // Send Ctrl-C, and then a signal, at the prompt. `exec` replaces the shell.
    let line = format!("printf canary-b > input; exec tokenkeep set {store} < input");
    let seen = person(home.path(), &line, &[("Passphrase of ", "canary\u{3}")]);
    assert_eq!(seen.code, -2, "it ends by the signal: {}", seen.screen);
    assert!(seen.echoes, "the terminal does not echo again");
    assert_eq!(fs::read(home.path().join("tokens.age")).unwrap(), before);
    let seen = person(home.path(), &line, &[("Passphrase of ", "a signal")]);
    assert!(seen.code == -15 && seen.echoes, "{}", seen.screen);
    // Ctrl-C also ends the command line that contains the command.
    let line = format!("tokenkeep get {store}; echo CONTINUED");
    let seen = person(home.path(), &line, &[("Passphrase of ", "\u{3}")]);
    assert!(!seen.screen.contains("CONTINUED"), "{}", seen.screen);
}

#[test]
fn each_protected_key_is_asked_for_once_and_by_name() {
    if !can_play("each_protected_key_is_asked_for_once_and_by_name") {
        return;
    }
    let home = scratch();
    let word = |word: &str| format!("{word}\r");
    for (file, typed) in [("one.txt", word("canary one")), ("two.txt", word("canary two"))] {
        let new = [("New passphrase: ", typed.as_str()), ("The same again: ", typed.as_str())];
        let line = format!("tokenkeep keygen -o {file} --passphrase");
        assert_eq!(person(home.path(), &line, &new).code, 0);
    }
    let init = "tokenkeep init --store 'age:tokens.age?identity=one.txt'";
    assert_eq!(person(home.path(), init, &[]).code, 0);
    let (one, two) = (("one.txt: ", "canary one\r"), ("two.txt: ", "canary two\r"));
    let seen = person(home.path(), "printf canary-a | tokenkeep set", &[one]);
    assert_eq!(seen.code, 0, "{}", seen.screen);
    let seen = person(home.path(), "tokenkeep rekey --identity two.txt", &[two, one]);
    assert_eq!(seen.code, 0, "{}", seen.screen);
    assert_eq!(seen.screen.matches("Passphrase of ").count(), 2, "{}", seen.screen);
    let seen = person(home.path(), "tokenkeep get", &[two]);
    assert!(seen.screen.contains("canary-a\r\n"), "{}", seen.screen);
}

#[test]
fn colour_and_progress_are_shown_on_terminals_and_no_color_is_respected() {
    if !can_play("colour_and_progress_are_shown_on_terminals_and_no_color_is_respected") {
        return;
    }
    let home = scratch();
    for n in 0..3 {
        let line = format!("tokenkeep init --profile p{n} --store plaintext:{n}.json");
        assert_eq!(person(home.path(), &line, &[]).code, 0);
        let line = format!("printf canary | tokenkeep set --profile p{n}");
        assert_eq!(person(home.path(), &line, &[]).code, 0);
    }
    let moved = "tokenkeep migrate --all --to 'plaintext:all/{profile}.json'";
    let seen = person(home.path(), moved, &[]);
    assert!(seen.code == 0 && seen.screen.contains("/3 p"), "{}", seen.screen);
    let seen = person(home.path(), "tokenkeep doctor", &[]);
    assert!(seen.screen.contains("\u{1b}[1m"), "{}", seen.screen);
    let seen = person(home.path(), "NO_COLOR=1 tokenkeep doctor", &[]);
    assert!(!seen.screen.contains('\u{1b}'), "{}", seen.screen);
    let seen = person(home.path(), "tokenkeep doctor | cat", &[]);
    assert!(!seen.screen.contains('\u{1b}'), "{}", seen.screen);
}

#[test]
fn signals_still_end_the_command_after_a_prompt() {
    if !can_play("signals_still_end_the_command_after_a_prompt") {
        return;
    }
    let server = TokenServer::start();
    let device = format!("device_authorization_url = \"{}\"\n", server.url("/device"));
    let home = home(&server, &device);
    let word = "canary one\r";
    let keygen = "tokenkeep keygen -o config/keys/locked.txt --passphrase";
    let new = [("New passphrase: ", word), ("The same again: ", word)];
    assert_eq!(person(&home.path(""), keygen, &new).code, 0);
    let profile = home.path("config/profiles/default.toml");
    let text = fs::read_to_string(&profile).unwrap().replace("default.txt", "locked.txt");
    fs::write(&profile, text).unwrap();
    for (keys, code) in [("\u{3}", -2), ("\u{1c}", -3), ("a signal", -15)] {
        server.device_hears(["authorization_pending"; 3]);
        let answers = [("Passphrase of ", word), ("waiting until you have signed in", keys)];
        let seen = person(&home.path(""), "exec tokenkeep login", &answers);
        assert_eq!(seen.code, code, "{}", seen.screen);
    }
}

#[test]
fn a_long_wait_shows_its_reason_and_so_does_ctrl_c() {
    if !can_play("a_long_wait_shows_its_reason_and_so_does_ctrl_c") {
        return;
    }
    let server = TokenServer::start();
    let home = expired(&server);
    let held = server.hold();
    let seen = person(
        &home.path(""),
        "exec tokenkeep get",
        &[
            ("waiting for the token endpoint", "\u{3}"),
            ("finishing a refresh, so that the session is not lost", "a wait"),
            ("", "\u{3}"),
        ],
    );
    held.release();
    assert_eq!(seen.code, -2, "{}", seen.screen);
    // At a prompt for input, no waiting message is shown.
    let ask = [("a record in one line: ", "a wait"), ("", "canary-typed\r")];
    let seen = person(&home.path(""), "tokenkeep set", &ask);
    assert!(seen.code == 0 && !seen.screen.contains("waiting"), "{}", seen.screen);
}

#[test]
fn help_is_as_wide_as_the_terminal_and_at_most_100_columns() {
    if !can_play("help_is_as_wide_as_the_terminal_and_at_most_100_columns") {
        return;
    }
    let home = scratch();
    for (columns, widest) in [(60, 50..=60), (80, 70..=80), (200, 90..=100)] {
        for page in ["--help", "exec --help", "help migrate", "get -h"] {
            let line = format!("stty rows 24 cols {columns}; NO_COLOR=1 tokenkeep {page}");
            let seen = person(home.path(), &line, &[]);
            let found = seen.screen.lines().map(|line| line.trim_end().len()).max().unwrap();
            assert!(widest.contains(&found), "{page} is {found} wide: {}", seen.screen);
        }
    }
}

#[test]
fn the_manual_page_is_rendered_on_a_terminal_with_and_without_a_man_program() {
    let test = "the_manual_page_is_rendered_on_a_terminal_with_and_without_a_man_program";
    if !can_play(test) || !available(&format!("terminal::{test}"), "man") {
        return;
    }
    let home = scratch();
    let program = env!("CARGO_BIN_EXE_tokenkeep");
    fs::create_dir(home.path().join("bin")).unwrap();
    // Some systems without manual pages have a `man` that only prints this.
    let idle = home.path().join("bin/man");
    fs::write(&idle, "#!/bin/sh\necho there are no manual pages here\n").unwrap();
    fs::set_permissions(&idle, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let sizes = "stty rows 24 cols 70; export NO_COLOR=1";
    for (how, words) in [
        ("MANPAGER='sed s/^/paged:/' tokenkeep man".to_owned(), "paged:"),
        ("PAGER='sed s/^/paged:/' tokenkeep man".to_owned(), "paged:"),
        ("MANPAGER=/nonexistent/pager tokenkeep man".to_owned(), "Usage: tokenkeep"),
        (format!("PATH=/nonexistent {program} man"), "Usage: tokenkeep"),
        (format!("PATH=$PWD/bin:$PATH {program} man"), "Usage: tokenkeep"),
    ] {
        let seen = person(home.path(), &format!("{sizes}; {how}"), &[]);
        assert!(seen.code == 0 && seen.screen.contains(words), "{how}: {}", seen.screen);
        // A bold letter is printed twice, with a backspace between.
        let letters: Vec<char> = seen.screen.chars().collect();
        let plain: String = (0..letters.len())
            .filter(|&at| letters[at] != '\u{8}' && letters.get(at + 1) != Some(&'\u{8}'))
            .map(|at| letters[at])
            .collect();
        for word in ["EXEC", "EXIT STATUS", "keychain:SERVICE/ACCOUNT", "client_secret_env"] {
            assert!(plain.contains(word), "{how}: {word}: {plain}");
        }
        let is_source = |line: &str| line.trim_start_matches("paged:").starts_with(".SH");
        assert!(!plain.lines().any(is_source), "{how}: {plain}");
    }
    let seen = person(home.path(), "tokenkeep man | head -n 3", &[]);
    assert!(seen.screen.contains(".TH tokenkeep 1"), "its source: {}", seen.screen);
}

#[test]
fn set_clear_and_login_say_one_line_when_they_are_done_and_ask_nothing() {
    if !can_play("set_clear_and_login_say_one_line_when_they_are_done_and_ask_nothing") {
        return;
    }
    let server = TokenServer::start();
    let device = format!("device_authorization_url = \"{}\"\n", server.url("/device"));
    let home = home(&server, &device);
    for (line, said) in [
        ("printf canary | tokenkeep set", "stored in age file "),
        ("tokenkeep clear", "signed out; the tokens are removed from age file "),
        ("tokenkeep clear", "signed out; the tokens are removed from age file "),
        ("tokenkeep login", "signed in; the tokens are in age file "),
        (
            "tokenkeep clear --revoke",
            "signed out; the tokens are revoked and removed from age file ",
        ),
    ] {
        let seen = person(&home.path(""), &format!("{line} > out; cat out"), &[]);
        assert_eq!(seen.code, 0, "{line}: {}", seen.screen);
        let of_it = seen.screen.lines().filter(|line| line.contains("age file ")).count();
        assert!(of_it == 1 && seen.screen.contains(said), "{line}: {}", seen.screen);
        assert!(!seen.screen.contains("canary"), "{line}: {}", seen.screen);
        let lines = seen.screen.lines().filter(|line| !line.trim().is_empty()).count();
        // `login` also prints a line that says where to sign in.
        assert_eq!(lines, 1 + usize::from(line.contains("login")), "{line}: {}", seen.screen);
    }
    // If standard error is not a terminal, nothing is printed.
    let seen = person(&home.path(""), "printf canary | tokenkeep set 2> said; cat said", &[]);
    assert_eq!(seen.screen, "");
    let seen = person(&home.path(""), "tokenkeep clear 2> said; cat said", &[]);
    assert_eq!(seen.screen, "");
}

#[test]
fn a_store_that_list_shows_can_be_pasted_into_a_shell() {
    if !can_play("a_store_that_list_shows_can_be_pasted_into_a_shell") {
        return;
    }
    let home = scratch();
    let word = "it's a \"place\" & $HOME";
    fs::create_dir(home.path().join(word)).unwrap();
    let key = "tokenkeep keygen -o \"it's a \\\"place\\\" & \\$HOME/key.txt\"";
    assert_eq!(person(home.path(), key, &[]).code, 0);
    let store = "age:tokens.age?identity=it's a \\\"place\\\" %26 \\$HOME/key.txt";
    let seen = person(home.path(), &format!("tokenkeep init --store \"{store}\""), &[]);
    assert_eq!(seen.code, 0, "{}", seen.screen);
    person(home.path(), "printf canary-pasted | tokenkeep set", &[]);
    let listed = person(home.path(), "tokenkeep list", &[]).screen;
    let pasted = listed.trim_end().split_once("  ").unwrap().1;
    let seen = person(home.path(), &format!("tokenkeep get --store {pasted}"), &[]);
    assert_eq!(seen.screen, "canary-pasted\r\n", "{listed}");
}

/// A Python program that reads the screen of a sign-in by browser, and prints the address to which the provider
/// redirects. With an argument, it opens the address instead.
const BROWSER: &str = r"
import re, sys, urllib.error, urllib.request
class Stays(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None
screen = sys.stdin.read()
url = re.search(r'open this in a browser: (\S+)', screen).group(1)
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), Stays)
try:
    opener.open(url)
except urllib.error.HTTPError as found:
    address = found.headers['Location']
if sys.argv[1:]:
    opener.open(address).read()
else:
    print(address, end='\r')
";

#[test]
fn the_address_on_which_the_browser_ended_is_pasted_unseen() {
    let test = "the_address_on_which_the_browser_ended_is_pasted_unseen";
    if !can_play(test) {
        return;
    }
    let server = TokenServer::start();
    let home = home(&server, "");
    fs::write(home.path("browser.py"), BROWSER).unwrap();
    let browser = format!("run python3 {}", home.path("browser.py").display());
    let prompt = "If the browser ends on a page that cannot be reached, paste its address: ";
    let only = "Paste the address of the page on which the browser ends: ";
    let wrong = "https://app.example/?code=canary&state=canary\r";
    for (line, prompt) in [("tokenkeep login", prompt), ("tokenkeep login --paste", only)] {
        let again = |message: &str| format!("{message}\r\n{prompt}");
        let refused = again("paste the whole address of the page on which the browser ended");
        let empty = again("nothing was typed");
        let answers = [(prompt, wrong), (&*refused, "\r"), (&*empty, &*browser)];
        let seen = person(&home.path(""), line, &answers);
        assert!(seen.code == 0 && seen.screen.contains("signed in; "), "{line}: {}", seen.screen);
        assert!(!seen.screen.contains("canary") && seen.echoes, "{line}: {}", seen.screen);
        home.run("clear").ok();
    }
    // The port gets the answer first.
    let visit = format!("{browser} visit");
    let seen = person(&home.path(""), "tokenkeep login", &[(prompt, &visit)]);
    assert!(
        seen.code == 0 && seen.screen.contains("signed in; ") && seen.echoes,
        "{}",
        seen.screen
    );
    // A signal or Ctrl-C restores the terminal.
    for (keys, code) in [("\u{3}", -2), ("a signal", -15)] {
        let seen = person(&home.path(""), "exec tokenkeep login", &[(prompt, keys)]);
        assert!(seen.code == code && seen.echoes, "{}", seen.screen);
    }
    // In the background, the terminal belongs to another program, and reading would stop the command.
    let line = "set -m; tokenkeep login & wait; echo END";
    let seen =
        person(&home.path(""), line, &[("open this in a browser: http", &visit), ("END", "")]);
    assert!(
        seen.screen.contains("signed in; ") && !seen.screen.contains(prompt),
        "{}",
        seen.screen
    );
}

#[test]
fn a_prompt_goes_on_unseen_after_the_shell_has_stopped_and_continued_the_command() {
    let test = "a_prompt_goes_on_unseen_after_the_shell_has_stopped_and_continued_the_command";
    if !can_play(test) || !available(test, "bash") {
        return;
    }
    let server = TokenServer::start();
    let home = home(&server, "");
    fs::write(home.path("browser.py"), BROWSER).unwrap();
    let visit = format!("run python3 {} visit", home.path("browser.py").display());
    let prompt = "If the browser ends on a page that cannot be reached, paste its address: ";
    // The shell shows the command again when it continues it.
    let again = format!("tokenkeep login\r\n{prompt}");
    let shell = "PS1='READY ' bash --norc -i";
    for (then, next) in [("fg\r", &*again), ("bg\r", "tokenkeep login &")] {
        let answers = [
            ("READY ", "tokenkeep login\r"),
            (prompt, "\u{1a}"),
            ("Stopped", then),
            (next, &*visit),
            ("signed in; ", "\u{15}exit\r"),
        ];
        let seen = person(&home.path(""), shell, &answers);
        assert!(!seen.screen.contains("canary"), "{then}: {}", seen.screen);
        home.run("get").ok();
        home.run("clear").ok();
    }
    let (ask, command) = ("New passphrase: ", "tokenkeep keygen --passphrase -o key.txt");
    let again = format!("{command}\r\n{ask}");
    let typed = format!("{command}\r");
    let answers = [
        ("READY ", &*typed),
        (ask, "\u{1a}"),
        ("Stopped", "fg\r"),
        (&*again, "canary-1\r"),
        ("The same again: ", "canary-1\r"),
        ("age1", "exit\r"),
    ];
    let seen = person(&home.path(""), shell, &answers);
    assert!(!seen.screen.contains("canary"), "{}", seen.screen);
    assert!(home.path("key.txt").exists(), "{}", seen.screen);
}

#[test]
fn ctrl_z_at_a_prompt_restores_the_terminal_in_a_shell_that_does_not_do_it() {
    let test = "ctrl_z_at_a_prompt_restores_the_terminal_in_a_shell_that_does_not_do_it";
    if !can_play(test) || !available(test, "dash") {
        return;
    }
    let home = scratch();
    let (ask, command) = ("New passphrase: ", "tokenkeep keygen --passphrase -o key.txt");
    let typed = format!("{command}\r");
    // What is typed is not what the shell prints.
    let modes = "stty -a > stopped; echo MO''DES\r";
    // The shell shows the command again when it continues it.
    let again = format!("fg\r\n{command}\r\n{ask}");
    let answers = [
        ("READY ", &*typed),
        (ask, "canary-0\u{1a}"),
        ("Stopped", modes),
        ("MODES\r\nREADY ", "fg\r"),
        (&*again, "canary-1\r"),
        ("The same again: ", "canary-1\r"),
        ("age1", "stty -a > after; exit\r"),
    ];
    let seen = person(home.path(), "PS1='READY ' dash -i", &answers);
    assert!(!seen.screen.contains("canary") && seen.echoes, "{}", seen.screen);
    assert!(home.path().join("key.txt").exists(), "{}", seen.screen);
    for file in ["stopped", "after"] {
        let modes = fs::read_to_string(home.path().join(file)).unwrap();
        let modes: Vec<_> = modes.split_whitespace().collect();
        assert!(modes.contains(&"echo") && modes.contains(&"icanon"), "{file}: {modes:?}");
    }
}

#[test]
fn ctrl_z_at_a_prompt_does_nothing_without_a_shell_that_could_continue_the_command() {
    let test = "ctrl_z_at_a_prompt_does_nothing_without_a_shell_that_could_continue_the_command";
    if !can_play(test) {
        return;
    }
    let home = scratch();
    let ask = "New passphrase: ";
    let again = format!("{ask}\r\n{ask}");
    let answers = [(ask, "\u{1a}"), (&*again, "canary-1\r"), ("The same again: ", "canary-1\r")];
    let seen = person(home.path(), "exec tokenkeep keygen --passphrase -o key.txt", &answers);
    assert!(seen.code == 0 && seen.echoes, "{}", seen.screen);
    assert!(!seen.screen.contains("canary"), "{}", seen.screen);
}
