//! Quantiles, and how sure a difference is.

use std::time::Duration;

/// The quantile by the nearest rank: the smallest latency that so large a share of all does not exceed.
pub fn quantile(sorted: &[Duration], share: f64) -> Option<Duration> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a length")]
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

/// The middle one; of an even number the lower of the two.
pub fn median(mut durations: Vec<Duration>) -> Option<Duration> {
    durations.sort_unstable();
    quantile(&durations, 0.5)
}

/// How much larger one thing is than another, by differences that were seen, and how sure that is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The difference (Hodges and Lehmann: the median of the means of all pairs of the differences).
    pub difference: f64,
    /// Between these it lies; `None` where so few differences cannot make it so sure.
    pub interval: Option<(f64, f64)>,
}

/// Estimates a difference from the differences seen in each round. The interval is that of Wilcoxon's signed-rank test: it
/// leaves zero out exactly when the test, two-sided, rejects "no difference" at `doubt`. Nothing is assumed of how the
/// differences are distributed, but that they are as likely above as below the true one. `None` without differences.
pub fn estimate(differences: &[f64], doubt: f64) -> Option<Estimate> {
    let mut means: Vec<f64> = (0..differences.len())
        .flat_map(|second| (0..=second).map(move |first| (differences[first] + differences[second]) / 2.0))
        .collect();
    means.sort_unstable_by(f64::total_cmp);
    let count = means.len();
    let (lower, upper) = (means.get(count.checked_sub(1)? / 2)?, means.get(count / 2)?);
    let outside = means_outside(differences.len(), doubt);
    let interval = (outside > 0).then(|| (means[outside - 1], means[count - outside]));
    Some(Estimate { difference: (lower + upper) / 2.0, interval })
}

/// How many of the sorted means, at either end, mark where the interval ends; zero where no interval is sure enough.
fn means_outside(differences: usize, doubt: f64) -> usize {
    // How likely is each sum of the ranks that are positive, where each rank is so with probability one half: exactly.
    let mut likelihood = vec![1.0];
    for rank in 1..=differences {
        let mut next = vec![0.0; likelihood.len() + rank];
        for (sum, share) in likelihood.iter().enumerate() {
            next[sum] += share / 2.0;
            next[sum + rank] += share / 2.0;
        }
        likelihood = next;
    }
    let tails = likelihood.iter().scan(0.0, |tail, share| {
        *tail += 2.0 * share;
        Some(*tail)
    });
    tails.take_while(|tail| *tail <= doubt).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn milliseconds(numbers: &[u64]) -> Vec<Duration> {
        numbers.iter().copied().map(Duration::from_millis).collect()
    }

    #[test]
    fn a_quantile_is_a_latency_that_was_seen() {
        let hundred = milliseconds(&(1..=100).collect::<Vec<_>>());
        for (share, expected) in [(0.0, 1), (0.5, 50), (0.9, 90), (0.99, 99), (0.991, 100), (1.0, 100)] {
            assert_eq!(quantile(&hundred, share), Some(Duration::from_millis(expected)), "{share}");
        }
        assert_eq!(quantile(&milliseconds(&[7]), 0.99), Some(Duration::from_millis(7)));
        assert_eq!(quantile(&[], 0.5), None);
        assert_eq!(median(milliseconds(&[9, 1, 5])), Some(Duration::from_millis(5)));
    }

    /// The intervals end where the published tables of the signed-rank statistic say: below the critical value 13 for 12
    /// pairs and 8 for 10 at 5 %, two-sided; fewer than 6 pairs are never enough.
    #[test]
    fn an_interval_ends_where_the_tables_of_the_signed_rank_test_say() {
        for (differences, doubt, outside) in
            [(12, 0.05, 14), (10, 0.05, 9), (6, 0.05, 1), (5, 0.05, 0), (12, 0.01, 8), (10, 0.01, 4), (0, 0.05, 0)]
        {
            assert_eq!(means_outside(differences, doubt), outside, "{differences} at {doubt}");
        }
    }

    #[test]
    fn the_estimate_is_the_shift_and_one_wild_round_does_not_move_it() {
        let mut differences: Vec<f64> = (0..12).map(|round| 40.0 + f64::from(round % 3) / 10.0).collect();
        differences[4] = 900.0;
        let Estimate { difference, interval } = estimate(&differences, 0.05).unwrap();
        let (low, high) = interval.unwrap();
        assert!((40.0..40.3).contains(&difference), "{difference}");
        assert!(low >= 40.0 && high < 41.0, "{low} {high}");
    }

    #[test]
    fn what_is_as_often_more_as_less_may_be_nothing() {
        let differences: Vec<f64> = (0..12).map(|round| if round % 2 == 0 { 1.5 } else { -1.4 }).collect();
        let (low, high) = estimate(&differences, 0.05).unwrap().interval.unwrap();
        assert!(low < 0.0 && high > 0.0, "{low} {high}");
    }

    #[test]
    fn too_few_rounds_give_an_estimate_without_an_interval() {
        assert_eq!(estimate(&[3.0; 5], 0.05), Some(Estimate { difference: 3.0, interval: None }));
        assert_eq!(estimate(&[], 0.05), None);
    }

    #[test]
    fn twelve_rounds_are_enough_for_a_hundred_comparisons() {
        assert!(estimate(&[1.0; 12], 0.05 / 100.0).unwrap().interval.is_some());
    }
}
