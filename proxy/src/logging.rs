//! The log: text for people, JSON for machines, on standard output; on standard error where standard output is for the result
//! of a command or for events. Nobody waits until it is read.

mod unblocked;

use std::io::{self, IsTerminal};
use std::time::SystemTime;

use dot_proxy_config::log::{Format, Level, Log};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

pub use self::unblocked::Unblocked;
use crate::events::Timestamp;

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
    let note = match log.format {
        Format::Text => note_as_text,
        Format::Json => note_as_json,
    };
    let (writer, terminal) = match destination {
        Destination::Stdout => (BoxMakeWriter::new(Unblocked::new(io::stdout(), note)), io::stdout().is_terminal()),
        Destination::Stderr => (BoxMakeWriter::new(Unblocked::new(io::stderr(), note)), io::stderr().is_terminal()),
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

/// How many lines were [left out](Unblocked), as a line for people.
pub fn note_as_text(lines: u64) -> String {
    format!("{}  WARN nobody read the log: lines were left out lines={lines}", Timestamp(SystemTime::now()))
}

/// The same for machines.
pub fn note_as_json(lines: u64) -> String {
    let now = Timestamp(SystemTime::now());
    format!(
        r#"{{"timestamp":"{now}","level":"WARN","message":"nobody read the log: lines were left out","lines":{lines}}}"#
    )
}
