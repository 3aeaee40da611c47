//! Manifests of every form, injected and back.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::cluster::ResolvConf;

fn surroundings() -> Surroundings {
    let settings = Settings::from_yaml("cluster: {domain: cluster.local, dnsAddresses: [10.96.0.10]}").unwrap();
    let cluster = ClusterDns::new(&settings.cluster, &ResolvConf::default()).unwrap();
    let profiles = Profiles::of_default(settings.profile.clone().unwrap());
    Surroundings { namespace: "shop".to_owned(), settings, cluster, profiles }
}

/// Injects a text, writes it, takes the sidecar out again, and writes it.
fn there_and_back(text: &str) -> (String, String) {
    let mut manifest = Manifest::read(text, "shop").unwrap();
    let findings = manifest.inject(&surroundings());
    assert!(findings.iter().all(|finding| !finding.is_denied()), "{findings:?}");
    let injected = manifest.write().unwrap();
    let mut manifest = Manifest::read(&injected, "shop").unwrap();
    assert_eq!(manifest.uninject(), Vec::<String>::new());
    (injected, manifest.write().unwrap())
}

fn values(text: &str) -> Vec<Value> {
    Manifest::read(text, "shop").unwrap().documents.into_iter().map(|document| document.value).collect()
}

/// An object of this kind around a pod.
fn around(kind: usize, pod: &Value) -> Value {
    let kinds = ["Pod", "Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob", "PodTemplate", "List"];
    let kind = kinds[kind % kinds.len()];
    let head = json!({"kind": kind, "metadata": {"name": "x"}});
    let with = |key: &str, value: Value| {
        let mut object = head.clone();
        object[key] = value;
        object
    };
    match kind {
        "Pod" => {
            let mut object = pod.clone();
            object["kind"] = json!("Pod");
            object
        }
        "CronJob" => with("spec", json!({"schedule": "@daily", "jobTemplate": {"spec": {"template": pod}}})),
        "PodTemplate" => with("template", pod.clone()),
        "List" => json!({"kind": "List", "items": [around(0, pod), around(1, pod), {"kind": "ConfigMap"}]}),
        _ => with("spec", json!({"template": pod})),
    }
}

/// Pods that can be served, with fields of which injection touches some. Nothing in them is empty: an empty map says the same as
/// none, and which of the two it was is not recorded.
fn servable_pod() -> impl Strategy<Value = Value> {
    let containers = |name: &'static str| {
        prop::collection::vec(
            (0..9u8).prop_map(move |number| json!({"name": format!("{name}{number}"), "image": "i"})),
            1..3,
        )
    };
    let dns_policy = prop::option::of(prop::sample::select(vec!["ClusterFirst", "ClusterFirstWithHostNet"]));
    let searches = prop::option::of(prop::collection::vec("[a-z]{1,8}\\.example", 1..4));
    let security = prop::option::of(prop::sample::select(vec![
        json!({"fsGroup": 7}),
        json!({"sysctls": [{"name": "a.b", "value": "1"}]}),
        json!({"sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}]}),
        json!({"fsGroup": 7, "sysctls": [{"name": "a.b", "value": "1"}, {"name": "net/ipv4/ip_unprivileged_port_start", "value": "9"}]}),
    ]));
    let own = (any::<bool>(), any::<bool>(), any::<bool>());
    (containers("a"), prop::option::of(containers("b")), dns_policy, searches, security, own).prop_map(
        |(containers, init, dns_policy, searches, security, (labels, annotations, volumes))| {
            let mut pod = json!({"metadata": {"annotations": {"dot-sidecar.io/inject": "true"}}, "spec": {"containers": containers}});
            if labels {
                pod["metadata"]["labels"] = json!({"app": "web"});
            }
            if annotations {
                pod["metadata"]["annotations"]["keep"] = json!("me");
            }
            let optional = [
                ("initContainers", init.map(|init| json!(init))),
                ("dnsPolicy", dns_policy.map(|policy| json!(policy))),
                ("dnsConfig", searches.map(|searches| json!({"searches": searches, "options": [{"name": "ndots", "value": "2"}]}))),
                ("securityContext", security),
                ("volumes", volumes.then(|| json!([{"name": "data", "emptyDir": {}}]))),
            ];
            for (key, value) in optional {
                if let Some(value) = value {
                    pod["spec"][key] = value;
                }
            }
            pod
        },
    )
}

proptest! {
    #[test]
    fn what_was_injected_and_taken_out_again_is_what_it_was(
        pods in prop::collection::vec((servable_pod(), 0usize..8), 1..4),
        is_json: bool,
    ) {
        let objects = pods.iter().map(|(pod, kind)| around(*kind, pod));
        let texts: Vec<String> = objects
            .map(|object| if is_json { object.to_string() } else { serde_saphyr::to_string(&object).unwrap() })
            .collect();
        let text = texts.join(if is_json { "\n" } else { "\n---\n" });
        let (injected, back) = there_and_back(&text);
        prop_assert_eq!(injected.matches("ip_unprivileged_port_start").count() > 0, true);
        prop_assert_eq!(values(&back), values(&text));
    }
}

#[test]
fn the_order_of_what_people_wrote_is_kept() {
    let text = "\
kind: Pod
metadata:
  name: web
  labels:
    a: b
  annotations:
    x: u
    dot-sidecar.io/inject: 'true'
    z: z
spec:
  dnsPolicy: ClusterFirst
  containers:
  - name: app
    image: app
  restartPolicy: Never
";
    let (injected, back) = there_and_back(text);
    assert!(injected.contains("dot-proxy"));
    assert_eq!(back.replace("\"", "'"), text);
}

#[test]
fn what_has_no_sidecar_passes_through_as_it_was_written() {
    let text = "# ours\nkind: ConfigMap\n---\nkind: Pod   # plain\nspec: {containers: [{name: app, image: app}], dnsPolicy: None, dnsConfig: {nameservers: [127.0.0.1]}}\n";
    let mut manifest = Manifest::read(text, "shop").unwrap();
    assert_eq!(manifest.uninject(), Vec::<String>::new());
    assert_eq!(manifest.write().unwrap(), text);
}

#[test]
fn dns_fields_of_which_nothing_is_recorded_are_told() {
    let mut pod = json!({"kind": "Pod", "metadata": {"name": "web", "annotations": {"dot-sidecar.io/inject": "true"}},
        "spec": {"containers": [{"name": "app", "image": "app"}]}});
    let mut manifest = Manifest::read(&pod.to_string(), "shop").unwrap();
    manifest.inject(&surroundings());
    pod = manifest.documents.remove(0).value;
    pod["metadata"]["annotations"] = json!({"dot-sidecar.io/inject": "true"});
    let mut copy = Manifest::read(&pod.to_string(), "shop").unwrap();
    assert_eq!(copy.uninject(), ["Pod/web"]);
    assert_eq!(copy.documents[0].value["spec"]["dnsPolicy"], "ClusterFirst");
}
