//! What a sidecar costs that nobody asks.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use dot_e2e::pod::Pod;
use dot_e2e::{Cluster, Namespace, eventually};

/// Between two of the kubelet's probes, which come every ten seconds, less what polling for them and the probe itself take.
const BETWEEN_PROBES: Duration = Duration::from_secs(8);

#[test]
fn an_idle_sidecar_does_not_wake_up_between_the_probes() {
    let _cluster = Cluster::shared();
    let namespace = Namespace::create("idle").restricted();
    let pod = namespace.run(&Pod::new("app").annotated());
    pod.dig("www.example.com", "");
    let tasks = pod.root_of("dot-proxy").with_file_name("task");

    // The connection to the upstream is closed when it has been idle for ten seconds.
    sleep(Duration::from_secs(12));
    for _ in 0..3 {
        let before_probe = context_switches(&tasks);
        eventually("the kubelet probes", Duration::from_secs(30), || {
            if context_switches(&tasks) == before_probe { Err("no probe yet".to_owned()) } else { Ok(()) }
        });
        sleep(Duration::from_secs(1));

        let before = context_switches(&tasks);
        sleep(BETWEEN_PROBES);

        assert_eq!(context_switches(&tasks), before, "something woke the sidecar up");
    }
}

/// How often the threads of a process have gone to sleep or were made to wait, all together.
fn context_switches(tasks: &Path) -> u64 {
    let of_thread = |status: String| -> u64 {
        let switches = status.lines().filter(|line| line.contains("voluntary_ctxt_switches:"));
        switches.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).sum()
    };
    let threads = fs::read_dir(tasks).unwrap_or_else(|error| panic!("{}: {error}", tasks.display()));
    threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("status")).ok()).map(of_thread).sum()
}
