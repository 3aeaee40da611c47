//! What the injector finds of pods that lack the sidecar or have an outdated one, what `dot-injector status` says of them, and how they
//! are repaired: with the rights that the chart gives, beside a real API server.
//!
//! No controller and no kubelet runs here: the test makes the pods of a ReplicaSet, says that they are Ready, and how many of them
//! a PodDisruptionBudget lets go.

use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::installed::{Installed, injected_with};
use crate::yaml;

/// What the injector is run with, but for what would show it pods: these are made as if it had been away.
const KINDS: [&str; 8] = [
    "ServiceAccount",
    "Role",
    "RoleBinding",
    "ClusterRole",
    "ClusterRoleBinding",
    "ConfigMap",
    "Service",
    "CustomResourceDefinition",
];
/// The namespace of the pods, which asks for the sidecar.
const ASKING: &str = "asking";

/// An API server with as much of the chart.
struct World(Installed);

impl World {
    fn start(name: &'static str, values: &str) -> Self {
        // No webhook is there that could be checked.
        Self(Installed::without_injector(name, &["--set", values, "--set", "selfCheck.enabled=false"], &KINDS))
    }

    fn kubectl(&self, arguments: &str) -> String {
        let said = self.0.kubectl(arguments, &Value::Null);
        said.stdout + &said.stderr
    }

    fn create(&self, document: &Value) -> Value {
        let said = self.0.kubectl("create -o json -f -", document);
        serde_json::from_str(&said.stdout).unwrap_or_else(|error| panic!("{error}: {}", said.stderr))
    }

    fn eventually(&self, what: &str, holds: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(90);
        while !holds() {
            assert!(Instant::now() < deadline, "not in time: {what}");
            sleep(Duration::from_millis(200));
        }
    }

    fn metrics(&self) -> String {
        self.0.control_plane.cluster(&["exec", "curl", "-s", "http://127.0.0.1:8080/metrics"], "").stdout
    }

    fn counts(&self, state: &str, pods: u32) -> bool {
        self.metrics().contains(&format!("dot_injector_drifted_pods{{state=\"{state}\"}} {pods}\n"))
    }

    /// What `dot-injector status` finds in the namespace, and whether it exits with 0.
    fn status(&self) -> (Value, bool) {
        let (text, code) = self.0.run(&format!("status -n {ASKING} -o json --injector-namespace release-space"));
        (serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")), code == 0)
    }

    /// The state of each pod, by `dot-injector status`.
    fn states(&self) -> Vec<(String, String)> {
        let pods = self.status().0["pods"].as_array().unwrap().clone();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        pods.iter().map(|pod| (text(&pod["name"]), text(&pod["state"]))).collect()
    }

    /// Says what a kubelet or a controller would say of an object.
    fn say(&self, object: &str, status: &Value) {
        let patch = json!({"status": status});
        let said =
            self.kubectl(&format!("patch --namespace {ASKING} {object} --subresource=status --type=merge -p {patch}"));
        assert!(said.contains("patched"), "{said}");
    }

    fn is_ready(&self, pod: &str) {
        let ready = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
        self.say(&format!("pod/{pod}"), &ready);
    }

    fn is_there(&self, pod: &str) -> bool {
        self.kubectl(&format!("get pod --namespace {ASKING} {pod} --ignore-not-found")).contains(pod)
    }

    /// A Deployment's ReplicaSet, as the owner of pods.
    fn workload(&self, name: &str) -> Value {
        let template =
            json!({"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "app", "image": "app"}]}});
        let selector = json!({"matchLabels": {"app": name}});
        let deployment = self.create(
            &json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": ASKING},
            "spec": {"replicas": 2, "selector": selector, "template": template}}),
        );
        let controller = |object: &Value| {
            json!([{"apiVersion": "apps/v1", "kind": object["kind"], "name": object["metadata"]["name"], "uid": object["metadata"]["uid"],
                "controller": true, "blockOwnerDeletion": true}])
        };
        let replica_set = self.create(&json!({"apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": {"name": format!("{name}-5d"), "namespace": ASKING, "ownerReferences": controller(&deployment)},
            "spec": {"replicas": 2, "selector": selector, "template": template}}));
        controller(&replica_set)
    }

    /// The pod as the chart's injector makes it, with the image that it has there or another one.
    fn injected(&self, pod: &Value, image: Option<&str>) -> Value {
        let config =
            self.kubectl("get configmap --namespace release-space dot-injector -o jsonpath={.data.config\\.yaml}");
        let mut config = yaml(&config);
        if let Some(image) = image {
            config["sidecar"]["image"] = json!(image);
        }
        let name = pod["metadata"]["name"].as_str().unwrap();
        let file = std::env::temp_dir().join(format!("dot-settings-{name}-{}", std::process::id()));
        std::fs::write(&file, config.to_string()).unwrap();
        let mut asking = pod.clone();
        asking["metadata"]["annotations"] = json!({"dot-sidecar.io/inject": "true"});
        let made = injected_with(&asking, &["--config", &file.display().to_string()]);
        std::fs::remove_file(&file).unwrap();
        made
    }
}

fn pod(name: &str, app: &str, owners: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": ASKING, "labels": {"app": app}, "ownerReferences": owners},
        "spec": {"containers": [{"name": "app", "image": "app"}]}})
}

#[test]
fn what_pods_lack_is_counted_listed_and_told_to_their_owners() {
    let mut world = World::start("drift", "repair.enabled=false");
    let owners = world.workload("web");
    for name in ["web-1", "web-2"] {
        world.create(&pod(name, "web", &owners));
    }
    let owners = world.workload("api");
    world.create(&world.injected(&pod("api-1", "api", &owners), Some("registry.example/old:1")));
    world.create(&world.injected(&pod("fine", "api", &json!([])), None));
    let mut covered = pod("on-the-node", "node", &json!([]));
    covered["spec"]["hostNetwork"] = json!(true);
    world.create(&covered);

    world.0.spawn_injector();
    let counted = [("missing", 2), ("outdated-image", 1), ("unserved", 1)];
    world.eventually("the pods are counted", || counted.iter().all(|(state, pods)| world.counts(state, *pods)));
    let expected = [
        ("api-1", "outdated-image"),
        ("fine", "injected"),
        ("on-the-node", "unserved"),
        ("web-1", "missing"),
        ("web-2", "missing"),
    ];
    let expected = expected.map(|(name, state)| (name.to_owned(), state.to_owned()));
    assert_eq!(world.states(), expected);
    assert!(!world.status().1, "what is missing is no success");
    let told = || world.kubectl("get proxyprofile default -o jsonpath={.status.pods}");
    let counted = |name: &str, pods: u32| serde_json::from_str::<Value>(&told()).is_ok_and(|told| told[name] == pods);
    world.eventually("the profile's status tells", || counted("missing", 2) && counted("outdatedImage", 1));
    assert!(counted("total", 2), "those that lack it are no part of the total: {}", told());

    let told = |reason: &str, owner: &str| {
        let events = world.kubectl("get events.events.k8s.io --namespace asking -o json");
        let events: Value = serde_json::from_str(&events).unwrap();
        let events = events["items"].as_array().unwrap().clone();
        let about = |event: &&Value| {
            event["reason"] == reason
                && event["regarding"]["name"] == owner
                && event["regarding"]["kind"] == "Deployment"
        };
        events.iter().find(about).map(|event| event["note"].as_str().unwrap().to_owned())
    };
    world.eventually("the owners are told", || {
        told("DnsNotEncrypted", "web").is_some() && told("SidecarOutdated", "api").is_some()
    });
    let note = told("DnsNotEncrypted", "web").unwrap();
    assert!(note.contains("2 pods asked for the sidecar and do not have it, such as web-1: "), "{note}");

    // A namespace that does not ask any more, and one that begins to.
    assert!(world.kubectl("label namespace asking dot-sidecar.io/inject-").contains("unlabeled"));
    world.eventually("nobody asks any more", || world.counts("missing", 0));
    assert!(world.kubectl("label namespace asking dot-sidecar.io/inject=true").contains("labeled"));
    world.eventually("all ask again", || world.counts("missing", 2));
    for name in ["web-1", "web-2", "api-1"] {
        assert!(world.is_there(name), "nothing is evicted unless that is wanted");
    }
}

#[test]
fn pods_are_evicted_one_after_the_other_as_their_budget_allows() {
    let mut world = World::start("repair", "repair.enabled=true,repair.evictionsPerMinute=600");
    let owners = world.workload("web");
    for name in ["web-1", "web-2"] {
        world.create(&pod(name, "web", &owners));
        world.is_ready(name);
    }
    world.create(&pod("bare", "bare", &json!([])));
    world.is_ready("bare");
    let job = json!([{"apiVersion": "batch/v1", "kind": "Job", "name": "batch", "uid": "1", "controller": true}]);
    world.create(&pod("batch-1", "batch", &job));
    world.is_ready("batch-1");
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "web", "namespace": ASKING},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}});
    world.create(&budget);
    let lets_go = |pods: u32| {
        json!({"observedGeneration": 1, "disruptionsAllowed": pods, "currentHealthy": 2, "desiredHealthy": 1, "expectedPods": 2,
            "disruptedPods": null})
    };
    world.say("poddisruptionbudget/web", &lets_go(0));

    world.0.spawn_injector();
    world.eventually("the budget keeps the pod", || {
        world.metrics().contains("dot_injector_evictions_total{outcome=\"budget\"}")
    });
    assert!(world.is_there("web-1") && world.is_there("web-2"));

    world.say("poddisruptionbudget/web", &lets_go(2));
    world.eventually("the first is evicted", || !world.is_there("web-1"));
    let evicted = "dot_injector_evictions_total{outcome=\"evicted\"} ";
    // Until there is a replacement, and it is Ready, the other one stays: for two rounds at least.
    let replacement = world.injected(&pod("web-3", "web", &owners), None);
    sleep(Duration::from_secs(11));
    world.create(&replacement);
    sleep(Duration::from_secs(11));
    assert!(world.is_there("web-2") && world.metrics().contains(&format!("{evicted}1\n")));
    world.is_ready("web-3");
    world.eventually("then the other one goes", || !world.is_there("web-2"));

    // What was made for it lacks the same: evicting that too would never end.
    world.create(&pod("web-4", "web", &owners));
    world.is_ready("web-4");
    world.eventually("the owner is left alone", || world.0.log().contains("lacks the same"));
    for name in ["web-3", "web-4", "bare", "batch-1"] {
        assert!(world.is_there(name), "{name}");
    }
}
