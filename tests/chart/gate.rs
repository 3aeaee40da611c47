//! Which pods the webhook configuration shows to the injector, and whether the manifests are valid, as a real API server
//! decides it.
//!
//! No injector runs here: each webhook in turn is made to fail, and the pods that are refused then are those it would have seen.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{ROOT, render};

const ANNOTATED: &str = "annotated";
const NAMESPACE: &str = "namespace";
const UNSERVED: &str = "unserved";

/// A pod, and the webhooks that must see it.
struct Case {
    name: String,
    pod: Value,
    seen_by: &'static [&'static str],
}

/// An API server with nothing around it, under this name; stopped when dropped.
pub(crate) struct ControlPlane(&'static str);

/// What a program printed, and what it complained of.
pub(crate) struct Said {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl ControlPlane {
    pub(crate) fn start(name: &'static str) -> Self {
        Self::start_with(name, &[])
    }

    /// With these admission plugins beside those that an API server has by itself.
    pub(crate) fn start_with(name: &'static str, plugins: &[&str]) -> Self {
        let this = Self(name);
        let said = this.cluster(&[&["up", "--control-plane"], plugins].concat(), "");
        assert!(said.stdout.contains("is up"), "{}{}", said.stdout, said.stderr);
        this
    }

    /// Its name, in the variable `DOT_CLUSTER`.
    pub(crate) fn name(&self) -> &'static str {
        self.0
    }

    /// Runs kubectl with this document on its standard input.
    pub(crate) fn kubectl(&self, arguments: &str, document: &Value) -> Said {
        let words: Vec<&str> = ["exec", "kubectl"].into_iter().chain(arguments.split_whitespace()).collect();
        self.cluster(&words, &document.to_string())
    }

    /// Runs `tests/cluster/cluster` on it.
    pub(crate) fn cluster(&self, arguments: &[&str], input: &str) -> Said {
        let mut child = Command::new("tests/cluster/cluster")
            .args(arguments)
            .env("DOT_CLUSTER", self.0)
            .current_dir(ROOT)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        Said {
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Makes a namespace, with the ServiceAccount that no controller makes here.
    pub(crate) fn namespace(&self, name: &str, labels: &Value) {
        let documents = json!({"apiVersion": "v1", "kind": "List", "items": [
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}},
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": name}}]});
        let said = self.kubectl("apply --server-side -f -", &documents);
        assert!(said.stderr.is_empty(), "{}", said.stderr);
    }

    /// The names of the pods that the API server refuses to create, and what it said.
    pub(crate) fn refused(&self, pods: &[&Value]) -> (BTreeSet<String>, String) {
        let said = self.kubectl(
            "create --dry-run=server -o name -f -",
            &json!({"apiVersion": "v1", "kind": "List", "items": pods}),
        );
        let created: BTreeSet<&str> = said.stdout.lines().filter_map(|line| line.strip_prefix("pod/")).collect();
        let names = pods.iter().map(|pod| pod["metadata"]["name"].as_str().unwrap());
        (names.filter(|name| !created.contains(name)).map(str::to_owned).collect(), said.stderr)
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        self.cluster(&["down"], "");
    }
}

/// The chart's webhook configuration with this webhook alone, which nobody answers and whose failure refuses the pod.
fn unanswered(name: &str) -> Value {
    let documents = render(&["--set", "webhook.excludedNamespaces={left-out}"]).unwrap();
    let mut configuration =
        documents.into_iter().find(|document| document["kind"] == "MutatingWebhookConfiguration").unwrap();
    let webhooks = configuration["webhooks"].as_array_mut().unwrap();
    webhooks.retain(|webhook| webhook["name"] == format!("{name}.dot-sidecar.io"));
    webhooks[0]["clientConfig"] = json!({"url": "https://127.0.0.1:1/"});
    webhooks[0]["failurePolicy"] = json!("Fail");
    configuration
}

pub(crate) fn pod(name: &str, namespace: &str, annotations: &Value, spec: &Value) -> Value {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace},
        "spec": {"containers": [{"name": "app", "image": "app"}]}});
    if !annotations.is_null() {
        pod["metadata"]["annotations"] = annotations.clone();
    }
    for (field, value) in spec.as_object().into_iter().flatten() {
        pod["spec"][field] = value.clone();
    }
    pod
}

/// Every shape of pod that the gate tells apart, in namespaces that ask for the sidecar and in others.
fn cases() -> Vec<Case> {
    let none = Value::Null;
    let asks = json!({"dot-sidecar.io/inject": "true"});
    let host_network = json!({"hostNetwork": true});
    let windows = json!({"os": {"name": "windows"}});
    let node_dns = json!({"dnsPolicy": "Default"});
    let own_dns = json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["192.0.2.1"]}});
    let written = json!({"dot-sidecar.io/config": "{}", "dot-sidecar.io/status": "{}"});
    // What `kubectl debug --copy-to` leaves of an injected pod.
    let mount = json!({"name": "dot-sidecar-config", "mountPath": "/etc/dot-proxy"});
    let handed = json!({"name": "dot-sidecar-config", "downwardAPI": {"items": []}});
    let container_alone = json!({"volumes": [handed], "dnsPolicy": "None", "dnsConfig": {"nameservers": ["127.0.0.1"]},
        "initContainers": [{"name": "dot-proxy", "image": "x", "volumeMounts": [mount]}]});
    let volume_alone = json!({"volumes": [handed]});
    let many: Value =
        (0..20_000).map(|number| (format!("k{number}"), json!(""))).collect::<serde_json::Map<_, _>>().into();
    let table: Vec<(&str, Value, Value, &'static [&'static str])> = vec![
        // Where the namespace does not ask, only a pod's own word counts.
        ("plain", none.clone(), none.clone(), &[]),
        ("plain", json!({}), none.clone(), &[]),
        ("plain", json!({"a.example/b": "dot-sidecar.io/"}), none.clone(), &[]),
        ("plain", json!({"x.dot-sidecar.io/inject": "true", "dot-sidecar.iox/inject": "true"}), none.clone(), &[]),
        ("plain", none.clone(), host_network.clone(), &[]),
        ("plain", none.clone(), windows.clone(), &[]),
        ("plain", none.clone(), node_dns.clone(), &[]),
        ("plain", many.clone(), none.clone(), &[]),
        ("plain", asks.clone(), none.clone(), &[ANNOTATED]),
        ("plain", json!({"dot-sidecar.io/injekt": "true"}), none.clone(), &[ANNOTATED]),
        ("plain", json!({"dot-sidecar.io/inject": "false"}), none.clone(), &[ANNOTATED]),
        ("plain", asks.clone(), host_network.clone(), &[ANNOTATED]),
        ("plain", asks.clone(), windows.clone(), &[ANNOTATED]),
        ("plain", asks.clone(), node_dns.clone(), &[ANNOTATED]),
        ("plain", json!({"dot-sidecar.io/config": "{}"}), none.clone(), &[ANNOTATED]),
        ("plain", none.clone(), container_alone.clone(), &[ANNOTATED]),
        ("plain", none.clone(), volume_alone.clone(), &[ANNOTATED]),
        ("plain", none.clone(), json!({"volumes": [{"name": "dot-sidecar-config", "emptyDir": {}}]}), &[]),
        ("plain", none.clone(), json!({"initContainers": [{"name": "dot-proxy", "image": "x"}]}), &[]),
        ("declining", none.clone(), none.clone(), &[]),
        ("declining", asks.clone(), none.clone(), &[ANNOTATED]),
        // Where it asks, every pod is shown once; those that cannot be served only so that this is said.
        ("asking", none.clone(), none.clone(), &[NAMESPACE]),
        ("asking", json!({}), none.clone(), &[NAMESPACE]),
        ("asking", json!({"a.example/b": "c"}), none.clone(), &[NAMESPACE]),
        ("asking", many, none.clone(), &[NAMESPACE]),
        ("asking", none.clone(), json!({"securityContext": {}}), &[NAMESPACE]),
        ("asking", none.clone(), json!({"hostNetwork": false}), &[NAMESPACE]),
        ("asking", none.clone(), json!({"os": {"name": "linux"}}), &[NAMESPACE]),
        ("asking", none.clone(), json!({"nodeSelector": {"kubernetes.io/os": "linux"}}), &[NAMESPACE]),
        ("asking", none.clone(), json!({"nodeSelector": {"a": "windows"}}), &[NAMESPACE]),
        ("asking", none.clone(), json!({"dnsPolicy": "ClusterFirst"}), &[NAMESPACE]),
        ("asking", none.clone(), json!({"dnsPolicy": "ClusterFirstWithHostNet"}), &[NAMESPACE]),
        ("asking", none.clone(), host_network.clone(), &[UNSERVED]),
        ("asking", none.clone(), windows, &[UNSERVED]),
        ("asking", none.clone(), json!({"nodeSelector": {"kubernetes.io/os": "windows"}}), &[UNSERVED]),
        ("asking", none.clone(), json!({"nodeSelector": {"beta.kubernetes.io/os": "windows"}}), &[UNSERVED]),
        ("asking", none.clone(), node_dns, &[UNSERVED]),
        ("asking", none.clone(), own_dns, &[UNSERVED]),
        ("asking", asks.clone(), none.clone(), &[ANNOTATED]),
        ("asking", asks.clone(), host_network.clone(), &[ANNOTATED]),
        ("asking", json!({"dot-sidecar.io/inject": "false"}), none.clone(), &[ANNOTATED]),
        ("asking", json!({"dot-sidecar.io/upstreem": "quad9"}), none.clone(), &[ANNOTATED]),
        // What the injector itself writes does not hide a pod from the webhook that wrote it: it must see the pod again.
        ("asking", written.clone(), none.clone(), &[ANNOTATED, NAMESPACE]),
        ("asking", written, host_network, &[ANNOTATED]),
        ("asking", json!({"dot-sidecar.io/status": "{}", "dot-sidecar.io/inject": "true"}), none.clone(), &[ANNOTATED]),
        ("asking", none.clone(), container_alone, &[ANNOTATED]),
        ("asking", none.clone(), volume_alone, &[ANNOTATED, NAMESPACE]),
        // The excluded namespaces.
        ("kube-system", asks.clone(), none.clone(), &[]),
        ("release-space", asks.clone(), none.clone(), &[]),
        ("release-space", none.clone(), none.clone(), &[]),
        ("left-out", asks, none.clone(), &[]),
        ("left-out", none.clone(), none, &[]),
    ];
    let numbered = table.into_iter().enumerate();
    let case = |(row, (namespace, annotations, spec, seen_by)): (usize, (&str, Value, Value, _))| {
        let name = format!("row-{row}");
        Case { pod: pod(&name, namespace, &annotations, &spec), name, seen_by }
    };
    let mut labelled = pod("labelled", "plain", &Value::Null, &Value::Null);
    labelled["metadata"]["labels"] = json!({"dot-sidecar.io/injected": "true"});
    let labelled = Case { name: "labelled".to_owned(), pod: labelled, seen_by: &[ANNOTATED] };
    numbered.map(case).chain([labelled]).collect()
}

#[test]
fn the_examples_and_the_plain_manifests_are_what_an_api_server_takes() {
    let control_plane = ControlPlane::start("manifests");
    control_plane.namespace("default", &json!({}));
    control_plane.namespace("private-dns", &json!({}));
    for file in ["pod", "deployment", "namespace", "statefulset", "job"] {
        let path = format!("manifests/examples/{file}.yaml");
        let said = control_plane
            .kubectl(&format!("apply --server-side --dry-run=server --validate=strict -f {path}"), &Value::Null);
        assert!(said.stdout.contains("serverside-applied") && said.stderr.is_empty(), "{path}: {}", said.stderr);
    }
    let said = control_plane.kubectl("apply --server-side --validate=strict -f manifests/install.yaml", &Value::Null);
    assert!(
        said.stdout.contains("deployment.apps/dot-injector serverside-applied") && said.stderr.is_empty(),
        "{}",
        said.stderr
    );
}

#[test]
fn the_injector_is_shown_the_pods_that_ask_and_no_others() {
    let control_plane = ControlPlane::start("gate");
    let asking = json!({"dot-sidecar.io/inject": "true"});
    control_plane.namespace("plain", &json!({}));
    control_plane.namespace("declining", &json!({"dot-sidecar.io/inject": "false"}));
    control_plane.namespace("kube-system", &json!({}));
    for name in ["asking", "release-space", "left-out"] {
        control_plane.namespace(name, &asking);
    }
    let cases = cases();
    let pods: Vec<&Value> = cases.iter().map(|case| &case.pod).collect();
    assert_eq!(control_plane.refused(&pods).0, BTreeSet::new(), "without a webhook every pod is fine");

    let canaries = [
        (ANNOTATED, pod("canary", "plain", &asking, &Value::Null)),
        (NAMESPACE, pod("canary", "asking", &Value::Null, &Value::Null)),
        (UNSERVED, pod("canary", "asking", &Value::Null, &json!({"hostNetwork": true}))),
    ];
    for (webhook, canary) in canaries {
        let said = control_plane.kubectl("apply --server-side --force-conflicts -f -", &unanswered(webhook));
        assert!(said.stderr.is_empty(), "{}", said.stderr);
        in_force(&control_plane, webhook, &canary);
        let expected: BTreeSet<String> =
            cases.iter().filter(|case| case.seen_by.contains(&webhook)).map(|case| case.name.clone()).collect();
        let (refused, complaint) = control_plane.refused(&pods);
        let wrong: Vec<String> = refused
            .symmetric_difference(&expected)
            .map(|name| cases.iter().find(|case| case.name == *name).unwrap().pod.to_string())
            .map(|pod| pod.chars().take(400).collect())
            .collect();
        assert!(wrong.is_empty(), "{webhook} decides otherwise on {wrong:#?}\n{complaint}");
    }
    no_mirror_pod_is_shown(&control_plane);
}

/// Waits until the API server has taken up the configuration: it refuses this pod, and names the webhook.
fn in_force(control_plane: &ControlPlane, webhook: &str, canary: &Value) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let (refused, complaint) = control_plane.refused(&[canary]);
        if !refused.is_empty() && complaint.contains(&format!("\"{webhook}.dot-sidecar.io\"")) {
            return;
        }
        assert!(Instant::now() < deadline, "{webhook} does not take effect: {complaint}");
        sleep(Duration::from_millis(100));
    }
}

/// A node's own pods (static ones, which the kubelet mirrors) are never shown, whatever they carry.
fn no_mirror_pod_is_shown(control_plane: &ControlPlane) {
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node"}});
    let uid = control_plane.kubectl("create -o jsonpath={.metadata.uid} -f -", &node).stdout;
    let asks = json!({"dot-sidecar.io/inject": "true"});
    for (webhook, namespace, mut annotations) in [(ANNOTATED, "plain", asks), (NAMESPACE, "asking", json!({}))] {
        control_plane.kubectl("apply --server-side --force-conflicts -f -", &unanswered(webhook));
        in_force(control_plane, webhook, &pod("canary", namespace, &annotations, &Value::Null));
        annotations["kubernetes.io/config.mirror"] = json!("x");
        let mut mirror = pod("mirror", namespace, &annotations, &json!({"nodeName": "node"}));
        mirror["metadata"]["ownerReferences"] =
            json!([{"apiVersion": "v1", "kind": "Node", "name": "node", "uid": uid, "controller": true}]);
        let said = control_plane
            .kubectl("create --as=system:node:node --as-group=system:nodes --dry-run=server -f -", &mirror);
        assert!(said.stdout.contains("pod/mirror created"), "{webhook}: {}", said.stderr);
    }
}
