//! A changed profile on its way to a pod that runs, while the pod asks.

use std::thread;
use std::time::{Duration, Instant};

use dot_e2e::{Call, Cluster, Namespace, Output, Pod, RunningPod, Upstream, eventually, upstream};
use serde_json::{Value, json};

/// What the pod asks for all the while; answers are kept for a second, so that each name is asked for outside again and again.
const NAMES: &str = "www.example.com. example.org. mail.example.net. init.example.com.";

/// A profile that goes with the test.
struct Profile<'a> {
    name: String,
    authority: &'a str,
}

impl<'a> Profile<'a> {
    fn create(namespace: &Namespace, authority: &'a str, servers: &[String]) -> Self {
        let profile = Self { name: namespace.name().to_owned(), authority };
        profile.asks(servers);
        // Until the injector knows it, a pod that names it is refused.
        profile.until("Complete");
        profile
    }

    /// Has it ask these servers from now on.
    fn asks(&self, servers: &[String]) {
        let profile = json!({
            "apiVersion": "dot-sidecar.io/v1alpha1", "kind": "ProxyProfile", "metadata": {"name": self.name},
            "spec": {"upstream": {"servers": servers, "ca": self.authority}, "cache": {"maxTtlSeconds": 1, "staleSeconds": 0}}
        });
        Call::kubectl("apply --server-side --force-conflicts -f -").input(&profile).succeed();
    }

    /// Whether all its pods have what it says, and why not; of what it says now.
    fn propagated(&self) -> (String, String) {
        let profile = Call::kubectl("get proxyprofile -o json").arg(&self.name).json();
        let conditions = profile["status"]["conditions"].as_array().into_iter().flatten();
        let is_meant = |condition: &&Value| {
            condition["type"] == "Propagated" && condition["observedGeneration"] == profile["metadata"]["generation"]
        };
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let found = conditions.into_iter().find(is_meant);
        found.map(|found| (text(&found["reason"]), text(&found["message"]))).unwrap_or_default()
    }

    fn until(&self, reason: &str) -> String {
        eventually(&format!("{} is {reason}", self.name), Duration::from_secs(30), || {
            let (told, message) = self.propagated();
            if told == reason { Ok(message) } else { Err(format!("{told}: {message}")) }
        })
    }
}

impl Drop for Profile<'_> {
    fn drop(&mut self) {
        Call::kubectl("delete proxyprofile --ignore-not-found").arg(&self.name).output();
    }
}

fn pod_with(profile: &Profile<'_>) -> Pod {
    Pod::new("app").annotated().annotation("dot-sidecar.io/profile", &profile.name)
}

fn running(cluster: &Cluster) -> Upstream {
    Upstream::running(&cluster.authority.identity(upstream::NAME))
}

/// Runs `change` while the pod asks: not one lookup may fail, and the sidecar may not be started again.
fn without_a_failed_lookup(pod: &RunningPod<'_>, seconds: u32, change: impl FnOnce()) {
    let load = format!("resolve -for {seconds}s -every 20ms {NAMES}");
    let report: Output = thread::scope(|scope| {
        let load = scope.spawn(|| pod.sh(&load));
        change();
        load.join().expect("the load's thread does not panic")
    });
    assert!(report.success, "{report}");
    let report: Value = serde_json::from_str(&report.stdout).expect("the load reports in JSON");
    assert!(report["lookups"].as_u64().is_some_and(|lookups| lookups > 100), "{report}");
    assert_eq!(report["failed"], json!([]), "{report}\n{}", pod.log("dot-proxy"));
    assert_eq!(pod.json()["status"]["initContainerStatuses"][0]["restartCount"], 0);
}

fn asked(upstream: &Upstream, pod: &str) -> usize {
    upstream.names_asked_by(pod).len()
}

#[test]
fn a_changed_upstream_is_asked_within_two_seconds_without_a_restart_or_a_failed_lookup() {
    let cluster = Cluster::alone();
    let (before, after) = (running(&cluster), running(&cluster));
    let namespace = Namespace::create("changed");
    let profile = Profile::create(&namespace, cluster.authority.certificate(), &[before.url(upstream::NAME)]);
    let pod = namespace.run(&pod_with(&profile));
    let ip = pod.ip();
    without_a_failed_lookup(&pod, 8, || {
        eventually("the pod asks the first one", Duration::from_secs(5), || match asked(&before, &ip) {
            0 => Err("nothing was asked".to_owned()),
            _ => Ok(()),
        });
        profile.asks(&[after.url(upstream::NAME)]);
        let changed = Instant::now();
        while asked(&after, &ip) == 0 {
            assert!(changed.elapsed() < Duration::from_secs(2), "{:?}\n{}", profile.propagated(), pod.log("dot-proxy"));
            thread::sleep(Duration::from_millis(20));
        }
        println!("the new upstream was asked {} ms after the change", changed.elapsed().as_millis());
    });
    assert_eq!(profile.until("Complete"), "all 1 pods have what the profile says");
}

#[test]
fn a_dead_upstream_beside_the_living_one_changes_nothing_for_the_pod_and_the_profile_says_why() {
    let cluster = Cluster::shared();
    let (living, dead) = (running(&cluster), Upstream::stopped(&cluster.authority.identity(upstream::NAME)));
    let namespace = Namespace::create("dead");
    let profile = Profile::create(&namespace, cluster.authority.certificate(), &[living.url(upstream::NAME)]);
    let pod = namespace.run(&pod_with(&profile));
    without_a_failed_lookup(&pod, 6, || {
        profile.asks(&[living.url(upstream::NAME), dead.url(upstream::NAME)]);
        let message = profile.until("Unproved");
        assert!(message.contains(&format!("{}: connection-refused", dead.url(upstream::NAME))), "{message}");
    });
    let config = pod.json()["metadata"]["annotations"]["dot-sidecar.io/config"].to_string();
    assert!(!config.contains(dead.address()), "{config}");
}

#[test]
fn an_upstream_that_is_taken_out_is_not_asked_any_more() {
    let cluster = Cluster::alone();
    let (kept, removed) = (running(&cluster), running(&cluster));
    let both = [removed.url(upstream::NAME), kept.url(upstream::NAME)];
    let namespace = Namespace::create("removed");
    let profile = Profile::create(&namespace, cluster.authority.certificate(), &both);
    let pod = namespace.run(&pod_with(&profile));
    let ip = pod.ip();
    without_a_failed_lookup(&pod, 12, || {
        eventually("the pod asks", Duration::from_secs(5), || match asked(&removed, &ip) + asked(&kept, &ip) {
            0 => Err("nothing was asked".to_owned()),
            _ => Ok(()),
        });
        profile.asks(&both[1..]);
        profile.until("Complete");
        let (before, of_kept) = (asked(&removed, &ip), asked(&kept, &ip));
        eventually("names are asked for again", Duration::from_secs(10), || match asked(&kept, &ip) - of_kept {
            0..8 => Err("too few were asked for".to_owned()),
            _ => Ok(()),
        });
        assert_eq!(asked(&removed, &ip), before, "{}", removed.log());
    });
}
