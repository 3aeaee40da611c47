//! What was measured as JSON: medians, ends, the machine, the versions.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::Plan;
use super::contender::Contender;
use super::results::{Results, Summary};
use super::rows::GROUPS;
use super::targets::Verdict;
use crate::failure::{During, Outcome};

/// Where it was measured.
#[derive(Debug, Serialize)]
pub(super) struct Machine {
    processor: String,
    processors: usize,
    memory_gib: u64,
    kernel: String,
    system: String,
    /// How many threads wanted a processor in the minute before the run began: what else the machine was doing.
    load_before: f64,
}

#[derive(Serialize)]
struct File<'a> {
    /// Seconds since 1970.
    when: u64,
    took_seconds: u64,
    rounds: usize,
    seconds: f64,
    machine: &'a Machine,
    versions: BTreeMap<&'a str, &'a str>,
    units: BTreeMap<&'a str, &'a str>,
    figures: BTreeMap<&'a str, BTreeMap<&'a str, Summary>>,
    targets: &'a [Verdict],
    remarks: Vec<String>,
}

impl Machine {
    /// Reads what the kernel tells.
    pub(super) fn read() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let value = |text: &str, name: &str, sign: char| {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            line.split_once(sign).map_or("", |(_, value)| value).trim().trim_matches('"').to_owned()
        };
        let kibibytes = value(&text("/proc/meminfo"), "MemTotal", ':');
        Self {
            processor: value(&text("/proc/cpuinfo"), "model name", ':'),
            processors: text("/proc/cpuinfo").lines().filter(|line| line.starts_with("processor")).count(),
            memory_gib: kibibytes.split(' ').next().and_then(|number| number.parse::<u64>().ok()).unwrap_or(0) >> 20,
            kernel: text("/proc/sys/kernel/osrelease").trim().to_owned(),
            system: value(&text("/etc/os-release"), "PRETTY_NAME", '='),
            load_before: text("/proc/loadavg").split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { processor, processors, memory_gib, kernel, system, load_before } = self;
        write!(
            out,
            "{processor}, {processors} processors, {memory_gib} GiB, {system}, Linux {kernel}; load {load_before} before"
        )
    }
}

/// Writes the file.
pub(super) fn write(
    path: &Path,
    plan: &Plan,
    contenders: &[Contender],
    results: &Results,
    targets: &[Verdict],
    machine: &Machine,
    took: Duration,
) -> Outcome<()> {
    let all = || GROUPS.iter().flat_map(|group| group.figures);
    let of = |key| contenders.iter().filter_map(move |one| Some((one.name.as_str(), results.of(key, &one.name)?)));
    let file = File {
        when: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        took_seconds: took.as_secs(),
        rounds: plan.rounds,
        seconds: plan.seconds,
        machine,
        versions: contenders.iter().map(|one| (one.name.as_str(), one.version.as_str())).collect(),
        units: all().map(|figure| (figure.key, figure.unit)).collect(),
        figures: all().map(|figure| (figure.key, of(figure.key).collect())).collect(),
        targets,
        remarks: results.remarks(),
    };
    let text = serde_json::to_string_pretty(&file).during("writing the summary")?;
    fs::create_dir_all(path.parent().unwrap_or(Path::new("."))).during(format_args!("writing {}", path.display()))?;
    fs::write(path, text + "\n").during(format_args!("writing {}", path.display()))
}
