//! What the injector finds of pods that lack the sidecar or have an outdated one, what `dot-injector status` says of them, and how they
//! are repaired: with the rights that the chart gives, beside a real API server.
//!
//! No controller and no kubelet runs here: the test makes the pods of a ReplicaSet, says that they are Ready, and how many of them
//! a PodDisruptionBudget lets go.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::gate::{ControlPlane, Said};
use crate::installed::program;
use crate::{ROOT, render, yaml};

const ADMIN: &str = "127.0.0.1:18080";
const SETTINGS: &str = "cluster: {domain: cluster.local, dnsAddresses: [10.96.0.10]}";

/// An API server with the chart's rights, and what the injector is run with.
struct World {
    control_plane: ControlPlane,
    folder: PathBuf,
    injector: Option<Child>,
}

impl World {
    fn start(name: &'static str) -> Self {
        let control_plane = ControlPlane::start(name);
        let folder = std::env::temp_dir().join(format!("dot-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let world = Self { control_plane, folder, injector: None };
        world.control_plane.namespace("release-space", &json!({}));
        world.control_plane.namespace("shop", &json!({"dot-sidecar.io/inject": "true"}));
        let definition =
            yaml(&std::fs::read_to_string(format!("{ROOT}/charts/dot-sidecar/files/proxyprofiles.yaml")).unwrap());
        world.apply(&definition);
        let rights = ["ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"];
        for document in render(&["--set", "repair.enabled=true"]).unwrap() {
            if rights.contains(&document["kind"].as_str().unwrap_or_default()) {
                world.apply(&document);
            }
        }
        world.eventually("the definition takes effect", || {
            world.kubectl("get proxyprofiles").stderr.contains("No resources found")
        });
        world
    }

    fn kubectl(&self, arguments: &str) -> Said {
        self.control_plane.kubectl(arguments, &Value::Null)
    }

    fn apply(&self, document: &Value) {
        let said = self.control_plane.kubectl("apply --server-side --force-conflicts -f -", document);
        assert!(said.stderr.is_empty(), "{}", said.stderr);
    }

    fn create(&self, document: &Value) -> Value {
        let said = self.control_plane.kubectl("create -o json -f -", document);
        serde_json::from_str(&said.stdout).unwrap_or_else(|error| panic!("{error}: {}", said.stderr))
    }

    fn eventually(&self, what: &str, holds: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(90);
        while !holds() {
            assert!(Instant::now() < deadline, "not in time: {what}\n{}", self.log());
            sleep(Duration::from_millis(200));
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Runs the injector as its ServiceAccount; it ends with the cluster.
    fn injector(&mut self, settings: &str) {
        let token = self.kubectl("create token dot-injector --namespace release-space").stdout;
        let shown = self.kubectl("config view --raw -o json").stdout;
        let mut config: Value = serde_json::from_str(&shown).unwrap();
        config["users"][0]["user"] = json!({"token": token.trim()});
        let (kubeconfig, file) = (self.folder.join("kubeconfig"), self.folder.join("config.yaml"));
        std::fs::write(&kubeconfig, config.to_string()).unwrap();
        std::fs::write(&file, settings).unwrap();
        let log = std::fs::File::create(self.folder.join("log")).unwrap();
        let kubeconfig = format!("KUBECONFIG={}", kubeconfig.display());
        let child = Command::new("tests/cluster/cluster")
            .args([
                "exec",
                "env",
                &kubeconfig,
                &program().display().to_string(),
                "serve",
                "--namespace",
                "release-space",
                "--identity",
                "drift",
            ])
            .args(["--listen", "127.0.0.1:18443", "--admin", ADMIN, "--verbose", "--config"])
            .arg(file)
            .env("DOT_CLUSTER", self.control_plane.name())
            .current_dir(ROOT)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        self.injector = Some(child.unwrap());
    }

    fn metrics(&self) -> String {
        self.control_plane.cluster(&["exec", "curl", "-s", &format!("http://{ADMIN}/metrics")], "").stdout
    }

    fn counts(&self, state: &str, pods: u32) -> bool {
        self.metrics().contains(&format!("dot_injector_drifted_pods{{state=\"{state}\"}} {pods}\n"))
    }

    /// What `dot-injector status` finds in the namespace, and whether it exits with 0.
    fn status(&self) -> (Value, bool) {
        let command =
            format!("{} status -n shop -o json --injector-namespace release-space; echo $? >&2", program().display());
        let said = self.control_plane.cluster(&["exec", "sh", "-c", &command], "");
        let report = serde_json::from_str(&said.stdout).unwrap_or_else(|error| panic!("{error}: {}", said.stderr));
        (report, said.stderr.trim_end().ends_with('0'))
    }

    /// The state of each pod, by `dot-injector status`.
    fn states(&self) -> Vec<(String, String)> {
        let pods = self.status().0["pods"].as_array().unwrap().clone();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        pods.iter().map(|pod| (text(&pod["name"]), text(&pod["state"]))).collect()
    }

    /// Says what a kubelet or a controller would say of an object.
    fn say(&self, object: &str, status: &Value) {
        let patch = json!({"status": status}).to_string();
        let words = [
            "exec",
            "kubectl",
            "patch",
            "--namespace",
            "shop",
            object,
            "--subresource=status",
            "--type=merge",
            "-p",
            &patch,
        ];
        let said = self.control_plane.cluster(&words, "");
        assert!(said.stderr.is_empty(), "{}", said.stderr);
    }

    fn is_ready(&self, pod: &str) {
        let ready = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
        self.say(&format!("pod/{pod}"), &ready);
    }

    fn is_there(&self, pod: &str) -> bool {
        self.kubectl(&format!("get pod --namespace shop {pod}")).stdout.contains(pod)
    }

    /// A Deployment's ReplicaSet, as the owner of pods.
    fn workload(&self, name: &str) -> Value {
        let template =
            json!({"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "app", "image": "app"}]}});
        let selector = json!({"matchLabels": {"app": name}});
        let deployment = self.create(
            &json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": "shop"},
            "spec": {"replicas": 2, "selector": selector, "template": template}}),
        );
        let controller = |object: &Value| {
            json!([{"apiVersion": "apps/v1", "kind": object["kind"], "name": object["metadata"]["name"], "uid": object["metadata"]["uid"],
                "controller": true, "blockOwnerDeletion": true}])
        };
        let replica_set = self.create(&json!({"apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": {"name": format!("{name}-5d"), "namespace": "shop", "ownerReferences": controller(&deployment)},
            "spec": {"replicas": 2, "selector": selector, "template": template}}));
        controller(&replica_set)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.control_plane.cluster(&["down"], "");
        if let Some(injector) = &mut self.injector {
            let _ = injector.wait();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn pod(name: &str, app: &str, owners: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "labels": {"app": app}, "ownerReferences": owners},
        "spec": {"containers": [{"name": "app", "image": "app"}]}})
}

/// The pod as it is made when the webhook is there.
fn injected(pod: &Value, settings: &str) -> Value {
    let file = std::env::temp_dir().join(format!("dot-settings-{}-{}", std::process::id(), settings.len()));
    std::fs::write(&file, settings).unwrap();
    let mut asking = pod.clone();
    asking["metadata"]["annotations"] = json!({"dot-sidecar.io/inject": "true"});
    let output = {
        use std::io::Write as _;
        let mut child = Command::new(program())
            .args(["inject", "-f", "-", "--config"])
            .arg(&file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(asking.to_string().as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    std::fs::remove_file(&file).unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn what_pods_lack_is_counted_listed_and_told_to_their_owners() {
    let mut world = World::start("drift");
    let owners = world.workload("web");
    for name in ["web-1", "web-2"] {
        world.create(&pod(name, "web", &owners));
    }
    let owners = world.workload("api");
    world.create(&injected(
        &pod("api-1", "api", &owners),
        &format!("{SETTINGS}\nsidecar: {{image: 'registry.example/old:1'}}"),
    ));
    world.create(&injected(&pod("fine", "api", &json!([])), SETTINGS));
    let mut covered = pod("on-the-node", "node", &json!([]));
    covered["spec"]["hostNetwork"] = json!(true);
    world.create(&covered);

    world.injector(SETTINGS);
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
    assert_eq!(world.states(), expected, "{}", world.log());
    assert!(!world.status().1, "what is missing is no success");

    let told = |reason: &str, owner: &str| {
        let events = world.kubectl("get events.events.k8s.io --namespace shop -o json").stdout;
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
    assert!(world.kubectl("label namespace shop dot-sidecar.io/inject-").stderr.is_empty());
    world.eventually("nobody asks any more", || world.counts("missing", 0));
    assert!(world.kubectl("label namespace shop dot-sidecar.io/inject=true").stderr.is_empty());
    world.eventually("all ask again", || world.counts("missing", 2));
    for name in ["web-1", "web-2", "api-1"] {
        assert!(world.is_there(name), "nothing is evicted unless that is wanted: {}", world.log());
    }
}

#[test]
fn pods_are_evicted_one_after_the_other_as_their_budget_allows() {
    let mut world = World::start("repair");
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
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}});
    world.create(&budget);
    let lets_go = |pods: u32| {
        json!({"observedGeneration": 1, "disruptionsAllowed": pods, "currentHealthy": 2, "desiredHealthy": 1, "expectedPods": 2,
            "disruptedPods": null})
    };
    world.say("poddisruptionbudget/web", &lets_go(0));

    world.injector(&format!("{SETTINGS}\nrepair: {{enabled: true, evictionsPerMinute: 600}}"));
    world.eventually("the budget keeps the pod", || {
        world.metrics().contains("dot_injector_evictions_total{outcome=\"budget\"}")
    });
    assert!(world.is_there("web-1") && world.is_there("web-2"));

    world.say("poddisruptionbudget/web", &lets_go(2));
    world.eventually("the first is evicted", || !world.is_there("web-1"));
    let evicted = "dot_injector_evictions_total{outcome=\"evicted\"} ";
    // Until there is a replacement, and it is Ready, the other one stays: for two rounds at least.
    let replacement = injected(&pod("web-3", "web", &owners), SETTINGS);
    sleep(Duration::from_secs(11));
    world.create(&replacement);
    sleep(Duration::from_secs(11));
    assert!(world.is_there("web-2") && world.metrics().contains(&format!("{evicted}1\n")), "{}", world.log());
    world.is_ready("web-3");
    world.eventually("then the other one goes", || !world.is_there("web-2"));

    // What was made for it lacks the same: evicting that too would never end.
    world.create(&pod("web-4", "web", &owners));
    world.is_ready("web-4");
    world.eventually("the owner is left alone", || world.log().contains("lacks the same"));
    for name in ["web-3", "web-4", "bare", "batch-1"] {
        assert!(world.is_there(name), "{name}: {}", world.log());
    }
}
