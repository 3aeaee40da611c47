//! What `dot-injector check` and `explain --live` say of the chart on a real API server, with an injector and without; and whether what
//! `explain` foresees is what the API server does.

use serde_json::{Value, json};

use crate::by_policy::BY_POLICY;
use crate::gate::pod;
use crate::installed::{Installed, program};

impl Installed {
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
fn where_the_api_server_injects_no_webhook_is_missed() {
    let installed = Installed::with_injector("check-policy", &BY_POLICY);
    let asking = pod("asking", "plain", &json!({"dot-sidecar.io/inject": "true"}), &Value::Null);
    installed.until_said("pod/asking created", "create --dry-run=server -f -", &asking);
    let (checks, _) = installed.check("--try-in plain");
    for what in ["webhook", "leader", "policies", "admission"] {
        assert_eq!(line(&checks, what)["level"], "OK", "{checks:#}");
    }
    assert!(line(&checks, "webhook")["detail"].as_str().unwrap().contains("dot-sidecar-annotated"), "{checks:#}");
    assert!(checks.as_array().unwrap().iter().all(|check| check["check"] != "certificate"), "{checks:#}");
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

/// A pod in a namespace of its own, and what the API server says when it refuses it; nothing if it does not.
struct Case {
    name: &'static str,
    labels: Value,
    facts: Vec<Value>,
    spec: Value,
    refused: &'static str,
}

fn case(name: &'static str, facts: Vec<Value>, spec: Value, refused: &'static str) -> Case {
    Case { name, labels: json!({}), facts, spec, refused }
}

fn enforcing(level: &str, name: &'static str, spec: Value, refused: &'static str) -> Case {
    let labels = json!({"pod-security.kubernetes.io/enforce": level});
    Case { labels, ..case(name, Vec::new(), spec, refused) }
}

/// A quota, with its status: no controller counts here.
fn quota(spec: &Value, used: &Value) -> Value {
    let mut all = spec["hard"].clone();
    let names: Vec<String> = all.as_object().unwrap().keys().cloned().collect();
    for name in names {
        all[&name] = if used[&name].is_null() { json!("0") } else { used[&name].clone() };
    }
    json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "team"}, "spec": spec,
        "status": {"hard": spec["hard"], "used": all}})
}

fn limit_range(item: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "team"}, "spec": {"limits": [item]}})
}

/// One container with these resources.
fn app(resources: &Value) -> Value {
    json!({"containers": [{"name": "app", "image": "app", "resources": resources}]})
}

/// Those that are let through come first: what the last of them are refused by is then known to the API server of all.
fn cases() -> Vec<Case> {
    let none = json!({});
    let small = json!({"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"cpu": "20m", "memory": "32Mi"}});
    let context = json!({"runAsNonRoot": true, "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"}});
    let mut restricted = app(&none);
    restricted["containers"][0]["securityContext"] = context;
    let migrating = json!({"initContainers": [{"name": "migrate", "image": "app", "resources": {"requests": {"cpu": "200m"}}}],
        "containers": [{"name": "app", "image": "app", "resources": {"requests": {"cpu": "10m"}}}]});
    let hard = |hard: Value| json!({"hard": hard});
    vec![
        enforcing("restricted", "restricted-fits", restricted, ""),
        enforcing("baseline", "baseline-fits", app(&none), ""),
        case("quota-fits", vec![quota(&hard(json!({"limits.memory": "96Mi", "pods": "1"})), &none)], app(&small), ""),
        case("quota-fits-init", vec![quota(&hard(json!({"requests.cpu": "210m"})), &none)], migrating.clone(), ""),
        case(
            "quota-of-others",
            vec![quota(&json!({"scopes": ["BestEffort"], "hard": {"pods": "0"}}), &none)],
            app(&none),
            "",
        ),
        case(
            "range-gives",
            vec![limit_range(&json!({"type": "Container", "max": {"cpu": "1", "memory": "128Mi"}}))],
            app(&none),
            "",
        ),
        case("range-fits", vec![limit_range(&json!({"type": "Pod", "max": {"memory": "96Mi"}}))], app(&small), ""),
        enforcing("restricted", "restricted", app(&none), "violates PodSecurity \"restricted"),
        enforcing(
            "baseline",
            "baseline",
            json!({"hostPID": true, "containers": [{"name": "app", "image": "app"}]}),
            "violates PodSecurity \"baseline",
        ),
        case(
            "quota-used",
            vec![quota(&hard(json!({"limits.memory": "100Mi"})), &json!({"limits.memory": "5Mi"}))],
            app(&small),
            "exceeded quota",
        ),
        case(
            "quota-pods",
            vec![quota(&hard(json!({"pods": "1"})), &json!({"pods": "1"}))],
            app(&none),
            "exceeded quota",
        ),
        case(
            "quota-demands",
            vec![quota(&hard(json!({"limits.memory": "1Gi"})), &none)],
            app(&none),
            "must specify limits.memory",
        ),
        // What starts the pod runs beside the sidecar.
        case("quota-init", vec![quota(&hard(json!({"requests.cpu": "209m"})), &none)], migrating, "exceeded quota"),
        case(
            "range-container",
            vec![limit_range(&json!({"type": "Container", "min": {"memory": "24Mi"}}))],
            app(&small),
            "minimum memory usage per Container",
        ),
        case(
            "range-pod",
            vec![limit_range(&json!({"type": "Pod", "max": {"memory": "95Mi"}}))],
            app(&small),
            "maximum memory usage per Pod",
        ),
        case(
            "range-unlimited",
            vec![limit_range(&json!({"type": "Pod", "max": {"cpu": "1"}}))],
            app(&none),
            "No limit is specified",
        ),
        case(
            "range-ratio",
            vec![limit_range(&json!({"type": "Container", "maxLimitRequestRatio": {"cpu": "1"}}))],
            app(&small),
            "max limit to request ratio",
        ),
    ]
}

impl Installed {
    /// Makes the case's namespace, and what decides there.
    fn prepare(&self, case: &Case) {
        self.control_plane.namespace(case.name, &case.labels);
        for fact in &case.facts {
            let mut fact = fact.clone();
            fact["metadata"]["namespace"] = json!(case.name);
            self.apply(std::slice::from_ref(&fact));
            if !fact["status"].is_null() {
                let said = self.kubectl("replace --subresource=status -f -", &fact);
                assert!(said.stdout.contains("replaced"), "{}", said.stderr);
            }
        }
    }

    /// What `explain` says of a pod, and its exit code.
    fn explain(&self, pod: &Value) -> (String, i32) {
        let name = pod["metadata"]["namespace"].as_str().unwrap();
        let file = std::env::temp_dir().join(format!("dot-explain-{name}-{}.json", std::process::id()));
        std::fs::write(&file, pod.to_string()).unwrap();
        let said = self.run(&format!("explain --live --injector-namespace release-space -f {}", file.display()));
        std::fs::remove_file(&file).unwrap();
        said
    }
}

#[test]
fn explain_foresees_what_the_api_server_refuses_and_nothing_else() {
    let installed = Installed::with_injector("explain", &[]);
    let cases = cases();
    cases.iter().for_each(|case| installed.prepare(case));
    for case in cases.iter().rev() {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "spec": case.spec,
            "metadata": {"name": "web", "namespace": case.name, "annotations": {"dot-sidecar.io/inject": "true"}}});
        let said = if case.refused.is_empty() { "created (server dry run)" } else { case.refused };
        installed.until_said(said, "create --dry-run=server -f -", &pod);
        let (told, code) = installed.explain(&pod);
        assert!(told.starts_with(&format!("Pod/web in {}: injected\n", case.name)), "{}: {told}", case.name);
        let is_trouble = told.contains("trouble: ");
        let expected = !case.refused.is_empty();
        assert_eq!((is_trouble, code), (expected, i32::from(expected)), "{}: {told}", case.name);
    }
}

#[test]
fn a_webhook_that_is_called_again_after_ours_is_told_by_check_and_by_explain() {
    let installed = Installed::with_injector("neighbours", &[]);
    let webhook = |reinvocation: &str| {
        json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": "istio-sidecar-injector"}, "webhooks": [{"name": "object.sidecar-injector.istio.io",
            "admissionReviewVersions": ["v1"], "sideEffects": "None", "failurePolicy": "Ignore",
            "clientConfig": {"url": "https://127.0.0.1:1/"}, "reinvocationPolicy": reinvocation,
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}]}]})
    };
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "namespace": "asking"},
        "spec": {"containers": [{"name": "app", "image": "app"}]}});
    for (reinvocation, level, expected) in
        [("Never", "OK", "ours is called again"), ("IfNeeded", "WARN", "is called again after ours")]
    {
        installed.apply(&[webhook(reinvocation)]);
        let (checks, _) = installed.check("--try-in plain");
        let line = line(&checks, "other webhooks");
        assert!(
            line["level"] == level && line["detail"].as_str().unwrap().contains("istio-sidecar-injector"),
            "{line}"
        );
        let (told, code) = installed.explain(&pod);
        assert!(told.contains("webhook istio-sidecar-injector (adds") && told.contains(expected), "{told}");
        assert_eq!(code, 0, "{told}");
    }
}
