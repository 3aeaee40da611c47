//! Other webhooks that change pods, and what that means for the sidecar's place. Pure.

use k8s_openapi::api::admissionregistration::v1::{MutatingWebhook, MutatingWebhookConfiguration, RuleWithOperations};
use kube::ResourceExt;

/// A webhook configuration of somebody else that may change pods as they are created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Neighbour {
    /// The MutatingWebhookConfiguration.
    pub(super) name: String,
    /// What it is known to do; empty of those that are not known.
    known: &'static str,
    /// Whether it is called again after ours, so that what it does then is not put right.
    pub(super) is_reinvoked: bool,
}

/// What the widespread ones do with pods, by a part of their names.
const KNOWN: [(&str, &str); 8] = [
    ("istio", "adds init containers and a proxy"),
    ("linkerd", "adds an init container and a proxy"),
    ("vault-agent", "adds an init container and an agent"),
    ("kyverno", "may change anything, by its policies"),
    ("gatekeeper", "may change anything, by its policies"),
    ("opentelemetry", "adds init containers for instrumentation"),
    ("datadog", "adds init containers for instrumentation"),
    ("pod-identity", "adds volumes and environment variables"),
];

impl Neighbour {
    /// Those of somebody else that may see pods.
    pub(super) fn among(configurations: &[MutatingWebhookConfiguration], ours: &str) -> Vec<Self> {
        let others = configurations.iter().filter(|configuration| configuration.name_any() != ours);
        others.filter_map(Self::of).collect()
    }

    fn of(configuration: &MutatingWebhookConfiguration) -> Option<Self> {
        let webhooks: Vec<&MutatingWebhook> =
            configuration.webhooks.iter().flatten().filter(|webhook| sees_pods(webhook)).collect();
        if webhooks.is_empty() {
            return None;
        }
        let name = configuration.name_any();
        let known = KNOWN.iter().find(|(part, _)| name.contains(part)).map_or("", |(_, known)| *known);
        let is_reinvoked = webhooks.iter().any(|webhook| webhook.reinvocation_policy.as_deref() == Some("IfNeeded"));
        Some(Self { name, known, is_reinvoked })
    }

    /// Its name, and what it is known to do.
    pub(super) fn told(&self) -> String {
        if self.known.is_empty() { self.name.clone() } else { format!("{} ({})", self.name, self.known) }
    }
}

fn sees_pods(webhook: &MutatingWebhook) -> bool {
    let any = |list: &Option<Vec<String>>, wanted: &str| {
        list.iter().flatten().any(|listed| listed == "*" || listed == "*/*" || listed == wanted)
    };
    let sees = |rule: &RuleWithOperations| {
        any(&rule.api_groups, "") && any(&rule.resources, "pods") && any(&rule.operations, "CREATE")
    };
    webhook.rules.iter().flatten().any(sees)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn configuration(name: &str, rule: &Value, reinvocation: &str) -> MutatingWebhookConfiguration {
        serde_json::from_value(json!({"metadata": {"name": name}, "webhooks": [{
            "name": "a.example", "admissionReviewVersions": ["v1"], "sideEffects": "None", "clientConfig": {},
            "rules": [rule], "reinvocationPolicy": reinvocation,
        }]}))
        .unwrap()
    }

    #[test]
    fn those_that_see_pods_are_named_with_what_they_are_known_for() {
        let pods = json!({"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]});
        let all = json!({"apiGroups": ["*"], "apiVersions": ["*"], "operations": ["*"], "resources": ["*/*"]});
        let deployments =
            json!({"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["*"]});
        let updates =
            json!({"apiGroups": [""], "apiVersions": ["v1"], "operations": ["UPDATE"], "resources": ["pods"]});
        let found = Neighbour::among(
            &[
                configuration("dot-sidecar", &pods, "IfNeeded"),
                configuration("istio-sidecar-injector", &pods, "Never"),
                configuration("deployments", &deployments, "Never"),
                configuration("updates", &updates, "Never"),
                configuration("zeal", &all, "IfNeeded"),
            ],
            "dot-sidecar",
        );
        let told: Vec<_> = found.iter().map(|neighbour| (neighbour.told(), neighbour.is_reinvoked)).collect();
        let istio = "istio-sidecar-injector (adds init containers and a proxy)".to_owned();
        assert_eq!(told, [(istio, false), ("zeal".to_owned(), true)]);
    }
}
