//! The program as users start it: flags, exit codes, signals.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

fn dot_proxy(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dot-proxy")).args(arguments).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A started proxy, with the first line of its log, which tells its addresses.
fn started() -> (Child, String) {
    let upstream = ["--upstream", "tls://127.0.0.1:1#nobody.test", "--log-format", "json"];
    let mut child = Command::new(env!("CARGO_BIN_EXE_dot-proxy"))
        .args(["--host", "127.0.0.1", "--port", "0", "--admin", "127.0.0.1:0"])
        .args(upstream)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut first).unwrap();
    (child, first)
}

/// A value in a line of JSON log.
pub fn field(line: &str, name: &str) -> String {
    let rest = line.split_once(&format!("\"{name}\":\"")).unwrap_or_else(|| panic!("no {name} in {line}")).1;
    rest.split_once('"').unwrap().0.to_owned()
}

#[test]
fn queries_are_answered_though_nobody_reads_the_log() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_dot-proxy"))
        .args(["--host", "127.0.0.1", "--port", "0", "--admin", "127.0.0.1:0", "--log-format", "json", "--verbose"])
        .args(["--upstream", "tls://127.0.0.1:1#nobody.test"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("taking queries") {
        line.clear();
        log.read_line(&mut line).unwrap();
    }
    let address = field(&line, "address");
    let localhost = b"\x00\x1b\x00\x07\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x09localhost\x00\x00\x01\x00\x01";
    let ask = |_: &i32| {
        let mut stream = TcpStream::connect(&address)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(localhost)?;
        stream.read_exact(&mut [0; 14])
    };
    // Each connection's end is a line, and a pipe takes 64 KiB.
    let answered = (0..1_000).take_while(|number| ask(number).is_ok()).count();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(answered, 1_000);
    let mut lines = log.lines().map(Result::unwrap).peekable();
    assert!(lines.peek().is_some());
    // The last one may have been cut.
    lines
        .filter(|line| line.ends_with('}'))
        .for_each(|line| drop(serde_json::from_str::<serde_json::Value>(&line).unwrap()));
}

#[test]
fn sigterm_and_sigint_drain_and_exit_0() {
    for signal in ["-TERM", "-INT"] {
        let (mut child, _) = started();
        assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
        assert_eq!(child.wait().unwrap().code(), Some(0), "{signal}");
    }
}

#[tokio::test]
#[cfg(all(target_os = "linux", target_env = "gnu"))]
async fn what_of_the_program_only_the_start_needed_does_not_stay_in_memory() {
    let (mut child, _) = started();
    let status = format!("/proc/{}/status", child.id());
    // KiB of files that are mapped and present.
    let resident = || -> u64 {
        let status = std::fs::read_to_string(&status).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssFile:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    let mut most = resident();
    crate::wait::until("half of it is let go", async || {
        most = most.max(resident());
        resident() < most / 2
    })
    .await;
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn probe_finds_a_running_proxy_though_no_upstream_answers() {
    let (mut child, line) = started();
    let admin = field(&line, "admin");
    assert_eq!(dot_proxy(&["probe", "--admin", &admin]).status.code(), Some(0));
    child.kill().unwrap();
    child.wait().unwrap();
    let output = dot_proxy(&["probe", "--admin", &admin]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains(&admin));
}

#[test]
fn a_port_that_is_taken_is_told_with_the_remedy() {
    let (mut child, line) = started();
    let port = field(&line, "address").rsplit_once(':').unwrap().1.to_owned();
    let output = dot_proxy(&["--host", "127.0.0.1", "--port", &port, "--admin", "127.0.0.1:0"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("another program listens there"), "{}", stderr(&output));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn wrong_usage_and_wrong_configuration_exit_2_and_say_what_to_do() {
    let file = std::env::temp_dir().join(format!("dot-proxy-program-{}.yaml", std::process::id()));
    std::fs::write(&file, "upstream: {servers: [cloudfare]}").unwrap();
    let file = file.to_str().unwrap();
    for (arguments, remedy) in [
        (&["--nonsense"][..], "unexpected argument"),
        (&["--upstream", "tls://dns.example"], "add #NAME"),
        (&["--config", "/nonexistent.yaml"], "/nonexistent.yaml: No such file"),
        (&["--config", file], "upstream.servers[0]: \"cloudfare\" is no server"),
        (&["check-config", file], "upstream.servers[0]: \"cloudfare\" is no server"),
        (&["query", "example.com", "NONSENSE"], "is no record type"),
        (&["query", "exa mple..com"], "is no domain name"),
    ] {
        let output = dot_proxy(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(remedy), "{arguments:?}: {}", stderr(&output));
    }
    std::fs::remove_file(file).unwrap();
}

#[test]
fn query_tells_why_a_name_was_not_resolved() {
    let output = dot_proxy(&["query", "example.com", "--upstream", "tls://127.0.0.1:1#nobody.test"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("connection-refused at tls://127.0.0.1:1#nobody.test"), "{}", stderr(&output));
}

#[test]
fn query_answers_what_needs_no_upstream() {
    let output = dot_proxy(&["query", "localhost"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("localhost. 30 IN A 127.0.0.1\n"));
}

#[test]
fn with_events_on_standard_output_nothing_else_stands_there() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_dot-proxy"))
        .args(["--host", "127.0.0.1", "--port", "0", "--admin", "127.0.0.1:0", "--log-format", "json"])
        .args(["--upstream", "tls://127.0.0.1:1#nobody.test", "--events", "stdout"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    BufReader::new(child.stderr.as_mut().unwrap()).read_line(&mut first).unwrap();
    let address = field(&first, "address");
    let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let onion = [&[0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], b"\x01x\x05onion\x00\x00\x01\x00\x01"].concat();
    client.send_to(&onion, &address).unwrap();
    let mut event = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut event).unwrap();
    assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let event: serde_json::Value = serde_json::from_str(&event).unwrap();
    assert_eq!((&event["event"]["action"], &event["rule"]["name"]), (&"name-withheld".into(), &"special-use".into()));
    assert_eq!(event.get("dns"), None); // names are told only where that was asked for
}

#[test]
fn a_configuration_that_is_not_taken_is_told_as_an_event() {
    let output = dot_proxy(&["--threads", "0", "--events", "stdout"]);
    assert_eq!(output.status.code(), Some(2));
    let event: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(event["event"]["action"], "configuration-refused");
    assert!(event["error"]["message"].as_str().unwrap().starts_with("threads: "), "{event}");
}

#[tokio::test]
#[cfg(target_os = "linux")]
async fn a_proxy_that_has_told_its_events_sleeps() {
    let collector = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("tcp://{}", collector.local_addr().unwrap());
    let mut child = Command::new(env!("CARGO_BIN_EXE_dot-proxy"))
        .args(["--host", "127.0.0.1", "--port", "0", "--admin", "127.0.0.1:0", "--log-format", "json"])
        .args(["--upstream", "tls://127.0.0.1:1#nobody.test", "--events", "stdout", "--events", &url])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    BufReader::new(child.stderr.as_mut().unwrap()).read_line(&mut first).unwrap();
    let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let onion = [&[0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], b"\x01x\x05onion\x00\x00\x01\x00\x01"].concat();
    client.send_to(&onion, field(&first, "address")).unwrap();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut String::new()).unwrap();
    let (mut told, _) = collector.accept().unwrap();
    told.read_exact(&mut [0; 3]).unwrap();
    let tasks = format!("/proc/{}/task", child.id());
    let switches = || -> u64 {
        let threads = std::fs::read_dir(&tasks).unwrap().map(|task| task.unwrap().path().join("status"));
        let of = |status: std::path::PathBuf| -> u64 {
            let status = std::fs::read_to_string(status).unwrap();
            let lines = status.lines().filter_map(|line| line.split_once("voluntary_ctxt_switches:"));
            lines.map(|(_, count)| count.trim().parse::<u64>().unwrap()).sum()
        };
        threads.map(of).sum()
    };
    // Of what was told it is still seen whether it was acknowledged, and whether it happens again.
    crate::wait::until("no thread runs for a second and a half", async || {
        let before = switches();
        tokio::time::sleep(Duration::from_millis(1500)).await;
        switches() == before
    })
    .await;
    child.kill().unwrap();
    child.wait().unwrap();
}
