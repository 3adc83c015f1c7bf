//! Keeps auth tokens, for people and for scripts.

fn main() -> std::process::ExitCode {
    tokenkeep_cli::main()
}
