//! The tables, as text that is also Markdown.

use std::io::{self, Write};
use std::time::Duration;

use super::contender::{Contender, PROXY};
use super::results::{Figure, Results};
use super::rows::GROUPS;
use super::summary::Machine;
use super::targets::Verdict;

/// Prints one table for each group of rows, then the targets, then the remarks.
pub(super) fn print(
    out: &mut impl Write,
    contenders: &[Contender],
    results: &Results,
    verdicts: &[Verdict],
    machine: &Machine,
    took: Duration,
) -> io::Result<()> {
    writeln!(out, "{machine}; {} s in all. Medians.", took.as_secs())?;
    for group in GROUPS {
        let measured = |figure: &&Figure| contenders.iter().any(|one| results.of(figure.key, &one.name).is_some());
        let figures: Vec<&Figure> = group.figures.iter().filter(measured).collect();
        if !figures.is_empty() {
            writeln!(out)?;
            table(out, &values(&figures, contenders, results))?;
        }
    }
    if !verdicts.is_empty() {
        writeln!(out)?;
        let heading = ["", "wanted", PROXY, "met"].map(str::to_owned).to_vec();
        let line = |one: &Verdict| {
            vec![
                one.what.to_owned(),
                one.wanted.clone(),
                one.found.clone(),
                if one.met { "yes" } else { "NO" }.to_owned(),
            ]
        };
        table(out, &[vec![heading], verdicts.iter().map(line).collect()].concat())?;
    }
    let remarks = results.remarks();
    if !remarks.is_empty() {
        writeln!(out, "\nRemarks:")?;
    }
    remarks.iter().try_for_each(|remark| writeln!(out, "- {remark}"))
}

fn values(figures: &[&Figure], contenders: &[Contender], results: &Results) -> Vec<Vec<String>> {
    let heading = figures.iter().map(|figure| format!("{} {}", figure.heading, figure.unit).trim_end().to_owned());
    let mut lines = vec![std::iter::once(String::new()).chain(heading).collect::<Vec<_>>()];
    for contender in contenders {
        let value = |figure: &&Figure| {
            let found = results.of(figure.key, &contender.name);
            found.map_or_else(String::new, |summary| format!("{:.*}", figure.digits, summary.median))
        };
        let cells: Vec<String> = figures.iter().map(value).collect();
        if cells.iter().any(|cell| !cell.is_empty()) {
            let name = format!("{} {}", contender.name, contender.version);
            lines.push(std::iter::once(name.trim_end().to_owned()).chain(cells).collect());
        }
    }
    lines
}

/// The first line is the heading, the first column names.
pub(super) fn table(out: &mut impl Write, lines: &[Vec<String>]) -> io::Result<()> {
    let columns = lines.first().map_or(0, Vec::len);
    let length = |cell: &String| cell.chars().count();
    let widths: Vec<usize> =
        (0..columns).map(|column| lines.iter().map(|line| length(&line[column])).max().unwrap_or(0).max(3)).collect();
    for (index, line) in lines.iter().enumerate() {
        write!(out, "|")?;
        line.iter().zip(&widths).try_for_each(|(cell, width)| write!(out, " {cell:<width$} |"))?;
        writeln!(out)?;
        if index == 0 {
            write!(out, "|")?;
            widths.iter().try_for_each(|width| write!(out, "{:-<1$}|", "", width + 2))?;
            writeln!(out)?;
        }
    }
    Ok(())
}
