//! Logs the messages of all crates in the process, at every level.

use tracing_subscriber::filter::LevelFilter;

pub(crate) fn to_standard_error() {
    let all = tracing_subscriber::fmt().with_max_level(LevelFilter::TRACE);
    all.with_writer(std::io::stderr).init();
    ::log::set_logger(&Printer).unwrap();
    ::log::set_max_level(::log::LevelFilter::Trace);
}

struct Printer;

impl ::log::Log for Printer {
    fn enabled(&self, _: &::log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &::log::Record<'_>) {
        eprintln!("{} {} {}", record.level(), record.target(), record.args());
    }

    fn flush(&self) {}
}
