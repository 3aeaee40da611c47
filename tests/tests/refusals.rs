//! Pods that cannot be served: refused if they asked, left alone with a warning and an Event if only their namespace did.

use std::time::Duration;

use dot_e2e::{Cluster, Namespace, Pod, eventually};
use serde_json::{Value, json};

/// A pod that cannot be served, and the words that the sentence about it must hold: why, and what to do.
struct Unserved {
    pod: Pod,
    words: &'static [&'static str],
}

fn on_the_host_network() -> Unserved {
    Unserved {
        pod: Pod::new("host-network").with(json!({"spec": {"hostNetwork": true}})),
        words: &["hostNetwork: true", "remove hostNetwork"],
    }
}

fn for_windows() -> Unserved {
    // Fields of Linux alone must not be set, and no node here ever takes the pod.
    let patch = json!({"spec": {"os": {"name": "windows"}, "nodeSelector": {"kubernetes.io/os": "windows"}, "securityContext": null}});
    Unserved {
        pod: Pod::new("windows").app(json!({"securityContext": null})).with(patch),
        words: &["windows", "schedule the pod on Linux"],
    }
}

fn listening_on_port_53() -> Unserved {
    let port = json!({"ports": [{"containerPort": 53, "protocol": "UDP"}]});
    Unserved { pod: Pod::new("port-53").app(port), words: &["containerPort: 53", "app", "move it to another port"] }
}

fn with_the_nodes_dns() -> Unserved {
    Unserved {
        pod: Pod::new("node-dns").with(json!({"spec": {"dnsPolicy": "Default"}})),
        words: &["dnsPolicy", "Default"],
    }
}

fn with_nameservers_of_its_own() -> Unserved {
    let dns = json!({"spec": {"dnsPolicy": "None", "dnsConfig": {"nameservers": ["192.0.2.1"]}}});
    Unserved { pod: Pod::new("own-nameservers").with(dns), words: &["dnsPolicy: None", "remove the field"] }
}

#[test]
fn a_pod_on_the_host_network_is_refused_or_left_alone() {
    refused_or_left_alone(&on_the_host_network());
}

#[test]
fn a_windows_pod_is_refused_or_left_alone() {
    refused_or_left_alone(&for_windows());
}

#[test]
fn a_pod_that_listens_on_port_53_is_refused_or_left_alone() {
    refused_or_left_alone(&listening_on_port_53());
}

#[test]
fn a_pod_with_the_nodes_dns_is_refused_or_left_alone() {
    refused_or_left_alone(&with_the_nodes_dns());
}

#[test]
fn a_pod_with_nameservers_of_its_own_is_refused_or_left_alone() {
    refused_or_left_alone(&with_nameservers_of_its_own());
}

#[test]
fn a_pod_that_asks_with_a_word_that_means_nothing_is_refused() {
    let _cluster = Cluster::shared();
    let namespace = Namespace::create("perhaps");

    let admission = namespace.create_object(Pod::new("app").annotation("dot-sidecar.io/inject", "perhaps").json());

    assert!(!admission.accepted);
    for word in ["dot-sidecar.io/inject", "perhaps", "\"true\"", "\"false\""] {
        assert!(admission.refusal.contains(word), "{word} is not in: {}", admission.refusal);
    }
}

fn refused_or_left_alone(unserved: &Unserved) {
    let _cluster = Cluster::shared();
    let name = unserved.pod.name();

    let silent = Namespace::create("unserved");
    let refusal = silent.create_object(unserved.pod.clone().annotated().json());
    assert!(!refusal.accepted, "{name} asked and was admitted");
    says_why(unserved, &refusal.refusal);

    let asking = Namespace::create("unserved-by-label").asking();
    let admission = asking.create_object(unserved.pod.json());
    assert!(admission.accepted, "{name}: {}", admission.refusal);
    says_why(unserved, &admission.warnings.join("\n"));
    let untouched = silent.admit(&unserved.pod).json();
    assert_eq!(as_written(&asking.pod(name).json()), as_written(&untouched), "{name} was touched");

    let admission = asking.create_object(&unserved.pod.deployment());
    assert!(admission.accepted, "{name}: {}", admission.refusal);
    eventually(&format!("an Event on the Deployment says {:?}", unserved.words), Duration::from_secs(30), || {
        let notes = asking.events_about("Deployment", name);
        let says_why = |note: &String| unserved.words.iter().all(|word| note.contains(word));
        if notes.iter().any(says_why) { Ok(()) } else { Err(format!("{notes:?}")) }
    });
}

fn says_why(unserved: &Unserved, sentence: &str) {
    for word in unserved.words {
        assert!(sentence.contains(word), "{}: {word} is not in: {sentence}", unserved.pod.name());
    }
}

/// What a pod's author and admission have made of it, without what the scheduler, the node and the API server number.
fn as_written(pod: &Value) -> Value {
    let mut spec = pod["spec"].clone();
    spec["nodeName"] = Value::Null;
    let text =
        json!({"spec": spec, "annotations": pod["metadata"]["annotations"], "labels": pod["metadata"]["labels"]})
            .to_string();
    let volume = text.split("kube-api-access-").nth(1).and_then(|rest| rest.get(..5)).unwrap_or_default();
    serde_json::from_str(&text.replace(&format!("kube-api-access-{volume}"), "kube-api-access")).unwrap()
}
