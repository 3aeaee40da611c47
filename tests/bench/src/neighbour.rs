//! The good client, which is in the same pod as what attacks: programs that look up a name now and then as a C library does, each
//! answer checked. Some ask over UDP, each lookup from a port of its own and again when no answer comes; some over TCP on a
//! connection that stays; some over TCP on a new one each time.

mod lookup;

use std::io::Write;
use std::net::SocketAddrV4;
use std::thread;
use std::time::{Duration, Instant};

use lookup::{Asker, How, Tally};
use serde::{Deserialize, Serialize};

use crate::failure::{During, Failure, Outcome};
use crate::system;
use crate::zone::Names;

/// Programs of each kind, how they ask, and the time from one of their lookups to the next.
const PROGRAMS: [(usize, How, Duration); 3] = [
    (8, How::Udp, Duration::from_millis(10)),
    (4, How::Kept, Duration::from_millis(10)),
    (4, How::Fresh, Duration::from_millis(20)),
];
/// How many names of those that last they ask for; every tenth lookup is of a name that nobody asked for before.
const LASTING: u64 = 1_000;
const NEW: u64 = 10;

/// Ask as well-behaved programs do, and tell how they fared as one line of JSON
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Whom to ask
    #[arg(long)]
    server: SocketAddrV4,
    /// How long to ask
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Milliseconds until a query over UDP is sent again
    #[arg(long, default_value_t = 1000)]
    retry: u64,
    /// How often a query over UDP is sent at most, as dig and c-ares do
    #[arg(long, default_value_t = 3)]
    tries: u32,
    /// A word that no other run on the same server has: names that nobody asked for begin with it
    #[arg(long, default_value = "g")]
    label: String,
}

/// How all of them fared.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Over UDP.
    pub(crate) udp: Lookups,
    /// Over TCP, on connections that stay.
    pub(crate) kept: Lookups,
    /// Over TCP, each on a connection of its own.
    pub(crate) fresh: Lookups,
}

/// How the lookups of one kind fared.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields say it")]
pub(crate) struct Lookups {
    pub(crate) asked: u64,
    /// With the right answer, at the first or a later try.
    pub(crate) answered: u64,
    /// With a right answer only after it was sent again, over UDP, or over TCP because the answer was cut short.
    pub(crate) again: u64,
    /// Without any answer, or with an error for the last one.
    pub(crate) unresolved: u64,
    /// With other data than asked for.
    pub(crate) wrong: u64,
    /// Connections that the server ended with a lookup waiting on them, or did not accept.
    pub(crate) broken: u64,
    /// Connections that the server ended while nothing was waited for.
    pub(crate) ended: u64,
    /// From the first try to the answer, in milliseconds.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) most: f64,
}

/// Asks, and prints the report.
pub(crate) fn run(options: &Options) -> Outcome<()> {
    system::urgent();
    system::punctual();
    let duration = Duration::try_from_secs_f64(options.seconds).during("--seconds")?;
    let end = Instant::now() + duration;
    let mut tallies = [const { Vec::new() }; 3];
    thread::scope(|scope| {
        let programs: Vec<_> = (0..PROGRAMS.len())
            .flat_map(|kind| (0..PROGRAMS[kind].0).map(move |program| (kind, program)))
            .map(|(kind, program)| (kind, scope.spawn(move || ask(options, kind, program, end))))
            .collect();
        for (kind, program) in programs {
            tallies[kind].push(program.join().map_err(|_| Failure::new("a thread of the good client ended"))?);
        }
        Ok(())
    })?;
    let [udp, kept, fresh] = tallies.map(|tallies| Tally::sum(&tallies));
    let line = serde_json::to_string(&Report { udp, kept, fresh }).during("writing the report")?;
    writeln!(std::io::stdout(), "{line}").during("writing the report")
}

/// One program.
fn ask(options: &Options, kind: usize, program: usize, end: Instant) -> Tally {
    let (programs, how, every) = PROGRAMS[kind];
    let lasting = Names::Lasting { first: 0, count: LASTING };
    let new = Names::Once { label: format!("{}{kind}x{program}", options.label) };
    let retry = Duration::from_millis(options.retry);
    let mut asker = Asker::new(options.server, how, retry, options.tries);
    // Evenly among the programs of a kind.
    let mut next = Instant::now() + every.mul_f64(program as f64 / programs as f64);
    let mut index = 0;
    while next < end {
        thread::sleep(next.saturating_duration_since(Instant::now()));
        let names = if index % NEW == NEW - 1 { &new } else { &lasting };
        asker.look_up(names, index * 7 + program as u64);
        index += 1;
        next = (next + every).max(Instant::now());
    }
    asker.tally
}

impl Report {
    /// All kinds, with their names.
    pub(crate) fn kinds(&self) -> [(&'static str, &Lookups); 3] {
        [("UDP", &self.udp), ("kept TCP", &self.kept), ("new TCP", &self.fresh)]
    }

    /// Lookups over TCP that got no right answer.
    pub(crate) fn lost_over_tcp(&self) -> u64 {
        [&self.kept, &self.fresh].map(|kind| kind.asked - kind.answered).iter().sum()
    }
}
