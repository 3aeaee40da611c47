//! What else the API server would say of an injected pod: Pod Security, quotas, LimitRanges, other webhooks. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use serde_json::Value;

use crate::cli::neighbours::Neighbour;
use crate::cli::pod_security::{self, Level};
use crate::limits::ContainerLimits;
use crate::manifest::Facts;
use crate::quantity::Quantity;

/// Something that was foreseen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Prediction {
    /// Whether the pod would be refused, or not do what it is meant to.
    pub(super) is_trouble: bool,
    pub(super) text: String,
}

fn fine(text: impl Into<String>) -> Prediction {
    Prediction { is_trouble: false, text: text.into() }
}

fn trouble(text: impl Into<String>) -> Prediction {
    Prediction { is_trouble: true, text: text.into() }
}

/// What is foreseen of a pod that has the sidecar, in this namespace.
pub(super) fn of(pod: &Value, namespace: &str, facts: &Facts) -> Vec<Prediction> {
    let limits = facts.limits_of(namespace);
    let mut found = vec![by_pod_security(pod, facts.labels_of(namespace))];
    for quota in facts.others("ResourceQuota", namespace) {
        found.extend(by_quota(pod, quota, &limits));
    }
    for range in facts.others("LimitRange", namespace) {
        found.extend(by_limit_range(pod, range, &limits));
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

/// The containers that run at the same time, and those that run before them.
struct Containers<'a> {
    together: Vec<&'a Value>,
    first: Vec<&'a Value>,
}

impl<'a> Containers<'a> {
    fn of(pod: &'a Value) -> Self {
        let list = |field: &str| pod["spec"][field].as_array().into_iter().flatten();
        let (sidecars, first): (Vec<_>, Vec<_>) =
            list("initContainers").partition(|container| container["restartPolicy"] == "Always");
        Self { together: sidecars.into_iter().chain(list("containers")).collect(), first }
    }

    fn all(&self) -> impl Iterator<Item = &'a Value> {
        self.together.iter().chain(&self.first).copied()
    }

    /// What the pod counts for, as the scheduler and quotas count it: what runs together, or the largest that runs before.
    fn total(&self, kind: &str, resource: &str, limits: &ContainerLimits) -> Quantity {
        let of = |container: &Value| amount(container, kind, resource, limits).unwrap_or(Quantity::ZERO);
        let together = self.together.iter().fold(Quantity::ZERO, |sum, container| sum.plus(of(container)));
        self.first.iter().map(|container| of(container)).chain([together]).max().unwrap_or(Quantity::ZERO)
    }
}

/// What a container requests or may use, the namespace's defaults included.
fn amount(container: &Value, kind: &str, resource: &str, limits: &ContainerLimits) -> Option<Quantity> {
    let bounds = limits.of(resource);
    let written = |kind: &str| -> Option<Quantity> {
        serde_json::from_value(container["resources"][kind].get(resource)?.clone()).ok()
    };
    match kind {
        "limits" => written("limits").or(bounds.default_limit),
        // A request that is left out is the limit that was written.
        _ => written("requests").or_else(|| written("limits")).or(bounds.default_request).or(bounds.default_limit),
    }
}

fn name(value: &Value) -> &str {
    value["name"].as_str().or_else(|| value["metadata"]["name"].as_str()).unwrap_or_default()
}

fn by_quota(pod: &Value, quota: &Value, limits: &ContainerLimits) -> Vec<Prediction> {
    let (quota_name, containers) = (name(quota), Containers::of(pod));
    let is_scoped = !quota["spec"]["scopes"].is_null() || !quota["spec"]["scopeSelector"].is_null();
    if is_scoped {
        return vec![fine(format!("ResourceQuota {quota_name}: has scopes, and is not looked at"))];
    }
    let mut found = Vec::new();
    for (key, hard) in quota["spec"]["hard"].as_object().into_iter().flatten() {
        let Ok(hard) = serde_json::from_value::<Quantity>(hard.clone()) else { continue };
        let (kind, resource) = match key.as_str() {
            "cpu" | "memory" | "ephemeral-storage" => ("requests", key.as_str()),
            _ => match key.split_once('.') {
                Some((kind @ ("requests" | "limits"), resource @ ("cpu" | "memory" | "ephemeral-storage"))) => {
                    (kind, resource)
                }
                _ => continue,
            },
        };
        let without: Vec<&str> = containers
            .all()
            .filter(|container| amount(container, kind, resource, limits).is_none())
            .map(name)
            .collect();
        if !without.is_empty() {
            let who = without.join(", ");
            found.push(trouble(format!(
                "ResourceQuota {quota_name}: demands {key} of every container, and {who} has none: write resources.{kind}.{resource}"
            )));
            continue;
        }
        let total = containers.total(kind, resource, limits);
        let used = &quota["status"]["used"][key];
        let used = serde_json::from_value::<Quantity>(used.clone()).unwrap_or(Quantity::ZERO);
        if used.plus(total) > hard {
            found.push(trouble(format!(
                "ResourceQuota {quota_name}: the pod counts for {total} of {key}, {used} of {hard} are used: it would be refused"
            )));
        }
    }
    if found.is_empty() {
        found.push(fine(format!("ResourceQuota {quota_name}: has room for it")));
    }
    found
}

fn by_limit_range(pod: &Value, range: &Value, limits: &ContainerLimits) -> Vec<Prediction> {
    let (range_name, containers) = (name(range), Containers::of(pod));
    let mut found = Vec::new();
    for item in range["spec"]["limits"].as_array().into_iter().flatten() {
        let bounds = |field: &'static str| {
            let map = item[field].as_object().into_iter().flatten();
            map.filter_map(|(resource, bound)| {
                Some((resource.as_str(), serde_json::from_value::<Quantity>(bound.clone()).ok()?))
            })
        };
        for (field, kind) in [("max", "limits"), ("min", "requests")] {
            let breaks =
                |amount: Quantity, bound: Quantity| if field == "max" { amount > bound } else { amount < bound };
            for (resource, bound) in bounds(field) {
                let amounts: Vec<(String, Option<Quantity>)> = match item["type"].as_str() {
                    Some("Pod") => vec![("the pod".to_owned(), Some(containers.total(kind, resource, limits)))],
                    Some("Container") => containers
                        .all()
                        .map(|container| {
                            (format!("container {}", name(container)), amount(container, kind, resource, limits))
                        })
                        .collect(),
                    _ => continue,
                };
                for (who, amount) in amounts {
                    match amount {
                        Some(amount) if breaks(amount, bound) => found.push(trouble(format!(
                            "LimitRange {range_name}: {who} has {kind}.{resource} {amount}, and the {field} is {bound}: it would be refused"
                        ))),
                        None if field == "max" => found.push(trouble(format!(
                            "LimitRange {range_name}: {who} has no {kind}.{resource}, which its {field} demands: it would be refused"
                        ))),
                        _ => {}
                    }
                }
            }
        }
    }
    if found.is_empty() {
        found.push(fine(format!("LimitRange {range_name}: lets it through")));
    }
    found
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
    let containers = Containers::of(pod);
    let captures = |container: &Value| {
        let env = container["env"].as_array().into_iter().flatten();
        env.into_iter().any(|variable| variable["name"] == "ISTIO_META_DNS_CAPTURE" && variable["value"] == "true")
    };
    let by_environment = containers.all().any(captures);
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

    /// A pod with the sidecar, and one container of these resources.
    fn pod(resources: &Value) -> Value {
        json!({"metadata": {}, "spec": {
            "initContainers": [
                {"name": "dot-proxy", "restartPolicy": "Always", "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "64Mi"}}},
                {"name": "migrate", "resources": {"requests": {"cpu": "200m", "memory": "1Mi"}}},
            ],
            "containers": [{"name": "app", "resources": resources}],
        }})
    }

    fn foreseen(pod: &Value, facts: &str) -> Vec<Prediction> {
        of(pod, "shop", Manifest::read(facts, "shop").unwrap().facts())
    }

    fn troubles(pod: &Value, facts: &str) -> String {
        let found = foreseen(pod, facts).into_iter().filter(|prediction| prediction.is_trouble);
        found.map(|prediction| prediction.text).collect::<Vec<_>>().join("\n")
    }

    fn quota(hard: &str, used: &str) -> String {
        format!(
            "kind: ResourceQuota\nmetadata: {{name: q, namespace: shop}}\nspec: {{hard: {{{hard}}}}}\nstatus: {{used: {{{used}}}}}\n"
        )
    }

    fn limit_range(item: &str) -> String {
        format!("kind: LimitRange\nmetadata: {{name: r, namespace: shop}}\nspec: {{limits: [{{{item}}}]}}\n")
    }

    #[test]
    fn a_quota_counts_what_runs_together_or_the_largest_before() {
        let pod = pod(&json!({"requests": {"cpu": "100m", "memory": "100Mi"}}));
        assert_eq!(troubles(&pod, &quota("requests.cpu: 200m, requests.memory: 132Mi", "")), "");
        assert!(troubles(&pod, &quota("cpu: 199m", "")).contains("counts for 200m of cpu"));
        assert!(
            troubles(&pod, &quota("requests.memory: 1Gi", "requests.memory: 1000Mi"))
                .contains("1000Mi of 1Gi are used")
        );
        assert_eq!(troubles(&pod, &quota("pods: 1, count/secrets: 1, requests.storage: 1", "pods: 1")), "");
    }

    #[test]
    fn a_quota_demands_of_every_container_what_it_counts_unless_a_limit_range_gives_it() {
        let pod = pod(&json!({}));
        assert!(troubles(&pod, &quota("limits.memory: 1Gi", "")).contains("app, migrate has none"));
        let defaults = limit_range("type: Container, default: {memory: 10Mi}");
        assert_eq!(troubles(&pod, &format!("{}---\n{defaults}", quota("limits.memory: 1Gi", ""))), "");
        let scoped = "kind: ResourceQuota\nmetadata: {name: q, namespace: shop}\nspec: {scopes: [BestEffort], hard: {limits.cpu: 1}}\n";
        assert_eq!(troubles(&pod, scoped), "");
    }

    #[test]
    fn limit_ranges_bound_containers_and_whole_pods() {
        let pod = pod(&json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "1"}}));
        assert!(
            troubles(&pod, &limit_range("type: Container, max: {cpu: 500m}"))
                .contains("container app has limits.cpu 1, and the max is 500m")
        );
        assert!(troubles(&pod, &limit_range("type: Pod, min: {cpu: 300m}")).contains("the pod has requests.cpu 200m"));
        assert_eq!(troubles(&pod, &limit_range("type: Pod, max: {cpu: 2}")), "");
        assert_eq!(troubles(&pod, &limit_range("type: PersistentVolumeClaim, max: {storage: 1Gi}")), "");
    }

    #[test]
    fn pod_security_is_that_of_the_namespaces_label() {
        let namespace =
            "kind: Namespace\nmetadata: {name: shop, labels: {pod-security.kubernetes.io/enforce: restricted}}\n";
        assert!(
            troubles(&pod(&json!({})), namespace).contains("restricted would refuse it: container dot-proxy has no")
        );
        assert_eq!(troubles(&pod(&json!({})), ""), "");
    }

    #[test]
    fn other_webhooks_are_named_and_istios_own_dns_is_a_trouble() {
        let webhook = json!({"kind": "MutatingWebhookConfiguration", "metadata": {"name": "istio-sidecar-injector"}, "webhooks": [{
            "name": "a.example", "admissionReviewVersions": ["v1"], "sideEffects": "None", "clientConfig": {},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}]}]});
        let mut pod = pod(&json!({}));
        let told = |pod: &Value| foreseen(pod, &webhook.to_string());
        assert!(
            told(&pod).iter().any(|prediction| prediction.text.starts_with("webhook istio-sidecar-injector (adds"))
        );
        assert!(told(&pod).iter().all(|prediction| !prediction.is_trouble));
        pod["spec"]["containers"][0]["env"] = json!([{"name": "ISTIO_META_DNS_CAPTURE", "value": "true"}]);
        assert!(told(&pod).iter().any(|prediction| prediction.is_trouble && prediction.text.starts_with("Istio: ")));
    }
}
