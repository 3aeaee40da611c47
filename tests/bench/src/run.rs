//! The run: each contender in turn, each row of the table, round after round.

mod attacks;
mod contender;
mod process;
mod results;
mod rows;
mod site;
mod soak;
mod summary;
mod table;
mod targets;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::Instant;

use contender::{Contender, PROXY, Programs};
use results::Results;
use rows::{Group, Row};
use site::Site;

use crate::attack::Kind;
use crate::failure::{During, Failure, Outcome};
use crate::system;

/// What a run is asked for.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The dot-proxy to measure [default: the one beside this program, else the static one that `make binaries` built]
    #[arg(long, env = "DOT_BENCH_PROXY")]
    proxy: Option<PathBuf>,
    /// Rows to measure, with commas [default: all]
    #[arg(long, value_delimiter = ',', value_enum)]
    rows: Vec<Row>,
    /// Whom to measure, with commas: names of conf/ [default: all that are installed]
    #[arg(long, value_delimiter = ',')]
    peers: Vec<String>,
    /// How many rounds
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long each load lasts
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// The CPU per query and the latency alone, two rounds of a second: for use while tuning, within 90 seconds
    #[arg(long, conflicts_with_all = ["rows", "rounds", "seconds"])]
    quick: bool,
    /// dot-proxy and the echo alone, each row once and briefly: shows that all this works, and measures nothing
    #[arg(long, conflicts_with_all = ["rows", "rounds", "seconds", "peers"])]
    short: bool,
    /// What hostile clients do to who behaves, in place of what an answer costs: some ten minutes
    #[arg(long, conflicts_with_all = ["rows", "rounds", "seconds", "quick"])]
    attacks: bool,
    /// Attacks to try, with commas [default: all]
    #[arg(long, value_delimiter = ',', value_enum, requires = "attacks")]
    attack: Vec<Kind>,
    /// More than a day's queries of every sort, as fast as it goes: some five minutes
    #[arg(long, conflicts_with_all = ["rows", "rounds", "seconds", "quick", "attacks", "peers"])]
    soak: bool,
    /// How many
    #[arg(long, default_value_t = 50_000_000, requires = "soak")]
    queries: u64,
    /// Where to write the summary [default: target/bench/, named after what was measured]
    #[arg(long)]
    summary: Option<PathBuf>,
    /// Where to write what is printed, too
    #[arg(long)]
    table: Option<PathBuf>,
    /// The folder that describes whom to measure
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/conf"), hide_default_value = true)]
    conf: PathBuf,
}

/// What was settled from the options.
#[derive(Debug)]
pub(crate) struct Plan {
    rows: Vec<Row>,
    peers: Vec<String>,
    rounds: usize,
    /// How long each load lasts, in seconds.
    seconds: f64,
    /// As briefly as shows that it works.
    short: bool,
}

/// Measures, prints the tables, writes the summary.
pub(crate) fn run(options: &Options) -> Outcome<()> {
    if options.attacks {
        return attacks::run(options);
    }
    if options.soak {
        return soak::run(options);
    }
    let plan = Plan::new(options);
    let programs = programs(options)?;
    let mut results = Results::default();
    let contenders = contenders(&plan.peers, &programs, &mut results)?;
    let site = Site::new(programs)?;
    // What this process does itself happens beside the load, not beside the server.
    system::move_to(&[site.load_processor]).during("moving to the load's processor")?;
    system::urgent();
    system::punctual();
    let machine = summary::Machine::read();
    let began = Instant::now();
    for round in 0..plan.rounds {
        for group in rows::GROUPS.iter().filter(|group| group.wanted(&plan, round)) {
            measure(group, round, &plan, &site, &contenders, &mut results);
        }
    }
    progress("");
    let verdicts = if plan.short { Vec::new() } else { targets::judge(&results) };
    let mut text = Vec::new();
    if plan.short {
        writeln!(text, "Briefly, to show that it works: these figures are no measurements.").during("printing")?;
    }
    table::print(&mut text, &contenders, &results, &verdicts, &machine, began.elapsed()).during("printing")?;
    if let Some(path) = &options.table {
        std::fs::write(path, &text).during(format_args!("writing {}", path.display()))?;
    }
    let mut out = std::io::stdout().lock();
    out.write_all(&text).during("printing")?;
    let summary = options.summary.clone().unwrap_or_else(|| PathBuf::from("target/bench/summary.json"));
    summary::write(&summary, &plan, &contenders, &results, &verdicts, &machine, began.elapsed())?;
    writeln!(out, "\nSummary with the least and the most of each: {}", summary.display()).during("printing")?;
    if results.broken {
        return Err(Failure::new("dot-proxy gave wrong answers, or could not be measured: see the remarks above"));
    }
    Ok(())
}

impl Plan {
    fn new(options: &Options) -> Self {
        let all = || <Row as clap::ValueEnum>::value_variants().to_vec();
        let (rows, rounds, seconds) = match options {
            Options { quick: true, .. } => (Row::quick(), 2, 1.0),
            Options { short: true, .. } => (all(), 1, 0.2),
            options if options.rows.is_empty() => (all(), options.rounds, options.seconds),
            options => (options.rows.clone(), options.rounds, options.seconds),
        };
        let peers = match options {
            Options { short: true, .. } => {
                [contender::ECHO, contender::ECHO_BATCHES, PROXY].map(str::to_owned).to_vec()
            }
            Options { quick: true, peers, .. } if peers.is_empty() => {
                let left_out = ["hickory-dns", "coredns", "stubby"];
                contender::names().into_iter().filter(|name| !left_out.contains(name)).map(str::to_owned).collect()
            }
            options if options.peers.is_empty() => contender::names().into_iter().map(str::to_owned).collect(),
            options => options.peers.clone(),
        };
        Self { rows, peers, rounds, seconds, short: options.short }
    }
}

fn programs(options: &Options) -> Outcome<Programs> {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let cache =
        std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home).unwrap_or_default().join("dot-sidecar");
    let own = std::env::current_exe().during("looking for this program")?;
    let beside = Some(own.with_file_name(PROXY)).filter(|path| path.is_file());
    let built = || cache.join(format!("target/{}-unknown-linux-gnu/release/dot-proxy", std::env::consts::ARCH));
    let proxy = options.proxy.clone().or(beside).unwrap_or_else(built);
    let proxy = proxy.canonicalize().during(format_args!("{}: make binaries builds it", proxy.display()))?;
    Ok(Programs { descriptions: options.conf.clone(), compiled: cache.join("bench/bin"), proxy, own })
}

/// Those who can be measured; who cannot be is named.
fn contenders(names: &[String], programs: &Programs, results: &mut Results) -> Outcome<Vec<Contender>> {
    let mut found = Vec::new();
    for name in names {
        if !contender::names().contains(&name.as_str()) {
            return Err(Failure::new(format!("there is no '{name}': use {}", contender::names().join(", "))));
        }
        match Contender::find(name, programs) {
            Ok(contender) => found.push(contender),
            Err(failure) if name == PROXY => return Err(failure),
            Err(failure) => results.remark(format!("{name} was left out: {failure} (tests/bench/peers install)")),
        }
    }
    Ok(found)
}

/// One group of rows, of each contender; another one begins in each round.
fn measure(group: &Group, round: usize, plan: &Plan, site: &Site, contenders: &[Contender], results: &mut Results) {
    let those: Vec<&Contender> = contenders.iter().filter(|contender| group.applies_to(contender)).collect();
    if group.all_at_once {
        progress(&format!("round {} of {}: {}", round + 1, plan.rounds, group.what));
        note(PROXY, group, (group.measure)(plan, site, &those, results), results);
        return;
    }
    for index in 0..those.len() {
        let contender = those[(index + round) % those.len()];
        progress(&format!("round {} of {}: {}: {}", round + 1, plan.rounds, group.what, contender.name));
        note(&contender.name, group, (group.measure)(plan, site, &[contender], results), results);
    }
}

fn note(name: &str, group: &Group, outcome: Outcome<()>, results: &mut Results) {
    if let Err(failure) = outcome {
        results.broken |= name == PROXY;
        results.remark(format!("{name}, {}: {failure}", group.what));
    }
}

/// On a terminal one line that changes, in a log a line each.
fn progress(text: &str) {
    let mut out = std::io::stderr();
    let _ = match (out.is_terminal(), text) {
        (true, text) => write!(out, "\r\x1b[K{text}"),
        (false, "") => Ok(()),
        (false, text) => writeln!(out, "{text}"),
    };
    let _ = out.flush();
}
