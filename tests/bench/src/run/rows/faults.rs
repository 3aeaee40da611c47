//! Upstreams that freeze or go away, and many who ask the same.

use std::path::Path;
use std::time::Duration;

use super::{Group, Row, Whom, verify};
use crate::failure::{During, Failure, Outcome};
use crate::run::Plan;
use crate::run::contender::Contender;
use crate::run::results::{Figure, Results};
use crate::run::site::{Server, Site, Start, Upstream};
use crate::system::{self, Signal};

/// Queries a second while something is wrong.
const RATE: u64 = 500;

pub(super) const EQUAL: Group = Group {
    what: "twenty equal questions at once",
    rows: &[Row::Equal],
    rounds: 1,
    whom: Whom::Forwarders,
    all_at_once: false,
    measure: equal,
    figures: &[Figure {
        key: "equal.upstream",
        heading: "twenty equal questions: asked upstream",
        unit: "",
        digits: 0,
    }],
};

pub(super) const FROZEN: Group = Group {
    what: "one of two upstreams frozen",
    rows: &[Row::Frozen],
    rounds: 1,
    whom: Whom::Forwarders,
    all_at_once: false,
    measure: frozen,
    figures: &[
        Figure { key: "frozen-3.late", heading: "frozen for 3 s: latest", unit: "ms", digits: 0 },
        Figure { key: "frozen-3.lost", heading: "not answered", unit: "", digits: 0 },
        Figure { key: "frozen-3.upstream", heading: "asked upstream", unit: "each", digits: 2 },
        Figure { key: "frozen-8.late", heading: "frozen for 8 s: latest", unit: "ms", digits: 0 },
        Figure { key: "frozen-8.lost", heading: "not answered", unit: "", digits: 0 },
        Figure { key: "frozen-8.upstream", heading: "asked upstream", unit: "each", digits: 2 },
    ],
};

pub(super) const AWAY: Group = Group {
    what: "all upstreams away for 2 s",
    rows: &[Row::Away],
    rounds: 3,
    whom: Whom::Forwarders,
    all_at_once: false,
    measure: away,
    figures: &[
        Figure { key: "away.back", heading: "away for 2 s: answers again after", unit: "ms", digits: 0 },
        Figure { key: "away.stale", heading: "once cached names answered meanwhile", unit: "%", digits: 0 },
        Figure { key: "away.silent", heading: "other names left without any reply", unit: "%", digits: 0 },
    ],
};

/// One query of a load, by its log.
struct Event {
    sent: u64,
    received: u64,
    outcome: String,
}

fn equal(_: &Plan, site: &Site, contenders: &[&Contender], results: &mut Results) -> Outcome<()> {
    for contender in contenders {
        let mut upstream = site.upstream()?;
        let mut server = site.serve(contender, Start::with(upstream.port))?;
        server.ready()?;
        // So that all twenty are there before the first answer is.
        upstream.ask("delay 100")?;
        for number in 500_000..500_005 {
            upstream.ask("reset")?;
            let twenty = format!("--names lasting:{number}:1 --clients 20 --outstanding 20 --count 20 --at-once");
            verify("twenty equal questions", contender, &site.load(&server, &twenty)?, results);
            results.add("equal.upstream", &contender.name, upstream.ask("count")?.queries as f64);
        }
    }
    Ok(())
}

fn frozen(plan: &Plan, site: &Site, contenders: &[&Contender], results: &mut Results) -> Outcome<()> {
    for contender in contenders {
        for seconds in [3, 8] {
            let keys = match seconds {
                3 => ["frozen-3.late", "frozen-3.lost", "frozen-3.upstream"],
                _ => ["frozen-8.late", "frozen-8.lost", "frozen-8.upstream"],
            };
            let seconds = if plan.short { 0.3 } else { f64::from(seconds) };
            let found = freeze(site, contender, seconds)?;
            keys.into_iter().zip(found).for_each(|(key, value)| results.add(key, &contender.name, value));
        }
    }
    Ok(())
}

/// Freezes the upstream that is asked more; tells how late the latest answer came (ms), how many queries were not answered, and
/// how many upstream queries there were for each.
fn freeze(site: &Site, contender: &Contender, seconds: f64) -> Outcome<[f64; 3]> {
    let mut upstreams = site.upstreams(2)?;
    let server = start_with(site, contender, &upstreams)?;
    site.load(&server, &format!("--names once:warm --rate {RATE} --seconds 1"))?;
    let mut asked = Vec::new();
    for upstream in &mut upstreams {
        asked.push(upstream.ask("count")?.queries);
        upstream.ask("reset")?;
    }
    let victim = usize::from(asked[1] > asked[0]);
    let (lasts, timeout) = (seconds + 2.0, (seconds + 6.0) * 1e3);
    let load = format!("--names once:frozen --rate {RATE} --seconds {lasts} --timeout {timeout:.0}");
    let load = site.start_load(&server, &load)?;
    std::thread::sleep(Duration::from_secs(1));
    upstreams[victim].process.signal(Signal::Freeze)?;
    std::thread::sleep(Duration::from_secs_f64(seconds));
    upstreams[victim].process.signal(Signal::Thaw)?;
    let report = load.report()?;
    let mut queries = 0;
    for upstream in &mut upstreams {
        queries += upstream.ask("count")?.queries;
    }
    Ok([report.most / 1e3, report.failed() as f64, queries as f64 / report.sent.max(1) as f64])
}

fn start_with(site: &Site, contender: &Contender, upstreams: &[Upstream]) -> Outcome<Server> {
    let port = upstreams.first().map_or(0, |upstream| upstream.port);
    let mut server = site.serve(contender, Start { upstreams: upstreams.len(), ..Start::with(port) })?;
    server.ready()?;
    Ok(server)
}

fn away(plan: &Plan, site: &Site, contenders: &[&Contender], results: &mut Results) -> Outcome<()> {
    for contender in contenders {
        let mut upstreams = site.upstreams(2)?;
        let mut server = start_with(site, contender, &upstreams)?;
        let name = contender.name.as_str();
        let gone = Duration::from_secs_f64(if plan.short { 0.5 } else { 2.0 });
        let lasts = gone.as_secs_f64() + 2.5;
        // Names that live for a second, asked every second: all of them have ended before the upstreams are back.
        let (brief, other) = (site.log(), site.log());
        let load = |names: &str, log: &Path| {
            let log = log.display();
            site.start_load(&server, &format!("{names} --seconds {lasts} --timeout 2500 --log {log}"))
        };
        let cached = load("--names brief:0:200 --rate 200", &brief)?;
        let missing = load(&format!("--names once:away --rate {RATE}"), &other)?;
        std::thread::sleep(Duration::from_millis(1500));
        request(&mut upstreams, "away")?;
        let left = system::monotonic();
        std::thread::sleep(gone);
        let back = system::monotonic();
        request(&mut upstreams, "back")?;
        cached.report()?;
        missing.report()?;
        let (brief, other) = (events(&brief)?, events(&other)?);
        let meanwhile = |event: &&Event| event.sent > left && event.sent + 50_000_000 < back;
        let share = |events: &[Event], of: &dyn Fn(&Event) -> bool| {
            let those: Vec<&Event> = events.iter().filter(meanwhile).collect();
            100.0 * those.iter().filter(|event| of(event)).count() as f64 / those.len().max(1) as f64
        };
        results.add("away.stale", name, share(&brief, &|event| event.outcome == "0" && event.received < back));
        results.add("away.silent", name, share(&other, &|event| event.outcome == "lost"));
        let again = other.iter().filter(|event| event.outcome == "0" && event.received > back && event.sent > left);
        let again = match again.map(|event| event.received).min() {
            Some(again) => again,
            None => {
                server.first_answer(700_000, Duration::from_secs(15))?;
                system::monotonic()
            }
        };
        results.add("away.back", name, (again - back) as f64 / 1e6);
    }
    Ok(())
}

fn request(upstreams: &mut [Upstream], request: &str) -> Outcome<()> {
    upstreams.iter_mut().try_for_each(|upstream| upstream.ask(request).map(drop))
}

fn events(path: &Path) -> Outcome<Vec<Event>> {
    let text = std::fs::read_to_string(path).during("reading a load's log")?;
    let event = |line: &str| {
        let mut words = line.split(' ');
        let mut number = || words.next()?.parse::<u64>().ok();
        let (sent, latency) = (number()?, number()?);
        Some(Event { sent, received: sent + latency, outcome: words.next()?.to_owned() })
    };
    text.lines()
        .map(|line| event(line).ok_or_else(|| Failure::new(format!("a load's log has the line '{line}'"))))
        .collect()
}
