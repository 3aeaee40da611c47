//! How fast it starts, how much memory it takes, how large it is.

use std::time::Duration;

use super::{Group, Row, Whom, verify};
use crate::failure::Outcome;
use crate::run::Plan;
use crate::run::contender::Contender;
use crate::run::results::{Figure, Results};
use crate::run::site::{Site, Start};

/// What a server may do between its start and being looked at.
const SETTLE: Duration = Duration::from_millis(500);

pub(super) const START: Group = Group {
    what: "the start",
    rows: &[Row::Start, Row::Size],
    rounds: usize::MAX,
    whom: Whom::Forwarders,
    all_at_once: false,
    measure: start,
    figures: &[
        Figure { key: "start.time", heading: "exec to first answer", unit: "ms", digits: 1 },
        Figure { key: "size", heading: "program and libraries", unit: "MB", digits: 1 },
    ],
};

pub(super) const MEMORY: Group = Group {
    what: "memory",
    rows: &[Row::Memory],
    rounds: 2,
    whom: Whom::Forwarders,
    all_at_once: false,
    measure: memory,
    figures: &[
        Figure { key: "memory.idle", heading: "RSS idle", unit: "MB", digits: 1 },
        Figure { key: "memory.10k", heading: "RSS, 10,000 names", unit: "MB", digits: 1 },
        Figure { key: "memory.100k", heading: "RSS, 100,000 names", unit: "MB", digits: 1 },
    ],
};

fn start(plan: &Plan, site: &Site, contenders: &[&Contender], results: &mut Results) -> Outcome<()> {
    for contender in contenders {
        if plan.has(Row::Start) {
            let upstream = site.upstream()?;
            let mut server = site.begin_to_serve(contender, Start::with(upstream.port))?;
            let answered = server.first_answer(1, Duration::from_secs(10))?;
            results.add("start.time", &contender.name, (answered - server.process.started).as_secs_f64() * 1e3);
        }
        if plan.has(Row::Size) {
            results.add("size", &contender.name, contender.size()? as f64 / 1e6);
        }
    }
    Ok(())
}

fn memory(plan: &Plan, site: &Site, contenders: &[&Contender], results: &mut Results) -> Outcome<()> {
    for contender in contenders {
        let upstream = site.upstream()?;
        let server = site.serve(contender, Start::with(upstream.port))?;
        std::thread::sleep(SETTLE);
        let look = |key, results: &mut Results| -> Outcome<()> {
            results.add(key, &contender.name, server.process.resident()? as f64 / 1e6);
            Ok(())
        };
        look("memory.idle", results)?;
        let scale = if plan.short { 100 } else { 1 };
        for (key, first, count) in [("memory.10k", 0, 10_000), ("memory.100k", 10_000, 90_000 / scale)] {
            let names = format!("--names lasting:{first}:{count} --count {count} --outstanding 100 --seconds 30");
            let report = site.load(&server, &names)?;
            verify("filling the cache", contender, &report, results);
            look(key, results)?;
        }
    }
    Ok(())
}
