//! Injection by the API server itself: what it makes of pods is what the injector makes of them, and what it cannot do is refused.

use std::collections::BTreeSet;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::gate::pod;
use crate::installed::{Installed, chart, injected};

/// The arguments of helm that have the API server inject.
pub(crate) const BY_POLICY: [&str; 4] = ["--set", "admission.mode=policy", "--kube-version", "1.37.0"];
const POLICIES: [&str; 4] = [
    "MutatingAdmissionPolicy",
    "MutatingAdmissionPolicyBinding",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
];

fn asks() -> Value {
    json!({"dot-sidecar.io/inject": "true"})
}

fn profile(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "dot-sidecar.io/v1alpha1", "kind": "ProxyProfile", "metadata": {"name": name}, "spec": spec})
}

fn profiles() -> [Value; 4] {
    [
        profile("default", &json!({})),
        profile(
            "large",
            &json!({"image": "registry.example/dot-proxy:9", "events": {"stdout": true},
                "resources": {"requests": {"cpu": "200m"}, "limits": {"cpu": "1", "memory": "128Mi"}},
                "routes": [{"suffixes": ["corp.example"], "servers": ["udp://192.0.2.1"]}]}),
        ),
        profile(
            "elsewhere",
            &json!({"optOut": false, "namespaces": {"names": ["other"], "selector": {
                "matchLabels": {"team": "a"}, "matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["x"]}]}}}),
        ),
        profile("unready", &json!({})),
    ]
}

/// Pods of many shapes that both can serve.
fn shapes() -> Vec<Value> {
    let container = |fields: Value| {
        let mut container = json!({"name": "app", "image": "app"});
        fields.as_object().unwrap().iter().for_each(|(field, value)| container[field] = value.clone());
        container
    };
    let resources = |resources: Value| json!({"containers": [container(json!({"resources": resources}))]});
    let sysctl = |value: &str| {
        json!({"securityContext": {"fsGroup": 7, "sysctls": [
        {"name": "net.ipv4.tcp_syncookies", "value": "1"}, {"name": "net/ipv4/ip_unprivileged_port_start", "value": value}]}})
    };
    let large = json!({"dot-sidecar.io/inject": "true", "dot-sidecar.io/profile": "large", "other": "a/b~c"});
    let user = |user: i64| json!({"securityContext": {"runAsUser": user}});
    let table: Vec<(&str, Value, Value)> = vec![
        ("plain", asks(), json!({})),
        ("asking", Value::Null, json!({})),
        ("asking", json!({"other": "x"}), json!({"automountServiceAccountToken": false})),
        ("plain", large.clone(), json!({})),
        ("plain", large.clone(), json!({"dnsConfig": {"searches": ["eu.corp.example", "corp.example."]}})),
        (
            "plain",
            asks(),
            json!({"initContainers": [{"name": "a", "image": "a"}, {"name": "b", "image": "b", "restartPolicy": "Always"}]}),
        ),
        ("plain", asks(), json!({"volumes": [{"name": "v", "emptyDir": {}}], "dnsPolicy": "ClusterFirstWithHostNet"})),
        ("plain", asks(), json!({"dnsConfig": {"options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}})),
        ("plain", asks(), json!({"dnsConfig": {"options": [{"name": "attempts", "value": "\"1\\"}]}})),
        (
            "plain",
            asks(),
            json!({"dnsConfig": {"searches": ["svc.cluster.local.", "x.svc.cluster.local", "x.svc.cluster.local", "."]}}),
        ),
        ("plain", asks(), json!({"dnsConfig": {}})),
        (
            "plain",
            asks(),
            json!({"initContainers": [{"name": "istio-proxy", "image": "p", "restartPolicy": "Always"}]}),
        ),
        ("plain", asks(), sysctl("0")),
        ("plain", asks(), sysctl("53")),
        (
            "plain",
            asks(),
            json!({"containers": [container(user(64_053))], "initContainers": [
            {"name": "i", "image": "i", "securityContext": {"runAsUser": 64_054}}]}),
        ),
        ("plain", asks(), user(64_053)),
        ("plain", asks(), json!({"hostUsers": false})),
        ("plain", asks(), resources(json!({"limits": {"cpu": "1", "memory": "1Gi"}}))),
        (
            "plain",
            large.clone(),
            resources(json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1Gi"}})),
        ),
        ("plain", asks(), resources(json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}))),
        ("plain", asks(), resources(json!({"limits": {"cpu": "1"}}))),
        ("plain", asks(), resources(json!({"requests": {"cpu": "1", "memory": "1Gi", "ephemeral-storage": "1Gi"}}))),
        ("plain", asks(), resources(json!({"limits": {"ephemeral-storage": "1Gi"}}))),
        ("plain", asks(), json!({"resources": {"limits": {"cpu": "1", "memory": "1Gi"}}})),
        ("plain", large, json!({"resources": {"requests": {"cpu": "2"}}})),
        (
            "plain",
            asks(),
            json!({"containers": [container(json!({"ports": [{"containerPort": 53, "protocol": "SCTP"}]}))]}),
        ),
    ];
    (0..)
        .zip(table)
        .map(|(row, (namespace, annotations, spec))| pod(&format!("row-{row}"), namespace, &annotations, &spec))
        .collect()
}

/// Pods as the API server would store them, but for what it makes up.
fn stored(installed: &Installed, pods: &[Value]) -> Vec<Value> {
    let said = installed
        .kubectl("create --dry-run=server -o json -f -", &json!({"apiVersion": "v1", "kind": "List", "items": pods}));
    let documents: Vec<Value> =
        serde_json::Deserializer::from_str(&said.stdout).into_iter().map(Result::unwrap).collect();
    let items = documents.into_iter().flat_map(|document| match document["items"].as_array() {
        Some(items) => items.clone(),
        None => vec![document],
    });
    let made_up = ["uid", "creationTimestamp", "managedFields"];
    let stored: Vec<Value> = items
        .map(|mut pod| {
            pod["metadata"].as_object_mut().unwrap().retain(|name, _| !made_up.contains(&name.as_str()));
            pod
        })
        .collect();
    assert_eq!(stored.len(), pods.len(), "{}", said.stderr);
    stored
}

/// The pod without what differs though it is the same: how its record is written, and what its token's volume is called.
fn normal(pod: &Value) -> Value {
    let mut pod = pod.clone();
    if let Some(status) = pod["metadata"]["annotations"]["dot-sidecar.io/status"].as_str() {
        let record: Value = serde_json::from_str(status).unwrap_or_else(|error| panic!("{error}: {status}"));
        pod["metadata"]["annotations"]["dot-sidecar.io/status"] = record;
    }
    let text = pod.to_string();
    let token = text.find("kube-api-access-").map(|at| text[at..at + "kube-api-access-".len() + 5].to_owned());
    let text = token.map_or(text.clone(), |token| text.replace(&token, "token"));
    serde_json::from_str(&text).unwrap()
}

/// What the injector makes of the pods, offline.
fn by_injector(pods: &[Value]) -> Vec<Value> {
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": "asking", "labels": {"dot-sidecar.io/inject": "true"}}});
    let mut items: Vec<Value> = profiles().to_vec();
    items.push(namespace);
    items.extend_from_slice(pods);
    let list = json!({"apiVersion": "v1", "kind": "List", "metadata": {"name": "shapes"}, "items": items});
    let made = injected(&list)["items"].as_array().unwrap().clone();
    made.into_iter().filter(|item| item["kind"] == "Pod").collect()
}

/// An API server that knows profiles, and their status as the injector writes it.
fn with_profiles(name: &'static str) -> Installed {
    let installed = Installed::without_injector(name, &[], &["CustomResourceDefinition"]);
    installed.until_said("No resources found", "get proxyprofiles", &Value::Null);
    for profile in profiles() {
        let name = profile["metadata"]["name"].as_str().unwrap().to_owned();
        let said = installed.kubectl("create -f -", &profile);
        assert!(said.stdout.contains("created"), "{}", said.stderr);
        if name == "unready" {
            continue;
        }
        let pod = pod(
            "any",
            "any-namespace",
            &json!({"dot-sidecar.io/inject": "true", "dot-sidecar.io/profile": name}),
            &json!({}),
        );
        let mut pod = pod;
        if name == "elsewhere" {
            pod["metadata"]["annotations"]["dot-sidecar.io/profile"] = json!("default");
        }
        let made = by_injector(&[pod]);
        let config = made[0]["metadata"]["annotations"]["dot-sidecar.io/config"].as_str().unwrap();
        let status = json!({"status": {"configuration": config.replace("any-namespace", "$(NAMESPACE)"),
            "resolver": {"domain": "cluster.local", "searches": [], "options": [{"name": "ndots", "value": "5"}]}}});
        let patch = format!("patch proxyprofile {name} --subresource=status --type=merge --patch-file=/dev/stdin");
        let said = installed.kubectl(&patch, &status);
        assert!(said.stdout.contains("patched"), "{}", said.stderr);
    }
    installed
}

/// Installs the policies, and waits until they inject and check.
fn enforce(installed: &Installed) {
    installed.apply(&chart(&BY_POLICY, &POLICIES));
    let deadline = Instant::now() + Duration::from_secs(30);
    let is_injected = |namespace: &str, annotations: &Value| {
        let said = installed
            .kubectl("create --dry-run=server -o json -f -", &pod("canary", namespace, annotations, &Value::Null));
        said.stdout.contains("\"dot-sidecar.io/config\"")
    };
    while !(is_injected("plain", &asks()) && is_injected("asking", &Value::Null)) {
        assert!(Instant::now() < deadline, "nothing is injected");
        sleep(Duration::from_millis(100));
    }
}

#[test]
fn the_api_server_makes_of_pods_by_policy_what_the_injector_makes_of_them() {
    let installed = with_profiles("by-policy");
    let shapes = shapes();
    // The webhook, too, sees pods in which the API server has filled in what they do not say.
    let injected = by_injector(&stored(&installed, &shapes));
    let expected = stored(&installed, &injected);
    enforce(&installed);
    compare(&stored(&installed, &shapes), &expected);
    // Made twice it is what it was, and so is a copy.
    compare(&stored(&installed, &injected), &expected);
    what_cannot_be_served_is_refused_with_the_reason(&installed);
    what_only_a_namespace_covers_is_left_alone_with_the_reason(&installed);
    copies_and_forgeries_are_made_right_or_refused(&installed);
}

fn compare(made: &[Value], expected: &[Value]) {
    for (made, expected) in made.iter().zip(expected) {
        let mut differences = Vec::new();
        differ("", &normal(made), &normal(expected), &mut differences);
        assert!(differences.is_empty(), "{}:\n{}", expected["metadata"]["name"], differences.join("\n"));
    }
}

/// Where two values differ, and how.
fn differ(path: &str, made: &Value, expected: &Value, differences: &mut Vec<String>) {
    match (made.as_object(), expected.as_object()) {
        (Some(made), Some(expected)) => {
            let names: BTreeSet<&String> = made.keys().chain(expected.keys()).collect();
            for name in names {
                let of = |members: &Map<String, Value>| members.get(name).cloned().unwrap_or_default();
                differ(&format!("{path}/{name}"), &of(made), &of(expected), differences);
            }
        }
        _ if made == expected => {}
        _ => differences.push(format!("{path}: by policy {made}, by the injector {expected}")),
    }
}

fn what_cannot_be_served_is_refused_with_the_reason(installed: &Installed) {
    let with =
        |name: &str, value: &str| json!({"dot-sidecar.io/inject": "true", format!("dot-sidecar.io/{name}"): value});
    let port =
        json!({"containers": [{"name": "dns", "image": "x", "ports": [{"containerPort": 53, "protocol": "UDP"}]}]});
    for (namespace, annotations, spec, words) in [
        ("plain", asks(), json!({"hostNetwork": true}), "spec.hostNetwork: true: the pod uses its node's network"),
        ("plain", asks(), json!({"os": {"name": "windows"}}), "spec.os.name: windows"),
        ("plain", asks(), json!({"dnsPolicy": "Default"}), "spec.dnsPolicy: Default: the proxy cannot know"),
        (
            "plain",
            asks(),
            json!({"dnsConfig": {"nameservers": ["192.0.2.1"]}}),
            "spec.dnsConfig.nameservers: 192.0.2.1",
        ),
        ("plain", asks(), port, "container dns declares containerPort: 53 (UDP or TCP)"),
        (
            "plain",
            asks(),
            json!({"initContainers": [{"name": "dot-proxy", "image": "x"}]}),
            "the name dot-proxy is kept",
        ),
        ("plain", asks(), json!({"dnsConfig": {"searches": ["team.example"]}}), "cannot route a suffix"),
        ("plain", with("cpu-limit", "1"), json!({}), "annotation dot-sidecar.io/cpu-limit: injection by policy"),
        ("plain", with("inject", "perhaps"), json!({}), "is neither"),
        ("plain", with("profile", "elsewhere"), json!({}), "may not be used in the namespace plain"),
        ("plain", with("profile", "unready"), json!({}), "ProxyProfile unready is not ready"),
        ("plain", with("profile", "none"), json!({}), "its ProxyProfile is missing"),
        (
            "asking",
            json!({"dot-sidecar.io/profile": "elsewhere", "dot-sidecar.io/inject": "false"}),
            json!({}),
            "does not let the pods of this namespace decline",
        ),
        (
            "asking",
            json!({"dot-sidecar.io/cpu-limit": "1"}),
            json!({}),
            "annotation dot-sidecar.io/cpu-limit: injection by policy",
        ),
        ("kube-system", asks(), json!({}), "is left out of injection"),
    ] {
        let said = installed.kubectl("create --dry-run=server -f -", &pod("refused", namespace, &annotations, &spec));
        // Of two policies that refuse a pod the API server quotes one, by chance.
        let of_the_profile = said.stderr.contains("its ProxyProfile is missing, not ready, not for this namespace");
        let is_said = said.stderr.contains(words) || of_the_profile;
        assert!(is_said && said.stdout.is_empty(), "{words}: {}{}", said.stdout, said.stderr);
    }
    let other = pod(
        "other",
        "plain",
        &json!({"dot-sidecar.io/profile": "none", "dot-sidecar.io/inject": "false"}),
        &Value::Null,
    );
    for pod in [other, pod("bare", "plain", &Value::Null, &json!({"hostNetwork": true}))] {
        let said = installed.kubectl("create --dry-run=server -f -", &pod);
        assert!(said.stdout.contains("created") && said.stderr.is_empty(), "{}", said.stderr);
    }
    installed.control_plane.namespace("team", &json!({"team": "a", "tier": "y"}));
    let here = pod("here", "team", &with("profile", "elsewhere"), &Value::Null);
    installed.until_said("pod/here created", "create --dry-run=server -f -", &here);
}

fn what_only_a_namespace_covers_is_left_alone_with_the_reason(installed: &Installed) {
    for (spec, words) in [
        (json!({"hostNetwork": true}), "spec.hostNetwork: true: the pod uses"),
        (json!({"dnsPolicy": "Default"}), "spec.dnsPolicy: Default"),
        (json!({"dnsConfig": {"searches": ["team.example"]}}), "cannot route a suffix"),
    ] {
        let bare = pod("covered", "asking", &Value::Null, &spec);
        let said = installed.kubectl("create --dry-run=server -o json -f -", &bare);
        assert!(said.stderr.contains("Warning: ") && said.stderr.contains(words), "{words}: {}", said.stderr);
        assert!(!said.stdout.is_empty() && !said.stdout.contains("dot-proxy"), "{}", said.stdout);
    }
}

fn copies_and_forgeries_are_made_right_or_refused(installed: &Installed) {
    let whole = stored(installed, &[pod("copy", "plain", &asks(), &Value::Null)]).remove(0);
    let mut tampered = whole.clone();
    tampered["spec"]["initContainers"][0]["image"] = json!("registry.example/evil");
    tampered["metadata"]["annotations"]["dot-sidecar.io/config"] = json!("{}");
    tampered["spec"]["dnsConfig"]["searches"][0] = json!("elsewhere.svc.cluster.local");
    let mut recorded = whole.clone();
    recorded["metadata"]["annotations"]["dot-sidecar.io/status"] =
        json!(r#"{"original":{"dnsPolicy":"ClusterFirst"},"profile":"other"}"#);
    let mut debugged = whole.clone();
    debugged["metadata"] =
        json!({"name": "copy", "namespace": "plain", "annotations": {"dot-sidecar.io/inject": "true"}});
    for copy in [tampered, recorded, debugged] {
        let made = stored(installed, &[copy]);
        compare(&made, std::slice::from_ref(&whole));
    }
    let mut declining = whole;
    declining["metadata"]["annotations"]["dot-sidecar.io/inject"] = json!("false");
    declining["metadata"]["annotations"]["dot-sidecar.io/config"] = json!("{}");
    let said = installed.kubectl("create --dry-run=server -f -", &declining);
    assert!(said.stderr.contains("is not what ProxyProfile default comes to"), "{}{}", said.stdout, said.stderr);
}
