//! What happens when a resolver is away.

use std::thread;
use std::time::Duration;

use dot_e2e::pod::UPSTREAM;
use dot_e2e::{Call, Cluster, Namespace, Pod, Upstream, eventually, upstream};
use serde_json::{Value, json};

#[test]
fn with_the_upstream_unreachable_the_pod_starts_and_resolves_once_it_is_back() {
    let cluster = Cluster::shared();
    let mut upstream = Upstream::stopped(&cluster.authority.identity(upstream::NAME));
    let namespace = Namespace::create("unreachable").restricted();

    let pod = namespace.run(&Pod::new("app").annotated().annotation(UPSTREAM, &upstream.url(upstream::NAME)));
    let reply = pod.dig("www.example.com", "");
    assert_eq!(reply.status, "SERVFAIL", "{}", reply.text);
    assert!(reply.error.as_deref().is_some_and(|error| error.contains("connection-refused")), "{}", reply.text);

    upstream.start();
    eventually("the pod resolves again", Duration::from_secs(30), || {
        let reply = pod.dig("www.example.com", "");
        if reply.answers == ["203.0.113.80"] { Ok(()) } else { Err(reply.text) }
    });
    assert_eq!(pod.json()["status"]["initContainerStatuses"][0]["restartCount"], 0);
}

#[test]
fn with_cluster_dns_rescheduled_under_load_no_lookup_of_a_service_is_lost() {
    let _cluster = Cluster::alone();
    let namespace = Namespace::create("rescheduled");
    // As many services as there are lookups: none is answered from the cache.
    let names: Vec<String> = (0..300).map(|number| format!("service-{number}")).collect();
    let services: Vec<Value> = names
        .iter()
        .map(|name| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"ports": [{"port": 80}]}}))
        .collect();
    let admission = namespace.create_object(&json!({"apiVersion": "v1", "kind": "List", "items": services}));
    assert!(admission.accepted, "{}", admission.refusal);
    let pod = namespace.run(&Pod::new("app").annotated());
    let before = cluster_dns_pods();

    let names: Vec<String> =
        names.iter().map(|name| format!("{name}.{}.svc.cluster.local.", namespace.name())).collect();
    let load = format!("resolve -for 14s -every 50ms {}", names.join(" "));
    let report = thread::scope(|scope| {
        let load = scope.spawn(|| pod.sh(&load));
        Call::kubectl("-n kube-system delete pod -l k8s-app=kube-dns").succeed();
        Call::kubectl("-n kube-system rollout status deployment/coredns --timeout=60s").succeed();
        load.join().expect("the load's thread does not panic")
    });

    assert!(report.success, "{report}");
    let report: Value = serde_json::from_str(&report.stdout).expect("the load reports in JSON");
    assert!(report["lookups"].as_u64().is_some_and(|lookups| lookups > 200), "{report}");
    assert_eq!(report["failed"], json!([]), "{report}\n{}", pod.log("dot-proxy"));
    assert!(cluster_dns_pods().iter().all(|pod| !before.contains(pod)), "cluster DNS was not rescheduled");
}

fn cluster_dns_pods() -> Vec<String> {
    let pods =
        Call::kubectl("-n kube-system get pods -l k8s-app=kube-dns --field-selector=status.phase=Running -o name")
            .succeed();
    pods.lines().map(str::to_owned).collect()
}
