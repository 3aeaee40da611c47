//! What else the API server would say of an injected pod: Pod Security, quotas, LimitRanges, other webhooks. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use serde_json::Value;

use super::resources::Consumer;
use crate::cli::neighbours::Neighbour;
use crate::cli::pod_security::{self, Level};
use crate::manifest::Facts;

/// Something that was foreseen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Prediction {
    /// Whether the pod would be refused, or not do what it is meant to.
    pub(super) is_trouble: bool,
    pub(super) text: String,
}

pub(super) fn fine(text: impl Into<String>) -> Prediction {
    Prediction { is_trouble: false, text: text.into() }
}

pub(super) fn trouble(text: impl Into<String>) -> Prediction {
    Prediction { is_trouble: true, text: text.into() }
}

/// What is foreseen of a pod that has the sidecar, in this namespace.
pub(super) fn of(pod: &Value, namespace: &str, facts: &Facts) -> Vec<Prediction> {
    let limits = facts.limits_of(namespace);
    let consumer = Consumer { pod, limits: &limits };
    let mut found = vec![by_pod_security(pod, facts.labels_of(namespace))];
    for quota in facts.others("ResourceQuota", namespace) {
        found.extend(consumer.by_quota(quota));
    }
    for range in facts.others("LimitRange", namespace) {
        found.extend(consumer.by_limit_range(range));
    }
    let read = |value: &Value| serde_json::from_value::<MutatingWebhookConfiguration>(value.clone()).ok();
    let configurations: Vec<_> = facts.others("MutatingWebhookConfiguration", "").filter_map(read).collect();
    found.extend(by_neighbours(&Neighbour::among(&configurations, "dot-sidecar")));
    found.extend(by_istio(pod));
    found
}

fn by_pod_security(pod: &Value, labels: &BTreeMap<String, String>) -> Prediction {
    let level = match pod_security::enforced(labels) {
        Ok(level) => level,
        Err(error) => return trouble(format!("Pod Security: {error}: correct the namespace's label")),
    };
    let name = match level {
        Level::Privileged => return fine("Pod Security: the namespace enforces nothing"),
        Level::Baseline => "baseline",
        Level::Restricted => "restricted",
    };
    let violations = pod_security::violations(pod, level);
    if violations.is_empty() {
        return fine(format!("Pod Security: {name} lets it through"));
    }
    trouble(format!("Pod Security: {name} would refuse it: {}", violations.join("; ")))
}

fn by_neighbours(neighbours: &[Neighbour]) -> Vec<Prediction> {
    let tell = |neighbour: &Neighbour| {
        let who = neighbour.told();
        if neighbour.is_reinvoked {
            return fine(format!(
                "webhook {who}: is called again after ours (reinvocationPolicy: IfNeeded): if it then puts a container before the sidecar, the chart's policies refuse the pod"
            ));
        }
        fine(format!("webhook {who}: may change the pod; ours is called again, and the sidecar goes first"))
    };
    neighbours.iter().map(tell).collect()
}

/// Istio can answer DNS itself: it then takes queries on their way to the servers in resolv.conf.
fn by_istio(pod: &Value) -> Option<Prediction> {
    let captures = |container: &Value| {
        let env = container["env"].as_array().into_iter().flatten();
        env.into_iter().any(|variable| variable["name"] == "ISTIO_META_DNS_CAPTURE" && variable["value"] == "true")
    };
    let containers = ["initContainers", "containers"].into_iter().filter_map(|field| pod["spec"][field].as_array());
    let by_environment = containers.flatten().any(captures);
    let by_annotation = pod["metadata"]["annotations"]["proxy.istio.io/config"]
        .as_str()
        .is_some_and(|config| config.contains("ISTIO_META_DNS_CAPTURE") && config.contains("true"));
    (by_environment || by_annotation).then(|| {
        trouble(
            "Istio: ISTIO_META_DNS_CAPTURE has Istio's proxy answer DNS in the pod, and ask cluster DNS in clear, past the sidecar: set it to \"false\" for this pod (annotation proxy.istio.io/config)",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Manifest;
    use serde_json::json;

    /// A pod with the sidecar.
    fn pod() -> Value {
        json!({"metadata": {}, "spec": {"initContainers": [{"name": "dot-proxy"}], "containers": [{"name": "app"}]}})
    }

    fn foreseen(pod: &Value, facts: &str) -> Vec<Prediction> {
        of(pod, "shop", Manifest::read(facts, "shop").unwrap().facts())
    }

    fn troubles(pod: &Value, facts: &str) -> String {
        let found = foreseen(pod, facts).into_iter().filter(|prediction| prediction.is_trouble);
        found.map(|prediction| prediction.text).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn quotas_and_limit_ranges_of_the_pods_namespace_are_heeded() {
        let quota = "kind: ResourceQuota\nmetadata: {name: q, namespace: shop}\nspec: {hard: {pods: 0}}\n";
        let range =
            "kind: LimitRange\nmetadata: {name: r, namespace: shop}\nspec: {limits: [{type: Pod, min: {cpu: 1m}}]}\n";
        let told = troubles(&pod(), &format!("{quota}---\n{range}"));
        assert!(told.contains("ResourceQuota q: ") && told.contains("LimitRange r: "), "{told}");
        assert_eq!(troubles(&pod(), &quota.replace("namespace: shop", "namespace: elsewhere")), "");
    }

    #[test]
    fn pod_security_is_that_of_the_namespaces_label() {
        let namespace =
            "kind: Namespace\nmetadata: {name: shop, labels: {pod-security.kubernetes.io/enforce: restricted}}\n";
        assert!(troubles(&pod(), namespace).contains("restricted would refuse it: container dot-proxy has no"));
        assert_eq!(troubles(&pod(), ""), "");
    }

    #[test]
    fn other_webhooks_are_named_and_istios_own_dns_is_a_trouble() {
        let webhook = json!({"kind": "MutatingWebhookConfiguration", "metadata": {"name": "istio-sidecar-injector"}, "webhooks": [{
            "name": "a.example", "admissionReviewVersions": ["v1"], "sideEffects": "None", "clientConfig": {},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}]}]});
        let mut pod = pod();
        let told = |pod: &Value| foreseen(pod, &webhook.to_string());
        assert!(
            told(&pod).iter().any(|prediction| prediction.text.starts_with("webhook istio-sidecar-injector (adds"))
        );
        assert!(told(&pod).iter().all(|prediction| !prediction.is_trouble));
        pod["spec"]["containers"][0]["env"] = json!([{"name": "ISTIO_META_DNS_CAPTURE", "value": "true"}]);
        assert!(told(&pod).iter().any(|prediction| prediction.is_trouble && prediction.text.starts_with("Istio: ")));
    }
}
