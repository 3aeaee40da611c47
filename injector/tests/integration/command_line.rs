//! The program: what it prints, and how it exits.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::api_server::ApiServer;
use crate::injector::{Injector, patched};

const ASKING_POD: &str = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "annotations": {"dot-sidecar.io/inject": "true"}},
"spec": {"containers": [{"name": "app", "image": "app"}], "dnsPolicy": "ClusterFirst"}}"#;

/// Runs the program with `input` on its standard input.
fn run(arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_dot-injector"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Where it refuses its arguments, it does not read.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn inject(input: &str) -> Output {
    run(&["inject", "-f", "-", "--cluster-dns", "10.96.0.10"], input)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The documents of a YAML stream.
fn documents(output: &Output) -> Vec<Value> {
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_saphyr::from_multiple(&text(&output.stdout)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn inject_gives_offline_exactly_what_admission_gives() {
    let injector = Injector::ready(&ApiServer::new()).await;
    let pod: Value = serde_json::from_str(ASKING_POD).unwrap();
    let admitted = patched(&injector.review("/mutate/annotated", "default", &pod).await, &pod);
    let offline: Value = serde_json::from_slice(&inject(ASKING_POD).stdout).unwrap();
    assert_eq!(offline, admitted);
}

#[test]
fn json_gives_json_and_yaml_gives_yaml() {
    assert!(text(&inject(ASKING_POD).stdout).starts_with("{\n"));
    let yaml = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, annotations: {dot-sidecar.io/inject: 'true'}}\nspec:\n  containers: [{name: app, image: app}]\n";
    assert!(text(&inject(yaml).stdout).starts_with("apiVersion: v1\nkind: Pod\n"));
}

#[test]
fn what_needs_no_change_passes_through_as_it_was_written() {
    let input = "# ours\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}   # kept\ndata:\n  text: |\n    --- not the end\n---\n# only a comment\n---\nkind: Pod\nmetadata: {name: silent}\nspec: {containers: []}\n";
    let output = text(&inject(input).stdout);
    assert_eq!(output, input.replace("---\n# only a comment\n", ""));
}

#[test]
fn everything_that_makes_pods_is_injected() {
    let template =
        r#"{metadata: {annotations: {dot-sidecar.io/inject: "true"}}, spec: {containers: [{name: app, image: app}]}}"#;
    let mut input = String::new();
    let kinds = ["Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "ReplicationController", "Job"];
    for kind in kinds {
        input.push_str(&format!("kind: {kind}\nmetadata: {{name: x}}\nspec: {{template: {template}}}\n---\n"));
    }
    input.push_str(&format!("kind: CronJob\nspec: {{jobTemplate: {{spec: {{template: {template}}}}}}}\n---\n"));
    input.push_str(&format!("kind: List\nitems: [{{kind: Deployment, spec: {{template: {template}}}}}]\n"));
    let sidecar = "/initContainers/0/name";
    let documents = documents(&inject(&input));
    assert_eq!(documents.len(), kinds.len() + 2);
    for document in &documents {
        let path = match document["kind"].as_str().unwrap() {
            "CronJob" => "/spec/jobTemplate/spec/template/spec",
            "List" => "/items/0/spec/template/spec",
            _ => "/spec/template/spec",
        };
        assert_eq!(document.pointer(&format!("{path}{sidecar}")), Some(&json!("dot-proxy")), "{document}");
    }
}

#[test]
fn namespaces_and_limit_ranges_of_the_input_are_heeded() {
    let input = r#"
kind: Namespace
metadata: {name: asks, labels: {dot-sidecar.io/inject: "true"}}
---
kind: LimitRange
metadata: {name: bounds, namespace: asks}
spec: {limits: [{type: Container, max: {memory: 48Mi}}]}
---
kind: Pod
metadata: {name: a, namespace: asks}
spec: {containers: [{name: app, image: app}]}
---
kind: Pod
metadata: {name: b}
spec: {containers: [{name: app, image: app}]}
"#;
    let documents = documents(&inject(input));
    assert_eq!(documents[2]["spec"]["initContainers"][0]["resources"]["limits"]["memory"], "48Mi");
    assert_eq!(documents[2]["spec"]["dnsConfig"]["searches"][0], "asks.svc.cluster.local");
    assert_eq!(documents[3]["spec"].get("initContainers"), None);
}

#[test]
fn a_denied_pod_leaves_nothing_printed_and_exits_1() {
    let denied = ASKING_POD.replace(r#""spec": {"#, r#""spec": {"hostNetwork": true, "#);
    let output = inject(&denied);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stdout), "");
    let errors = text(&output.stderr);
    assert!(errors.starts_with("denied: Pod/web in default: spec.hostNetwork: true: "), "{errors}");
}

#[test]
fn warnings_go_to_standard_error() {
    let output =
        inject(&ASKING_POD.replace(r#""annotations": {"#, r#""annotations": {"dot-sidecar.io/upstrem": "x", "#));
    assert!(output.status.success());
    assert!(text(&output.stderr).contains("did you mean dot-sidecar.io/upstream?"));
}

#[test]
fn explain_says_why() {
    let explain = |input: &str| run(&["explain", "-f", "-", "--cluster-dns", "10.96.0.10"], input);
    let output = explain(ASKING_POD);
    let said = text(&output.stdout);
    assert!(said.starts_with("Pod/web in default: injected\n") && said.contains("over TLS: cloudflare"), "{said}");
    assert!(said.contains("in clear: cluster.local to udp://10.96.0.10:53"), "{said}");
    let output = explain(&ASKING_POD.replace("\"true\"", "\"perhaps\""));
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("denied") && text(&output.stdout).contains("\"perhaps\""));
}

#[test]
fn wrong_usage_exits_2_and_names_the_flag_or_field() {
    for (arguments, input, words) in [
        (&["inject"][..], "", "--filename"),
        (&["inject", "-f", "-"], "", "--cluster-dns"),
        (&["inject", "-f", "/nonexistent", "--cluster-dns", "10.96.0.10"], "", "/nonexistent"),
        (&["inject", "-f", "-", "--cluster-dns", "kube-dns"], "", "--cluster-dns"),
        (&["inject", "-f", "-", "--cluster-dns", "10.96.0.10"], "a: b\n---\na: [", "begins in line 2"),
        (&["inject", "-f", "-", "--cluster-dns", "10.96.0.10", "--config", "/nonexistent"], "", "--config"),
        (&["serve", "--config", "/nonexistent"], "", "--config"),
        (&["serve", "--listen", "somewhere"], "", "--listen"),
        (&["frobnicate"], "", "frobnicate"),
    ] {
        let output = run(arguments, input);
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {errors}");
        assert!(errors.contains(words), "{arguments:?}: {errors}");
    }
}

#[test]
fn the_chart_carries_what_crd_and_policy_print() {
    for (command, file) in [("crd", "proxyprofiles.yaml"), ("policy", "policy.yaml")] {
        let printed = text(&run(&[command], "").stdout);
        let carried = format!("{}/../charts/dot-sidecar/files/{file}", env!("CARGO_MANIFEST_DIR"));
        let carried = std::fs::read_to_string(carried).unwrap();
        assert!(carried == printed, "{file}: run make manifests and commit the result");
    }
}

#[test]
fn profiles_of_the_input_are_heeded_before_that_of_the_configuration() {
    let profile = |name: &str, server: &str| {
        format!("kind: ProxyProfile\nmetadata: {{name: {name}}}\nspec: {{upstream: {{servers: [{server}]}}}}\n---\n")
    };
    let pod = |annotations: &str| {
        format!(
            "kind: Pod\nmetadata: {{name: p, annotations: {{dot-sidecar.io/inject: 'true'{annotations}}}}}\nspec: {{containers: [{{name: a, image: a}}]}}\n---\n"
        )
    };
    let named = ", dot-sidecar.io/profile: strict";
    let both = format!("{}{}", pod(""), pod(named));
    let servers = |input: &str| {
        let config = |pod: &Value| pod["metadata"]["annotations"]["dot-sidecar.io/config"].as_str().unwrap().to_owned();
        let documents = documents(&inject(input));
        let pods = documents.iter().filter(|document| document["kind"] == "Pod");
        let server = |config: String| serde_json::from_str::<Value>(&config).unwrap()["upstream"]["servers"][0].clone();
        pods.map(|pod| server(config(pod))).collect::<Vec<_>>()
    };
    assert_eq!(servers(&format!("{}{both}", profile("strict", "quad9"))), ["cloudflare", "quad9"]);
    assert_eq!(servers(&format!("{}{}", profile("default", "google"), pod(""))), ["google"]);
    let missing = inject(&both);
    assert_eq!(missing.status.code(), Some(1));
    assert!(text(&missing.stderr).contains("there is no ProxyProfile \"strict\""), "{}", text(&missing.stderr));
}

#[test]
fn uninject_gives_back_what_was_injected() {
    let injected = text(&inject(ASKING_POD).stdout);
    assert!(injected.contains("dot-proxy"));
    let back = run(&["uninject", "-f", "-"], &injected);
    assert!(back.status.success(), "{}", text(&back.stderr));
    let back: Value = serde_json::from_slice(&back.stdout).unwrap();
    assert_eq!(back, serde_json::from_str::<Value>(ASKING_POD).unwrap());
}

#[test]
fn status_without_a_cluster_is_wrong_usage_and_names_the_remedy() {
    let output = Command::new(env!("CARGO_BIN_EXE_dot-injector"))
        .args(["status", "-A"])
        .env_remove("KUBERNETES_SERVICE_HOST")
        .env("KUBECONFIG", "/nonexistent/kubeconfig")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("set KUBECONFIG"), "{}", text(&output.stderr));
}

fn explain(input: &str) -> Output {
    run(&["explain", "-f", "-", "--cluster-dns", "10.96.0.10"], input)
}

#[test]
fn explain_foresees_who_would_refuse_the_injected_pod() {
    let facts = r#"
kind: Namespace
metadata: {name: default, labels: {pod-security.kubernetes.io/enforce: restricted}}
---
kind: ResourceQuota
metadata: {name: team}
spec: {hard: {requests.cpu: "1", limits.memory: 1Gi}}
---
"#;
    let output = explain(&format!("{facts}{ASKING_POD}"));
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let told = text(&output.stdout);
    assert!(told.contains("trouble: Pod Security: restricted would refuse it: container app has no"), "{told}");
    assert!(!told.contains("container dot-proxy has"), "the sidecar passes restricted: {told}");
    assert!(
        told.contains("trouble: ResourceQuota team: demands limits.memory of every container, and app has none"),
        "{told}"
    );
    let output = explain(ASKING_POD);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
}

#[test]
fn explain_heeds_facts_of_another_file_and_does_not_explain_them() {
    let file = std::env::temp_dir().join(format!("dot-facts-{}.yaml", std::process::id()));
    let pod = "kind: Pod\nmetadata: {name: another}\nspec: {containers: []}\n";
    let namespace = "kind: Namespace\nmetadata: {name: default, labels: {dot-sidecar.io/inject: 'true'}}\n";
    std::fs::write(&file, format!("{pod}---\n{namespace}")).unwrap();
    let silent = ASKING_POD.replace(r#""annotations": {"dot-sidecar.io/inject": "true"}"#, r#""annotations": {}"#);
    let output = run(&["explain", "-f", "-", "--cluster-dns", "10.96.0.10", "--with", file.to_str().unwrap()], &silent);
    std::fs::remove_file(&file).unwrap();
    let told = text(&output.stdout);
    assert!(told.starts_with("Pod/web in default: injected\n") && !told.contains("another"), "{told}");
}

/// Runs the program under another name.
fn run_as(name: &str, arguments: &[&str]) -> Output {
    let folder = std::env::temp_dir().join(format!("dot-names-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let link = folder.join(name);
    let _ = std::fs::remove_file(&link);
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_dot-injector"), &link).unwrap();
    let output = Command::new(&link).args(arguments).output().unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    output
}

#[test]
fn as_a_plugin_of_kubectl_it_calls_itself_so() {
    let help = text(&run_as("kubectl-dot", &["status", "--help"]).stdout);
    assert!(help.contains("Usage: kubectl dot status") && help.contains("kubectl dot status -A"), "{help}");
    let refused = run_as("kubectl-dot", &["uninject", "-f", "/nonexistent"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).starts_with("kubectl dot: --filename /nonexistent: "), "{}", text(&refused.stderr));
    let completed = text(&run_as("kubectl_complete-dot", &["unin"]).stdout);
    assert!(completed.starts_with("uninject\t") && completed.ends_with(":4\n"), "{completed}");
}

#[test]
fn shells_are_told_how_to_complete() {
    for shell in ["bash", "zsh", "fish"] {
        let script = text(&run(&["completion", shell], "").stdout);
        assert!(script.contains("dot-injector") && script.contains("uninject"), "{shell}: {script}");
    }
}
