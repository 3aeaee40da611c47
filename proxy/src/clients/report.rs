//! Who misbehaved, as a table for people.

use std::fmt::Write;
use std::time::Duration;

use super::table::{Offence, Row};

/// The table, the worst first.
pub fn table(rows: &[Row]) -> String {
    if rows.is_empty() {
        return "no client has misbehaved\n".to_owned();
    }
    let mut lines = vec![head()];
    lines.extend(rows.iter().map(line));
    let widths: Vec<usize> =
        (0..lines[0].len()).map(|column| lines.iter().map(|line| line[column].len()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for line in lines {
        let mut padded = String::new();
        for (cell, width) in line.iter().zip(&widths) {
            write!(padded, "{cell:width$}  ").expect("a String takes everything");
        }
        text.push_str(padded.trim_end());
        text.push('\n');
    }
    text
}

fn head() -> Vec<String> {
    let columns = ["CLIENT", "STATE", "FOR", "SCORE"];
    let kinds = Offence::ALL.map(|offence| offence.as_str().to_uppercase());
    columns.map(str::to_owned).into_iter().chain(kinds).chain(["TIMES", "LAST"].map(str::to_owned)).collect()
}

fn line(row: &Row) -> Vec<String> {
    let (state, left) = match row.restraint {
        Some((restraint, left)) => (restraint.as_str(), seconds(left)),
        None => ("served", "-".to_owned()),
    };
    let mut line = vec![row.who.to_string(), state.to_owned(), left, format!("{:.0}", row.score)];
    line.extend(row.counts.iter().map(|count| format!("{count:.1}")));
    line.extend([row.times.to_string(), format!("{} ago", seconds(row.ago))]);
    line
}

/// Whole seconds, those begun counted: what ends in less than one has not ended.
fn seconds(duration: Duration) -> String {
    format!("{}s", duration.as_secs() + u64::from(duration.subsec_nanos() > 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::table::Restraint;
    use crate::clients::who::Who;

    #[test]
    fn the_table_is_aligned_and_tells_who_is_restrained_and_for_how_long() {
        let row = || Row {
            who: Who::V4([192, 0, 2, 1].into()),
            score: 123.4,
            counts: [12.0, 0.0, 0.17, 0.0, 0.0],
            restraint: Some((Restraint::ShutOut, Duration::from_millis(9_100))),
            times: 2,
            ago: Duration::from_secs(3),
        };
        let other = Row { who: Who::Loopback(40_000), restraint: None, times: 0, ..row() };
        let expected = "\
CLIENT               STATE     FOR  SCORE  MALFORMED  DATAGRAM  SLOW  UNUSED  SHARE  TIMES  LAST
192.0.2.1            shut-out  10s  123    12.0       0.0       0.2   0.0     0.0    2      3s ago
loopback port 40000  served    -    123    12.0       0.0       0.2   0.0     0.0    0      3s ago
";
        assert_eq!(table(&[row(), other]), expected);
        assert_eq!(table(&[]), "no client has misbehaved\n");
    }
}
