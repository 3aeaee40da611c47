//! Installation, upgrade, removal, and what they mean for pods that asked for nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use dot_e2e::cluster::{objects, pods_as_created};
use dot_e2e::{Call, Cluster, Namespace, Pod, chart, eventually};
use serde_json::{Value, json};

#[test]
fn a_pod_that_asks_for_nothing_is_what_it_was_before_the_installation() {
    let cluster = Cluster::shared();
    let before = &cluster.before_installation().pods;

    let after = pods_as_created();

    assert!(!before.is_empty());
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(before, after);
    }
}

#[test]
fn with_every_replica_stopped_other_pods_start_and_an_annotated_one_is_refused_naming_the_webhook() {
    let cluster = Cluster::alone();
    let namespace = Namespace::create("no-injector");
    cluster.scale_injector(0);

    let asks_for_nothing = namespace.create_object(Pod::new("asks-for-nothing").json());
    let asks = namespace.create_object(Pod::new("asks").annotated().json());
    let ready = namespace.kubectl("wait pod/asks-for-nothing --for=condition=Ready --timeout=60s").output();
    cluster.scale_injector(2);

    assert!(asks_for_nothing.accepted && ready.success, "{}{ready}", asks_for_nothing.refusal);
    assert!(!asks.accepted, "it started without the sidecar that it asked for");
    assert!(asks.refusal.contains("annotated.dot-sidecar.io"), "{}", asks.refusal);
    eventually("the injector answers again", Duration::from_secs(60), || {
        let admission = namespace.create_object(Pod::new("asks").annotated().json());
        if admission.accepted { Ok(()) } else { Err(admission.refusal) }
    });
}

#[test]
fn install_upgrade_and_uninstall_leave_nothing_but_the_profiles_and_running_pods_go_on() {
    let cluster = Cluster::alone();
    let namespace = Namespace::create("uninstall");
    let pod = namespace.run(&Pod::new("app").annotated());

    cluster.chart.upgrade("injector.replicas=1");
    cluster.chart.uninstall();
    // What was written into profiles is not Helm's to throw away; whoever wants them gone says so, and nothing stands against it.
    let profile = Call::kubectl("get proxyprofile default -o name").output();
    Call::kubectl("delete customresourcedefinition proxyprofiles.dot-sidecar.io --timeout=30s").succeed();
    let left = eventually("only what was there before is left", Duration::from_secs(60), || {
        let now = objects();
        let before = &cluster.before_installation().objects;
        let difference: Vec<_> = now.symmetric_difference(before).cloned().collect();
        if difference.is_empty() { Ok(now) } else { Err(format!("{difference:#?}")) }
    });
    let reply = pod.dig("www.example.com", "");
    let asks = namespace.create_object(Pod::new("asks-nobody").annotated().json());
    cluster.chart.install();

    assert!(profile.success, "{profile}");
    assert!(!left.is_empty());
    assert_eq!(reply.answers, ["203.0.113.80"], "{}", reply.text);
    assert!(asks.accepted, "a webhook is still in the way: {}", asks.refusal);
}

#[test]
fn installing_twice_changes_nothing() {
    let cluster = Cluster::alone();
    let versions = || -> BTreeMap<String, Value> {
        let objects = cluster.chart.objects();
        objects
            .iter()
            .map(|object| (format!("{}/{}", object["kind"], object["metadata"]["name"]), version(object)))
            .collect()
    };
    let before = versions();

    let again = cluster.chart.install_again();
    cluster.chart.upgrade("");

    assert!(!again.success && again.stderr.contains("in use"), "{again}");
    assert!(before.len() > 5, "{before:?}");
    assert_eq!(before, versions());
}

#[test]
fn helm_lint_strict_is_clean() {
    let output = Call::new("helm").words("lint --strict").arg(chart::folder()).output();

    assert!(output.success && !output.to_string().contains("[WARNING]"), "{output}");
}

/// What changes when somebody changes the object. The status of a Deployment or a budget changes by itself, its generation does not.
fn version(object: &Value) -> Value {
    let metadata = &object["metadata"];
    if object["status"].is_object() {
        json!([metadata["uid"], metadata["generation"], object["spec"]])
    } else {
        json!([metadata["uid"], metadata["resourceVersion"]])
    }
}
