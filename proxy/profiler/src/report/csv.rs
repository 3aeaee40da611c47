use std::io;

use super::Row;

/// The fields, in their order; README.md says what they are.
const FIELDS: [&str; 19] = [
    "stub",
    "upstream",
    "server",
    "concurrency",
    "cold_start_ms",
    "p50_ms",
    "p90_ms",
    "p99_ms",
    "max_ms",
    "queries_per_second",
    "answered",
    "errors",
    "cpu_us_per_query",
    "bytes_per_query",
    "rounds",
    "judgement",
    "difference_ms",
    "difference_low_ms",
    "difference_high_ms",
];

/// Writes the rows as CSV (RFC 4180) with a header. What was not measured is empty.
pub fn csv(rows: &[Row], to: impl io::Write) -> io::Result<()> {
    let mut writer = csv::Writer::from_writer(to);
    writer.write_record(FIELDS)?;
    for row in rows {
        writer.write_record(record(row))?;
    }
    writer.flush()
}

fn record(row: &Row) -> [String; 19] {
    let number = |number: Option<f64>| number.map(|number| format!("{number:.3}")).unwrap_or_default();
    let errors: Vec<_> = row.errors.iter().map(|(cause, count)| format!("{cause}={count}")).collect();
    [
        row.stub.to_owned(),
        row.upstream.clone(),
        row.server.clone(),
        row.concurrency.to_string(),
        number(row.cold_start_ms),
        number(row.p50_ms),
        number(row.p90_ms),
        number(row.p99_ms),
        number(row.max_ms),
        number(row.queries_per_second),
        row.answered.to_string(),
        errors.join(";"),
        number(row.cpu_us_per_query),
        number(row.bytes_per_query),
        row.rounds.to_string(),
        row.verdict.judgement.as_str().to_owned(),
        number(row.verdict.difference_ms),
        number(row.verdict.difference_low_ms),
        number(row.verdict.difference_high_ms),
    ]
}
