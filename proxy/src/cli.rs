//! The command line, and one file a subcommand. Exit codes: 0, 1 (failed at work), 2 (wrong usage or configuration).

mod check_config;
mod options;
mod probe;
mod query;
pub mod question;
mod serve;
mod stub;

use std::fmt;
use std::future::Future;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use options::Options;
pub use stub::Stub;
use tokio::runtime::{Builder, Runtime};

/// A DNS-over-TLS forwarder.
#[derive(Debug, Parser)]
#[command(
    version,
    about = "Forwards DNS queries over TLS, or not at all",
    long_about = "Forwards DNS queries over TLS (RFC 7858), HTTPS (RFC 8484) or QUIC (RFC 9250) to a resolver whose name is verified, or not at all.\n\n\
        Without arguments it takes queries on port 1053, UDP and TCP, from this machine and private networks, and asks Cloudflare.",
    after_help = "Examples:\n  \
        dot-proxy --upstream quad9                                   forward to Quad9\n  \
        dot-proxy --upstream tls://192.0.2.53#dns.example --tls-ca ca.pem   to a resolver of your own\n  \
        dot-proxy --stub doh                                         by DNS over HTTPS; --stub doq --upstream quad9 over QUIC\n  \
        dot-proxy --route corp.example=udp://10.0.0.53               but names under corp.example to 10.0.0.53, in the clear\n  \
        dot-proxy query example.com AAAA                             ask once and print the answer\n  \
        dig @127.0.0.1 -p 1053 example.com                           ask a running proxy\n\n\
        Exit codes: 0 done, 1 failed at work, 2 wrong usage or configuration.",
    args_conflicts_with_subcommands = true
)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    options: Options,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Look a name up once, by the same configuration, and print the answer
    Query(Box<query::Query>),
    /// Say whether a configuration file can be used, and what it means
    CheckConfig(check_config::CheckConfig),
    /// Ask a running proxy on this machine whether it is up (a container's startup probe)
    Probe(probe::Probe),
}

impl Cli {
    /// Runs the command and tells how it ended.
    pub fn run(self) -> ExitCode {
        let outcome = match self.command {
            None => serve::run(&self.options),
            Some(Command::Query(query)) => query.run(),
            Some(Command::CheckConfig(check)) => check.run(),
            Some(Command::Probe(probe)) => probe.run(),
        };
        match outcome {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => failure.report(),
        }
    }
}

/// How a command failed, in a sentence for a person.
#[derive(Debug)]
enum Failure {
    /// Wrong usage or configuration: exit code 2.
    Usage(String),
    /// Failed at work: exit code 1.
    Work(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Usage(message) | Self::Work(message)) = self;
        f.write_str(message)
    }
}

impl Failure {
    #[expect(clippy::print_stderr, reason = "a command that ends tells its user why, log or no log")]
    fn report(self) -> ExitCode {
        let (message, code) = match self {
            Self::Usage(message) => (message, 2),
            Self::Work(message) => (message, 1),
        };
        eprintln!("dot-proxy: {message}");
        ExitCode::from(code)
    }
}

/// Tasks that have their turn until it is looked what has come: a system call more for so many, and nobody waits behind the
/// many that others have woken.
const TASKS_IN_A_ROW: u32 = 8;

/// A runtime with so many worker threads; with one, everything runs on the thread that calls.
fn runtime(threads: u16) -> Result<Runtime, Failure> {
    let mut builder = if threads == 1 { Builder::new_current_thread() } else { Builder::new_multi_thread() };
    let built = builder.worker_threads(threads.into()).event_interval(TASKS_IN_A_ROW).enable_all().build();
    built.map_err(|error| Failure::Work(format!("cannot start: {error}")))
}

/// Runs a one-off command to its end.
fn block_on<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    runtime(1)?.block_on(future)
}
