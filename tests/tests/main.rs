//! What the project promises, shown on a real cluster: kube-apiserver, kubelet, containerd, CoreDNS, and unbound as the resolver
//! outside. One theme a module; `dot_e2e` is the harness.
//!
//! Run by `make test`, or inside the node of a test cluster: `tests/cluster/cluster exec cargo test --offline -p dot-e2e --test e2e`.
#![allow(clippy::panic, clippy::unwrap_used, reason = "a test that cannot go on has failed, and says why")]

mod admission;
mod checks;
mod clients;
mod idle;
mod images;
mod leaks;
mod lifecycle;
mod live;
mod outage;
mod refusals;
mod resolution;
mod strictness;

use serde_json::Value;

/// The names of the pod's init containers, in order.
fn init_containers(pod: &Value) -> Vec<&str> {
    let containers = pod["spec"]["initContainers"].as_array().map(Vec::as_slice).unwrap_or_default();
    containers.iter().filter_map(|container| container["name"].as_str()).collect()
}

/// The sidecar, which must be there, and first.
fn sidecar(pod: &Value) -> &Value {
    assert_eq!(init_containers(pod).first(), Some(&"dot-proxy"), "{:#}", pod["spec"]);
    &pod["spec"]["initContainers"][0]
}
