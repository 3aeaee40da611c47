//! What a user sees: tables, files, complaints, exit codes.

use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::profiler::{Ended, profiler, run};
use crate::servers::{NAME, Servers};

#[test]
fn a_table_has_a_row_for_each_combination_and_a_verdict_for_each_concurrency() {
    let servers = Servers::start();
    let upstreams = format!("tls://{}#{NAME},https://{}#{NAME}", servers.tls, servers.https);
    let plot = format!("{}.svg", servers.ca());
    let arguments = ["--stub", "ssock,doh", "--upstream", &upstreams, "--queries", "48", "--concurrency", "1,4"];
    let ended = run(&servers, &[&arguments[..], &["--plot", &plot]].concat());
    assert_eq!((ended.code, ended.complaints.as_str()), (Some(0), ""), "{}", ended.output);
    let count = |text: &str| ended.output.matches(text).count();
    assert_eq!((count("p99 ms"), count(" is fastest"), count("none")), (2, 2, 4), "{}", ended.output);
    assert!(
        count("One query at a time: 12 rounds of 4") == 1 && count("4 queries at once: 12 rounds of 4") == 1,
        "{}",
        ended.output
    );
    assert!(!ended.output.contains('\u{1b}'), "colours where nobody sees them");

    let svg = fs::read_to_string(&plot).unwrap();
    for text in
        ["Latency, one query at a time", "4 queries at once", "Latency in milliseconds", "in percent", "ssock tls://"]
    {
        assert!(svg.contains(text), "{text}");
    }
    assert!(svg.ends_with("</svg>\n") && fs::metadata(format!("{plot}.unfinished")).is_err());
}

#[test]
fn a_line_of_csv_has_the_fields_that_the_header_names() {
    let servers = Servers::start();
    let upstream = format!("tls://{}#{NAME}", servers.tls);
    let arguments =
        ["--upstream", &upstream, "--stub", "ssock", "--queries", "12", "--concurrency", "1", "--format", "csv"];
    let ended = run(&servers, &[&arguments[..], &["--cold"]].concat());
    let mut lines = ended.output.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let (header, line) = (lines.next().unwrap(), lines.next().unwrap());
    assert_eq!((header.len(), line.len(), lines.next()), (19, 19, None), "{}", ended.output);
    let field = |name: &str| line[header.iter().position(|field| *field == name).unwrap()];
    assert_eq!((field("stub"), field("answered"), field("errors"), field("judgement")), ("ssock", "12", "", "fastest"));
    // Cold: what a handshake sends is in every query.
    assert!(field("bytes_per_query").parse::<f64>().unwrap() > 1_500.0, "{}", ended.output);
}

#[test]
fn what_cannot_be_asked_is_told_by_its_cause_and_what_cannot_be_combined_is_left_out() {
    let servers = Servers::start();
    let upstreams = format!("tls://{}#other.test,quic://127.0.0.1:9#{NAME}", servers.tls);
    let arguments = ["--stub", "ssock,doh", "--upstream", &upstreams, "--queries", "12", "--concurrency", "1"];
    let ended = run(&servers, &arguments);
    assert_eq!(ended.code, Some(1), "{}", ended.output);
    assert!(ended.output.contains("3 certificate-name-mismatch"), "{}", ended.output);
    for stub in ["ssock", "doh"] {
        let complaint = format!("dot-profiler: left out: {stub} quic://127.0.0.1:9#{NAME}: it asks ");
        assert!(ended.complaints.contains(&complaint), "{}", ended.complaints);
    }
    assert!(ended.complaints.contains("no query was answered"), "{}", ended.complaints);
}

#[test]
fn a_program_that_is_missing_leaves_its_combinations_out_and_nothing_left_is_wrong_usage() {
    let servers = Servers::start();
    let upstream = format!("tls://{}#{NAME}", servers.tls);
    let ended: Ended = profiler(&servers, &["--stub", "kdig", "--upstream", &upstream])
        .env("PATH", "/nonexistent")
        .output()
        .unwrap()
        .into();
    assert_eq!((ended.code, ended.output.as_str()), (Some(2), ""));
    assert!(ended.complaints.contains("Debian's package knot-dnsutils"), "{}", ended.complaints);
    assert!(ended.complaints.contains("nothing is left to measure"), "{}", ended.complaints);
}

#[test]
fn ctrl_c_prints_what_was_measured_so_far() {
    let servers = Servers::start();
    let upstream = format!("tls://{}#{NAME}", servers.tls);
    let arguments = ["--upstream", &upstream, "--stub", "ssock", "--queries", "1000000", "--concurrency", "1"];
    let mut child =
        profiler(&servers, &[&arguments[..], &["--format", "json"]].concat()).stdout(Stdio::piped()).spawn().unwrap();
    // It listens for Ctrl-C before it asks anything, and asks for long.
    let deadline = Instant::now() + Duration::from_secs(10);
    while !catches_ctrl_c(child.id()) {
        assert!(Instant::now() < deadline && child.try_wait().unwrap().is_none());
        thread::sleep(Duration::from_millis(5));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let mut output = String::new();
    child.stdout.take().unwrap().read_to_string(&mut output).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let report: serde_json::Value = serde_json::from_str(&output).unwrap();
    assert_eq!(report["interrupted"], true);
    assert!(report["results"][0]["rounds"].as_u64().unwrap() < 12, "{report:#}");
}

/// Whether SIGINT no longer ends a process: bit 1 of the mask of signals that are caught.
fn catches_ctrl_c(process: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 2 != 0)
}
