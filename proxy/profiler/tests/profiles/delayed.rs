//! What was added is found, what is the same is not told apart, and the order is right.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::delay::path_to;
use crate::profiler::report;
use crate::servers::{NAME, OTHER_ADDRESS, Servers};

/// Milliseconds of the round trip.
const ADDED: u64 = 40;

/// Milliseconds of a round trip beyond which kdig, who waits for an acknowledgement that the kernel holds back for 40 ms, has got
/// it anyway.
const BASE: u64 = 50;

/// What a machine with other work may add to a difference of medians, and take away from it, in milliseconds.
const LATE: f64 = 10.0;
const EARLY: f64 = 2.0;

/// The URLs of a server directly, at its other address, and over the path.
fn urls(form: impl Fn(SocketAddr) -> String, server: SocketAddr) -> Vec<String> {
    let delayed = path_to(server, Duration::from_millis(ADDED));
    [server, SocketAddr::from((OTHER_ADDRESS, server.port())), delayed].map(form).to_vec()
}

fn result<'a>(report: &'a Value, url: &str) -> &'a Value {
    report["results"].as_array().unwrap().iter().find(|result| result["upstream"] == url).unwrap()
}

fn found(result: &Value, field: &str) -> f64 {
    result[field].as_f64().unwrap_or_else(|| panic!("{field} of {result}"))
}

/// The URLs of a server over a path with a round trip, and with that and the one that is added.
fn urls_of_paths(form: impl Fn(SocketAddr) -> String, server: SocketAddr) -> Vec<String> {
    [BASE, BASE + ADDED].map(|round_trip| form(path_to(server, Duration::from_millis(round_trip)))).to_vec()
}

/// The last URL is the delayed one. `round_trips`: of a query that is not the first.
fn is_found(servers: &Servers, stub: &str, urls: &[String], queries: &str, round_trips: u32) {
    let upstreams = urls.join(",");
    let report =
        report(servers, &["--stub", stub, "--upstream", &upstreams, "--queries", queries, "--concurrency", "1"]);
    let results: Vec<_> = urls.iter().map(|url| result(&report, url)).collect();
    let (delayed, others) = results.split_last().unwrap();
    for one in &results {
        assert_eq!(
            (&one["answered"], &one["errors"]),
            (&queries.parse::<u64>().unwrap().into(), &Value::Object(Default::default()))
        );
        assert!(found(one, "cpu_us_per_query") > 0.0 && found(one, "queries_per_second") > 0.0, "{one}");
        assert!((100.0..20_000.0).contains(&found(one, "bytes_per_query")), "{one}");
    }
    let added = f64::from(round_trips) * ADDED as f64;
    assert_eq!(delayed["judgement"], "slower", "{report:#}");
    // The interval narrows to a millisecond where the machine is quiet, and says by its width when it is not.
    let (low, high) = (found(delayed, "difference_low_ms"), found(delayed, "difference_high_ms"));
    assert!(low < added + LATE && high > added - EARLY, "{report:#}");
    assert!(found(delayed, "p50_ms") > added - EARLY, "{report:#}");
    assert!(found(delayed, "cold_start_ms") > 2.0 * ADDED as f64 - EARLY, "{report:#}"); // TLS or QUIC, and the query
    let (fastest, rest): (Vec<&Value>, _) = others.iter().partition(|one| one["judgement"] == "fastest");
    assert_eq!(fastest.len(), 1, "{report:#}");
    for same in rest {
        // Once in twenty times the noise looks like a difference: a slight one.
        assert!(["within_noise", "slightly_slower"].contains(&same["judgement"].as_str().unwrap()), "{report:#}");
    }
}

#[test]
fn forty_milliseconds_that_were_added_are_found_by_each_transport_of_the_proxy_itself() {
    let servers = Servers::start();
    let tls = urls(|address| format!("tls://{address}#{NAME}"), servers.tls);
    let https = urls(|address| format!("https://{address}/dns-query#{NAME}"), servers.https);
    let quic = servers.quic.map(|server| urls(|address| format!("quic://{address}#{NAME}"), server));
    thread::scope(|scope| {
        scope.spawn(|| is_found(&servers, "ssock", &tls, "24", 1));
        scope.spawn(|| is_found(&servers, "doh", &https, "24", 1));
        scope.spawn(|| quic.iter().for_each(|urls| is_found(&servers, "doq", urls, "24", 1)));
    });
}

#[test]
fn forty_milliseconds_for_the_handshake_and_as_many_for_the_query_are_found_by_programs() {
    let servers = Servers::start();
    let https = urls(|address| format!("https://{address}/dns-query#{NAME}"), servers.https);
    let tls = urls_of_paths(|address| format!("tls://{address}#{NAME}"), servers.tls);
    thread::scope(|scope| {
        scope.spawn(|| is_found(&servers, "curl", &https, "12", 2));
        scope.spawn(|| is_found(&servers, "kdig", &tls, "12", 2));
    });
}
