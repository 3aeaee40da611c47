//! What dot-proxy is to reach, and whether it does: against the others in the same run wherever that is what counts.

use serde::Serialize;

use super::contender::{self, ECHO, PROXY};
use super::results::{Results, Summary};

/// What is wanted of a figure.
#[derive(Debug, Clone, Copy)]
enum Rule {
    /// At most so many times what the echo takes.
    TimesEcho(f64),
    /// At most so many times what the best peer takes.
    TimesBest(f64),
    /// Not above the best peer's, but for half of the spread of that peer's own samples.
    NotAboveBest,
    BelowEach,
    MoreThanEach,
    AtMost(f64),
    AtLeast(f64),
}

/// Whether a target is met.
#[derive(Debug, Serialize)]
pub(super) struct Verdict {
    pub(super) figure: &'static str,
    pub(super) what: &'static str,
    pub(super) wanted: String,
    pub(super) found: String,
    pub(super) met: bool,
}

const TARGETS: &[(&str, &str, Rule)] = &[
    ("hit-udp.cpu", "cached, UDP: CPU per query", Rule::TimesEcho(1.10)),
    ("hit-udp.cpu", "cached, UDP: CPU per query", Rule::TimesBest(0.80)),
    ("hit-udp.rate", "cached, UDP: queries a second", Rule::MoreThanEach),
    ("hit-paced.cpu", "cached, UDP, 10,000/s: CPU per query", Rule::NotAboveBest),
    ("hit-tcp.cpu", "cached, TCP: CPU per query", Rule::TimesBest(0.85)),
    ("miss.cpu", "miss: CPU per query", Rule::TimesBest(0.75)),
    ("miss.rate", "miss: queries a second", Rule::MoreThanEach),
    ("miss-paced.cpu", "miss, 2,000/s: CPU per query", Rule::BelowEach),
    ("miss-single.p50", "miss, one at a time: p50", Rule::BelowEach),
    ("distance.rate", "40 ms away, 200 outstanding: queries a second", Rule::AtLeast(4950.0)),
    ("distance.connections", "40 ms away, 200 outstanding: connections", Rule::AtMost(1.0)),
    ("first.time", "first query, 40 ms away: ms", Rule::AtMost(41.0)),
    ("start.time", "exec to the first answer: ms", Rule::AtMost(6.0)),
    ("memory.idle", "memory, idle: MB", Rule::AtMost(4.0)),
    ("memory.10k", "memory, 10,000 names: MB", Rule::AtMost(7.0)),
    ("memory.100k", "memory, 100,000 names: MB", Rule::AtMost(20.0)),
    ("size", "the program with what it needs: MB", Rule::AtMost(6.0)),
    ("idle.switches", "idle for a minute: context switches", Rule::AtMost(0.0)),
    ("equal.upstream", "twenty equal questions: asked upstream", Rule::AtMost(1.0)),
    ("frozen-3.late", "one of two upstreams frozen for 3 s: latest, ms", Rule::AtMost(100.0)),
    ("frozen-3.lost", "one of two upstreams frozen for 3 s: not answered", Rule::AtMost(0.0)),
    ("frozen-3.upstream", "one of two upstreams frozen for 3 s: upstream queries each", Rule::AtMost(1.1)),
    ("frozen-8.late", "one of two upstreams frozen for 8 s: latest, ms", Rule::AtMost(100.0)),
    ("frozen-8.lost", "one of two upstreams frozen for 8 s: not answered", Rule::AtMost(0.0)),
    ("frozen-8.upstream", "one of two upstreams frozen for 8 s: upstream queries each", Rule::AtMost(1.1)),
    ("away.back", "upstreams away for 2 s: answers again after, ms", Rule::AtMost(10.0)),
    ("away.stale", "upstreams away for 2 s: % of once cached names answered meanwhile", Rule::AtLeast(100.0)),
    ("threads.ratio", "two threads: CPU per query, times that of one", Rule::AtMost(1.15)),
    ("instructions.growth", "instructions of a hit, times those kept in the repository", Rule::AtMost(1.05)),
];

/// Looks at every target that was measured.
pub(super) fn judge(results: &Results) -> Vec<Verdict> {
    TARGETS.iter().filter_map(|&(figure, what, rule)| rule.judge(figure, what, results)).collect()
}

impl Rule {
    fn judge(self, figure: &'static str, what: &'static str, results: &Results) -> Option<Verdict> {
        let own = results.of(figure, PROXY)?.median;
        let peers = || contender::names().into_iter().filter(|name| *name != PROXY && !name.starts_with(ECHO));
        let measured: Vec<(&str, Summary)> =
            peers().filter_map(|name| Some((name, results.of(figure, name)?))).collect();
        let least = measured.iter().min_by(|one, other| one.1.median.total_cmp(&other.1.median));
        let most = measured.iter().max_by(|one, other| one.1.median.total_cmp(&other.1.median));
        let times = |limit: f64, (name, other): (&str, Summary)| {
            let ratio = own / other.median;
            let wanted = format!("at most {limit:.2} × {name}'s {}", number(other.median));
            (wanted, format!("{} = {ratio:.2} ×", number(own)), ratio <= limit)
        };
        let (wanted, found, met) = match self {
            Self::TimesEcho(limit) => times(limit, (ECHO, results.of(figure, ECHO)?)),
            Self::TimesBest(limit) => times(limit, *least?),
            Self::NotAboveBest => {
                let (name, other) = *least?;
                let noise = (other.max - other.min) / 2.0;
                let wanted = format!("not above {name}'s {} ± {}", number(other.median), number(noise));
                (wanted, format!("{} = {:.2} ×", number(own), own / other.median), own <= other.median + noise)
            }
            Self::BelowEach => {
                let (name, other) = *least?;
                let found = format!("{} = {:.2} ×", number(own), own / other.median);
                (format!("below {name}'s {}", number(other.median)), found, own < other.median)
            }
            Self::MoreThanEach => {
                let (name, other) = *most?;
                let found = format!("{} = {:.2} ×", number(own), own / other.median);
                (format!("more than {name}'s {}", number(other.median)), found, own > other.median)
            }
            Self::AtMost(limit) => (format!("at most {}", number(limit)), number(own), own <= limit),
            Self::AtLeast(limit) => (format!("at least {}", number(limit)), number(own), own >= limit),
        };
        Some(Verdict { figure, what, wanted, found, met })
    }
}

/// Three digits that say something.
fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        ..10.0 if value.fract() != 0.0 => format!("{value:.2}"),
        ..100.0 if value.fract() != 0.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(samples: &[(&'static str, &str, f64)]) -> Results {
        let mut results = Results::default();
        samples.iter().for_each(|(key, name, value)| results.add(key, name, *value));
        results
    }

    fn verdicts(samples: &[(&'static str, &str, f64)]) -> Vec<bool> {
        judge(&results(samples)).iter().map(|verdict| verdict.met).collect()
    }

    #[test]
    fn a_hit_is_held_against_the_echo_and_the_best_peer() {
        let others = [("hit-udp.cpu", "echo", 3.5), ("hit-udp.cpu", "unbound", 5.0), ("hit-udp.cpu", "stubby", 40.0)];
        let with = |own| verdicts(&[&others[..], &[("hit-udp.cpu", PROXY, own)]].concat());
        assert_eq!(with(3.8), [true, true]);
        assert_eq!(with(3.9), [false, true]);
        assert_eq!(with(4.1), [false, false]);
    }

    #[test]
    fn a_row_without_peers_is_judged_only_by_what_needs_none() {
        assert_eq!(verdicts(&[("miss.cpu", PROXY, 1.0), ("size", PROXY, 5.9)]), [true]);
        assert!(verdicts(&[("size", "unbound", 5.9)]).is_empty());
    }

    #[test]
    fn noise_is_that_of_the_best_peer() {
        let others = [
            ("hit-paced.cpu", "dnsdist", 20.0),
            ("hit-paced.cpu", "dnsdist", 22.0),
            ("hit-paced.cpu", "unbound", 30.0),
        ];
        let with = |own| verdicts(&[&others[..], &[("hit-paced.cpu", PROXY, own)]].concat());
        assert_eq!((with(22.0), with(22.1)), (vec![true], vec![false]));
    }
}
