//! Many pods: how fast a change reaches them, what others feel of it, and what the injector takes to know them all. None of them runs.
//!
//! `make test` does it with a few; `make bench ARGS=--operator` with as many as the table in tests/bench/operator.md says, which it
//! writes.

use std::fmt::Write as _;
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::ROOT;
use crate::installed::{Installed, program};

/// The pace that is asked for, and allowed.
const WRITES_PER_SECOND: f64 = 100.0;
/// The same as it may be measured: what is counted and when do not agree to the millisecond.
const MEASURED_MOST: f64 = 1.03 * WRITES_PER_SECOND;
/// How many kubectl create pods at once.
const CREATORS: usize = 3;
const LIST: usize = 250;

/// What a change under many pods came to.
#[derive(Debug)]
struct Change {
    pods: usize,
    took: Duration,
    /// Writes a second, at most, over some seconds.
    peak: f64,
    /// What a small request of somebody else took, in the middle of three numbers, before and meanwhile.
    others: (Duration, Duration),
}

fn profile(server: &str) -> Value {
    json!({"apiVersion": "dot-sidecar.io/v1alpha1", "kind": "ProxyProfile", "metadata": {"name": "fleet"},
           "spec": {"upstream": {"servers": [server]}}})
}

fn pod(number: usize) -> Value {
    let annotations = json!({"dot-sidecar.io/inject": "true", "dot-sidecar.io/profile": "fleet"});
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("web-{number:05}"), "labels": {"app": "web", "tier": "front"}, "annotations": annotations},
        "spec": {"containers": [{"name": "app", "image": "app", "resources": {"requests": {"cpu": "10m"}}}]}})
}

fn installed(name: &'static str) -> Installed {
    let settings = "rollout.proveUpstreams=false,rollout.writesPerSecond=100";
    let installed = Installed::with_injector(name, &["--set", settings]);
    installed.apply(&[profile("quad9")]);
    installed.until_said("created", "--namespace plain create -f -", &pod(0));
    installed
}

impl Installed {
    fn pods(&self) -> Value {
        let said = self.kubectl("get proxyprofile fleet -o jsonpath={.status.pods}", &Value::Null).stdout;
        serde_json::from_str(&said).unwrap_or_default()
    }

    /// Waits until the injector has counted so many of its pods under this name.
    fn until_counted(&self, name: &str, number: usize, within: Duration) {
        let deadline = Instant::now() + within;
        while self.pods()[name] != number {
            assert!(Instant::now() < deadline, "{name} is not {number} within {within:?}: {}", self.pods());
            sleep(Duration::from_millis(200));
        }
    }

    /// Creates the pods of these numbers.
    fn create(&self, numbers: std::ops::Range<usize>) {
        let total = numbers.end;
        self.create_all("plain", &numbers.map(pod).collect::<Vec<_>>());
        self.until_counted("total", total, Duration::from_secs(60));
    }

    /// Creates these pods, several at a time.
    pub(crate) fn create_all(&self, namespace: &str, pods: &[Value]) {
        let lists: Vec<&[Value]> = pods.chunks(LIST).collect();
        scope(|scope| {
            for creator in 0..CREATORS {
                let lists = lists.iter().skip(creator).step_by(CREATORS);
                scope.spawn(move || {
                    for list in lists {
                        let list = json!({"apiVersion": "v1", "kind": "List", "items": list});
                        let said = self.kubectl(&format!("--namespace {namespace} create -o name -f -"), &list);
                        assert!(said.stderr.is_empty(), "{}", said.stderr);
                    }
                });
            }
        });
    }

    /// What the injector has resident, in KiB.
    pub(crate) fn resident(&self) -> u64 {
        let script = "grep VmRSS /proc/$(pgrep -x dot-injector)/status";
        let said = self.control_plane.cluster(&["exec", "bash", "-c", script], "");
        let figure = said.stdout.split_whitespace().nth(1).and_then(|figure| figure.parse().ok());
        figure.unwrap_or_else(|| panic!("{}{}", said.stdout, said.stderr))
    }

    fn written(&self) -> f64 {
        let metrics = self.control_plane.cluster(&["exec", "curl", "-s", "http://127.0.0.1:8080/metrics"], "").stdout;
        let line = "dot_injector_configuration_writes_total{outcome=\"written\"} ";
        metrics.lines().find_map(|metric| metric.strip_prefix(line)).map_or(0.0, |count| count.parse().unwrap())
    }

    /// What a small request of somebody else takes.
    fn request(&self) -> Duration {
        let began = Instant::now();
        let said = self.kubectl("--namespace plain get serviceaccount default -o name", &Value::Null);
        assert!(said.stdout.contains("default"), "{}", said.stderr);
        began.elapsed()
    }

    fn middle_request(&self) -> Duration {
        let mut took = [(); 3].map(|()| self.request());
        took.sort();
        took[1]
    }

    /// Has the profile ask this server, and waits until all its pods know it.
    fn change(&self, server: &str, pods: usize) -> Change {
        let quiet = self.middle_request();
        let before = self.written();
        // Twice the time that the pace leaves, and what waves take.
        let limit = Duration::from_secs(30) + Duration::from_secs_f64(2.0 * pods as f64 / WRITES_PER_SECOND);
        let began = Instant::now();
        self.apply(&[profile(server)]);
        let mut samples = vec![(Duration::ZERO, 0.0)];
        let mut busy = Vec::new();
        loop {
            let written = self.written() - before;
            samples.push((began.elapsed(), written));
            if written >= pods as f64 {
                break;
            }
            assert!(began.elapsed() < limit, "{written} of {pods} are written: {}", self.pods());
            busy.push(self.request());
            sleep(Duration::from_millis(200));
        }
        let took = began.elapsed();
        self.until_counted("updated", pods, Duration::from_secs(30));
        busy.sort();
        let rates = samples.iter().flat_map(|(from, before)| {
            let later = samples.iter().find(|(to, _)| *to >= *from + Duration::from_secs(3));
            later.map(|(to, after)| (after - before) / (*to - *from).as_secs_f64())
        });
        let peak = rates.fold(pods as f64 / took.as_secs_f64(), f64::max);
        Change { pods, took, peak, others: (quiet, busy.get(busy.len() / 2).copied().unwrap_or_default()) }
    }
}

/// Keeps the figures beside those of the proxy.
fn write_table(changes: &[&Change], memory: &[(usize, u64)]) {
    let mut table = String::from(
        "# The injector under many pods\n\nWritten by `make bench ARGS=--operator`. A real API server with etcd, the injector beside it, by its own account and under the\npolicies; pods that never run. Pace: 100 writes a second.\n\n",
    );
    let program = program();
    let size = std::fs::metadata(&program).unwrap().len() / 1_000_000;
    let kind = if program.components().any(|part| part.as_os_str() == "debug") { "unoptimized" } else { "optimized" };
    let load = std::fs::read_to_string("/proc/loadavg").unwrap();
    let load = load.split(' ').next().unwrap();
    let cores = std::thread::available_parallelism().unwrap();
    writeln!(table, "An {kind} build of {size} MB on {cores} processors, load {load} at the end.\n").unwrap();
    table.push_str("| pods whose profile changed | all written after | writes a second, at most | another's `kubectl get`, before → meanwhile |\n|---|---|---|---|\n");
    for Change { pods, took, peak, others: (before, meanwhile) } in changes {
        let (took, before, meanwhile) = (took.as_secs_f64(), before.as_millis(), meanwhile.as_millis());
        writeln!(table, "| {pods} | {took:.1} s | {peak:.0} | {before} → {meanwhile} ms |").unwrap();
    }
    table.push_str("\n| pods watched | resident memory of the injector |\n|---|---|\n");
    for (pods, kibibytes) in memory {
        writeln!(table, "| {pods} | {:.1} MiB |", *kibibytes as f64 / 1024.0).unwrap();
    }
    std::fs::write(format!("{ROOT}/tests/bench/operator.md"), table).unwrap();
}

#[test]
fn a_change_reaches_two_hundred_pods_at_the_pace_that_is_allowed() {
    let installed = installed("fleet");
    installed.create(1..200);
    let change = installed.change("google", 200);
    assert!(change.took < Duration::from_secs(60) && change.peak <= MEASURED_MOST, "{change:?}");
    assert!(change.took > Duration::from_millis(1_900), "{change:?}");
    assert!(installed.resident() < 64 * 1024, "{} KiB", installed.resident());
}

#[test]
#[ignore = "takes many minutes: make bench ARGS=--operator"]
fn a_change_reaches_two_thousand_pods_within_a_minute_and_ten_thousand_fit_into_64_mib() {
    let installed = installed("fleet-in-full");
    let mut memory = vec![(1, installed.resident())];
    installed.create(1..2_000);
    memory.push((2_000, installed.resident()));
    let change = installed.change("google", 2_000);
    for thousands in [4, 6, 8, 10] {
        installed.create((thousands - 2) * 1_000..thousands * 1_000);
        memory.push((thousands * 1_000, installed.resident()));
    }
    let all = installed.change("quad9", 10_000);
    memory.push((10_000, installed.resident()));
    write_table(&[&change, &all], &memory);
    assert!(change.took < Duration::from_secs(60) && change.peak <= MEASURED_MOST, "{change:?}");
    let (first, last) = (memory[0].1, memory[memory.len() - 1].1);
    assert!(last <= 64 * 1024, "{memory:?}");
    assert!((last - first) / 10 <= 5 * 1024, "{memory:?}");
}
