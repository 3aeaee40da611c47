//! What `dot-injector check` and `explain --live` say of the chart on a real API server, with an injector and without.

use serde_json::{Value, json};

use crate::installed::{Installed, program};

impl Installed {
    /// Runs the program with the rights of an administrator: what it printed, and its exit code.
    fn run(&self, arguments: &str) -> (String, i32) {
        let command = format!("{} {arguments}; echo \"exit $?\" >&2", program().display());
        let said = self.control_plane.cluster(&["exec", "sh", "-c", &command], "");
        let code = said.stderr.lines().rev().find_map(|line| line.strip_prefix("exit ")).unwrap().parse().unwrap();
        (said.stdout, code)
    }

    /// The level of each thing that `check` looks at, and the exit code.
    fn check(&self, arguments: &str) -> (Value, i32) {
        let (text, code) = self.run(&format!("check --namespace release-space -o json {arguments}"));
        let report: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        (report["checks"].clone(), code)
    }
}

/// One line of the report.
fn line<'a>(checks: &'a Value, what: &str) -> &'a Value {
    let found = checks.as_array().unwrap().iter().find(|check| check["check"] == what);
    found.unwrap_or_else(|| panic!("{what} is not in {checks}"))
}

#[test]
fn a_healthy_installation_is_told_from_one_whose_injector_is_away() {
    let installed = Installed::with_injector("check", &[]);
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node"}});
    installed.apply(std::slice::from_ref(&node));
    let (checks, _) = installed.check("--try-in plain --target plain");
    for what in
        ["API server", "webhook", "certificate", "leader", "policies", "other webhooks", "admission", "Pod Security"]
    {
        assert_eq!(line(&checks, what)["level"], "OK", "{checks:#}");
    }
    let admission = line(&checks, "admission")["detail"].as_str().unwrap().to_owned();
    assert!(admission.contains("gets the sidecar"), "{admission}");
    // No kubelet tells its version, and no controller makes EndpointSlices here.
    assert_eq!(
        (&line(&checks, "nodes")["level"], &line(&checks, "replicas")["level"]),
        (&json!("FAIL"), &json!("FAIL"))
    );
    let pods = installed.kubectl("get pods -A", &Value::Null);
    assert!(!pods.stdout.contains("dot-sidecar-check"), "a dry run leaves nothing: {}", pods.stdout);

    let (checks, code) = installed.check("--try-in left-out");
    assert_eq!((&line(&checks, "admission")["level"], code), (&json!("FAIL"), 1), "{checks:#}");

    let unanswered =
        json!([{"op": "replace", "path": "/webhooks/0/clientConfig", "value": {"url": "https://127.0.0.1:1/"}}]);
    let patch = format!(
        "patch mutatingwebhookconfiguration dot-sidecar --type=json -p {}",
        unanswered.to_string().replace(' ', "")
    );
    installed.until_said("patched", &patch, &Value::Null);
    let away = || line(&installed.check("--try-in plain").0, "admission").clone();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while !away()["detail"].as_str().unwrap().contains("does not reach the injector") {
        assert!(std::time::Instant::now() < deadline, "{}", away());
    }
}

#[test]
fn before_the_installation_whoever_may_not_install_is_told_so() {
    let installed = Installed::without_injector("check-before", &[], &["ServiceAccount"]);
    let (checks, _) = installed.check("--pre");
    assert_eq!(line(&checks, "permissions")["level"], "OK", "{checks:#}");
    let token = installed.kubectl("create token default --namespace plain", &Value::Null).stdout;
    let config = installed.kubectl("config view --raw -o json", &Value::Null).stdout;
    let mut config: Value = serde_json::from_str(&config).unwrap();
    config["users"][0]["user"] = json!({"token": token.trim()});
    let file = std::env::temp_dir().join(format!("dot-check-{}.json", std::process::id()));
    std::fs::write(&file, config.to_string()).unwrap();
    let command = format!("KUBECONFIG={} {} check --pre -o json", file.display(), program().display());
    let said = installed.control_plane.cluster(&["exec", "sh", "-c", &command], "");
    std::fs::remove_file(&file).unwrap();
    let report: Value = serde_json::from_str(&said.stdout).unwrap_or_else(|error| panic!("{error}: {}", said.stderr));
    let permissions = line(&report["checks"], "permissions");
    assert_eq!(permissions["level"], "FAIL", "{report:#}");
    assert!(permissions["detail"].as_str().unwrap().contains("clusterroles"), "{permissions}");
    assert_eq!(line(&report["checks"], "nodes")["level"], "WARN", "what may not be read is no failure: {report:#}");
}

#[test]
fn explain_asks_the_cluster_for_what_decides_about_a_pod() {
    let installed = Installed::with_injector("explain", &[]);
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "team", "namespace": "asking"},
        "spec": {"hard": {"limits.memory": "32Mi"}}});
    installed.apply(&[quota]);
    let enforce = "label namespace asking pod-security.kubernetes.io/enforce=restricted";
    installed.until_said("labeled", enforce, &Value::Null);
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "namespace": "asking"},
        "spec": {"containers": [{"name": "app", "image": "app", "resources": {"limits": {"memory": "16Mi"}}}]}});
    let file = std::env::temp_dir().join(format!("dot-explain-{}.json", std::process::id()));
    std::fs::write(&file, pod.to_string()).unwrap();
    let (told, code) =
        installed.run(&format!("explain --live --injector-namespace release-space -f {}", file.display()));
    std::fs::remove_file(&file).unwrap();
    assert!(told.starts_with("Pod/web in asking: injected\n"), "{told}");
    assert!(told.contains("trouble: Pod Security: restricted would refuse it: container app has no"), "{told}");
    assert!(
        told.contains("trouble: ResourceQuota team: the pod counts for 80Mi of limits.memory, 0 of 32Mi are used"),
        "{told}"
    );
    assert_eq!(code, 1);
}
