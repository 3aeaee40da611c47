//! What was measured: samples of each figure, and what went wrong on the way.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::load::Report;

/// A figure that is measured of each contender.
#[derive(Debug, Clone, Copy)]
pub(super) struct Figure {
    /// Its name in the summary.
    pub(super) key: &'static str,
    /// Its column's heading.
    pub(super) heading: &'static str,
    pub(super) unit: &'static str,
    /// Digits behind the point.
    pub(super) digits: usize,
}

/// Samples by figure and contender.
#[derive(Debug, Default)]
pub(super) struct Results {
    samples: BTreeMap<(&'static str, String), Vec<f64>>,
    /// Sentences that name the contender.
    remarks: Vec<String>,
    /// What was not answered as it should have been, by contender and row.
    failures: BTreeMap<(String, &'static str), Report>,
    /// Whether dot-proxy gave a wrong answer, or could not be measured.
    pub(super) broken: bool,
}

/// The middle of the samples, and their ends.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Summary {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
    pub(super) samples: usize,
}

impl Results {
    /// Adds a sample.
    pub(super) fn add(&mut self, key: &'static str, contender: &str, value: f64) {
        self.samples.entry((key, contender.to_owned())).or_default().push(value);
    }

    /// Notes something once.
    pub(super) fn remark(&mut self, sentence: String) {
        if !self.remarks.contains(&sentence) {
            self.remarks.push(sentence);
        }
    }

    /// Counts what a load found, for a remark when not all was answered as it should have been.
    pub(super) fn count(&mut self, contender: &str, what: &'static str, report: &Report) {
        let all = self.failures.entry((contender.to_owned(), what)).or_default();
        all.sent += report.sent;
        all.wrong += report.wrong;
        all.servfail += report.servfail;
        all.errors += report.errors;
        all.lost += report.lost;
        all.reconnects += report.reconnects;
    }

    /// All that is to be said beside the figures.
    pub(super) fn remarks(&self) -> Vec<String> {
        let failures = self.failures.iter().filter(|(_, report)| report.failed() + report.reconnects > 0);
        let sentence = |((contender, what), report): (&(String, &str), &Report)| {
            let counts = [
                (report.lost, "lost"),
                (report.servfail, "answered SERVFAIL"),
                (report.errors, "answered with other errors"),
                (report.wrong, "answered with wrong data"),
                (report.reconnects, "connections closed by the server"),
            ];
            let counts = counts.iter().filter(|(count, _)| *count > 0).map(|(count, how)| format!("{count} {how}"));
            format!("{contender}, {what}: of {} queries {}", report.sent, counts.collect::<Vec<_>>().join(", "))
        };
        self.remarks.iter().cloned().chain(failures.map(sentence)).collect()
    }

    pub(super) fn of(&self, key: &str, contender: &str) -> Option<Summary> {
        // The key of the map holds a string of its own, so it is looked for rather than looked up: there are some hundreds.
        let found = self.samples.iter().find(|((figure, name), _)| *figure == key && name == contender);
        Summary::of(found?.1.clone())
    }
}

impl Summary {
    /// Of no samples there is none.
    pub(super) fn of(mut samples: Vec<f64>) -> Option<Self> {
        samples.sort_by(f64::total_cmp);
        let (min, max) = (*samples.first()?, *samples.last()?);
        let (low, high) = (samples[(samples.len() - 1) / 2], samples[samples.len() / 2]);
        Some(Self { median: f64::midpoint(low, high), min, max, samples: samples.len() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_count_is_between_the_two_in_the_middle() {
        let mut results = Results::default();
        [4.0, 1.0, 3.0, 10.0].into_iter().for_each(|value| results.add("figure", "one", value));
        let summary = results.of("figure", "one").expect("there are samples");
        assert_eq!((summary.median, summary.min, summary.max, summary.samples), (3.5, 1.0, 10.0, 4));
        assert!(results.of("figure", "another").is_none());
    }
}
