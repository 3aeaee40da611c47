//! Who is fastest, who is slower, and what is within the noise.
//!
//! Compared are the medians of the slices of the same round, so that what disturbs a round disturbs both sides of a
//! difference. The twelve differences give an estimate and an interval by Wilcoxon's signed-rank test (see
//! [`statistics::estimate`]). The intervals at one concurrency are 95 % sure together: the doubt of each is 5 % divided by their
//! number (Bonferroni).

use serde::Serialize;

use crate::combination::Combination;
use crate::measurement::{Cell, Measured};
use crate::statistics::{self, Estimate};

/// What all intervals at one concurrency may miss the truth by, together.
const DOUBT: f64 = 0.05;

/// A combination of which a larger share of the queries was not answered is not compared.
const FAILURES: f64 = 0.02;

/// A difference is slight up to so many milliseconds, or up to this share of the faster one's latency.
const SLIGHT_MS: f64 = 0.2;
const SLIGHT_SHARE: f64 = 0.02;

/// What is said of one combination at one concurrency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Judgement {
    /// No other has a smaller median.
    Fastest,
    /// The difference to the fastest may be none.
    WithinNoise,
    /// Slower beyond doubt, by so little that it is no reason to choose.
    SlightlySlower,
    /// Slower beyond doubt.
    Slower,
    /// Too few rounds to tell.
    TooFewRounds,
    /// Too many queries were not answered to compare the others.
    Unreliable,
}

impl Judgement {
    /// The word in JSON and CSV.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fastest => "fastest",
            Self::WithinNoise => "within_noise",
            Self::SlightlySlower => "slightly_slower",
            Self::Slower => "slower",
            Self::TooFewRounds => "too_few_rounds",
            Self::Unreliable => "unreliable",
        }
    }
}

/// One combination compared with the fastest at the same concurrency.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// What is said.
    pub judgement: Judgement,
    /// How much slower than the fastest, in milliseconds.
    pub difference_ms: Option<f64>,
    /// Between this …
    pub difference_low_ms: Option<f64>,
    /// … and this, in milliseconds.
    pub difference_high_ms: Option<f64>,
}

/// Compares the cells of one concurrency, in their order.
pub fn compare(cells: &[&Cell]) -> Vec<Comparison> {
    let reliable: Vec<bool> = cells.iter().map(|cell| is_reliable(cell)).collect();
    let compared = reliable.iter().filter(|reliable| **reliable).count();
    let middle = |index: &usize| statistics::median(latencies(cells[*index]));
    let fastest = (0..cells.len()).filter(|index| reliable[*index]).min_by_key(middle);
    let doubt = DOUBT / compared.saturating_sub(1).max(1) as f64;
    let one = |(index, cell): (usize, &&Cell)| match fastest {
        Some(fastest) if fastest == index => Comparison::without_difference(Judgement::Fastest),
        Some(fastest) if reliable[index] => compare_two(cells[fastest], cell, doubt),
        _ => Comparison::without_difference(Judgement::Unreliable),
    };
    cells.iter().enumerate().map(one).collect()
}

fn compare_two(fastest: &Cell, other: &Cell, doubt: f64) -> Comparison {
    let rounds = fastest.slices.iter().zip(&other.slices);
    let medians = |cell: &Option<crate::measurement::Slice>| {
        statistics::median(cell.as_ref()?.latencies.clone()).map(|latency| latency.as_secs_f64() * 1e3)
    };
    let differences: Vec<_> = rounds.filter_map(|(one, two)| Some(medians(two)? - medians(one)?)).collect();
    let Some(Estimate { difference, interval }) = statistics::estimate(&differences, doubt) else {
        return Comparison::without_difference(Judgement::TooFewRounds);
    };
    let fastest_ms = statistics::median(latencies(fastest)).map_or(0.0, |latency| latency.as_secs_f64() * 1e3);
    let judgement = match interval {
        None => Judgement::TooFewRounds,
        // Below zero as a whole: by the rounds it is faster, by the median of all no faster. That is no difference to speak of.
        Some((low, _)) if low <= 0.0 => Judgement::WithinNoise,
        Some(_) if difference <= SLIGHT_MS.max(SLIGHT_SHARE * fastest_ms) => Judgement::SlightlySlower,
        Some(_) => Judgement::Slower,
    };
    Comparison {
        judgement,
        difference_ms: Some(difference),
        difference_low_ms: interval.map(|(low, _)| low),
        difference_high_ms: interval.map(|(_, high)| high),
    }
}

impl Comparison {
    fn without_difference(judgement: Judgement) -> Self {
        Self { judgement, difference_ms: None, difference_low_ms: None, difference_high_ms: None }
    }
}

fn latencies(cell: &Cell) -> Vec<std::time::Duration> {
    cell.slices.iter().flatten().flat_map(|slice| slice.latencies.iter().copied()).collect()
}

fn is_reliable(cell: &Cell) -> bool {
    let answered = latencies(cell).len();
    let failed: usize = cell.slices.iter().flatten().flat_map(|slice| slice.errors.values()).sum();
    answered > 0 && failed as f64 <= FAILURES * (answered + failed) as f64
}

/// The verdict in sentences, a paragraph for each concurrency.
pub fn sentences(combinations: &[Combination], measured: &Measured) -> String {
    let by_concurrency = measured.cells.chunk_by(|one, two| one.concurrency == two.concurrency);
    by_concurrency.map(|cells| paragraph(combinations, cells)).collect()
}

fn paragraph(combinations: &[Combination], cells: &[Cell]) -> String {
    let cells: Vec<_> = cells.iter().collect();
    let mut compared: Vec<_> = cells.iter().copied().zip(compare(&cells)).collect();
    compared.sort_by(|(_, one), (_, two)| f64::total_cmp(&key(one), &key(two)));
    let mut text = match cells.first() {
        Some(Cell { concurrency: 1, .. }) => "Verdict, one query at a time:\n".to_owned(),
        Some(Cell { concurrency, .. }) => format!("Verdict, {concurrency} queries at once:\n"),
        None => String::new(),
    };
    for (cell, comparison) in compared {
        let line = format!("  {} {}\n", combinations[cell.combination], sentence(&comparison, cell));
        text.push_str(&line);
    }
    text
}

/// The fastest first, those that cannot be compared last.
fn key(comparison: &Comparison) -> f64 {
    match comparison.judgement {
        Judgement::Fastest => f64::NEG_INFINITY,
        Judgement::Unreliable => f64::INFINITY,
        _ => comparison.difference_ms.unwrap_or(f64::MAX),
    }
}

fn sentence(comparison: &Comparison, cell: &Cell) -> String {
    let difference = comparison.difference_ms.unwrap_or_default();
    let between = match (comparison.difference_low_ms, comparison.difference_high_ms) {
        (Some(low), Some(high)) => format!("between {low:+.2} and {high:+.2} ms"),
        _ => String::new(),
    };
    match comparison.judgement {
        Judgement::Fastest => "is fastest".to_owned(),
        Judgement::WithinNoise => format!("is as fast: the difference is within the noise ({between})"),
        Judgement::SlightlySlower => format!("is slower by {difference:.2} ms ({between}): too little to choose by"),
        Judgement::Slower => format!("is slower by {difference:.2} ms ({between})"),
        Judgement::TooFewRounds => "was measured in too few rounds to compare".to_owned(),
        Judgement::Unreliable if latencies(cell).is_empty() => "was not answered".to_owned(),
        Judgement::Unreliable => "left too many queries unanswered to compare".to_owned(),
    }
}

#[cfg(test)]
mod tests;
