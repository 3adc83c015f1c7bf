//! Runs a command, and prints the most memory that it had, in bytes.
//!
//! The kernel counts what a process had before it became the command, which is all that its parent has.
//! So the parent is this program, which has next to nothing.

use std::process::{Command, Stdio};

use wait4::Wait4;

fn main() {
    let mut arguments = std::env::args_os().skip(1);
    let mut command = Command::new(arguments.next().expect("a command"));
    let mut child = command.args(arguments).stdout(Stdio::null()).spawn().expect("it starts");
    let ended = child.wait4().expect("it ends");
    assert!(ended.status.success(), "{}", ended.status);
    println!("{}", ended.rusage.maxrss);
}
