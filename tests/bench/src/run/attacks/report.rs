//! What came of the attacks: a table for each, the targets, the remarks; and all of it as JSON.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::measure::Attacked;
use super::rounds::together;
use super::targets::{Verdicts, WANTED, megabytes};
use crate::failure::{During, Outcome};
use crate::neighbour::Lookups;
use crate::run::Options;
use crate::run::contender::{Contender, PROXY};
use crate::run::results::Results;
use crate::run::summary::Machine;
use crate::run::table::table;

const HEADING: [&str; 10] = [
    "",
    "p99 over UDP, ms",
    "sent again",
    "not resolved",
    "kept TCP, ms",
    "new TCP, ms",
    "TCP lost",
    "dropped by the kernel",
    "memory, MB: before, most, after",
    "descriptors",
];

/// Prints a table for each attack, with a line of each contender.
#[expect(clippy::too_many_arguments, reason = "all that is printed")]
pub(super) fn print(
    out: &mut impl Write,
    found: &[Attacked],
    contenders: &[Contender],
    verdicts: &[Verdicts],
    remarks: &Results,
    machine: &Machine,
    took: Duration,
    brief: bool,
) -> io::Result<()> {
    if brief {
        writeln!(out, "Briefly, to show that nothing is lost: these times are no measurements.")?;
    }
    writeln!(
        out,
        "{machine}; {} s in all. `A → B`: of a good client alone, and beside the attack; times are medians of the rounds.",
        took.as_secs()
    )?;
    for kind in <crate::attack::Kind as clap::ValueEnum>::value_variants() {
        let those: Vec<&Attacked> = found.iter().filter(|attacked| attacked.attack == *kind).collect();
        if those.is_empty() {
            continue;
        }
        writeln!(out, "\n**{}**\n", kind.what())?;
        let lines = those.iter().map(|attacked| line(attacked, contenders)).collect::<Vec<_>>();
        table(out, &[vec![HEADING.map(str::to_owned).to_vec()], lines].concat())?;
        writeln!(out)?;
        those.iter().try_for_each(|attacked| writeln!(out, "- {}", sentence(attacked)))?;
    }
    writeln!(out)?;
    let heading = std::iter::once(PROXY).chain(WANTED).map(str::to_owned).collect();
    let line = |one: &Verdicts| {
        let cells = one.found.iter().map(|verdict| match verdict {
            Some(verdict) if verdict.met => verdict.found.clone(),
            Some(verdict) => format!("**MISSED**: {}", verdict.found),
            None => String::new(),
        });
        std::iter::once(one.attack.to_owned()).chain(cells).collect()
    };
    table(out, &[vec![heading], verdicts.iter().map(line).collect()].concat())?;
    let remarks = remarks.remarks();
    if !remarks.is_empty() {
        writeln!(out, "\nRemarks:")?;
    }
    remarks.iter().try_for_each(|remark| writeln!(out, "- {remark}"))
}

fn line(attacked: &Attacked, contenders: &[Contender]) -> Vec<String> {
    let version = contenders.iter().find(|one| one.name == attacked.contender).map_or("", |one| &one.version);
    let Attacked { rounds, before, after, .. } = attacked;
    let quiet = together(rounds.iter().map(|round| &round.quiet));
    let beside = together(rounds.iter().map(|round| &round.beside));
    let time = |kind: &Lookups| if kind.answered > 0 { format!("{:.2}", kind.p99) } else { "none".to_owned() };
    let p99 = |quiet: &Lookups, beside: &Lookups| format!("{} → {}", time(quiet), time(beside));
    let dropped = [(attacked.dropped, "datagrams"), (attacked.not_accepted, "connections")];
    let dropped = dropped.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}"));
    let held = [before.memory, attacked.most_memory, after.memory].map(|octets| format!("{:.1}", megabytes(octets)));
    vec![
        format!("{} {version}", attacked.contender).trim_end().to_owned(),
        p99(&quiet.udp, &beside.udp),
        share(beside.udp.again, beside.udp.asked),
        share(beside.udp.asked - beside.udp.answered, beside.udp.asked),
        p99(&quiet.kept, &beside.kept),
        p99(&quiet.fresh, &beside.fresh),
        share(beside.lost_over_tcp(), beside.kept.asked + beside.fresh.asked),
        dropped.collect::<Vec<_>>().join(", "),
        held.join(", "),
        format!("{} → {}", before.descriptors, after.descriptors),
    ]
}

fn share(count: u64, all: u64) -> String {
    if count == 0 { "0".to_owned() } else { format!("{count} of {all}") }
}

/// What the attack was for this contender.
fn sentence(attacked: &Attacked) -> String {
    let attacker = &attacked.attacker;
    let mut parts = Vec::new();
    if attacker.connections > 0 {
        let counts = (attacker.connections, attacker.ended, attacker.open);
        parts.push(format!(
            "{} connections begun, {} ended by the server, {} open at the end",
            counts.0, counts.1, counts.2
        ));
    }
    if attacker.sent > 0 {
        let what = if attacker.connections > 0 { "writes" } else { "datagrams" };
        parts.push(format!("{} {what}, {:.1} MB", attacker.sent, megabytes(attacker.octets)));
    }
    parts.extend(attacked.amplification.map(|factor| format!("{factor:.2} octets out for each octet in")));
    parts.extend(attacked.ended.as_ref().map(|words| format!("the attack ended it: {words}")));
    format!("{}: {}", attacked.contender, parts.join("; "))
}

/// Writes the tables where they were asked for, and the summary.
pub(super) fn write(options: &Options, text: &[u8], found: &[Attacked], machine: &Machine) -> Outcome<()> {
    if let Some(path) = &options.table {
        fs::write(path, text).during(format_args!("writing {}", path.display()))?;
    }
    let path = options.summary.clone().unwrap_or_else(|| PathBuf::from("target/bench/attacks.json"));
    let summary = serde_json::json!({ "machine": machine, "attacks": found });
    let summary = serde_json::to_string_pretty(&summary).during("writing the summary")?;
    fs::create_dir_all(path.parent().unwrap_or(Path::new("."))).during(format_args!("writing {}", path.display()))?;
    fs::write(&path, summary + "\n").during(format_args!("writing {}", path.display()))
}
