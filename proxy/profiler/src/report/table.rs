use comfy_table::{CellAlignment, ContentArrangement, Table, TableStyle};

use super::Row;
use crate::measurement::Measured;
use crate::plan::{Plan, ROUNDS};
use crate::verdict;

/// What stands over the columns: the first two are words, the others numbers.
const HEADER: [&str; 11] =
    ["stub", "upstream", "cold ms", "p50 ms", "p90 ms", "p99 ms", "max ms", "queries/s", "CPU µs", "bytes", "errors"];

/// Before this column stand numbers.
const ERRORS: usize = 10;

/// The tables for a person, one for each concurrency, and the verdict.
pub fn table(plan: &Plan, measured: &Measured, rows: &[Row]) -> String {
    let mut text = String::new();
    for rows in rows.chunk_by(|one, two| one.concurrency == two.concurrency) {
        text.push_str(&heading(plan, rows[0].concurrency));
        text.push_str(&figures(rows));
        text.push('\n');
    }
    if measured.interrupted {
        let rounds = rows.iter().map(|row| row.rounds).min().unwrap_or_default();
        text.push_str(&format!("Cut short by Ctrl-C after {rounds} of {ROUNDS} rounds.\n\n"));
    }
    text.push_str(&verdict::sentences(&plan.combinations, measured));
    text
}

fn heading(plan: &Plan, concurrency: usize) -> String {
    let at = if concurrency == 1 { "One query at a time".to_owned() } else { format!("{concurrency} queries at once") };
    let cold = if plan.cold { ", each on a connection of its own" } else { "" };
    format!("{at}{cold}: {ROUNDS} rounds of {}\n", plan.slice)
}

fn figures(rows: &[Row]) -> String {
    let mut table = Table::new();
    table.load_style(TableStyle::new()).set_content_arrangement(ContentArrangement::Disabled).set_header(HEADER);
    rows.iter().for_each(|row| {
        table.add_row(cells(row));
    });
    for (index, column) in table.column_iter_mut().enumerate() {
        let is_number = (2..ERRORS).contains(&index);
        column.set_cell_alignment(if is_number { CellAlignment::Right } else { CellAlignment::Left });
    }
    // Nothing stands before the first column, and its margin would.
    table.lines().fold(String::new(), |text, line| text + line.trim() + "\n")
}

fn cells(row: &Row) -> [String; 11] {
    let errors: Vec<_> = row.errors.iter().map(|(cause, count)| format!("{count} {cause}")).collect();
    [
        row.stub.to_owned(),
        row.upstream.clone(),
        number(row.cold_start_ms),
        number(row.p50_ms),
        number(row.p90_ms),
        number(row.p99_ms),
        number(row.max_ms),
        number(row.queries_per_second),
        number(row.cpu_us_per_query),
        number(row.bytes_per_query),
        if errors.is_empty() { "none".to_owned() } else { errors.join(", ") },
    ]
}

/// Three digits that mean something; a dash where there is no number.
fn number(number: Option<f64>) -> String {
    match number {
        None => "–".to_owned(),
        Some(number) if number < 9.995 => format!("{number:.2}"),
        Some(number) if number < 99.95 => format!("{number:.1}"),
        Some(number) => format!("{number:.0}"),
    }
}
