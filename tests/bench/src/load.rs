//! The load: queries over UDP or TCP, as fast as they are answered or at a fixed rate, each answer checked. One thread.

mod client;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::time::Duration;

use client::{Client, Outcomes};
use serde::{Deserialize, Serialize};

use crate::failure::{During, Outcome};
use crate::histogram::Histogram;
use crate::system::{self, Datagrams, Readiness};
use crate::zone::Names;

/// How many datagrams one system call sends or receives at most.
const BATCH: usize = 64;
/// Over how long the load grows to its full size, in nanoseconds: all at once would be one burst, which overflows what the
/// server's socket holds, and stays one.
const GROWTH: u64 = 40_000_000;
/// How often unanswered queries are looked for, in nanoseconds.
const SWEEP: u64 = 20_000_000;
/// How long the last answers may take once nothing more is asked as fast as it goes, in nanoseconds.
const GRACE: u64 = 1_000_000_000;

/// Ask a server, and tell how it did as one line of JSON
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Whom to ask
    #[arg(long)]
    pub(crate) server: SocketAddrV4,
    /// Over TCP, on connections that stay, in place of UDP
    #[arg(long)]
    pub(crate) tcp: bool,
    /// How many sockets
    #[arg(long, default_value_t = 20)]
    pub(crate) clients: usize,
    /// How many queries at once in all; a server's socket with the system's default room loses some of 160. With --rate, each
    /// socket may have 1,024
    #[arg(long, default_value_t = 140)]
    pub(crate) outstanding: usize,
    /// Over TCP, another connection after so many queries on one
    #[arg(long, requires = "tcp")]
    pub(crate) churn: Option<u64>,
    /// Begin with all of them at once, not growing to them
    #[arg(long)]
    pub(crate) at_once: bool,
    /// Queries a second, however slow the answers are; without it, the next query follows an answer
    #[arg(long)]
    pub(crate) rate: Option<u64>,
    /// How long to ask
    #[arg(long, default_value_t = 1.0)]
    pub(crate) seconds: f64,
    /// How many to ask at most
    #[arg(long, default_value_t = u64::MAX)]
    pub(crate) count: u64,
    /// What to ask: lasting:FIRST:COUNT, brief:FIRST:COUNT or once:LABEL
    #[arg(long, default_value = "lasting:0:10000")]
    pub(crate) names: Names,
    /// After so many milliseconds a query counts as lost
    #[arg(long, default_value_t = 3000)]
    pub(crate) timeout: u64,
    /// Count every reply as right: for the echo
    #[arg(long)]
    pub(crate) unchecked: bool,
    /// Write for each query when it was sent (monotonic nanoseconds), its latency in nanoseconds, and its response code or 'lost'
    #[arg(long)]
    pub(crate) log: Option<PathBuf>,
}

/// What came of it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields say it")]
pub(crate) struct Report {
    pub(crate) sent: u64,
    /// Replies without an error, and with the right data.
    pub(crate) answered: u64,
    /// Replies without an error, and with other data than asked for.
    pub(crate) wrong: u64,
    pub(crate) servfail: u64,
    /// Replies with another error.
    pub(crate) errors: u64,
    /// Not replied to within the time that a query has.
    pub(crate) lost: u64,
    /// Replies to nothing that was asked, or late ones.
    pub(crate) stray: u64,
    /// TCP connections that the server closed.
    pub(crate) reconnects: u64,
    /// Answers a second, from when the load had its full size (after a tenth of its time) until the last query was sent.
    pub(crate) rate: f64,
    /// Latencies of what was answered, in microseconds.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) most: f64,
    pub(crate) mean: f64,
    /// The share of a processor that the load itself took: near 1 it is what was measured.
    pub(crate) utilisation: f64,
}

/// The state of one run.
struct Load<'a> {
    options: &'a Options,
    clients: Vec<Client>,
    readiness: Readiness,
    datagrams: Datagrams,
    outcomes: Outcomes,
    began: u64,
    /// How many of the queries that others follow were sent.
    started: usize,
    /// How many queries a client may have in flight.
    share: usize,
}

/// Asks, and prints the report.
pub(crate) fn run(options: &Options) -> Outcome<()> {
    system::punctual();
    let report = Load::new(options)?.run()?;
    let line = serde_json::to_string(&report).during("writing the report")?;
    writeln!(std::io::stdout(), "{line}").during("writing the report")
}

impl Report {
    /// Queries that got no right answer.
    pub(crate) fn failed(&self) -> u64 {
        self.wrong + self.servfail + self.errors + self.lost
    }
}

impl<'a> Load<'a> {
    fn new(options: &'a Options) -> Outcome<Self> {
        let readiness = Readiness::new().during("epoll")?;
        // As fast as it goes, each client has its share of what may be outstanding; at a rate, all it can number.
        let share = (options.outstanding / options.clients).clamp(1, client::MOST);
        let share = if options.rate.is_some() { client::MOST } else { share };
        let clients = (0..options.clients)
            .map(|token| Client::new(options.server, options.tcp, share, token, &readiness))
            .collect::<Result<Vec<_>, _>>()
            .during(format_args!("connecting to {}", options.server))?;
        let log = options.log.is_some().then(Vec::new);
        let outcomes =
            Outcomes { histogram: Histogram::new(), report: Report::default(), unchecked: options.unchecked, log };
        Ok(Self {
            options,
            clients,
            readiness,
            datagrams: Datagrams::connected(BATCH),
            outcomes,
            began: system::monotonic(),
            started: 0,
            share,
        })
    }

    fn run(mut self) -> Outcome<Report> {
        let end = self.began + nanoseconds(self.options.seconds)?;
        let timeout = self.options.timeout * 1_000_000;
        let grown = self.began + (end - self.began) / 10;
        let (mut ended, mut next_sweep, mut next_client, mut ready) = (None, self.began + SWEEP, 0, Vec::new());
        let mut from = (self.began, 0);
        loop {
            let now = system::monotonic();
            let answered = self.outcomes.report.answered;
            if from.0 < grown && now >= grown {
                from = (now, answered);
            }
            if ended.is_none() && (now >= end || self.outcomes.report.sent >= self.options.count) {
                ended = Some(now);
                self.outcomes.report.rate = (answered - from.1) as f64 * 1e9 / (now - from.0).max(1) as f64;
            }
            if let Some(ended) = ended {
                let counted = self.options.rate.is_some() || self.options.count < u64::MAX;
                let grace = if counted { timeout } else { timeout.min(GRACE) };
                if self.in_flight() == 0 || now > ended + grace {
                    break;
                }
            }
            let pause = match self.options.rate {
                Some(rate) if ended.is_none() => self.keep_pace(rate, now, &mut next_client),
                None if ended.is_none() => self.grow(now),
                _ => Duration::from_millis(5),
            };
            self.readiness.wait(pause, &mut ready).during("waiting for replies")?;
            for &client in &ready {
                self.receive(client, ended.is_none())?;
            }
            if system::monotonic() >= next_sweep {
                next_sweep = system::monotonic() + SWEEP;
                self.give_up(timeout, ended.is_none());
            }
        }
        self.report()
    }

    fn in_flight(&self) -> usize {
        self.clients.iter().map(Client::in_flight).sum()
    }

    /// Sends the queries that others follow as they are answered, evenly; tells for how long none is due.
    fn grow(&mut self, now: u64) -> Duration {
        let all = self.options.outstanding.max(1);
        let share = u128::from(now - self.began) * all as u128 / u128::from(GROWTH);
        let due = if self.options.at_once { all } else { usize::try_from(share).unwrap_or(all).clamp(1, all) };
        while self.started < due {
            self.ask(self.started % self.clients.len(), 1);
            self.started += 1;
        }
        if due == all { Duration::from_millis(5) } else { Duration::from_nanos(GROWTH / all as u64) }
    }

    /// Sends what is due at the rate; tells for how long nothing more is.
    fn keep_pace(&mut self, rate: u64, now: u64, next_client: &mut usize) -> Duration {
        let at = |count: u64| {
            self.began + u64::try_from(u128::from(count) * 1_000_000_000 / u128::from(rate)).unwrap_or(u64::MAX)
        };
        let due = u64::try_from(u128::from(now - self.began) * u128::from(rate) / 1_000_000_000).unwrap_or(u64::MAX);
        let next = at(due.max(self.outcomes.report.sent) + 1);
        let mut stuck = 0;
        while self.outcomes.report.sent < due && stuck < self.clients.len() {
            let missing = usize::try_from(due - self.outcomes.report.sent).unwrap_or(usize::MAX);
            stuck = if self.ask(*next_client % self.clients.len(), missing.min(4)) == 0 { stuck + 1 } else { 0 };
            *next_client += 1;
        }
        Duration::from_nanos(next.saturating_sub(system::monotonic())).min(Duration::from_millis(5))
    }

    /// Sends at most `count` queries on a client, and tells how many.
    fn ask(&mut self, client: usize, count: usize) -> usize {
        let left = self.options.count - self.outcomes.report.sent.min(self.options.count);
        let count = count.min(BATCH).min(usize::try_from(left).unwrap_or(usize::MAX));
        let sent = self.clients[client].ask(&self.options.names, self.outcomes.report.sent, count, &mut self.datagrams);
        self.outcomes.report.sent += sent as u64;
        sent
    }

    fn receive(&mut self, client: usize, going_on: bool) -> Outcome<()> {
        let mut done = self.clients[client].receive(&mut self.datagrams, &mut self.outcomes);
        if self.clients[client].closed() {
            self.outcomes.report.reconnects += 1;
            done += self.clients[client].lose(|_| true, &mut self.outcomes);
            self.clients[client].reconnect(&self.readiness).during("connecting again")?;
        }
        let churn = self.options.churn.unwrap_or(u64::MAX);
        if self.clients[client].spent(churn) {
            self.clients[client].reconnect(&self.readiness).during("connecting again")?;
            done = self.share;
        } else if self.clients[client].asked() >= churn {
            done = 0;
        }
        if self.options.rate.is_none() && going_on {
            self.ask(client, done);
        }
        Ok(())
    }

    fn give_up(&mut self, timeout: u64, going_on: bool) {
        let now = system::monotonic();
        for client in 0..self.clients.len() {
            let lost = self.clients[client].lose(|sent| now > sent + timeout, &mut self.outcomes);
            if self.options.rate.is_none() && going_on {
                self.ask(client, lost);
            }
        }
    }

    fn report(mut self) -> Outcome<Report> {
        for client in &mut self.clients {
            client.lose(|_| true, &mut self.outcomes);
        }
        let now = system::monotonic();
        let microseconds = |nanoseconds: u64| nanoseconds as f64 / 1e3;
        let histogram = &self.outcomes.histogram;
        let report = Report {
            p50: microseconds(histogram.per_mille(500)),
            p99: microseconds(histogram.per_mille(990)),
            p999: microseconds(histogram.per_mille(999)),
            most: microseconds(histogram.most()),
            mean: microseconds(histogram.mean()),
            utilisation: system::own_cpu().as_secs_f64() * 1e9 / (now - self.began) as f64,
            ..self.outcomes.report
        };
        if let (Some(path), Some(log)) = (&self.options.log, &self.outcomes.log) {
            let write = || -> std::io::Result<()> {
                let mut file = BufWriter::new(File::create(path)?);
                log.iter()
                    .try_for_each(|event| writeln!(file, "{} {} {}", event.sent, event.latency, event.outcome()))?;
                file.flush()
            };
            write().during(format_args!("writing {}", path.display()))?;
        }
        Ok(report)
    }
}

fn nanoseconds(seconds: f64) -> Outcome<u64> {
    let duration = Duration::try_from_secs_f64(seconds).during("--seconds")?;
    u64::try_from(duration.as_nanos()).during("--seconds")
}
