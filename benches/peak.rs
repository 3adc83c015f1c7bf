//! Runs a command, and prints its peak memory in bytes.
//!
//! A new process begins with the memory of its parent, and the kernel counts that memory too. So the parent
//! is this small program.

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
