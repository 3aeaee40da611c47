//! What the policies let pass, with no webhook beside them: a real API server decides on pods as some webhook might have left them.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::gate::pod;
use crate::installed::{Installed, injected};

const POLICIES: [&str; 2] = ["ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"];

/// A pod, and a part of what must be said when it is refused; `None` where it must pass.
struct Case {
    pod: Value,
    refusal: Option<&'static str>,
}

/// Values to put at JSON pointers: `null` removes a field, and the place in a list is where the value is inserted.
type Changes = Vec<(&'static str, Value)>;

/// A pod that asks, with all that injection makes.
fn whole(name: &str, namespace: &str) -> Value {
    injected(&pod(name, namespace, &json!({"dot-sidecar.io/inject": "true"}), &Value::Null))
}

fn changed(mut pod: Value, changes: Changes) -> Value {
    for (pointer, value) in changes {
        let (parent, last) = pointer.rsplit_once('/').unwrap();
        let last = last.replace("~1", "/");
        match pod.pointer_mut(parent).unwrap_or_else(|| panic!("there is no {parent}")) {
            Value::Array(list) => list.insert(last.parse().unwrap(), value),
            Value::Object(members) if value.is_null() => _ = members.remove(&last),
            Value::Object(members) => _ = members.insert(last, value),
            other => panic!("{parent} is {other}"),
        }
    }
    pod
}

/// What another webhook, or a copy, may have made of an injected pod.
fn undone() -> Vec<Case> {
    const MISSING: Option<&str> = Some("there is none with restartPolicy: Always");
    const DNS: Option<&str> = Some("127.0.0.1 alone");
    const PORTS: Option<&str> = Some("net.ipv4.ip_unprivileged_port_start: has to be 53 or less");
    const CONTAINER: Option<&str> = Some("dot-proxy: command, args or volumeMounts");
    const RECORDS: Option<&str> = Some("which the injector writes, are not all there");
    let init = || json!({"name": "init", "image": "x"});
    let native = || json!({"name": "mesh", "image": "x", "restartPolicy": "Always"});
    let sysctl = |name: &str, value: &str| json!([{"name": name, "value": value}]);
    let scratch = || ("/spec/volumes/0", json!({"name": "scratch", "emptyDir": {}}));
    let mount = |path: &str| ("/spec/containers/0/volumeMounts", json!([{"name": "scratch", "mountPath": path}]));
    let no_annotations = || ("/metadata/annotations", Value::Null);
    let no_labels = || ("/metadata/labels", Value::Null);
    let no_sidecar = || ("/spec/initContainers", Value::Null);
    let table: Vec<(Changes, Option<&'static str>)> = vec![
        (vec![], None),
        (vec![("/spec/initContainers/0", native()), ("/spec/initContainers/2", init())], None),
        (vec![("/spec/initContainers/0/image", json!("mirror.example/dot-proxy"))], None),
        (vec![("/spec/initContainers/0/env", json!([{"name": "NODE", "value": "x"}]))], None),
        (vec![no_sidecar()], MISSING),
        (vec![("/spec/initContainers", json!([native(), init()]))], MISSING),
        (
            vec![
                ("/spec/initContainers/0/restartPolicy", Value::Null),
                ("/spec/initContainers/0/startupProbe", Value::Null),
                ("/spec/initContainers/0/livenessProbe", Value::Null),
            ],
            MISSING,
        ),
        (vec![("/spec/initContainers/0", init())], Some("init comes before dot-proxy")),
        (vec![("/spec/initContainers/0/command", json!(["/evil"]))], CONTAINER),
        (vec![("/spec/initContainers/0/args", Value::Null)], CONTAINER),
        (vec![("/spec/initContainers/0/volumeMounts/0/subPath", json!("x"))], CONTAINER),
        (vec![("/spec/volumes", json!([{"name": "dot-sidecar-config", "emptyDir": {}}]))], Some("spec.volumes: dot-")),
        (vec![("/spec/dnsConfig/nameservers", json!(["127.0.0.1", "192.0.2.1"]))], DNS),
        (vec![("/spec/dnsConfig/nameservers", json!(["192.0.2.1"]))], DNS),
        (vec![("/spec/dnsPolicy", json!("ClusterFirst")), ("/spec/dnsConfig", Value::Null)], DNS),
        (vec![("/spec/dnsPolicy", json!("Default"))], DNS),
        (
            vec![("/spec/securityContext", Value::Null), ("/spec/hostNetwork", json!(true))],
            Some("spec.hostNetwork: true"),
        ),
        (vec![("/spec/securityContext", Value::Null)], PORTS),
        (vec![("/spec/securityContext/sysctls", sysctl("net.ipv4.ip_unprivileged_port_start", "1024"))], PORTS),
        (vec![("/spec/securityContext/sysctls", sysctl("net/ipv4/ip_unprivileged_port_start", "0"))], None),
        (vec![scratch(), mount("/etc/./resolv.conf")], Some("hides the resolv.conf")),
        (vec![scratch(), mount("//etc/")], Some("hides the resolv.conf")),
        (vec![scratch(), mount("/etc/app")], None),
        (vec![no_labels()], RECORDS),
        (vec![("/metadata/annotations/dot-sidecar.io~1status", Value::Null)], RECORDS),
        (vec![("/metadata/annotations/dot-sidecar.io~1config", json!(""))], RECORDS),
        // Where nothing asks any more, what injection made must be whole as well.
        (vec![no_annotations()], RECORDS),
        (vec![no_annotations(), no_labels()], RECORDS),
        (vec![no_annotations(), no_labels(), no_sidecar()], MISSING),
        (vec![("/metadata/annotations", json!({"dot-sidecar.io/config": "{}"})), no_labels(), no_sidecar()], MISSING),
        (vec![no_annotations(), no_sidecar(), ("/spec/volumes", Value::Null)], MISSING),
    ];
    let case =
        |(row, (changes, refusal))| Case { pod: changed(whole(&format!("undone-{row}"), "plain"), changes), refusal };
    (0..).zip(table).map(case).collect()
}

/// Pods without the sidecar where only the namespace asks, and pods that ask where nobody gets it.
fn untouched() -> Vec<Case> {
    const ASKS: Option<&str> = Some("the namespace asks for the sidecar dot-proxy");
    const LEFT_OUT: Option<&str> = Some("is left out of injection");
    let asks = || json!({"dot-sidecar.io/inject": "true"});
    let container = |field: &str, value: Value| json!([{"name": "app", "image": "x", field: [value]}]);
    let port = |port: u16, protocol: &str| {
        let port = json!({"containerPort": port, "protocol": protocol});
        json!({"containers": container("ports", port)})
    };
    let mount = |path: &str| {
        json!({"volumes": [{"name": "v", "emptyDir": {}}],
            "containers": [{"name": "app", "image": "x", "volumeMounts": [{"name": "v", "mountPath": path}]}]})
    };
    let sysctl = |value: &str| {
        let sysctl = json!({"name": "net.ipv4.ip_unprivileged_port_start", "value": value});
        json!({"securityContext": {"sysctls": [sysctl]}})
    };
    let own = json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["127.0.0.1"]}});
    let none = || Value::Null;
    let table: Vec<(&str, Value, Value, Option<&'static str>)> = vec![
        ("plain", none(), none(), None),
        ("plain", json!({"dot-sidecar.io/upstream": "quad9"}), none(), None),
        ("plain", json!({"dot-sidecar.io/inject": "false"}), none(), None),
        ("plain", none(), json!({"initContainers": [{"name": "dot-proxy", "image": "x"}]}), None),
        ("plain", none(), json!({"volumes": [{"name": "dot-sidecar-config", "emptyDir": {}}]}), None),
        ("plain", asks(), none(), Some("there is none with restartPolicy: Always")),
        ("plain", asks(), json!({"hostNetwork": true}), Some("there is none with restartPolicy: Always")),
        ("asking", none(), none(), ASKS),
        ("asking", json!({"a.example/b": "c"}), json!({"hostNetwork": false}), ASKS),
        ("asking", json!({"dot-sidecar.io/upstream": "quad9"}), none(), ASKS),
        ("asking", none(), json!({"hostUsers": false}), ASKS),
        ("asking", none(), port(53, "SCTP"), ASKS),
        ("asking", none(), port(9853, "UDP"), ASKS),
        ("asking", none(), mount("/etc/app"), ASKS),
        ("asking", none(), sysctl("0"), ASKS),
        ("asking", json!({"dot-sidecar.io/inject": "false"}), none(), None),
        ("asking", none(), json!({"hostNetwork": true}), None),
        ("asking", none(), json!({"os": {"name": "windows"}}), None),
        ("asking", none(), json!({"nodeSelector": {"kubernetes.io/os": "windows"}}), None),
        ("asking", none(), json!({"dnsPolicy": "Default"}), None),
        ("asking", none(), json!({"dnsConfig": {"nameservers": ["192.0.2.1"]}}), None),
        ("asking", none(), own, None),
        ("asking", none(), port(53, "UDP"), None),
        ("asking", none(), port(53, "TCP"), None),
        ("asking", none(), port(9853, "TCP"), None),
        ("asking", none(), mount("/etc/resolv.conf"), None),
        ("asking", none(), sysctl("54"), None),
        ("asking", none(), json!({"initContainers": [{"name": "dot-proxy", "image": "x"}]}), None),
        ("asking", none(), json!({"volumes": [{"name": "dot-sidecar-config", "emptyDir": {}}]}), None),
        ("kube-system", none(), none(), None),
        ("kube-system", asks(), none(), LEFT_OUT),
        ("release-space", asks(), none(), LEFT_OUT),
        ("left-out", asks(), none(), LEFT_OUT),
        ("left-out", json!({"dot-sidecar.io/inject": "false"}), none(), None),
        ("left-out", json!({"dot-sidecar.io/config": "{}"}), none(), Some("nothing can be made anew")),
    ];
    let case = |(row, (namespace, annotations, spec, refusal))| Case {
        pod: pod(&format!("row-{row}"), namespace, &annotations, &spec),
        refusal,
    };
    let copy = Case { pod: whole("copy", "left-out"), refusal: LEFT_OUT };
    let covered = Case { pod: whole("covered", "asking"), refusal: None };
    (0..).zip(table).map(case).chain([copy, covered]).collect()
}

/// Creates the pods (in a dry run) and finds those that were decided on otherwise.
fn wrongly_decided(installed: &Installed, cases: &[Case]) -> Vec<String> {
    let pods: Vec<&Value> = cases.iter().map(|case| &case.pod).collect();
    let (refused, complaint) = installed.control_plane.refused(&pods);
    let complaints: Vec<&str> = complaint.lines().collect();
    let wrong = cases.iter().filter_map(|case| {
        let name = case.pod["metadata"]["name"].as_str().unwrap();
        let said = complaints.iter().find(|line| line.contains(&format!("\"{name}\"")));
        let is_right = match case.refusal {
            None => !refused.contains(name),
            Some(words) => refused.contains(name) && said.is_some_and(|said| said.contains(words)),
        };
        (!is_right).then(|| format!("{name}: expected {:?}, said {said:?}: {}", case.refusal, case.pod))
    });
    wrong.collect()
}

/// Waits until the API server has taken up the policies that decide on creations.
fn in_force(installed: &Installed, word: &str) {
    for (namespace, annotations) in [("plain", json!({"dot-sidecar.io/inject": "true"})), ("asking", Value::Null)] {
        let canary = pod("canary", namespace, &annotations, &Value::Null);
        installed.until_said(word, "create --dry-run=server -f -", &canary);
    }
    let canary = pod("canary", "left-out", &json!({"dot-sidecar.io/inject": "true"}), &Value::Null);
    installed.until_said("is left out of injection", "create --dry-run=server -f -", &canary);
}

#[test]
fn a_pod_that_asked_passes_with_everything_that_injection_makes_and_no_other_pod_is_refused() {
    let installed = Installed::without_injector("guards", &[], &POLICIES);
    in_force(&installed, "denied request");
    let wrong = wrongly_decided(&installed, &undone());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let wrong = wrongly_decided(&installed, &untouched());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    no_mirror_pod_is_refused(&installed);
    where_webhooks_fail_open_the_policies_warn(&installed);
}

#[test]
fn the_injector_serves_the_pods_without_which_a_namespace_that_asks_would_be_refused_them() {
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": "asking", "labels": {"dot-sidecar.io/inject": "true"}}});
    for case in untouched().iter().filter(|case| case.pod["metadata"]["namespace"] == "asking") {
        let list = json!({"apiVersion": "v1", "kind": "List", "metadata": case.pod["metadata"], "items": [namespace, case.pod]});
        let after = injected(&list)["items"][1].clone();
        let has_records = !after["metadata"]["labels"]["dot-sidecar.io/injected"].is_null();
        let was_whole = !case.pod["metadata"]["labels"].is_null();
        assert_eq!(has_records, was_whole || case.refusal.is_some(), "{}", case.pod);
    }
}

fn no_mirror_pod_is_refused(installed: &Installed) {
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node"}});
    let uid = installed.kubectl("create -o jsonpath={.metadata.uid} -f -", &node).stdout;
    for (namespace, mut annotations) in [
        ("plain", json!({"dot-sidecar.io/inject": "true"})),
        ("asking", json!({})),
        ("kube-system", json!({"dot-sidecar.io/inject": "true"})),
    ] {
        annotations["kubernetes.io/config.mirror"] = json!("x");
        let mut mirror = pod("mirror", namespace, &annotations, &json!({"nodeName": "node"}));
        mirror["metadata"]["ownerReferences"] =
            json!([{"apiVersion": "v1", "kind": "Node", "name": "node", "uid": uid, "controller": true}]);
        let said =
            installed.kubectl("create --as=system:node:node --as-group=system:nodes --dry-run=server -f -", &mirror);
        assert!(said.stdout.contains("pod/mirror created"), "{namespace}: {}", said.stderr);
    }
}

fn where_webhooks_fail_open_the_policies_warn(installed: &Installed) {
    let open = ["--set", "webhook.annotated.failurePolicy=Ignore,webhook.namespace.failurePolicy=Ignore"];
    installed.apply(&crate::installed::chart(&open, &POLICIES));
    in_force(installed, "Warning: Validation failed for ValidatingAdmissionPolicy");
    let mut heard = BTreeSet::new();
    for case in undone().iter().chain(&untouched()) {
        let Some(words) = case.refusal.filter(|words| heard.insert(*words)) else { continue };
        let said = installed.kubectl("create --dry-run=server -f -", &case.pod);
        let is_left_out = case.pod["metadata"]["namespace"] != "plain" && case.pod["metadata"]["namespace"] != "asking";
        assert_eq!(said.stdout.contains("created"), !is_left_out, "{}", case.pod);
        assert!(said.stderr.contains(words), "{words}: {}", said.stderr);
    }
}
