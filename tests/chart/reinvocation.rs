//! Other webhooks beside ours: when one of them changes the pod after us we are called again, put ourselves back to the first place and
//! change nothing else. Whoever comes last and undoes it is stopped by the policies.

use serde_json::{Value, json};

use crate::gate::pod;
use crate::installed::Installed;

/// Another mutation, which the API server itself does: by a policy, as a mesh's webhook would, before or after ours.
fn mutation(name: &str, reinvocation: &str, patches: &str) -> [Value; 2] {
    let policy = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicy", "metadata": {"name": name},
        "spec": {"failurePolicy": "Fail", "reinvocationPolicy": reinvocation,
            "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}]},
            "matchConditions": [{"name": "wanted", "expression": format!("has(object.metadata.labels) && '{name}' in object.metadata.labels")}],
            "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": patches}}]}});
    let binding = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicyBinding", "metadata": {"name": name},
        "spec": {"policyName": name}});
    [policy, binding]
}

fn marked(name: &str, label: &str) -> Value {
    let mut pod = pod(
        name,
        "plain",
        &json!({"dot-sidecar.io/inject": "true"}),
        &json!({"initContainers": [{"name": "init", "image": "i"}]}),
    );
    pod["metadata"]["labels"] = json!({label: "yes"});
    pod
}

fn names(pod: &Value) -> Vec<String> {
    let containers = pod["spec"]["initContainers"].as_array().unwrap();
    containers.iter().map(|container| container["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn we_go_back_to_the_first_place_when_another_comes_after_us_and_nobody_undoes_it() {
    let installed = Installed::with_injector("reinvocation", &[]);
    // Ours has run when these see the pod: policies come before webhooks, and are called again after them.
    let ours_is_there = "object.spec.?initContainers.orValue([]).exists(c, c.name == 'dot-proxy')";
    let mesh = |container: &str| {
        format!(
            "{ours_is_there} && !object.spec.initContainers.exists(c, c.name == 'mesh') ? [JSONPatch{{op: 'add', path: '/spec/initContainers/0', value: Object.spec.initContainers{{{container}}}}}] : []"
        )
    };
    let documents = [
        mutation("mesh", "IfNeeded", &mesh("name: 'mesh', image: 'mesh', restartPolicy: 'Always'")),
        mutation("init", "IfNeeded", &mesh("name: 'mesh', image: 'mesh'")),
        mutation(
            "thief",
            "IfNeeded",
            &format!(
                "{ours_is_there} && 'stolen' in object.metadata.?annotations.orValue({{}}) ? [JSONPatch{{op: 'remove', path: '/spec/initContainers/0'}}] : []"
            ),
        ),
        mutation(
            "leak",
            "IfNeeded",
            "object.spec.dnsPolicy == 'None' ? [JSONPatch{op: 'add', path: '/spec/dnsConfig/nameservers', value: ['127.0.0.1', '192.0.2.1']}] : []",
        ),
    ];
    installed.apply(&documents.concat());
    for label in ["mesh", "init"] {
        let canary = marked("canary", label);
        installed.until_said("mesh", "create --dry-run=server -o json -f -", &canary);
    }
    let alone = created(
        &installed,
        &pod(
            "alone",
            "plain",
            &json!({"dot-sidecar.io/inject": "true"}),
            &json!({"initContainers": [{"name": "init", "image": "i"}]}),
        ),
    );
    for label in ["mesh", "init"] {
        let stored = created(&installed, &marked(label, label));
        assert_eq!(names(&stored), ["dot-proxy", "mesh", "init"], "{label}");
        for part in ["/spec/initContainers/0", "/spec/dnsConfig", "/spec/securityContext", "/metadata/annotations"] {
            assert_eq!(stored.pointer(part), alone.pointer(part), "{label}: {part}");
        }
        assert_eq!(stored["spec"]["containers"][0]["image"], alone["spec"]["containers"][0]["image"]);
    }
    let said = installed.kubectl("create -f -", &marked("leak", "leak"));
    assert!(
        said.stderr.contains("127.0.0.1 alone") || said.stderr.contains("spec.dnsPolicy: None"),
        "{}{}",
        said.stdout,
        said.stderr
    );
}

fn created(installed: &Installed, pod: &Value) -> Value {
    let said = installed.kubectl("create -f -", pod);
    assert!(said.stdout.contains("created"), "{}", said.stderr);
    let mut stored = installed.pod("plain", pod["metadata"]["name"].as_str().unwrap());
    // The volume of the token has a name by chance.
    for container in stored["spec"]["initContainers"].as_array_mut().unwrap() {
        if let Some(mounts) = container.get_mut("volumeMounts").and_then(Value::as_array_mut) {
            mounts.retain(|mount| !mount["name"].as_str().unwrap().starts_with("kube-api"));
        }
    }
    stored
}
