//! The rows of the table, and how each is measured.

mod answers;
mod distance;
mod faults;
mod footprint;
mod idle;
mod instructions;
mod threads;

use super::Plan;
use super::contender::{Contender, PROXY};
use super::results::{Figure, Results};
use super::site::Site;
use crate::failure::Outcome;
use crate::load::Report;

/// What can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Row {
    /// Cached, UDP, as fast as it goes
    HitUdp,
    /// Cached, UDP, 10,000 a second
    HitPaced,
    /// Cached, TCP on connections that stay, as fast as it goes
    HitTcp,
    /// Not cached, as fast as it goes
    Miss,
    /// Not cached, 2,000 a second
    MissPaced,
    /// Not cached, one at a time
    MissSingle,
    /// Not cached, 40 ms to the upstream, 200 outstanding
    Distance,
    /// The first query after the start, 40 ms to the upstream
    First,
    /// From exec to the first answer
    Start,
    /// Resident memory: idle, after 10,000 names, after 100,000
    Memory,
    /// The program and the libraries that it needs
    Size,
    /// Context switches in a minute without queries
    Idle,
    /// One of two upstreams frozen
    Frozen,
    /// Twenty equal questions at once
    Equal,
    /// All upstreams away
    Away,
    /// Two threads and one, at the same load
    Threads,
    /// Instructions of a cached answer
    Instructions,
}

impl Row {
    /// What is wanted while tuning.
    pub(super) fn quick() -> Vec<Self> {
        vec![Self::HitUdp, Self::HitPaced, Self::HitTcp, Self::Miss, Self::MissPaced, Self::MissSingle]
    }
}

/// Rows that share a server's start.
pub(super) struct Group {
    pub(super) what: &'static str,
    rows: &'static [Row],
    /// How many rounds are enough.
    rounds: usize,
    whom: Whom,
    /// Whether all contenders are measured at the same time.
    pub(super) all_at_once: bool,
    pub(super) measure: fn(&Plan, &Site, &[&Contender], &mut Results) -> Outcome<()>,
    pub(super) figures: &'static [Figure],
}

enum Whom {
    /// Forwarders and the echo.
    All,
    Forwarders,
    ProxyAlone,
}

/// All groups, in the order in which they are measured and printed.
pub(super) const GROUPS: &[Group] = &[
    answers::HITS,
    answers::MISSES,
    distance::DISTANCE,
    footprint::START,
    footprint::MEMORY,
    idle::IDLE,
    faults::EQUAL,
    faults::FROZEN,
    faults::AWAY,
    threads::THREADS,
    instructions::INSTRUCTIONS,
];

impl Group {
    pub(super) fn wanted(&self, plan: &Plan, round: usize) -> bool {
        round < self.rounds && self.rows.iter().any(|row| plan.rows.contains(row))
    }

    pub(super) fn applies_to(&self, contender: &Contender) -> bool {
        match self.whom {
            Whom::All => true,
            Whom::Forwarders => contender.forwards(),
            Whom::ProxyAlone => contender.name == PROXY,
        }
    }
}

impl Plan {
    fn has(&self, row: Row) -> bool {
        self.rows.contains(&row)
    }
}

/// Notes what was not answered as it should have been.
fn verify(what: &'static str, contender: &Contender, report: &Report, results: &mut Results) {
    results.count(&contender.name, what, report);
    // What is lost can be the load's share; a wrong answer is nobody's but the server's.
    results.broken |= contender.name == PROXY && report.wrong > 0;
}
