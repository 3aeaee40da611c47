//! What admission makes of a pod that asks.

use std::fs;
use std::path::Path;
use std::time::Duration;

use dot_e2e::command::Call;
use dot_e2e::pod::PROXY_IMAGE;
use dot_e2e::{Cluster, Namespace, Pod, eventually};
use serde_json::{Value, json};

use crate::{init_containers, sidecar};

const TOKEN_FOLDER: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

#[test]
fn an_annotated_pod_gets_the_sidecar_first_and_becomes_ready_where_pod_security_is_restricted() {
    let _cluster = Cluster::shared();
    let namespace = Namespace::create("admission").restricted();

    let pod = namespace.run(&Pod::new("app").annotated().init("migrate", "exit 0")).json();

    assert_eq!(sidecar(&pod)["restartPolicy"], "Always");
    assert_eq!(init_containers(&pod), ["dot-proxy", "migrate"]);
    assert_eq!(pod["spec"]["dnsPolicy"], "None");
    assert_eq!(pod["spec"]["dnsConfig"]["nameservers"], json!(["127.0.0.1"]));
    assert_eq!(pod["metadata"]["labels"]["dot-sidecar.io/injected"], "true");

    let root = Pod::new("root").app(json!({"securityContext": {"runAsUser": 0, "allowPrivilegeEscalation": true}}));
    let admission = namespace.create_object(root.json());
    assert!(!admission.accepted, "the namespace does not enforce what this test is about");
}

#[test]
fn a_misspelt_annotation_is_warned_about_with_the_nearest_known_name() {
    let _cluster = Cluster::shared();
    let namespace = Namespace::create("misspelt").restricted();

    let pod = Pod::new("app").annotated().annotation("dot-sidecar.io/log-levle", "debug");
    let admission = namespace.create_object(pod.json());
    assert!(admission.accepted, "{}", admission.refusal);
    let warnings = admission.warnings.join("\n");
    assert!(
        warnings.contains("dot-sidecar.io/log-levle") && warnings.contains("dot-sidecar.io/log-level"),
        "{warnings:?}"
    );
    namespace.wait("pod/app", "condition=Ready");
    sidecar(&namespace.pod("app").json());

    let admission =
        namespace.create_object(Pod::new("asks-wrongly").annotation("dot-sidecar.io/injcet", "true").json());
    assert!(admission.accepted, "{}", admission.refusal);
    let warnings = admission.warnings.join("\n");
    assert!(warnings.contains("dot-sidecar.io/injcet") && warnings.contains("dot-sidecar.io/inject"), "{warnings:?}");
}

#[test]
fn the_pods_of_a_namespace_that_asks_get_the_sidecar_unless_they_opt_out() {
    let _cluster = Cluster::shared();
    let namespace = Namespace::create("asking").asking();

    let covered = namespace.admit(&Pod::new("covered")).json();
    let opted_out = namespace.admit(&Pod::new("opted-out").annotation("dot-sidecar.io/inject", "false")).json();

    sidecar(&covered);
    assert!(init_containers(&opted_out).is_empty(), "{:#}", opted_out["spec"]);
    assert_eq!(opted_out["spec"]["dnsPolicy"], "ClusterFirst");
}

#[test]
fn no_service_account_token_is_in_the_sidecar() {
    let _cluster = Cluster::shared();
    let namespace = Namespace::create("token");

    let pod = namespace.run(&Pod::new("app").annotated());

    let files = |container: &str| {
        let folder = pod.root_of(container).join(TOKEN_FOLDER.trim_start_matches('/'));
        let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
    };
    assert!(files("app").iter().any(|file| file == "token"), "the app has its own token: {:?}", files("app"));
    assert!(!files("dot-proxy").iter().any(|file| file == "token"), "{:?}", files("dot-proxy"));
}

/// The control to the test above: a container that is injected with nothing on that path gets the app's token from the API
/// server's own admission, which runs again after whoever injected it.
#[test]
fn left_alone_the_api_server_puts_a_token_into_an_injected_container() {
    let _cluster = Cluster::shared();
    let namespace = Namespace::create("token-control");
    let policy = InjectingPolicy::create(namespace.name());

    let pod = eventually("the policy is in force", Duration::from_secs(30), || {
        let _ = namespace.kubectl("delete pod app --ignore-not-found --now").output();
        let pod = namespace.admit(&Pod::new("app")).json();
        if init_containers(&pod) == ["injected"] { Ok(pod) } else { Err(format!("{:#}", pod["spec"])) }
    });
    drop(policy);

    assert_eq!(mount_paths(&pod["spec"]["initContainers"][0]), [TOKEN_FOLDER]);
}

#[test]
fn without_the_sysctl_the_proxy_could_not_bind_port_53_on_this_node() {
    let _cluster = Cluster::shared();
    let namespace = Namespace::create("sysctl");
    let proxy = Pod::new("without").app(json!({"image": PROXY_IMAGE, "args": ["--host", "127.0.0.1", "--port", "53"]}));
    let sysctl = json!({"spec": {"securityContext": {"sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "53"}]}}});
    let with = proxy.clone().with(json!({"metadata": {"name": "with"}})).with(sysctl);

    let without = namespace.admit(&proxy.with(json!({"spec": {"restartPolicy": "Never"}})));
    let with = namespace.run(&with);

    without.eventually("the proxy gives up", |pod| pod["status"]["phase"] == "Failed");
    let log = without.log("app");
    assert!(log.contains("ermission denied"), "{log}");
    assert!(!with.log("app").contains("ermission denied"), "{}", with.log("app"));
}

#[test]
fn with_a_client_ca_the_api_server_is_served_and_nobody_else() {
    let cluster = Cluster::alone();
    let namespace = Namespace::create("client-ca");
    let keys = std::env::var("KUBECONFIG").unwrap();
    let keys = Path::new(&keys).parent().unwrap().display();
    let url = cluster.chart.url();
    let answered = |certificate: &str| {
        let call = Call::new("curl").words("--silent --show-error --insecure --max-time 10 --output /dev/null");
        let shown = format!("--cert {keys}/{certificate}.crt --key {keys}/{certificate}.key");
        call.words(if certificate.is_empty() { "" } else { &shown }).arg(&url).output()
    };

    // kube-proxy learns of the injector's pods a moment after they are ready.
    let becomes = |certificate: &str, served: bool| {
        eventually(&format!("'{certificate}' is served: {served}"), Duration::from_secs(30), || {
            let output = answered(certificate);
            if output.success == served { Ok(()) } else { Err(output.to_string()) }
        });
    };

    becomes("", true);
    cluster.chart.upgrade_with(&format!(
        "--set webhook.clientNames={{kube-apiserver}} --set-file webhook.clientCA={keys}/ca.crt"
    ));
    let asks = namespace.create_object(Pod::new("asks").annotated().json());
    becomes("", false);
    becomes("kubelet", false); // of the same authority
    becomes("webhooks", true);
    cluster.chart.upgrade("");

    assert!(asks.accepted, "{}", asks.refusal);
    sidecar(&namespace.pod("asks").json());
}

/// A policy of the API server's own that injects a container without any mount into the pods of one namespace.
struct InjectingPolicy(String);

impl InjectingPolicy {
    fn create(namespace: &str) -> Self {
        let container = "Object.spec.initContainers{name: \"injected\", image: object.spec.containers[0].image}";
        let objects = json!({"apiVersion": "v1", "kind": "List", "items": [
            {
                "apiVersion": "admissionregistration.k8s.io/v1",
                "kind": "MutatingAdmissionPolicy",
                "metadata": {"name": namespace},
                "spec": {
                    "matchConstraints": {"resourceRules": [
                        {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
                    ]},
                    "matchConditions": [{"name": "not-yet", "expression": "!has(object.spec.initContainers)"}],
                    "failurePolicy": "Fail",
                    "reinvocationPolicy": "IfNeeded",
                    "mutations": [{
                        "patchType": "ApplyConfiguration",
                        "applyConfiguration": {"expression": format!("Object{{spec: Object.spec{{initContainers: [{container}]}}}}")}
                    }]
                }
            },
            {
                "apiVersion": "admissionregistration.k8s.io/v1",
                "kind": "MutatingAdmissionPolicyBinding",
                "metadata": {"name": namespace},
                "spec": {
                    "policyName": namespace,
                    "matchResources": {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}
                }
            }
        ]});
        Call::kubectl("create -f -").input(&objects).succeed();
        Self(namespace.to_owned())
    }
}

impl Drop for InjectingPolicy {
    fn drop(&mut self) {
        Call::kubectl("delete mutatingadmissionpolicy,mutatingadmissionpolicybinding").arg(&self.0).output();
    }
}

fn mount_paths(container: &Value) -> Vec<&str> {
    container["volumeMounts"].as_array().into_iter().flatten().filter_map(|mount| mount["mountPath"].as_str()).collect()
}
