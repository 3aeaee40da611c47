//! The soak: a day's queries and more, compressed to full speed, of every sort at once, each answer checked; meanwhile what the
//! server holds is looked at.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::attacks::{SLACK, megabytes};
use super::contender::PROXY;
use super::results::Results;
use super::site::{Server, Site, Start};
use super::summary::Machine;
use super::{Options, progress};
use crate::failure::{During, Failure, Outcome};
use crate::load;
use crate::system;

/// Of a hundred queries so many over TCP.
const OVER_TCP: u64 = 50;
/// Queries on a connection before another takes its place.
const CHURN: u64 = 1_000;
/// The first part of the run, in hundredths, in which caches and allocators may still grow.
const WARM_UP: u64 = 25;
/// How much memory may be more for each million queries after that, in octets: for all 50 million less than one megabyte.
const SLOPE: f64 = 20e3;
/// From so many queries on memory is judged: with fewer the cache is not full when the warm-up ends.
const JUDGED: u64 = 20_000_000;
/// How long the server may take to let go of the last connections.
const RECOVERY: Duration = Duration::from_secs(10);

/// What the server held at a time.
#[derive(Debug, Clone, Copy, Serialize)]
struct Sample {
    seconds: f64,
    memory: u64,
    descriptors: u64,
}

/// What was found.
#[derive(Debug, Serialize)]
struct Soaked {
    queries: u64,
    seconds: f64,
    udp: load::Report,
    tcp: load::Report,
    samples: Vec<Sample>,
    before: Sample,
    after: Sample,
    /// Octets of memory more for each million queries, after the warm-up.
    slope: f64,
}

/// Soaks dot-proxy, prints what was found, writes the summary.
pub(super) fn run(options: &Options) -> Outcome<()> {
    system::limits::descriptors(1 << 16).during("raising the limit of descriptors")?;
    let programs = super::programs(options)?;
    let contenders = super::contenders(&[PROXY.to_owned()], &programs, &mut Results::default())?;
    let contender = contenders.first().ok_or_else(|| Failure::new("there is no dot-proxy"))?;
    let site = Site::new(programs)?;
    let machine = Machine::read();
    let queries = if options.short { 50_000 } else { options.queries };
    let upstream = site.upstream()?;
    let cache = if options.short { "256Ki" } else { "32Mi" };
    let mut server = site.serve(contender, Start { cache, ..Start::with(upstream.port) })?;
    server.ready()?;
    let soaked = soak(&site, &mut server, queries)?;
    progress("");
    let missed = soaked.missed();
    let text = soaked.text(&machine, &missed);
    if let Some(path) = &options.table {
        fs::write(path, &text).during(format_args!("writing {}", path.display()))?;
    }
    let path = options.summary.clone().unwrap_or_else(|| PathBuf::from("target/bench/soak.json"));
    let summary = serde_json::to_string_pretty(&soaked).during("writing the summary")?;
    fs::create_dir_all(path.parent().unwrap_or(Path::new("."))).during(format_args!("writing {}", path.display()))?;
    fs::write(&path, summary + "\n").during(format_args!("writing {}", path.display()))?;
    std::io::stdout().write_all(text.as_bytes()).during("printing")?;
    if missed.is_empty() { Ok(()) } else { Err(Failure::new(format!("{PROXY}: {}", missed.join("; ")))) }
}

/// Both loads at once, and a look at the server a hundred times.
fn soak(site: &Site, server: &mut Server, queries: u64) -> Outcome<Soaked> {
    let began = Instant::now();
    let before = look(server, began)?;
    let over_tcp = queries * OVER_TCP / 100;
    let udp = format!("--names mixed:u --count {} --seconds 7200", queries - over_tcp);
    let tcp = format!("--names mixed:t --count {over_tcp} --seconds 7200 --tcp --churn {CHURN}");
    let mut loads = [site.start_load(server, &udp)?, site.start_load(server, &tcp)?];
    let (mut samples, mut pause) = (Vec::new(), Duration::from_millis(20));
    while !loads.iter_mut().all(|load| load.done()) {
        std::thread::sleep(pause);
        server.process.alive()?;
        samples.push(look(server, began)?);
        // A hundred samples at least, two hundred at most, however long it takes.
        if samples.len() >= 200 {
            samples = samples.into_iter().step_by(2).collect();
            pause *= 2;
        }
        if samples.len().is_multiple_of(25) {
            progress(&format!("{:.0} s, {:.1} MB", began.elapsed().as_secs_f64(), megabytes(last(&samples).memory)));
        }
    }
    let [udp, tcp] = loads.map(|load| load.report());
    let (udp, tcp, seconds) = (udp?, tcp?, began.elapsed().as_secs_f64());
    let deadline = Instant::now() + RECOVERY;
    let mut after = look(server, began)?;
    while after.descriptors > before.descriptors && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
        after = look(server, began)?;
    }
    let queries = udp.sent + tcp.sent;
    let slope = slope(warm(&samples)) * seconds / (queries as f64 / 1e6);
    Ok(Soaked { queries, seconds, udp, tcp, samples, before, after, slope })
}

fn look(server: &Server, began: Instant) -> Outcome<Sample> {
    let (memory, descriptors) = (server.process.resident()?, server.process.descriptors()?);
    Ok(Sample { seconds: began.elapsed().as_secs_f64(), memory, descriptors })
}

fn last(samples: &[Sample]) -> Sample {
    samples.last().copied().unwrap_or(Sample { seconds: 0.0, memory: 0, descriptors: 0 })
}

/// The samples after the warm-up.
fn warm(samples: &[Sample]) -> &[Sample] {
    let end = last(samples).seconds;
    let first = samples.partition_point(|sample| sample.seconds * 100.0 < end * WARM_UP as f64);
    &samples[first..]
}

/// Octets of memory more each second, by least squares; 0 of fewer than two samples.
fn slope(samples: &[Sample]) -> f64 {
    let count = samples.len() as f64;
    let mean = |of: fn(&Sample) -> f64| samples.iter().map(of).sum::<f64>() / count;
    let (time, memory) = (mean(|sample| sample.seconds), mean(|sample| sample.memory as f64));
    let both: f64 = samples.iter().map(|one| (one.seconds - time) * (one.memory as f64 - memory)).sum();
    let square: f64 = samples.iter().map(|one| (one.seconds - time).powi(2)).sum();
    if square > 0.0 { both / square } else { 0.0 }
}

impl Soaked {
    /// What is not as it must be, in sentences.
    fn missed(&self) -> Vec<String> {
        let mut missed = Vec::new();
        let failed = self.udp.failed() + self.tcp.failed();
        if failed > 0 {
            missed.push(format!("{failed} queries got no right answer"));
        }
        if self.after.descriptors > self.before.descriptors {
            let (before, after) = (self.before.descriptors, self.after.descriptors);
            missed.push(format!("{after} descriptors are open, and were {before} before"));
        }
        if self.queries >= JUDGED && (self.slope > SLOPE || self.growth() > SLACK) {
            missed.push(format!("memory grew by {:.1} MB after the warm-up", megabytes(self.growth())));
        }
        missed
    }

    /// How much more memory it had at the end than when the warm-up ended.
    fn growth(&self) -> u64 {
        let first = warm(&self.samples).first().map_or(0, |sample| sample.memory);
        last(&self.samples).memory.saturating_sub(first)
    }

    fn text(&self, machine: &Machine, missed: &[String]) -> String {
        let (udp, tcp) = (&self.udp, &self.tcp);
        let rate = self.queries as f64 / self.seconds / 1e3;
        let mut lines = vec![
            format!("{machine}.\n"),
            format!(
                "{} queries in {:.0} s ({rate:.0} k/s), every answer checked: {} over UDP, {} over TCP on connections of {CHURN} queries. Of a \
                 hundred, 80 are for names that last, 12 for names that do not exist, 4 for names that live a second, and 4 for \
                 names that nobody asked for before.\n",
                self.queries, self.seconds, udp.sent, tcp.sent
            ),
            "| | UDP | TCP |\n|---|---|---|".to_owned(),
        ];
        let row = |what: &str, of: fn(&load::Report) -> u64| format!("| {what} | {} | {} |", of(udp), of(tcp));
        lines.push(row("right answers", |report| report.answered));
        lines.push(row("wrong answers", |report| report.wrong));
        lines.push(row("errors", |report| report.servfail + report.errors));
        lines.push(row("no answer", |report| report.lost));
        lines.push(row("connections ended by the server", |report| report.reconnects));
        lines.push("\n| time, s | memory, MB | descriptors |\n|---|---|---|".to_owned());
        let line =
            |one: &Sample| format!("| {:.0} | {:.2} | {} |", one.seconds, megabytes(one.memory), one.descriptors);
        lines.push(line(&self.before));
        let step = self.samples.len().div_ceil(20).max(1);
        lines.extend(self.samples.iter().skip(step - 1).step_by(step).map(line));
        lines.push(line(&self.after));
        lines.push(format!(
            "\nAfter the warm-up, a quarter of the time, memory changed by {:+.1} KB for each million queries.",
            self.slope / 1e3
        ));
        lines.push(if missed.is_empty() { "All as it must be.".to_owned() } else { missed.join("; ") });
        lines.join("\n") + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(memory: impl Fn(u32) -> u64) -> Vec<Sample> {
        (0..=100).map(|at| Sample { seconds: f64::from(at), memory: memory(at), descriptors: 9 }).collect()
    }

    #[test]
    fn growth_during_the_warm_up_is_no_leak_and_growth_after_it_is() {
        let flat = samples(|at| 10_000 * u64::from(at.min(20)));
        assert_eq!(slope(warm(&flat)), 0.0);
        let leaks = samples(|at| 10_000 * u64::from(at));
        assert!((slope(warm(&leaks)) - 10_000.0).abs() < 1.0);
    }

    #[test]
    fn few_samples_have_no_slope() {
        assert_eq!((slope(&[]), slope(&samples(|_| 5)[..1])), (0.0, 0.0));
    }
}
