//! Pods as the tests write them, and the workloads made of them.

use serde_json::{Value, json};

/// The image of the test pods, from `tests/app`.
pub const APP_IMAGE: &str = "dot-sidecar.local/app:test";
/// The image of the proxy.
pub const PROXY_IMAGE: &str = "dot-sidecar.local/dot-proxy:test";
/// The annotation that asks for the sidecar.
pub const INJECT: &str = "dot-sidecar.io/inject";
/// The annotation that names another upstream.
pub const UPSTREAM: &str = "dot-sidecar.io/upstream";

/// A pod to be created. As it begins it has one container, `app`, which waits, and all that Pod Security `restricted` asks for.
#[derive(Debug, Clone)]
pub struct Pod(Value);

impl Pod {
    /// A pod with one container, `app`, that waits until it is told to end.
    pub fn new(name: &str) -> Self {
        Self(json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name},
            "spec": {
                "terminationGracePeriodSeconds": 2,
                "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
                "containers": [container("app", WAIT)]
            }
        }))
    }

    /// The pod asks for the sidecar.
    #[must_use]
    pub fn annotated(self) -> Self {
        self.annotation(INJECT, "true")
    }

    /// The pod carries this annotation.
    #[must_use]
    pub fn annotation(self, key: &str, value: &str) -> Self {
        self.with(json!({"metadata": {"annotations": {key: value}}}))
    }

    /// The pod carries this label.
    #[must_use]
    pub fn label(self, key: &str, value: &str) -> Self {
        self.with(json!({"metadata": {"labels": {key: value}}}))
    }

    /// The pod has one more init container, an ordinary one, that runs this shell script.
    #[must_use]
    pub fn init(mut self, name: &str, script: &str) -> Self {
        let containers = &mut self.0["spec"]["initContainers"];
        if containers.is_null() {
            *containers = json!([]);
        }
        containers.as_array_mut().expect("a list").push(container(name, script));
        self
    }

    /// The container `app` runs this shell script instead of waiting.
    #[must_use]
    pub fn script(mut self, script: &str) -> Self {
        self.0["spec"]["containers"][0]["args"] = json!([script]);
        self
    }

    /// The container `app` is changed by this merge patch (RFC 7396).
    #[must_use]
    pub fn app(mut self, patch: Value) -> Self {
        merge(&mut self.0["spec"]["containers"][0], &patch);
        self
    }

    /// The pod is changed by this merge patch (RFC 7396).
    #[must_use]
    pub fn with(mut self, patch: Value) -> Self {
        merge(&mut self.0, &patch);
        self
    }

    /// The pod's name.
    pub fn name(&self) -> &str {
        self.0["metadata"]["name"].as_str().expect("every pod here has a name")
    }

    /// The pod as JSON.
    pub fn json(&self) -> &Value {
        &self.0
    }

    /// A Deployment of one such pod.
    pub fn deployment(&self) -> Value {
        self.workload("Deployment", json!({"replicas": 1}))
    }

    /// A StatefulSet of one such pod.
    pub fn stateful_set(&self) -> Value {
        self.workload("StatefulSet", json!({"replicas": 1, "serviceName": self.name()}))
    }

    /// A Job of one such pod, which must not fail.
    pub fn job(&self) -> Value {
        let mut job = json!({
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": self.name()},
            "spec": {"backoffLimit": 0, "template": self.template()}
        });
        merge(&mut job, &json!({"spec": {"template": {"spec": {"restartPolicy": "Never"}}}}));
        job
    }

    fn workload(&self, kind: &str, spec: Value) -> Value {
        let labels = json!({"app": self.name()});
        let mut workload = json!({
            "apiVersion": "apps/v1",
            "kind": kind,
            "metadata": {"name": self.name()},
            "spec": {"selector": {"matchLabels": labels}, "template": self.template()}
        });
        merge(&mut workload, &json!({"spec": {"template": {"metadata": {"labels": labels}}}}));
        merge(&mut workload, &json!({"spec": spec}));
        workload
    }

    fn template(&self) -> Value {
        let mut metadata = self.0["metadata"].clone();
        merge(&mut metadata, &json!({"name": null}));
        json!({"metadata": metadata, "spec": self.0["spec"]})
    }
}

const WAIT: &str = "exec sleep infinity";

fn container(name: &str, script: &str) -> Value {
    json!({
        "name": name,
        "image": APP_IMAGE,
        "imagePullPolicy": "Never",
        "args": [script],
        "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}
    })
}

/// RFC 7396.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let target = target.as_object_mut().expect("made an object above");
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key).or_insert(Value::Null), value);
        }
    }
}
