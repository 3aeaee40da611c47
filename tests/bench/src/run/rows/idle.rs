//! What a server does while nobody asks.

use std::time::Duration;

use super::{Group, Row, Whom};
use crate::failure::Outcome;
use crate::run::Plan;
use crate::run::contender::Contender;
use crate::run::results::{Figure, Results};
use crate::run::site::{Site, Start};

pub(super) const IDLE: Group = Group {
    what: "a minute without queries",
    rows: &[Row::Idle],
    rounds: 1,
    whom: Whom::Forwarders,
    all_at_once: true,
    measure: idle,
    figures: &[
        Figure { key: "idle.switches", heading: "idle for a minute: context switches", unit: "", digits: 0 },
        Figure { key: "idle.cpu", heading: "idle for a minute", unit: "ms CPU", digits: 1 },
    ],
};

/// All at once: a minute of each would be long, and an idle server disturbs no other's counts.
fn idle(plan: &Plan, site: &Site, contenders: &[&Contender], results: &mut Results) -> Outcome<()> {
    let (settle, minute) = if plan.short { (500, 1_000) } else { (13_000, 60_000) };
    let mut upstream = site.upstream()?;
    let mut servers = Vec::new();
    for contender in contenders {
        let started = site.serve(contender, Start::with(upstream.port)).and_then(|mut server| {
            server.ready()?;
            Ok(server)
        });
        match started {
            Ok(server) => servers.push((contender, server)),
            Err(failure) => results.remark(format!("{}, idle: {failure}", contender.name)),
        }
    }
    // Long enough for most to close their connections themselves; then the upstream does.
    std::thread::sleep(Duration::from_millis(settle));
    upstream.ask("hang-up")?;
    std::thread::sleep(Duration::from_secs(2));
    let look =
        |(_, server): &(_, crate::run::site::Server)| Ok((server.process.context_switches()?, server.process.cpu()?));
    let before = servers.iter().map(look).collect::<Outcome<Vec<_>>>()?;
    std::thread::sleep(Duration::from_millis(minute));
    let after = servers.iter().map(look).collect::<Outcome<Vec<_>>>()?;
    for (((contender, _), before), after) in servers.iter().zip(before).zip(after) {
        results.add("idle.switches", &contender.name, (after.0 - before.0) as f64);
        results.add("idle.cpu", &contender.name, (after.1 - before.1).as_secs_f64() * 1e3);
    }
    Ok(())
}
