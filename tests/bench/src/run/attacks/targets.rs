//! What is wanted of dot-proxy under attack, and whether it is so.

use super::measure::{Attacked, SLACK};
use super::{memory_limit, rounds};
use crate::attack::Kind;
use crate::run::contender::PROXY;

/// How many times the p99 of the quiet the p99 under attack may be.
const SLOWER: f64 = 3.0;

/// What is wanted of each attack.
pub(super) const WANTED: [&str; 8] = [
    "lost over TCP: 0",
    "not resolved over UDP: 0",
    "wrong: 0",
    "p99: at most 3 times",
    "most memory: at most 128 MB",
    "memory left: at most 2 MB",
    "descriptors left: 0",
    "octets out for one in: at most 1",
];

/// How an attack went, as wanted above; nothing where the attack does not show it.
#[derive(Debug)]
pub(super) struct Verdicts {
    pub(super) attack: &'static str,
    pub(super) found: [Option<Verdict>; WANTED.len()],
}

/// What was found, and whether it is what was wanted.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) found: String,
    pub(super) met: bool,
}

/// Looks at all targets; without those that only a quiet machine can show, when it was brief.
pub(super) fn judge(found: &[Attacked], brief: bool) -> Vec<Verdicts> {
    let of = |attacked: &Attacked| Verdicts { attack: attacked.attack.what(), found: verdicts(attacked, brief) };
    found.iter().filter(|attacked| attacked.contender == PROXY).map(of).collect()
}

impl Verdicts {
    pub(super) fn missed(&self) -> usize {
        self.found.iter().flatten().filter(|verdict| !verdict.met).count()
    }
}

fn verdicts(attacked: &Attacked, brief: bool) -> [Option<Verdict>; WANTED.len()] {
    if let Some(words) = &attacked.ended {
        let mut none = [const { None }; WANTED.len()];
        none[0] = Some(Verdict { found: format!("it ended: {words}"), met: false });
        return none;
    }
    let (before, after) = (attacked.before, attacked.after);
    let beside = rounds::together(attacked.rounds.iter().map(|round| &round.beside));
    let none = |count: u64| Some(Verdict { found: count.to_string(), met: count == 0 });
    let at_most = |limit: f64, value: f64, digits: usize| {
        Some(Verdict { found: format!("{value:.digits$}"), met: value <= limit })
    };
    [
        none(beside.lost_over_tcp()),
        none(beside.udp.asked - beside.udp.answered),
        none(beside.kinds().iter().map(|(_, kind)| kind.wrong).sum()),
        at_most(SLOWER, rounds::slower(&attacked.rounds), 1).filter(|_| !brief && !attacked.attack.fills_udp()),
        at_most(megabytes(memory_limit::OCTETS), megabytes(attacked.most_memory), 1),
        at_most(megabytes(SLACK), megabytes(after.memory.saturating_sub(before.memory)), 1),
        none(after.descriptors.saturating_sub(before.descriptors)),
        // Of forged networks a brief flood is within the burst that all together are granted for the most part.
        attacked
            .amplification
            .filter(|_| !brief || attacked.attack != Kind::Spoofed)
            .and_then(|factor| at_most(1.0, factor, 2)),
    ]
}

pub(in crate::run) fn megabytes(octets: u64) -> f64 {
    octets as f64 / f64::from(1 << 20)
}
