//! The log: text for people, JSON for machines, on standard output; on standard error where standard output is for the result
//! of a command or for events.

use std::io::{self, IsTerminal};

use dot_proxy_config::log::{Format, Level, Log};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

/// Where the log goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// Standard output: the log is what the program has to say.
    Stdout,
    /// Standard error: standard output is for the command's result, or for events.
    Stderr,
}

/// Starts logging, for the rest of the process.
pub fn start(log: &Log, destination: Destination) {
    let (writer, terminal) = match destination {
        Destination::Stdout => (BoxMakeWriter::new(io::stdout), io::stdout().is_terminal()),
        Destination::Stderr => (BoxMakeWriter::new(io::stderr), io::stderr().is_terminal()),
    };
    let level = match log.level {
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
        Level::Trace => LevelFilter::TRACE,
    };
    let builder = tracing_subscriber::fmt().with_max_level(level).with_writer(writer).with_target(false);
    match log.format {
        Format::Text => builder.with_ansi(terminal && std::env::var_os("NO_COLOR").is_none()).init(),
        Format::Json => builder.json().flatten_event(true).with_ansi(false).init(),
    }
}
