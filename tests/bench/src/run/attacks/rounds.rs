//! What the good client saw in the rounds of an attack: a single p99 shows as much of the machine as of the server.

use serde::Serialize;

use crate::neighbour::{Lookups, Report};
use crate::run::results::Summary;

/// The good client alone, and then beside the attack.
#[derive(Debug, Serialize)]
pub(super) struct Round {
    pub(super) quiet: Report,
    pub(super) beside: Report,
}

/// All that was counted in some reports, and the medians of their times.
pub(super) fn together<'a>(reports: impl Iterator<Item = &'a Report>) -> Report {
    let reports: Vec<_> = reports.collect();
    let all_of = |kind: fn(&Report) -> &Lookups| all_of(&reports.iter().map(|report| kind(report)).collect::<Vec<_>>());
    Report {
        udp: all_of(|report| &report.udp),
        kept: all_of(|report| &report.kept),
        fresh: all_of(|report| &report.fresh),
    }
}

/// How many times the p99 of the quiet the p99 beside the attack is: the median of the rounds, of the kind of lookups that
/// suffered most.
pub(super) fn slower(rounds: &[Round]) -> f64 {
    let times = |kind: usize| {
        let times = |round: &Round| round.beside.kinds()[kind].1.p99 / round.quiet.kinds()[kind].1.p99;
        median(rounds.iter().map(times))
    };
    (0..3).map(times).fold(0.0, f64::max)
}

fn all_of(those: &[&Lookups]) -> Lookups {
    let sum = |count: fn(&Lookups) -> u64| those.iter().map(|one| count(one)).sum();
    // Where nothing was answered there is no time.
    let time = |time: fn(&Lookups) -> f64| median(those.iter().filter(|one| one.answered > 0).map(|one| time(one)));
    Lookups {
        asked: sum(|one| one.asked),
        answered: sum(|one| one.answered),
        again: sum(|one| one.again),
        unresolved: sum(|one| one.unresolved),
        wrong: sum(|one| one.wrong),
        broken: sum(|one| one.broken),
        ended: sum(|one| one.ended),
        p50: time(|one| one.p50),
        p99: time(|one| one.p99),
        most: those.iter().map(|one| one.most).fold(0.0, f64::max),
    }
}

fn median(samples: impl Iterator<Item = f64>) -> f64 {
    Summary::of(samples.collect()).map_or(0.0, |summary| summary.median)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(p99: f64, answered: u64) -> Report {
        let of = |p99| Lookups { asked: 10, answered, p99, most: 9.0 * p99, ..Lookups::default() };
        Report { udp: of(p99), kept: of(2.0 * p99), fresh: of(1.0) }
    }

    #[test]
    fn counts_are_added_up_and_times_are_those_of_the_round_in_the_middle() {
        let rounds = [report(0.5, 10), report(0.3, 10), report(9.0, 4), report(0.0, 0)];
        let all = together(rounds.iter());
        assert_eq!((all.udp.asked, all.udp.answered), (40, 24));
        assert_eq!((all.udp.p99, all.kept.p99, all.udp.most), (0.5, 1.0, 81.0));
    }

    #[test]
    fn how_much_slower_is_told_round_by_round_and_of_the_kind_that_suffered_most() {
        let quiet = |p99| report(p99, 10);
        let round = |quiet: Report, udp, fresh| {
            let mut beside = report(udp, 10);
            beside.fresh.p99 = fresh;
            Round { quiet, beside }
        };
        assert_eq!(
            slower(&[round(quiet(0.5), 1.0, 1.0), round(quiet(0.2), 0.5, 1.0), round(quiet(0.2), 5.0, 1.0)]),
            2.5
        );
        assert_eq!(slower(&[round(quiet(0.5), 1.0, 4.0)]), 4.0);
    }
}
