//! Many pods: how fast a change reaches them, what others feel of it, and what the injector takes to know them all. None of them runs.
//!
//! `make test` does it with a few; `make bench ARGS=--operator` with as many as the table in tests/bench/operator.md says, which it
//! writes: one fleet, made once.

mod observed;
mod report;

use std::thread::{scope, sleep};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use crate::installed::Installed;
use observed::Observed;
use report::{Report, load};

/// The pace that is asked for, and allowed.
const WRITES_PER_SECOND: f64 = 100.0;
const PODS_OF_THE_FIRST_CHANGE: usize = 2_000;
const ALL_PODS: usize = 10_000;
/// Pods that lack the sidecar, beside all of those.
const MISSING: usize = 2_000;
/// How many kubectl create pods at once, and how many pods a Deployment has.
const CREATORS: usize = 4;
const LIST: usize = 100;
/// How often is told that it goes on.
const TOLD: Duration = Duration::from_secs(10);

/// What a change under many pods came to.
#[derive(Debug)]
struct Change {
    pods: usize,
    took: Duration,
    before: Observed,
    meanwhile: Observed,
}

/// What the injector has resident, now and at most since it started, in KiB.
#[derive(Debug)]
struct Memory {
    /// Those with the sidecar and those that lack it.
    pods: usize,
    what: &'static str,
    resident: u64,
    most: u64,
}

fn profile(server: &str, image: Option<&str>) -> Value {
    json!({"apiVersion": "dot-sidecar.io/v1alpha1", "kind": "ProxyProfile", "metadata": {"name": "fleet"},
           "spec": {"upstream": {"servers": [server]}, "image": image}})
}

/// A pod as a Deployment's ReplicaSet makes it.
fn pod(app: &str, number: usize, annotations: &Value) -> Value {
    let (app, hash) = (format!("{app}-{:03}", number / LIST), "5d4f8b9c6d");
    let owner = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{app}-{hash}"), "uid": app,
        "controller": true, "blockOwnerDeletion": true}]);
    let labels = json!({"app.kubernetes.io/name": app, "tier": "front", "pod-template-hash": hash});
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("{app}-{hash}-{number:05}"), "labels": labels, "annotations": annotations,
            "ownerReferences": owner},
        "spec": {"containers": [{"name": "app", "image": "app", "resources": {"requests": {"cpu": "10m"}}}]}})
}

fn asking(number: usize) -> Value {
    pod("web", number, &json!({"dot-sidecar.io/inject": "true", "dot-sidecar.io/profile": "fleet"}))
}

/// A chart with an injector, and a profile that no pod has yet.
fn installed(name: &'static str) -> Installed {
    let settings = "rollout.proveUpstreams=false,rollout.writesPerSecond=100";
    let installed = Installed::with_injector(name, &["--set", settings]);
    installed.apply(&[profile("quad9", None)]);
    installed.welcome_another();
    installed
}

impl Installed {
    fn pods(&self) -> Value {
        let said = self.kubectl("get proxyprofile fleet -o jsonpath={.status.pods}", &Value::Null).stdout;
        serde_json::from_str(&said).unwrap_or_default()
    }

    /// Waits until the injector has counted so many of its pods under this name.
    fn until_counted(&self, name: &str, number: usize, within: Duration) {
        let holds = || self.pods()[name] == number;
        self.until(&format!("{number} pods are counted as {name}"), within, holds, || self.pods());
    }

    /// Waits until the injector has found that so many pods lack something.
    fn until_drifted(&self, state: &str, number: usize, within: Duration) {
        let metric = format!("dot_injector_drifted_pods{{state=\"{state}\"}} ");
        let drifted = || self.metric(&metric);
        self.until(&format!("{number} pods are found to be {state}"), within, || drifted() == Some(number), drifted);
    }

    fn until<T: std::fmt::Debug>(
        &self,
        what: &str,
        within: Duration,
        holds: impl Fn() -> bool,
        present: impl Fn() -> T,
    ) {
        let (began, mut told) = (Instant::now(), Instant::now());
        while !holds() {
            assert!(began.elapsed() < within, "not within {within:?}: {what}: {:?}", present());
            if told.elapsed() > TOLD {
                told = Instant::now();
                eprintln!("   until {what}: {:?}", present());
            }
            sleep(Duration::from_millis(500));
        }
    }

    /// Creates the first pod, as soon as the injector answers for pods of the profile.
    fn create_first(&self) {
        self.until_said("created", "--namespace plain create -f -", &asking(0));
        self.until_counted("total", 1, Duration::from_secs(30));
    }

    /// Creates the pods of these numbers, which the API server shows to the injector.
    fn create(&self, numbers: std::ops::Range<usize>) {
        let total = numbers.end;
        self.create_all(&numbers.map(asking).collect::<Vec<_>>());
        self.until_counted("total", total, Duration::from_secs(60));
    }

    /// Creates these pods, several at a time.
    fn create_all(&self, pods: &[Value]) {
        let lists: Vec<&[Value]> = pods.chunks(LIST).collect();
        scope(|scope| {
            for creator in 0..CREATORS {
                let lists = lists.iter().skip(creator).step_by(CREATORS);
                scope.spawn(move || {
                    for list in lists {
                        let list = json!({"apiVersion": "v1", "kind": "List", "items": list});
                        // Validation would have each kubectl read how all kinds are made.
                        let said = self.kubectl("--namespace plain create --validate=ignore -o name -f -", &list);
                        assert!(said.stderr.is_empty(), "{}", said.stderr);
                    }
                });
            }
        });
    }

    fn memory(&self, pods: usize, what: &'static str) -> Memory {
        let script = "cat /proc/$(pgrep -x dot-injector)/status";
        let said = self.control_plane.cluster(&["exec", "bash", "-c", script], "");
        let figure = |name: &str| {
            let line = said.stdout.lines().find_map(|line| line.strip_prefix(name));
            let figure = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
            figure.unwrap_or_else(|| panic!("{name} {}{}", said.stdout, said.stderr))
        };
        let memory = Memory { pods, what, resident: figure("VmRSS:"), most: figure("VmHWM:") };
        eprintln!("   {pods} pods, {what}: {} KiB resident, {} at most", memory.resident, memory.most);
        memory
    }

    fn metric(&self, name: &str) -> Option<usize> {
        let metrics = self.control_plane.cluster(&["exec", "curl", "-s", "http://127.0.0.1:8080/metrics"], "").stdout;
        metrics.lines().find_map(|metric| metric.strip_prefix(name))?.parse().ok()
    }

    /// Has the profile ask this server, and waits until all its pods know it. The other one is observed for so long before.
    fn change(&self, server: &str, pods: usize, quiet: Duration) -> Change {
        let before = self.observe(1e15, quiet, || {});
        let target = before.total() + pods as f64;
        // Four times what the pace allows, and what waves take: longer than asked for is told in the table.
        let limit = Duration::from_secs(30) + Duration::from_secs_f64(4.0 * pods as f64 / WRITES_PER_SECOND);
        let mut began = SystemTime::now();
        let meanwhile = self.observe(target, limit, || {
            began = SystemTime::now();
            self.apply(&[profile(server, None)]);
        });
        let took = meanwhile.took(began, target);
        let took = took.unwrap_or_else(|| panic!("not within {limit:?}: {}", self.pods()));
        self.until_counted("updated", pods, Duration::from_secs(30));
        Change { pods, took, before, meanwhile }
    }
}

#[test]
fn a_change_reaches_two_hundred_pods_at_the_pace_that_is_allowed() {
    let installed = installed("fleet");
    installed.create_first();
    installed.create(1..200);
    let change = installed.change("google", 200, Duration::from_secs(1));
    assert!(change.took < Duration::from_secs(60), "{change:?}");
    assert!(change.took > Duration::from_millis(1_900), "{change:?}");
    assert!(change.meanwhile.failed.is_empty() && change.meanwhile.served() > 0, "{change:?}");
    let memory = installed.memory(200, "as they should be");
    assert!(memory.resident < 64 * 1024, "{memory:?}");
}

#[test]
#[ignore = "takes many minutes: make bench ARGS=--operator"]
fn a_change_reaches_two_thousand_pods_within_a_minute_and_ten_thousand_fit_into_64_mib() {
    let (began, mut report) = (Instant::now(), Report { load: load(), ..Report::default() });
    let phase = |what: &str| eprintln!("── {:4} s: {what}", began.elapsed().as_secs());
    let quiet = Duration::from_secs(10);
    let mut installed = installed("fleet-in-full");
    report.memory.push(installed.memory(0, ""));

    phase("the first 2,000 pods are created");
    installed.create_first();
    installed.create(1..PODS_OF_THE_FIRST_CHANGE);
    report.memory.push(installed.memory(PODS_OF_THE_FIRST_CHANGE, "as they should be"));
    phase("the profile of 2,000 pods is changed");
    report.changes.push(installed.change("google", PODS_OF_THE_FIRST_CHANGE, quiet));
    report.memory.push(installed.memory(PODS_OF_THE_FIRST_CHANGE, "after their profile was changed"));

    for more in (PODS_OF_THE_FIRST_CHANGE..ALL_PODS).step_by(2_000) {
        phase(&format!("2,000 pods are created beside {more}"));
        installed.create(more..more + 2_000);
        report.memory.push(installed.memory(more + 2_000, "as they should be"));
    }
    phase("the profile of 10,000 pods is changed");
    report.changes.push(installed.change("quad9", ALL_PODS, quiet));
    report.memory.push(installed.memory(ALL_PODS, "after their profile was changed"));

    phase("the image of 10,000 pods becomes outdated");
    installed.apply(&[profile("quad9", Some("registry.example/dot-proxy:next"))]);
    installed.until_drifted("outdated-image", ALL_PODS, Duration::from_secs(120));
    report.memory.push(installed.memory(ALL_PODS, "all with an outdated image"));
    phase("2,000 pods are created that did not ask, and then their namespace asks");
    let silent: Vec<Value> = (0..MISSING).map(|number| pod("silent", number, &json!({}))).collect();
    installed.create_all(&silent);
    let said = installed.kubectl("label namespace plain dot-sidecar.io/inject=true", &Value::Null);
    assert!(said.stdout.contains("labeled"), "{}{}", said.stdout, said.stderr);
    installed.until_drifted("missing", MISSING, Duration::from_secs(180));
    report.memory.push(installed.memory(ALL_PODS + MISSING, "all with an outdated image, or without the sidecar"));

    phase("the injector is started anew");
    installed.restart_injector();
    installed.until_drifted("missing", MISSING, Duration::from_secs(180));
    installed.until_drifted("outdated-image", ALL_PODS, Duration::from_secs(30));
    report.memory.push(installed.memory(ALL_PODS + MISSING, "the same, after the injector was started anew"));

    report.took = began.elapsed();
    report.write();
    phase("done");
    assert!(report.missed().is_empty(), "MISSED: {:#?}", report.missed());
}
