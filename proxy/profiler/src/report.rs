//! What was measured, as figures: a row for each combination at each concurrency.

mod csv;
mod json;
mod table;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

pub use self::csv::csv;
pub use self::json::json;
pub use self::table::table;
use crate::combination::written;
use crate::measurement::{Cell, Measured};
use crate::plan::Plan;
use crate::statistics::quantile;
use crate::verdict::{self, Comparison};

/// The figures of a combination at a concurrency. What nothing was measured of is left out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// How it was asked.
    pub stub: &'static str,
    /// The upstream as it was written.
    pub upstream: String,
    /// The server that was asked, as a URL.
    pub server: String,
    /// Queries under way at once.
    pub concurrency: usize,
    /// From nothing to the first answer, in milliseconds: the median over the rounds.
    pub cold_start_ms: Option<f64>,
    /// Half of the answers took no longer, in milliseconds.
    pub p50_ms: Option<f64>,
    /// 90 % of the answers took no longer, in milliseconds.
    pub p90_ms: Option<f64>,
    /// 99 % of the answers took no longer, in milliseconds.
    pub p99_ms: Option<f64>,
    /// The slowest answer, in milliseconds.
    pub max_ms: Option<f64>,
    /// Answers in a second.
    pub queries_per_second: Option<f64>,
    /// Queries that were answered, but for the first of each slice.
    pub answered: usize,
    /// Queries that were not, by cause.
    pub errors: BTreeMap<String, usize>,
    /// CPU of the profiler and the programs that it runs, in microseconds a query.
    pub cpu_us_per_query: Option<f64>,
    /// Octets sent and received within TCP and UDP, for a query.
    pub bytes_per_query: Option<f64>,
    /// Rounds that were measured.
    pub rounds: usize,
    /// Against the fastest at the same concurrency.
    #[serde(flatten)]
    pub verdict: Comparison,
}

/// The rows, by concurrency and in the order of the plan.
pub fn rows(plan: &Plan, measured: &Measured) -> Vec<Row> {
    let mut rows = Vec::new();
    for cells in measured.cells.chunk_by(|one, two| one.concurrency == two.concurrency) {
        let verdicts = verdict::compare(&cells.iter().collect::<Vec<_>>());
        rows.extend(cells.iter().zip(verdicts).map(|(cell, verdict)| row(plan, measured, cell, verdict)));
    }
    rows
}

fn row(plan: &Plan, measured: &Measured, cell: &Cell, verdict: Comparison) -> Row {
    let combination = &plan.combinations[cell.combination];
    let slices = || cell.slices.iter().flatten();
    let sorted = |mut durations: Vec<Duration>| {
        durations.sort_unstable();
        durations
    };
    let cold_starts = sorted(slices().filter_map(|slice| slice.cold_start).collect());
    let latencies = sorted(slices().flat_map(|slice| slice.latencies.iter().copied()).collect());
    let mut errors = BTreeMap::new();
    for (cause, count) in slices().flat_map(|slice| &slice.errors) {
        *errors.entry(cause.clone()).or_default() += count;
    }
    let milliseconds = |sorted: &[Duration], share| quantile(sorted, share).map(|latency| latency.as_secs_f64() * 1e3);
    let elapsed: Duration = slices().map(|slice| slice.elapsed).sum();
    let warm = |slice: &&crate::measurement::Slice| slice.cold_start.is_some();
    let asked: usize =
        slices().filter(warm).map(|slice| slice.latencies.len() + slice.errors.values().sum::<usize>()).sum();
    let cpu: Duration = slices().map(|slice| slice.cpu).sum();
    let has_answers = !latencies.is_empty();
    Row {
        stub: combination.stub.as_str(),
        upstream: written(&combination.upstream),
        server: combination.server.to_string(),
        concurrency: cell.concurrency,
        cold_start_ms: milliseconds(&cold_starts, 0.5),
        p50_ms: milliseconds(&latencies, 0.5),
        p90_ms: milliseconds(&latencies, 0.9),
        p99_ms: milliseconds(&latencies, 0.99),
        max_ms: milliseconds(&latencies, 1.0),
        queries_per_second: has_answers.then(|| latencies.len() as f64 / elapsed.as_secs_f64()),
        answered: latencies.len(),
        errors,
        cpu_us_per_query: has_answers.then(|| cpu.as_secs_f64() * 1e6 / asked as f64),
        bytes_per_query: measured.octets[cell.combination],
        rounds: slices().count(),
        verdict,
    }
}
