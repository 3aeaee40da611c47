//! What an injected pod resolves, whatever it is and whenever it asks.

use std::time::Duration;

use dot_e2e::pod::Pod;
use dot_e2e::{Cluster, Namespace, RunningPod, eventually};
use serde_json::Value;

use crate::sidecar;

#[test]
fn a_public_name_is_answered_by_the_upstream_over_tls() {
    let cluster = Cluster::shared();
    let namespace = Namespace::create("public").restricted();

    let pod = namespace.run(&Pod::new("app").annotated());
    let reply = pod.dig("www.example.com", "");

    assert_eq!((reply.status.as_str(), reply.answers), ("NOERROR", vec!["203.0.113.80".to_owned()]), "{}", reply.text);
    // The node's address stands for the pod's where the pod's packets are routed: what counts is who was asked.
    assert!(
        cluster.upstream.names_asked_by(&pod.ip()).contains(&"www.example.com.".to_owned()),
        "{}",
        cluster.upstream.log()
    );
}

#[test]
fn a_service_name_is_answered_by_cluster_dns() {
    let _cluster = Cluster::shared();
    let namespace = Namespace::create("service").restricted();
    let address = namespace.service("backend");

    let pod = namespace.run(&Pod::new("app").annotated());

    // As programs write it, by the search list; and in full.
    assert_eq!(getent(&pod, "backend"), address);
    assert_eq!(pod.dig(&format!("backend.{}.svc.cluster.local", namespace.name()), "").answers, [address]);
}

#[test]
fn an_ordinary_init_container_resolves_public_and_service_names() {
    let _cluster = Cluster::shared();
    let namespace = Namespace::create("init").restricted();
    let address = namespace.service("backend");

    let script = "getent ahostsv4 init.example.com && getent ahostsv4 backend";
    let pod = namespace.run(&Pod::new("app").annotated().init("migrate", script));

    let log = pod.log("migrate");
    assert!(log.contains("203.0.113.83") && log.contains(&address), "{log}");
}

#[test]
fn a_deployment_and_a_stateful_set_resolve() {
    let _cluster = Cluster::shared();
    let namespace = Namespace::create("workloads").restricted();

    for workload in [Pod::new("web").annotated().deployment(), Pod::new("store").annotated().stateful_set()] {
        let admission = namespace.create_object(&workload);
        assert!(admission.accepted, "{}", admission.refusal);
    }

    for (name, kind) in [("web", "deployment"), ("store", "statefulset")] {
        namespace.kubectl(&format!("rollout status {kind}/{name} --timeout=90s")).succeed();
        let pod = namespace.pod_of(name);
        sidecar(&pod.json());
        assert_eq!(getent(&pod, "www.example.com"), "203.0.113.80");
    }
}

#[test]
fn a_job_resolves_and_completes() {
    let _cluster = Cluster::shared();
    let namespace = Namespace::create("job").restricted();

    let job = Pod::new("report").label("app", "report").annotated().script("getent ahostsv4 www.example.com").job();
    let admission = namespace.create_object(&job);
    assert!(admission.accepted, "{}", admission.refusal);
    namespace.wait("job/report", "condition=Complete");

    let pod = namespace.pod_of("report");
    assert!(pod.log("app").contains("203.0.113.80"), "{}", pod.log("app"));
    let ended = |pod: &Value| pod["status"]["initContainerStatuses"][0]["state"]["terminated"]["exitCode"].as_i64();
    let code = eventually("the sidecar has ended", Duration::from_secs(30), || {
        ended(&pod.json()).ok_or_else(|| format!("{:#}", pod.json()["status"]))
    });
    assert_eq!(code, 0, "the sidecar drains and ends with 0");
}

/// The first IPv4 address that glibc finds.
fn getent(pod: &RunningPod<'_>, name: &str) -> String {
    let output = pod.sh(&format!("getent ahostsv4 {name}"));
    assert!(output.success, "{name} was not found: {output}\n{}", pod.log("dot-proxy"));
    output.stdout.split_whitespace().next().unwrap_or_default().to_owned()
}
