use std::io::{self, Write};

use serde::Serialize;

use super::Row;
use crate::combination::Skipped;
use crate::measurement::Measured;
use crate::plan::{Plan, ROUNDS};

/// A report; README.md says what its fields are.
#[derive(Serialize)]
struct Report<'a> {
    version: &'static str,
    rounds: usize,
    queries_per_round: usize,
    questions: usize,
    cold: bool,
    timeout_seconds: f64,
    interrupted: bool,
    skipped: &'a [Skipped],
    results: &'a [Row],
}

/// Writes the report as one JSON object.
pub fn json(plan: &Plan, measured: &Measured, rows: &[Row], mut to: impl Write) -> io::Result<()> {
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        rounds: ROUNDS,
        queries_per_round: plan.slice,
        questions: plan.questions.len(),
        cold: plan.cold,
        timeout_seconds: plan.timeout.as_secs_f64(),
        interrupted: measured.interrupted,
        skipped: &plan.skipped,
        results: rows,
    };
    serde_json::to_writer_pretty(&mut to, &report)?;
    writeln!(to)
}
