//! Copies, forgeries and tampering, with the injector at work on a real API server: each is stopped or made right.

use serde_json::{Value, json};

use crate::gate::{Said, pod};
use crate::installed::{ACCOUNT, Installed};

/// What may be done to pods all over the cluster, so that nothing but the policies stands in the way of those who have it.
const ALL_OF_PODS: &str = "everything-about-pods";
/// Somebody who works in the namespace `plain`.
const TENANT: &str = "tenant";

#[test]
fn what_is_copied_forged_or_tampered_with_is_stopped_or_made_right() {
    let installed = Installed::with_injector("forgeries", &[]);
    let right = |user: &str| {
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": user.replace(':', "-")},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": ALL_OF_PODS},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}]})
    };
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": ALL_OF_PODS},
        "rules": [{"apiGroups": [""], "resources": ["*"], "verbs": ["*"]}]});
    installed.apply(&[role, right(TENANT), right(ACCOUNT)]);
    let created = create(&installed, &asking("original"));
    assert!(created.stdout.contains("created"), "{}", created.stderr);
    let canary = pod("canary", "left-out", &json!({"dot-sidecar.io/inject": "true"}), &Value::Null);
    installed.until_said("is left out of injection", "create --dry-run=server -f -", &canary);

    a_pod_copied_from_an_injected_one_gets_a_sidecar_of_its_own(&installed);
    what_kubectl_debug_copies_gets_a_sidecar_of_its_own(&installed);
    forged_records_are_made_anew_or_taken_away(&installed);
    nobody_but_the_injector_writes_the_records(&installed);
    the_injectors_account_writes_nothing_but_the_records(&installed);
    an_ephemeral_container_may_do_what_a_container_may(&installed);
}

fn asking(name: &str) -> Value {
    pod(name, "plain", &json!({"dot-sidecar.io/inject": "true"}), &Value::Null)
}

fn create(installed: &Installed, pod: &Value) -> Said {
    installed.kubectl(&format!("create --as={TENANT} -f -"), pod)
}

/// Patches a pod, as somebody, and tells what was said.
fn patch(installed: &Installed, user: &str, name: &str, subresource: &str, kind: &str, patch: &Value) -> Said {
    let subresource = if subresource.is_empty() { String::new() } else { format!("--subresource={subresource}") };
    let arguments =
        format!("--namespace plain patch pod {name} --as={user} {subresource} --type={kind} --patch-file=/dev/stdin");
    installed.kubectl(&arguments, patch)
}

/// What a backup keeps of a pod.
fn exported(installed: &Installed, name: &str, new_name: &str) -> Value {
    let mut pod = installed.pod("plain", name);
    for field in ["uid", "resourceVersion", "creationTimestamp", "managedFields", "generation"] {
        pod["metadata"].as_object_mut().unwrap().remove(field);
    }
    pod.as_object_mut().unwrap().remove("status");
    pod["metadata"]["name"] = json!(new_name);
    pod
}

/// The parts of a pod that injection makes.
fn ours(pod: &Value) -> Value {
    let annotation = |name: &str| pod["metadata"]["annotations"][format!("dot-sidecar.io/{name}")].clone();
    json!({"config": annotation("config"), "status": annotation("status"),
        "label": pod["metadata"]["labels"]["dot-sidecar.io/injected"], "sidecar": pod["spec"]["initContainers"][0], "dnsPolicy": pod["spec"]["dnsPolicy"], "dnsConfig": pod["spec"]["dnsConfig"],
        "sysctls": pod["spec"]["securityContext"]["sysctls"]})
}

/// Creates the pod and sees that it has what the first one has.
fn is_made_like_the_original(installed: &Installed, copy: &Value) {
    let name = copy["metadata"]["name"].as_str().unwrap();
    let said = create(installed, copy);
    assert!(said.stdout.contains("created"), "{name}: {}", said.stderr);
    assert_eq!(ours(&installed.pod("plain", name)), ours(&installed.pod("plain", "original")), "{name}");
}

fn a_pod_copied_from_an_injected_one_gets_a_sidecar_of_its_own(installed: &Installed) {
    let sidecar = ours(&installed.pod("plain", "original"))["sidecar"].clone();
    assert_eq!((&sidecar["name"], &sidecar["restartPolicy"]), (&json!("dot-proxy"), &json!("Always")));
    is_made_like_the_original(installed, &exported(installed, "original", "restored"));
    let mut tampered = exported(installed, "original", "tampered");
    tampered["spec"]["initContainers"][0]["image"] = json!("registry.example/evil");
    tampered["spec"]["initContainers"][0]["args"] = json!(["--upstream", "google"]);
    tampered["spec"]["dnsConfig"]["nameservers"] = json!(["127.0.0.1"]);
    tampered["metadata"]["annotations"]["dot-sidecar.io/config"] = json!(r#"{"upstream":{"servers":["google"]}}"#);
    is_made_like_the_original(installed, &tampered);
    // A second nameserver on a copy is the author's own, and is refused as it would be on any pod.
    let mut leaking = exported(installed, "original", "leaking");
    leaking["spec"]["dnsConfig"]["nameservers"] = json!(["127.0.0.1", "192.0.2.1"]);
    let said = create(installed, &leaking);
    assert!(said.stderr.contains("spec.dnsPolicy: None"), "{}{}", said.stdout, said.stderr);
}

fn what_kubectl_debug_copies_gets_a_sidecar_of_its_own(installed: &Installed) {
    for (copy, further) in [
        ("debugged", ""),
        ("debugged-bare", "--keep-init-containers=false"),
        ("debugged-all", "--keep-labels --keep-annotations"),
    ] {
        let arguments = format!(
            "--namespace plain debug original --as={TENANT} --copy-to={copy} --image=app --attach=false --quiet {further}"
        );
        let said = installed.kubectl(&arguments, &Value::Null);
        let made = ours(&installed.pod("plain", copy));
        let original = ours(&installed.pod("plain", "original"));
        for part in ["sidecar", "dnsPolicy", "dnsConfig", "sysctls", "config", "label"] {
            assert_eq!(made[part], original[part], "{copy}: {part}: {}", said.stderr);
        }
    }
}

fn forged_records_are_made_anew_or_taken_away(installed: &Installed) {
    let mut forged = asking("forged");
    forged["metadata"]["labels"] = json!({"dot-sidecar.io/injected": "perhaps"});
    forged["metadata"]["annotations"]["dot-sidecar.io/config"] = json!(r#"{"upstream":{"servers":["google"]}}"#);
    forged["metadata"]["annotations"]["dot-sidecar.io/status"] =
        json!(r#"{"injector":"9","profile":"default","original":{"dnsPolicy":"Default"}}"#);
    is_made_like_the_original(installed, &forged);
    // Who did not ask is left without them.
    let mut marked = pod(
        "marked",
        "plain",
        &json!({"dot-sidecar.io/config": "{}", "dot-sidecar.io/status": "x", "kept": "yes"}),
        &Value::Null,
    );
    marked["metadata"]["labels"] = json!({"dot-sidecar.io/injected": "true", "kept": "yes"});
    let said = create(installed, &marked);
    assert!(said.stdout.contains("created"), "{}", said.stderr);
    let stored = installed.pod("plain", "marked");
    assert_eq!(stored["metadata"]["annotations"], json!({"kept": "yes"}));
    assert_eq!(stored["metadata"]["labels"], json!({"kept": "yes"}));
    assert!(stored["spec"]["initContainers"].is_null());
}

fn nobody_but_the_injector_writes_the_records(installed: &Installed) {
    let annotation =
        |name: &str, value: Value| json!({"metadata": {"annotations": {format!("dot-sidecar.io/{name}"): value}}});
    let label = |value: Value| json!({"metadata": {"labels": {"dot-sidecar.io/injected": value}}});
    for (name, changes) in [
        (
            "original",
            vec![
                annotation("config", json!("{}")),
                annotation("config", Value::Null),
                annotation("status", json!("{}")),
                annotation("status", Value::Null),
                label(json!("false")),
                label(Value::Null),
            ],
        ),
        ("marked", vec![annotation("config", json!("{}")), annotation("status", json!("{}")), label(json!("true"))]),
    ] {
        for change in changes {
            for user in [TENANT, "admin --as-group=system:masters"] {
                let said = patch(installed, user, name, "", "merge", &change);
                assert!(
                    said.stderr.contains("only the injector writes it"),
                    "{user}: {change}: {}{}",
                    said.stdout,
                    said.stderr
                );
            }
        }
        let said = patch(installed, TENANT, name, "status", "merge", &annotation("config", json!("{}")));
        assert!(said.stderr.contains("only the injector writes it"), "{}{}", said.stdout, said.stderr);
        // What is not ours is none of the policy's business, in the status either.
        for (subresource, change) in [
            ("", json!({"metadata": {"annotations": {"a": "b"}, "labels": {"a": "b"}}})),
            ("", annotation("upstream", json!("quad9"))),
            ("status", json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}})),
        ] {
            let said = patch(installed, TENANT, name, subresource, "merge", &change);
            assert!(said.stdout.contains("patched"), "{change}: {}", said.stderr);
        }
    }
    bindings_carry_no_records(installed);
}

/// The scheduler's Binding puts its annotations and labels on the pod.
fn bindings_carry_no_records(installed: &Installed) {
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node"}});
    installed.kubectl("create -f -", &node);
    let binding = |metadata: Value| {
        let mut binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": metadata,
            "target": {"apiVersion": "v1", "kind": "Node", "name": "node"}});
        binding["metadata"]["name"] = json!("original");
        binding["metadata"]["namespace"] = json!("plain");
        binding
    };
    for path in ["pods/original/binding", "bindings"] {
        let create = format!("create --as={TENANT} --raw /api/v1/namespaces/plain/{path} -f -");
        let said = installed.kubectl(&create, &binding(json!({"annotations": {"dot-sidecar.io/config": "{}"}})));
        assert!(said.stderr.contains("only the injector writes it"), "{path}: {}{}", said.stdout, said.stderr);
    }
    let scheduler = "create --as=system:kube-scheduler --raw /api/v1/namespaces/plain/pods/original/binding -f -";
    let said = installed.kubectl(scheduler, &binding(json!({"annotations": {"a.example/b": "c"}})));
    assert!(said.stdout.contains("Success"), "{}", said.stderr);
    assert_eq!(installed.pod("plain", "original")["spec"]["nodeName"], "node");
}

fn the_injectors_account_writes_nothing_but_the_records(installed: &Installed) {
    const SPEC: &str = "spec: the injector changes nothing";
    const ANNOTATIONS: &str = "metadata.annotations: the injector changes none but";
    const LABELS: &str = "metadata.labels: the injector changes none but";
    const OWNER: &str = "neither ownerReferences nor finalizers";
    let records = json!({"metadata": {"labels": {"dot-sidecar.io/injected": "true"},
        "annotations": {"dot-sidecar.io/config": "{\"a\":1}", "dot-sidecar.io/status": "{}"}}});
    let said = patch(installed, ACCOUNT, "restored", "", "merge", &records);
    assert!(said.stdout.contains("patched"), "{}", said.stderr);
    let said = patch(installed, ACCOUNT, "marked", "", "merge", &records);
    assert!(said.stderr.contains("the pod has no sidecar dot-proxy"), "{}{}", said.stdout, said.stderr);
    let owner =
        json!([{"apiVersion": "v1", "kind": "Node", "name": "node", "uid": "0b7dbf0a-3b4d-4b1c-9f0e-000000000000"}]);
    let ephemeral = json!({"spec": {"ephemeralContainers": [{"name": "debugger", "image": "x"}]}});
    let resize = json!({"spec": {"containers": [{"name": "app", "resources": {"requests": {"cpu": "1"}}}]}});
    let tolerating = json!([{"op": "add", "path": "/spec/tolerations/-", "value": {"operator": "Exists"}}]);
    let annotated = |name: &str, value: Value| json!({"metadata": {"annotations": {name: value}}});
    for (subresource, kind, change, words) in [
        ("", "strategic", json!({"spec": {"containers": [{"name": "app", "image": "evil"}]}}), SPEC),
        ("", "strategic", json!({"spec": {"initContainers": [{"name": "dot-proxy", "image": "evil"}]}}), SPEC),
        ("", "merge", json!({"spec": {"activeDeadlineSeconds": 1}}), SPEC),
        ("", "json", tolerating, SPEC),
        ("", "merge", json!({"metadata": {"annotations": {"a": "b"}}}), ANNOTATIONS),
        ("", "merge", annotated("dot-sidecar.io/inject", json!("false")), ANNOTATIONS),
        ("", "merge", annotated("dot-sidecar.io/inject", Value::Null), ANNOTATIONS),
        ("", "merge", json!({"metadata": {"labels": {"app": "web"}}}), LABELS),
        ("", "merge", json!({"metadata": {"ownerReferences": owner}}), OWNER),
        ("", "merge", json!({"metadata": {"finalizers": ["a.example/b"]}}), OWNER),
        ("status", "merge", json!({"status": {"phase": "Failed"}}), "UPDATE of pods/status is not for it"),
        ("ephemeralcontainers", "strategic", ephemeral, "UPDATE of pods/ephemeralcontainers is not for it"),
        ("resize", "strategic", resize, "UPDATE of pods/resize is not for it"),
    ] {
        let said = patch(installed, ACCOUNT, "restored", subresource, kind, &change);
        assert!(said.stderr.contains(words), "{subresource} {change}: {}{}", said.stdout, said.stderr);
    }
    let said =
        installed.kubectl(&format!("--namespace plain exec original -c app --as={ACCOUNT} -- true"), &Value::Null);
    assert!(said.stderr.contains("CONNECT of pods/exec is not for it"), "{}{}", said.stdout, said.stderr);
    let said = installed.kubectl(&format!("create --as={ACCOUNT} -f -"), &asking("probe"));
    assert!(said.stderr.contains("CREATE of pods is not for it"), "{}{}", said.stdout, said.stderr);
    let said = installed.kubectl(&format!("create --as={ACCOUNT} --dry-run=server -f -"), &asking("probe"));
    assert!(said.stdout.contains("created"), "{}", said.stderr);
}

fn an_ephemeral_container_may_do_what_a_container_may(installed: &Installed) {
    let container = |name: &str, fields: Value| {
        let mut container = json!({"name": name, "image": "x"});
        fields.as_object().unwrap().iter().for_each(|(field, value)| container[field] = value.clone());
        json!({"spec": {"ephemeralContainers": [container]}})
    };
    let over = |path: &str| json!({"volumeMounts": [{"name": "dot-sidecar-config", "mountPath": path}]});
    let user = |user: i64| json!({"securityContext": {"runAsUser": user}});
    for (name, fields, refusal) in [
        ("hiding", over("/etc"), Some("hides the resolv.conf")),
        ("same-user", user(64_053), Some("is the user of dot-proxy")),
        ("plain", json!({}), None),
        ("root", user(0), None),
        ("looking", over("/mnt/config"), None),
        ("joining", json!({"targetContainerName": "dot-proxy"}), None),
    ] {
        let said = patch(installed, TENANT, "tampered", "ephemeralcontainers", "strategic", &container(name, fields));
        match refusal {
            Some(words) => assert!(said.stderr.contains(words), "{name}: {}{}", said.stdout, said.stderr),
            None => assert!(said.stdout.contains("patched"), "{name}: {}", said.stderr),
        }
    }
}
