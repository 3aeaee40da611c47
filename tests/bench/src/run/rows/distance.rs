//! An upstream 40 ms away.

use std::time::Duration;

use super::{Group, Row, Whom, verify};
use crate::failure::Outcome;
use crate::run::Plan;
use crate::run::contender::Contender;
use crate::run::results::{Figure, Results};
use crate::run::site::{Site, Start};

/// Milliseconds of the round trip.
const ROUND_TRIP: u64 = 40;
/// What a server may do between its start and the first query.
const BEFORE_THE_FIRST: Duration = Duration::from_millis(500);

pub(super) const DISTANCE: Group = Group {
    what: "an upstream 40 ms away",
    rows: &[Row::Distance, Row::First],
    rounds: 3,
    whom: Whom::Forwarders,
    all_at_once: false,
    measure: distance,
    figures: &[
        Figure { key: "distance.rate", heading: "40 ms, 200 outstanding", unit: "1/s", digits: 0 },
        Figure { key: "distance.p50", heading: "40 ms, 200 outstanding p50", unit: "ms", digits: 1 },
        Figure { key: "distance.connections", heading: "40 ms, 200 outstanding connections", unit: "", digits: 0 },
        Figure { key: "first.time", heading: "first query at 40 ms", unit: "ms", digits: 1 },
    ],
};

fn distance(plan: &Plan, site: &Site, contenders: &[&Contender], results: &mut Results) -> Outcome<()> {
    for contender in contenders {
        let mut upstream = site.upstream()?;
        let (_delay, port) = site.delay(&upstream, ROUND_TRIP)?;
        let mut server = site.serve(contender, Start::with(port))?;
        let name = contender.name.as_str();
        std::thread::sleep(BEFORE_THE_FIRST);
        let asked = std::time::Instant::now();
        let answered = server.first_answer_to_one(1, Duration::from_secs(5))?;
        if plan.has(Row::First) {
            results.add("first.time", name, (answered - asked).as_secs_f64() * 1e3);
        }
        if plan.has(Row::Distance) {
            site.load(&server, "--names once:warm --count 1000 --outstanding 200 --seconds 5")?;
            let report =
                site.load(&server, &format!("--names once:far --outstanding 200 --seconds {}", plan.seconds.max(1.0)))?;
            verify("misses 40 ms away", contender, &report, results);
            results.add("distance.rate", name, report.rate);
            results.add("distance.p50", name, report.p50 / 1e3);
            results.add("distance.connections", name, upstream.ask("count")?.open as f64);
        }
    }
    Ok(())
}
