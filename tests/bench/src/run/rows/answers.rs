//! What an answer costs: cached or not, over UDP or TCP, as fast as it goes, at a fixed rate, one at a time.

use super::{Group, Row, Whom, verify};
use crate::failure::Outcome;
use crate::load::Report;
use crate::run::Plan;
use crate::run::contender::Contender;
use crate::run::results::{Figure, Results};
use crate::run::site::{Server, Site, Start};

/// Queries a second of the paced rows.
const HIT_PACE: u64 = 10_000;
const MISS_PACE: u64 = 2_000;
/// Names that are cached.
const NAMES: &str = "--names lasting:0:10000";

pub(super) const HITS: Group = Group {
    what: "cached answers",
    rows: &[Row::HitUdp, Row::HitPaced, Row::HitTcp],
    rounds: usize::MAX,
    whom: Whom::All,
    all_at_once: false,
    measure: hits,
    figures: &[
        Figure { key: "hit-udp.cpu", heading: "UDP hit", unit: "µs CPU", digits: 2 },
        Figure { key: "hit-udp.rate", heading: "UDP hit", unit: "k/s", digits: 0 },
        Figure { key: "hit-udp.p99", heading: "UDP hit p99", unit: "µs", digits: 0 },
        Figure { key: "hit-paced.cpu", heading: "UDP hit, 10 k/s", unit: "µs CPU", digits: 1 },
        Figure { key: "hit-paced.p50", heading: "UDP hit, 10 k/s p50", unit: "µs", digits: 0 },
        Figure { key: "hit-tcp.cpu", heading: "TCP hit", unit: "µs CPU", digits: 2 },
        Figure { key: "hit-tcp.rate", heading: "TCP hit", unit: "k/s", digits: 0 },
    ],
};

pub(super) const MISSES: Group = Group {
    what: "answers over TLS",
    rows: &[Row::Miss, Row::MissPaced, Row::MissSingle],
    rounds: usize::MAX,
    whom: Whom::Forwarders,
    all_at_once: false,
    measure: misses,
    figures: &[
        Figure { key: "miss.cpu", heading: "DoT miss", unit: "µs CPU", digits: 1 },
        Figure { key: "miss.rate", heading: "DoT miss", unit: "k/s", digits: 1 },
        Figure { key: "miss.p99", heading: "DoT miss p99", unit: "ms", digits: 1 },
        Figure { key: "miss-paced.cpu", heading: "DoT miss, 2 k/s", unit: "µs CPU", digits: 0 },
        Figure { key: "miss-paced.p50", heading: "DoT miss, 2 k/s p50", unit: "µs", digits: 0 },
        Figure { key: "miss-single.p50", heading: "one at a time p50", unit: "µs", digits: 0 },
        Figure { key: "miss-single.p99", heading: "one at a time p99", unit: "µs", digits: 0 },
    ],
};

/// A load on a server, and what it cost per answer.
struct Measured {
    report: Report,
    /// Microseconds of processor time.
    cpu: f64,
}

fn measured(site: &Site, server: &Server, arguments: &str) -> Outcome<Measured> {
    let before = server.process.cpu()?;
    let report = site.load(server, arguments)?;
    let cpu = server.process.cpu()? - before;
    Ok(Measured { cpu: cpu.as_secs_f64() * 1e6 / report.answered.max(1) as f64, report })
}

fn hits(plan: &Plan, site: &Site, contenders: &[&Contender], results: &mut Results) -> Outcome<()> {
    for contender in contenders {
        let upstream = site.upstream()?;
        let mut server = site.serve(contender, Start::with(upstream.port))?;
        let check = if contender.forwards() { "" } else { "--unchecked" };
        if contender.forwards() {
            server.ready()?;
            fill(site, contender, &server, results)?;
        }
        let (name, seconds) = (contender.name.as_str(), plan.seconds);
        if plan.has(Row::HitUdp) {
            let found = measured(site, &server, &format!("{NAMES} --seconds {seconds} {check}"))?;
            verify("UDP hits", contender, &found.report, results);
            results.add("hit-udp.cpu", name, found.cpu);
            results.add("hit-udp.rate", name, found.report.rate / 1e3);
            results.add("hit-udp.p99", name, found.report.p99);
        }
        if plan.has(Row::HitPaced) {
            let found = measured(site, &server, &format!("{NAMES} --rate {HIT_PACE} --seconds {seconds} {check}"))?;
            verify("UDP hits at a pace", contender, &found.report, results);
            results.add("hit-paced.cpu", name, found.cpu);
            results.add("hit-paced.p50", name, found.report.p50);
        }
        if plan.has(Row::HitTcp) && contender.forwards() {
            let found = measured(site, &server, &format!("{NAMES} --tcp --seconds {seconds}"))?;
            verify("TCP hits", contender, &found.report, results);
            results.add("hit-tcp.cpu", name, found.cpu);
            results.add("hit-tcp.rate", name, found.report.rate / 1e3);
        }
    }
    Ok(())
}

/// Asks each name once, so that it is cached; what was lost is asked again.
fn fill(site: &Site, contender: &Contender, server: &Server, results: &mut Results) -> Outcome<()> {
    let all = format!("{NAMES} --count 10000 --outstanding 100 --seconds 20 --timeout 1000");
    let report = site.load(server, &all)?;
    if report.failed() > 0 {
        verify("filling the cache", contender, &site.load(server, &all)?, results);
    }
    Ok(())
}

fn misses(plan: &Plan, site: &Site, contenders: &[&Contender], results: &mut Results) -> Outcome<()> {
    for contender in contenders {
        let upstream = site.upstream()?;
        let mut server = site.serve(contender, Start::with(upstream.port))?;
        server.ready()?;
        site.load(&server, "--names once:warm --count 2000 --outstanding 50 --seconds 5")?;
        let (name, seconds) = (contender.name.as_str(), plan.seconds);
        if plan.has(Row::Miss) {
            let found = measured(site, &server, &format!("--names once:full --seconds {seconds}"))?;
            verify("misses", contender, &found.report, results);
            results.add("miss.cpu", name, found.cpu);
            results.add("miss.rate", name, found.report.rate / 1e3);
            results.add("miss.p99", name, found.report.p99 / 1e3);
        }
        if plan.has(Row::MissPaced) {
            let found = measured(site, &server, &format!("--names once:paced --rate {MISS_PACE} --seconds {seconds}"))?;
            verify("misses at a pace", contender, &found.report, results);
            results.add("miss-paced.cpu", name, found.cpu);
            results.add("miss-paced.p50", name, found.report.p50);
        }
        if plan.has(Row::MissSingle) {
            let one = "--names once:single --clients 1 --outstanding 1";
            let found = measured(site, &server, &format!("{one} --seconds {}", seconds / 2.0))?;
            verify("misses one at a time", contender, &found.report, results);
            results.add("miss-single.p50", name, found.report.p50);
            results.add("miss-single.p99", name, found.report.p99);
        }
    }
    Ok(())
}
