//! A changed profile on its way to pods, on a real API server: by the injector's own account, with its rights and under the policies.
//! No pod runs here.

use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::by_policy::BY_POLICY;
use crate::installed::Installed;

const TEAM: &str = "team";

fn profile(servers: &[&str]) -> Value {
    json!({"apiVersion": "dot-sidecar.io/v1alpha1", "kind": "ProxyProfile", "metadata": {"name": TEAM},
           "spec": {"upstream": {"servers": servers}}})
}

fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
           "metadata": {"name": name, "annotations": {"dot-sidecar.io/inject": "true", "dot-sidecar.io/profile": TEAM}},
           "spec": {"containers": [{"name": "app", "image": "app"}]}})
}

impl Installed {
    fn profile_status(&self) -> Value {
        let said = self.kubectl(&format!("get proxyprofile {TEAM} -o json"), &Value::Null).stdout;
        serde_json::from_str::<Value>(&said).unwrap_or_default()["status"].clone()
    }

    fn until_status(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let status = self.profile_status();
            if holds(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "{what}: {status:#}");
            sleep(Duration::from_millis(100));
        }
    }
}

fn is_complete(status: &Value, generation: u32) -> bool {
    let conditions = status["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|condition| {
        condition["type"] == "Propagated"
            && condition["status"] == "True"
            && condition["observedGeneration"] == generation
    })
}

/// What may differ once the configuration was written.
fn but_for_the_configuration(mut pod: Value) -> Value {
    pod["metadata"]["annotations"].as_object_mut().unwrap().remove("dot-sidecar.io/config");
    pod["metadata"].as_object_mut().unwrap().retain(|name, _| name != "resourceVersion" && name != "managedFields");
    pod
}

#[test]
fn a_changed_profile_is_written_onto_its_pods_alone_and_one_in_use_is_deleted_with_a_warning_that_names_them() {
    changed_and_deleted(&Installed::with_injector("live", &SETTINGS));
}

#[test]
fn where_the_api_server_injects_all_of_this_holds_and_a_profile_that_cannot_be_used_is_refused() {
    let installed = Installed::with_injector("live-policy", &[&BY_POLICY[..], &SETTINGS].concat());
    let webhooks = installed.kubectl("get mutatingwebhookconfigurations -o name", &Value::Null);
    assert_eq!(webhooks.stdout, "");
    changed_and_deleted(&installed);

    let create = "--namespace plain create --dry-run=server -f -";
    installed.until_said("its ProxyProfile is missing", create, &pod("profile-deleted"));
    let mut other = profile(&["quad9"]);
    installed.apply(std::slice::from_ref(&other));
    installed.until_said("pod/again created", create, &pod("again"));
    // The API server takes it, the injector does not.
    other["spec"]["routes"] = json!([{"suffixes": ["corp.example"], "servers": ["udp://192.0.2.1"]},
        {"suffixes": ["corp.example"], "servers": ["udp://192.0.2.2"]}]);
    installed.apply(std::slice::from_ref(&other));
    let status = installed.until_status("there is nothing for pods", |status| status["configuration"].is_null());
    assert_eq!(status["conditions"][0]["status"], "False", "{status:#}");
    installed.until_said("not ready", create, &pod("profile-unusable"));
}

#[test]
fn a_route_to_nobody_is_not_written_onto_pods_and_the_profile_names_it() {
    let installed = Installed::with_injector("live-route", &[]);
    installed.apply(&[profile(&["quad9"])]);
    installed.until_said("pod/web created", "--namespace plain create -f -", &pod("web"));
    installed.until_status("it is counted", |status| status["pods"]["updated"] == 1);
    let before = installed.pod("plain", "web");
    let mut routed = profile(&["quad9"]);
    routed["spec"]["routes"] = json!([{"suffixes": ["corp.example"], "servers": ["udp://127.0.0.1:1"]}]);
    installed.apply(std::slice::from_ref(&routed));
    let words = "route for corp.example: udp://127.0.0.1:1: connection-refused";
    installed.until_status("the profile says so", |status| {
        let conditions = status["conditions"].as_array().into_iter().flatten();
        conditions.into_iter().any(|condition| {
            condition["reason"] == "Unproved" && condition["message"].as_str().is_some_and(|said| said.contains(words))
        })
    });
    assert_eq!(installed.pod("plain", "web"), before);
    installed.apply(&[profile(&["quad9"])]);
    installed.until_status("it is as it was", |status| is_complete(status, 3));
    assert_eq!(installed.pod("plain", "web"), before);
}

const SETTINGS: [&str; 2] = ["--set", "rollout.proveUpstreams=false,rollout.writesPerSecond=100"];

fn changed_and_deleted(installed: &Installed) {
    installed.apply(&[profile(&["quad9"])]);
    for name in ["web-1", "web-2", "ended"] {
        // The injector may not know of the profile yet.
        installed.until_said(&format!("pod/{name}"), "--namespace plain create -f -", &pod(name));
    }
    installed.until_status("three pods", |status| status["pods"]["total"] == 3);
    let ended =
        r#"--namespace plain patch pod ended --subresource=status --type=merge -p {"status":{"phase":"Succeeded"}}"#;
    installed.kubectl(ended, &Value::Null);
    let status = installed.until_status("the one that ended is not counted", |status| status["pods"]["total"] == 2);
    let users = json!(["Pod web-1 in plain (1 pod)", "Pod web-2 in plain (1 pod)"]);
    assert_eq!((&status["users"], &status["pods"]["updated"]), (&users, &json!(2)));
    let pods = || ["web-1", "web-2", "ended"].map(|name| installed.pod("plain", name));
    let before = pods();
    let config = |pod: &Value| pod["metadata"]["annotations"]["dot-sidecar.io/config"].clone();
    assert_eq!(status["configuration"], config(&before[0]), "what a pod gets stands in the status");

    installed.apply(&[profile(&["google"])]);
    let status = installed.until_status("the change is on both", |status| is_complete(status, 2));
    assert_eq!(status["pods"]["updated"], 2);
    let after = pods();
    assert_eq!(after[2], before[2], "a pod that has ended is left alone");
    for (before, after) in before.into_iter().zip(after).take(2) {
        assert!(config(&after).as_str().unwrap().contains("google"), "{after:#}");
        assert_eq!(but_for_the_configuration(after), but_for_the_configuration(before));
    }
    let fields = "get pod web-1 --namespace plain --show-managed-fields -o jsonpath={.metadata.managedFields}";
    let managers: Value = serde_json::from_str(&installed.kubectl(fields, &Value::Null).stdout).unwrap();
    let ours = managers.as_array().into_iter().flatten().find(|manager| manager["manager"] == "dot-injector-config");
    let owned = json!({"f:metadata": {"f:annotations": {"f:dot-sidecar.io/config": {}}}});
    assert_eq!(ours.map(|ours| &ours["fieldsV1"]), Some(&owned), "{managers:#}");
    another_pod_of_the_name_is_not_meant(installed);
    installed.until_said("pod/later created", "--namespace plain create -f -", &pod("later"));
    assert_eq!(config(&installed.pod("plain", "later")), config(&installed.pod("plain", "web-1")));
    installed.kubectl("--namespace plain delete pod later", &Value::Null);
    installed.until_status("it is gone", |status| status["pods"]["total"] == 2);

    let said = installed.kubectl(&format!("delete proxyprofile {TEAM}"), &Value::Null);
    assert!(said.stdout.contains("deleted"), "{}{}", said.stdout, said.stderr);
    let warning =
        "ProxyProfile team is in use by 2 pods: Pod web-1 in plain (1 pod), Pod web-2 in plain (1 pod). They keep";
    assert!(said.stderr.contains(warning), "{}", said.stderr);
    let unused = json!({"apiVersion": "dot-sidecar.io/v1alpha1", "kind": "ProxyProfile", "metadata": {"name": "unused"}, "spec": {}});
    installed.apply(std::slice::from_ref(&unused));
    let said = installed.kubectl("delete proxyprofile unused", &Value::Null);
    assert!(said.stdout.contains("deleted") && said.stderr.is_empty(), "{}{}", said.stdout, said.stderr);
    assert!(config(&installed.pod("plain", "web-1")).as_str().unwrap().contains("google"));
}

/// The precondition on which the injector relies: a patch that names the identity of another pod changes nothing.
fn another_pod_of_the_name_is_not_meant(installed: &Installed) {
    let patch = r#"{"metadata":{"uid":"00000000-0000-0000-0000-000000000000","labels":{"patched":"yes"}}}"#;
    let said = installed.kubectl(&format!("--namespace plain patch pod web-1 --type=merge -p {patch}"), &Value::Null);
    assert!(said.stderr.contains("metadata.uid: Invalid value"), "{}{}", said.stdout, said.stderr);
    assert!(installed.pod("plain", "web-1")["metadata"]["labels"]["patched"].is_null());
}
