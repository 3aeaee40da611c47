//! Two threads and one, at the same load.

use super::{Group, Row, Whom, verify};
use crate::failure::Outcome;
use crate::run::Plan;
use crate::run::contender::{Contender, PROXY};
use crate::run::results::{Figure, Results};
use crate::run::site::{Site, Start};

/// Queries a second that are offered to both.
const OFFERED: u64 = 50_000;
const NAMES: &str = "--names lasting:0:10000";

pub(super) const THREADS: Group = Group {
    what: "two threads and one",
    rows: &[Row::Threads],
    rounds: 3,
    whom: Whom::ProxyAlone,
    all_at_once: false,
    measure: threads,
    figures: &[
        Figure { key: "threads.one", heading: "1 thread, 50 k/s", unit: "µs CPU", digits: 2 },
        Figure { key: "threads.two", heading: "2 threads, 50 k/s", unit: "µs CPU", digits: 2 },
        Figure { key: "threads.ratio", heading: "2 threads to 1", unit: "", digits: 2 },
        Figure { key: "threads.one.rate", heading: "1 thread, as fast as it goes", unit: "k/s", digits: 0 },
        Figure { key: "threads.two.rate", heading: "2 threads, as fast as it goes", unit: "k/s", digits: 0 },
        Figure { key: "threads.load", heading: "of which the load's share of its processor", unit: "", digits: 2 },
    ],
};

/// One thread has a processor to itself; of two, the second shares the load's.
fn threads(plan: &Plan, site: &Site, contenders: &[&Contender], results: &mut Results) -> Outcome<()> {
    for contender in contenders {
        let mut costs = [0.0; 2];
        for (cost, threads) in costs.iter_mut().zip(1..) {
            let upstream = site.upstream()?;
            let start = Start { threads, everywhere: threads > 1, ..Start::with(upstream.port) };
            let mut server = site.serve(contender, start)?;
            server.ready()?;
            let fill = site.load(&server, &format!("{NAMES} --count 10000 --outstanding 100 --seconds 20"))?;
            verify("filling the cache", contender, &fill, results);
            let before = server.process.cpu()?;
            let paced = site.load(&server, &format!("{NAMES} --rate {OFFERED} --seconds {}", plan.seconds))?;
            *cost = (server.process.cpu()? - before).as_secs_f64() * 1e6 / paced.answered.max(1) as f64;
            verify("UDP hits at 50,000 a second", contender, &paced, results);
            let full = site.load(&server, &format!("{NAMES} --seconds {}", plan.seconds))?;
            let (key, rate) =
                if threads == 1 { ("threads.one", "threads.one.rate") } else { ("threads.two", "threads.two.rate") };
            results.add(key, PROXY, *cost);
            results.add(rate, PROXY, full.rate / 1e3);
            if threads > 1 {
                results.add("threads.load", PROXY, full.utilisation);
            }
        }
        results.add("threads.ratio", PROXY, costs[1] / costs[0]);
    }
    Ok(())
}
