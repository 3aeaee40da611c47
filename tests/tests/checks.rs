//! What `dot-injector check` says of an installation that serves, with a pod that it really makes.

use std::time::Duration;

use dot_e2e::pod::APP_IMAGE;
use dot_e2e::{Call, Cluster, Namespace, Pod, chart, eventually};
use serde_json::{Value, json};

const PROGRAM: &str = "dot-sidecar.local/dot-injector:test";

/// Lets the pods of a namespace do what an administrator may, while it is there.
struct Rights(String);

impl Rights {
    fn create(namespace: &Namespace) -> Self {
        let account = format!("--serviceaccount={}:default", namespace.name());
        let create = Call::kubectl("create clusterrolebinding --clusterrole=cluster-admin");
        create.arg(namespace.name()).arg(account).succeed();
        Self(namespace.name().to_owned())
    }
}

impl Drop for Rights {
    fn drop(&mut self) {
        Call::kubectl("delete clusterrolebinding --ignore-not-found").arg(&self.0).output();
    }
}

/// Runs the program in a pod of its own, from the image that the chart installs: what it printed.
fn run(namespace: &Namespace, name: &str, arguments: &[&str]) -> (String, Value) {
    let app = json!({"image": PROGRAM, "args": arguments});
    let pod = Pod::new(name).app(app).with(json!({"spec": {"restartPolicy": "Never"}}));
    let pod = namespace.admit(&pod);
    let ended = eventually(&format!("{name} has ended"), Duration::from_secs(150), || {
        let ended = pod.json()["status"]["containerStatuses"][0]["state"]["terminated"].clone();
        if ended.is_null() { Err(pod.log("app")) } else { Ok(ended) }
    });
    (pod.log("app"), ended["exitCode"].clone())
}

#[test]
fn check_makes_a_pod_that_becomes_ready_with_the_sidecar_and_leaves_nothing() {
    let _cluster = Cluster::shared();
    let (namespace, tried) = (Namespace::create("check"), Namespace::create("tried").restricted());
    let _rights = Rights::create(&namespace);

    let place = ["--namespace", chart::NAMESPACE, "--try-in", tried.name(), "-o", "json"];
    let (printed, code) = run(&namespace, "check", &[&["check", "--test-pod"], &place[..]].concat());
    let report: Value = serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error}: {printed}"));
    let failed = |check: &&Value| check["level"] == "FAIL";
    let checks = report["checks"].as_array().unwrap();
    assert_eq!((checks.iter().find(failed), &code), (None, &json!(0)), "{report:#}");
    let made = checks.iter().find(|check| check["check"] == "test pod").unwrap();
    assert!(made["level"] == "OK" && made["detail"].as_str().unwrap().starts_with("Ready in "), "{made}");
    let pods = tried.kubectl("get pods -o json").json();
    let is_staying = |pod: &&Value| pod["metadata"]["deletionTimestamp"].is_null();
    let staying = pods["items"].as_array().unwrap().iter().find(is_staying);
    assert_eq!(staying, None, "the pod that it made is gone, or going");

    // Where no node can run it, it says what keeps it, and removes it too.
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}});
    assert!(tried.create_object(&quota).accepted);
    eventually("the quota holds", Duration::from_secs(30), || {
        let pod = Pod::new("refused").app(json!({"image": APP_IMAGE}));
        let admission = tried.kubectl("create --dry-run=server -f -").input(pod.json()).output();
        if admission.success { Err("admitted".to_owned()) } else { Ok(()) }
    });
    let (printed, code) = run(&namespace, "refused", &[&["check", "--test-pod"], &place[..]].concat());
    assert!(code == json!(1) && printed.contains("exceeded quota"), "{printed}");
}
