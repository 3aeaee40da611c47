//! The command line. Exit codes: 0, 1 (failed at work), 2 (wrong usage), 130 (Ctrl-C; what was measured so far is printed).

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use dot_proxy::cli::Stub;
use dot_proxy_config::Server;

use crate::interrupt::Interrupt;
use crate::measurement::{self, Measured};
use crate::plan::{self, Plan, ROUNDS};
use crate::plot;
use crate::questions::Questions;
use crate::report::{self, Row};

/// What a shell expects of a program that Ctrl-C ended: 128 and the number of the signal.
const INTERRUPTED: u8 = 130;

/// Compare resolvers and upstreams on this network
#[derive(Debug, Parser)]
#[command(
    version,
    long_about = "Compares resolvers (the stubs of dot-proxy) and upstreams on this network, through the code that dot-proxy uses.\n\n\
        Every stub asks every upstream, in twelve rounds that take turns, so that a noisy moment hits all alike. What the rounds \
        cannot tell apart is said to be within the noise. Nothing is cached here; the resolver knows the names already: what is \
        compared is the way to it.",
    after_help = "Examples:\n  \
        dot-profiler                                                   all stubs, Cloudflare and Quad9: some minutes\n  \
        dot-profiler --stub ssock,doh --upstream cloudflare,quad9,google --concurrency 1\n  \
        dot-profiler --upstream tls://192.0.2.53#dns.example,quad9 --tls-ca ca.pem   a resolver of your own\n  \
        dot-profiler --cold --queries 60                               every query on a connection of its own\n  \
        dot-profiler --format json --plot latency.svg > profile.json\n\n\
        Columns: cold, from nothing to the first answer (median of the rounds); p50 … max, latency of the answers after it; \
        queries/s, answers in a second; CPU, microseconds a query, of this process and the programs it runs; bytes, sent and \
        received for a query within TCP and UDP, encrypted, counted by a relay on loopback in a turn of its own.\n\n\
        Exit codes: 0 measured, 1 failed at work (no combination was answered, a file was not written), 2 wrong usage, 130 cut \
        short by Ctrl-C, with what was measured so far."
)]
#[allow(rustdoc::broken_intra_doc_links, reason = "these comments are the text of --help")]
pub struct Cli {
    /// How to ask: ssock (also called dot), DNS over TLS; doh, DNS over HTTPS; doq, DNS over QUIC; curl or kdig, that program
    #[arg(
        long,
        value_name = "STUBS",
        value_delimiter = ',',
        default_value = "ssock,doh,doq,curl,kdig",
        hide_possible_values = true
    )]
    stub: Vec<Stub>,
    /// Whom to ask: cloudflare, quad9, google, tls://ADDRESS[:PORT]#NAME, https://ADDRESS[:PORT][/PATH]#NAME or
    /// quic://ADDRESS[:PORT]#NAME; of a preset its first address, a URL by the stubs of its scheme
    #[arg(long, value_name = "SERVERS", value_delimiter = ',', default_value = "cloudflare,quad9")]
    upstream: Vec<Server>,
    /// File of what to ask, NAME [TYPE] a line, for A and AAAA where there is no type [default: 60 well-known names]
    #[arg(long, value_name = "FILE")]
    names: Option<PathBuf>,
    /// Queries of each combination at each concurrency; rounded up to a multiple of the 12 rounds
    #[arg(long, value_name = "NUMBER", default_value_t = 384, value_parser = clap::value_parser!(u32).range(12..=1_000_000))]
    queries: u32,
    /// Queries under way at once, one measurement for each
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',', default_value = "1,16", value_parser = clap::value_parser!(u16).range(1..=1024))]
    concurrency: Vec<u16>,
    /// Send every query on a connection of its own, with a full handshake; programs do so anyway
    #[arg(long)]
    cold: bool,
    /// Seconds after which a query counts as unanswered
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = parse_timeout)]
    timeout: Duration,
    /// File of CA certificates (PEM) that servers' certificates must chain to, in place of the public roots
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// Form of the report
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: Format,
    /// Draw the distributions of latency into this file, as SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Table,
    /// One JSON object
    Json,
    /// A header and a line for each combination at each concurrency
    Csv,
}

/// How the command failed, in a sentence for a person.
#[derive(Debug)]
enum Failure {
    /// Wrong usage: exit code 2.
    Usage(String),
    /// Failed at work: exit code 1.
    Work(String),
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "write a number of seconds such as 2 or 0.5".to_owned())?;
    if (0.01..=60.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err("write a number of seconds from 0.01 to 60".to_owned())
    }
}

impl Cli {
    /// Measures, reports, and tells how that ended.
    pub fn run(self) -> ExitCode {
        match self.measure_and_report() {
            Ok(code) => code,
            Err(Failure::Work(message)) => {
                tell(&message);
                ExitCode::from(1)
            }
            Err(Failure::Usage(message)) => {
                tell(&message);
                ExitCode::from(2)
            }
        }
    }

    fn measure_and_report(&self) -> Result<ExitCode, Failure> {
        if let Some(file) = &self.plot {
            plot::check(file).map_err(|error| Failure::Usage(format!("--plot {}: {error}", file.display())))?;
        }
        let plan = self.plan()?;
        for skipped in &plan.skipped {
            tell(&format!("left out: {} {}: {}", skipped.stub, skipped.upstream, skipped.reason));
        }
        if plan.combinations.is_empty() {
            return Err(Failure::Usage(
                "no stub given can ask an upstream given: nothing is left to measure".to_owned(),
            ));
        }
        let interrupt =
            Interrupt::listen().map_err(|error| Failure::Work(format!("cannot listen for Ctrl-C: {error}")))?;
        let measured = measurement::measure(&plan, &interrupt).map_err(Failure::Work)?;
        let rows = report::rows(&plan, &measured);
        self.print(&plan, &measured, &rows)?;
        if let Some(file) = &self.plot {
            draw(&plan, &measured, file)?;
        }
        if measured.interrupted {
            return Ok(ExitCode::from(INTERRUPTED));
        }
        if rows.iter().all(|row| row.answered == 0) {
            return Err(Failure::Work("no query was answered: the causes stand in the report".to_owned()));
        }
        Ok(ExitCode::SUCCESS)
    }

    fn plan(&self) -> Result<Plan, Failure> {
        let queries = usize::try_from(self.queries).unwrap_or(usize::MAX);
        let slice = queries.div_ceil(ROUNDS);
        let concurrency = without_repetition(self.concurrency.iter().copied().map(usize::from));
        if let Some(most) = concurrency.iter().find(|concurrency| **concurrency > slice) {
            return Err(Failure::Usage(format!(
                "--concurrency {most} needs --queries {} at least: in each of the {ROUNDS} rounds as many as are under way at once",
                most * ROUNDS
            )));
        }
        let questions = match &self.names {
            Some(file) => {
                Questions::read(file).map_err(|error| Failure::Usage(format!("--names {}: {error}", file.display())))?
            }
            None => Questions::built_in(),
        };
        let (stubs, upstreams) =
            (without_repetition(self.stub.iter().copied()), without_repetition(self.upstream.iter().cloned()));
        if let Some(plain) = upstreams.iter().find(|upstream| matches!(upstream, Server::Plain(_))) {
            return Err(Failure::Usage(format!(
                "--upstream {plain} is plain DNS, which no stub asks: write tls://, https:// or quic://"
            )));
        }
        let (combinations, skipped) =
            plan::combinations(&stubs, &upstreams, self.tls_ca.as_deref()).map_err(Failure::Usage)?;
        Ok(Plan { combinations, skipped, questions, slice, concurrency, cold: self.cold, timeout: self.timeout })
    }

    fn print(&self, plan: &Plan, measured: &Measured, rows: &[Row]) -> Result<(), Failure> {
        let mut output = io::stdout().lock();
        let printed = match self.format {
            Format::Table => output.write_all(report::table(plan, measured, rows).as_bytes()),
            Format::Json => report::json(plan, measured, rows, &mut output),
            Format::Csv => report::csv(rows, &mut output),
        };
        match printed.and_then(|()| output.flush()) {
            // Who reads the beginning alone, as `head` does, has what he wanted.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other.map_err(|error| Failure::Work(format!("cannot print: {error}"))),
        }
    }
}

/// Draws into a file that is there as a whole or not at all.
fn draw(plan: &Plan, measured: &Measured, file: &Path) -> Result<(), Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::Work(format!("--plot {}: {error}", file.display()));
    let drawing = plot::draw(plan, measured).map_err(|error| failed(&error))?;
    let Some(drawing) = drawing else {
        tell(&format!("--plot {}: nothing was measured that could be drawn", file.display()));
        return Ok(());
    };
    let unfinished = file.with_added_extension("unfinished");
    fs::write(&unfinished, drawing).and_then(|()| fs::rename(&unfinished, file)).map_err(|error| {
        let _ = fs::remove_file(&unfinished); // it may not even be there
        failed(&error)
    })
}

fn without_repetition<T: PartialEq>(all: impl Iterator<Item = T>) -> Vec<T> {
    let mut once = Vec::new();
    for one in all {
        if !once.contains(&one) {
            once.push(one);
        }
    }
    once
}

#[expect(clippy::print_stderr, reason = "what was left out and why it ended: not part of the report")]
fn tell(message: &str) {
    eprintln!("dot-profiler: {message}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(arguments: &[&str]) -> Result<Plan, String> {
        let cli = Cli::try_parse_from([&["dot-profiler"], arguments].concat()).map_err(|error| error.to_string())?;
        cli.plan().map_err(|failure| match failure {
            Failure::Usage(message) => message,
            Failure::Work(message) => panic!("{message}"),
        })
    }

    #[test]
    fn without_flags_all_stubs_ask_two_operators_one_by_one_and_sixteen_at_once() {
        let plan = plan(&["--stub", "ssock,doh,doq"]).unwrap();
        let combinations: Vec<_> = plan.combinations.iter().map(ToString::to_string).collect();
        assert_eq!(combinations, ["ssock cloudflare", "doh cloudflare", "ssock quad9", "doh quad9", "doq quad9"]);
        assert_eq!((plan.slice, plan.concurrency, plan.cold, plan.timeout.as_secs()), (32, vec![1, 16], false, 5));
    }

    #[test]
    fn what_is_given_twice_is_measured_once() {
        let plan = plan(&["--stub", "ssock,dot", "--upstream", "quad9,quad9", "--concurrency", "4,4"]).unwrap();
        assert_eq!((plan.combinations.len(), plan.concurrency.len()), (1, 1));
    }

    #[test]
    fn wrong_usage_is_refused_with_the_remedy() {
        for (arguments, remedy) in [
            (&["--stub", "magic"][..], "possible values: ssock, doh, doq, curl, kdig"),
            (&["--upstream", "tls://dns.example"], "add #NAME"),
            (&["--upstream", "udp://192.0.2.1"], "write tls://, https:// or quic://"),
            (&["--queries", "11"], "12..="),
            (&["--queries", "100", "--concurrency", "1,16"], "--concurrency 16 needs --queries 192 at least"),
            (&["--concurrency", "0"], "1..=1024"),
            (&["--timeout", "soon"], "such as 2 or 0.5"),
            (&["--timeout", "inf"], "from 0.01 to 60"),
            (&["--names", "/nonexistent"], "--names /nonexistent: No such file"),
            (&["--tls-ca", "/nonexistent"], "--tls-ca /nonexistent: No such file"),
        ] {
            let error = plan(arguments).unwrap_err();
            assert!(error.contains(remedy), "{arguments:?}: {error}");
        }
    }
}
