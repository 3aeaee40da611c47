//! Latencies, counted in bins whose width is at most 1/256 of what they hold.

/// Bins between a power of two and the next; a power of two itself.
const FINE: u64 = 256;

/// How often each duration was seen, in nanoseconds.
#[derive(Debug, Clone)]
pub(crate) struct Histogram {
    bins: Vec<u64>,
    count: u64,
    sum: u128,
    least: u64,
    most: u64,
}

impl Histogram {
    /// Nothing seen as yet.
    pub(crate) fn new() -> Self {
        Self { bins: vec![0; bin(u64::MAX) + 1], count: 0, sum: 0, least: u64::MAX, most: 0 }
    }

    /// Counts one.
    pub(crate) fn add(&mut self, nanoseconds: u64) {
        self.bins[bin(nanoseconds)] += 1;
        self.count += 1;
        self.sum += u128::from(nanoseconds);
        self.least = self.least.min(nanoseconds);
        self.most = self.most.max(nanoseconds);
    }

    /// Counts all that another has counted.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.bins.iter_mut().zip(&other.bins).for_each(|(bin, more)| *bin += more);
        self.count += other.count;
        self.sum += other.sum;
        self.least = self.least.min(other.least);
        self.most = self.most.max(other.most);
    }

    /// The duration that so many thousandths of all seen do not exceed; 0 when none was seen.
    pub(crate) fn per_mille(&self, share: u64) -> u64 {
        let wanted = (u128::from(self.count) * u128::from(share)).div_ceil(1000);
        let mut seen = 0;
        for (index, &bin) in self.bins.iter().enumerate() {
            seen += u128::from(bin);
            if bin > 0 && seen >= wanted {
                return middle(index).clamp(self.least, self.most);
            }
        }
        0
    }

    /// The longest; 0 when none was seen.
    pub(crate) fn most(&self) -> u64 {
        self.most
    }

    /// The mean; 0 when none was seen.
    pub(crate) fn mean(&self) -> u64 {
        u64::try_from(self.sum / u128::from(self.count.max(1))).unwrap_or(u64::MAX)
    }
}

/// Up to `FINE` one bin a value, from there `FINE` bins between a power of two and the next.
fn bin(value: u64) -> usize {
    let shift = (value.max(1).ilog2()).saturating_sub(FINE.ilog2());
    let index = if value < FINE { value } else { (u64::from(shift) + 1) * FINE + (value >> shift) % FINE };
    usize::try_from(index).expect("there are some thousand bins")
}

fn middle(bin: usize) -> u64 {
    let bin = bin as u64;
    if bin < FINE {
        return bin;
    }
    let shift = bin / FINE - 1;
    ((FINE + bin % FINE) << shift) + ((1 << shift) >> 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_within_a_hundredth_of_the_truth() {
        let mut histogram = Histogram::new();
        (1..=100_000).for_each(|value| histogram.add(value * 10));
        for (share, truth) in [(1, 1_000_u64), (500, 500_000), (990, 990_000), (1000, 1_000_000)] {
            let found = histogram.per_mille(share);
            assert!(found.abs_diff(truth) * 100 <= truth, "{found} for {truth}");
        }
    }

    #[test]
    fn every_value_falls_into_a_bin_that_stands_for_it() {
        for value in (0..64).map(|shift| 1_u64 << shift).flat_map(|power| [power - 1, power, power + power / 3]) {
            let stands_for = middle(bin(value));
            assert!(stands_for.abs_diff(value) <= value / FINE, "{stands_for} for {value}");
        }
    }

    #[test]
    fn two_merged_are_as_one_that_saw_all() {
        let (mut one, mut other, mut all) = (Histogram::new(), Histogram::new(), Histogram::new());
        (1..1_000).for_each(|value| one.add(value));
        (500..5_000).for_each(|value| other.add(value));
        (1..1_000).chain(500..5_000).for_each(|value| all.add(value));
        one.merge(&other);
        let figures = |one: &Histogram| (one.per_mille(10), one.per_mille(990), one.most(), one.mean());
        assert_eq!(figures(&one), figures(&all));
    }

    #[test]
    fn nothing_seen_is_zero() {
        assert_eq!((Histogram::new().per_mille(500), Histogram::new().mean()), (0, 0));
    }
}
