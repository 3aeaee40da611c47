//! The attacks: what clients do that have gone wrong or mean harm, each bounded in time and in count, and from the address that
//! a good client has too. One thread; a file for each.

mod crowd;
mod flood;
mod garbage;
mod idle;
mod never_reads;
mod random_names;
mod slow;
mod spoofed;

use std::io::Write;
use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::failure::{During, Outcome};
use crate::system;

/// Descriptors that an attack may need: its connections, and some.
const DESCRIPTORS: u64 = 1 << 16;

/// Attack a server, and tell what was done as one line of JSON
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Whom to attack: an address of this machine
    #[arg(long)]
    server: SocketAddrV4,
    /// How
    #[arg(long, value_enum)]
    kind: Kind,
    /// For how long
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// How many connections to hold, of an attack that holds connections [default: as the attack's name tells]
    #[arg(long)]
    connections: Option<usize>,
    /// How many messages to send at most
    #[arg(long, default_value_t = 50_000_000)]
    count: u64,
    /// How many datagrams to send a second at most, of an attack that sends them [default: as fast as it goes]
    #[arg(long)]
    rate: Option<u64>,
}

/// How a server is attacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// 10,000 TCP connections on which nothing is ever asked
    Idle,
    /// 1,000 TCP connections that send their query octet by octet, ten a second
    Slow,
    /// 64 TCP connections that send what is no query, as fast as it is taken
    GarbageTcp,
    /// 16 TCP connections that ask as fast as it is taken, and never read a reply
    NeverReads,
    /// Datagrams that are no queries, as fast as it goes
    GarbageUdp,
    /// Queries over UDP for names that do not exist, none twice, as fast as it goes
    RandomNames,
    /// Queries over UDP from addresses that did not send them, of 10.0.0.0/8, as fast as it goes
    Spoofed,
    /// The same from the 254 addresses of one network: their answers are what harms it
    Reflection,
}

/// What an attack did.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields say it")]
pub(crate) struct Report {
    /// Connections begun.
    pub(crate) connections: u64,
    /// Connections that were open when the attack ended: the last one, of several.
    pub(crate) open: u64,
    /// Connections that the server ended.
    pub(crate) ended: u64,
    /// Messages sent, over UDP; writes, over TCP.
    pub(crate) sent: u64,
    pub(crate) octets: u64,
}

/// How long an attack goes on.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    begin: Instant,
    end: Instant,
    count: u64,
    rate: Option<u64>,
}

/// Numbers that look random, the same in each run (xorshift64).
#[derive(Debug)]
struct Random(u64);

/// Attacks, and prints the report.
pub(crate) fn run(options: &Options) -> Outcome<()> {
    system::limits::modest();
    system::limits::descriptors(DESCRIPTORS).during("raising the limit of descriptors")?;
    let duration = Duration::try_from_secs_f64(options.seconds).during("--seconds")?;
    let begin = Instant::now();
    let bounds = Bounds { begin, end: begin + duration, count: options.count, rate: options.rate };
    let report = options.kind.attack(options, bounds)?;
    let line = serde_json::to_string(&report).during("writing the report")?;
    writeln!(std::io::stdout(), "{line}").during("writing the report")
}

impl Kind {
    fn attack(self, options: &Options, bounds: Bounds) -> Outcome<Report> {
        let connections = |usual| options.connections.unwrap_or(usual);
        match self {
            Self::Idle => crowd::attack(options.server, connections(10_000), idle::Idle, bounds),
            Self::Slow => crowd::attack(options.server, connections(1_000), slow::Slow::new(), bounds),
            Self::GarbageTcp => crowd::attack(options.server, connections(64), garbage::Streams::new(), bounds),
            Self::NeverReads => crowd::attack(options.server, connections(16), never_reads::NeverReads::new(), bounds),
            Self::GarbageUdp => flood::attack(options.server, &mut garbage::Datagrams::new(), bounds),
            Self::RandomNames => flood::attack(options.server, &mut random_names::RandomNames::new(), bounds),
            Self::Spoofed => spoofed::attack(options.server, spoofed::Sources::Anyone, bounds),
            Self::Reflection => spoofed::attack(options.server, spoofed::Sources::OneNetwork, bounds),
        }
    }

    /// What it is, in a sentence's words.
    pub(crate) fn what(self) -> &'static str {
        match self {
            Self::Idle => "10,000 idle TCP connections",
            Self::Slow => "1,000 TCP connections that send octet by octet",
            Self::GarbageTcp => "garbage at full speed over TCP",
            Self::NeverReads => "clients that never read their replies",
            Self::GarbageUdp => "garbage at full speed over UDP",
            Self::RandomNames => "random names at full speed over UDP",
            Self::Spoofed => "queries from forged addresses at full speed over UDP",
            Self::Reflection => "queries in the name of one network at full speed over UDP",
        }
    }

    /// Whether it sends datagrams at full speed: then the kernel drops those of good clients too.
    pub(crate) fn fills_udp(self) -> bool {
        matches!(self, Self::GarbageUdp | Self::RandomNames | Self::Spoofed | Self::Reflection)
    }

    /// Whether it forges addresses, which takes a network of its own.
    pub(crate) fn forges(self) -> bool {
        matches!(self, Self::Spoofed | Self::Reflection)
    }
}

impl Bounds {
    fn over(&self, report: &Report) -> bool {
        report.sent >= self.count || Instant::now() >= self.end
    }

    /// Waits while as much has been sent as may be by now.
    fn pace(&self, report: &Report) {
        while let Some(rate) = self.rate
            && report.sent as f64 > rate as f64 * self.begin.elapsed().as_secs_f64()
        {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Report {
    /// Adds what another attack did.
    pub(crate) fn add(&mut self, other: &Self) {
        self.connections += other.connections;
        self.open = other.open;
        self.ended += other.ended;
        self.sent += other.sent;
        self.octets += other.octets;
    }
}

impl Random {
    fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Below `limit`, which is not 0.
    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap_or(0)
    }

    fn fill(&mut self, octets: &mut [u8]) {
        for chunk in octets.chunks_mut(8) {
            let random = self.next().to_ne_bytes();
            chunk.copy_from_slice(&random[..chunk.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_numbers_are_the_same_in_each_run_and_fill_any_length() {
        let (mut one, mut other) = (Random::new(), Random::new());
        assert!((0..100).all(|_| one.next() == other.next()));
        let mut octets = [0; 13];
        one.fill(&mut octets);
        assert!(octets[8..].iter().any(|&octet| octet != 0));
        assert!((0..1000).all(|_| one.below(7) < 7));
    }
}
