//! Which server of a group is asked first, and which next. Pure.

use std::time::Duration;

use dot_proxy_config::Strategy;

use super::health::Standing;

/// A server as the choice sees it.
#[derive(Debug, Clone, Copy)]
pub struct Candidate {
    /// Its place in the configuration.
    pub index: usize,
    /// How much it can be relied on.
    pub standing: Standing,
    /// How fast it answers, if that was measured.
    pub latency: Option<Duration>,
}

/// Puts the candidates in the order in which they are asked: the reliable first, and among equals as the strategy says.
/// `turn` counts queries, for taking turns.
pub fn order(strategy: Strategy, candidates: &mut [Candidate], turn: usize) {
    let count = candidates.len().max(1);
    candidates.sort_by_key(|candidate| {
        let among_equals = match strategy {
            Strategy::Ordered => (Duration::ZERO, candidate.index),
            Strategy::RoundRobin => (Duration::ZERO, (candidate.index + count - turn % count) % count),
            // Who was never measured comes after who was; it is measured aside.
            Strategy::Fastest => (candidate.latency.unwrap_or(Duration::MAX), candidate.index),
        };
        (candidate.standing, among_equals)
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    fn ordered(strategy: Strategy, candidates: &[(Standing, Option<Duration>)], turn: usize) -> Vec<usize> {
        let mut candidates: Vec<_> = candidates
            .iter()
            .enumerate()
            .map(|(index, (standing, latency))| Candidate { index, standing: *standing, latency: *latency })
            .collect();
        order(strategy, &mut candidates, turn);
        candidates.iter().map(|candidate| candidate.index).collect()
    }

    #[test]
    fn the_fastest_is_asked_first_and_the_unmeasured_last() {
        let servers = [(Standing::Good, None), (Standing::Good, Some(MILLI * 9)), (Standing::Good, Some(MILLI * 2))];
        assert_eq!(ordered(Strategy::Fastest, &servers, 0), [2, 1, 0]);
    }

    #[test]
    fn in_order_means_in_the_configurations_order() {
        let servers = [(Standing::Good, None), (Standing::Good, Some(MILLI))];
        assert_eq!(ordered(Strategy::Ordered, &servers, 1), [0, 1]);
    }

    #[test]
    fn servers_take_turns() {
        let servers = [(Standing::Good, None); 3];
        let first: Vec<_> = (0..6).map(|turn| ordered(Strategy::RoundRobin, &servers, turn)[0]).collect();
        assert_eq!(first, [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn who_cannot_be_relied_on_comes_later_whatever_the_strategy() {
        let servers = [(Standing::Paused, Some(MILLI)), (Standing::Silent, Some(MILLI)), (Standing::Good, None)];
        for strategy in [Strategy::Fastest, Strategy::Ordered, Strategy::RoundRobin] {
            assert_eq!(ordered(strategy, &servers, 0), [2, 1, 0]);
        }
    }
}
