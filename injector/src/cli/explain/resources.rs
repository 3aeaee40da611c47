//! Whether the ResourceQuotas and LimitRanges of a namespace would refuse a pod, as the API server counts its resources. Pure.

use serde_json::Value;

use super::predict::{Prediction, fine, trouble};
use crate::limits::ContainerLimits;
use crate::quantity::Quantity;

/// What a quota demands of every container, if it counts it; of other resources what is left out counts for nothing.
const DEMANDED: [&str; 2] = ["cpu", "memory"];
/// What a quota counts of pods' containers.
const COUNTED: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

/// A pod, and what its namespace gives to containers that say nothing.
#[derive(Clone, Copy)]
pub(super) struct Consumer<'a> {
    pub(super) pod: &'a Value,
    pub(super) limits: &'a ContainerLimits,
}

/// One bound of a LimitRange for one resource.
struct Bound<'a> {
    /// `min`, `max` or `maxLimitRequestRatio`.
    field: &'static str,
    resource: &'a str,
    bound: Quantity,
}

fn list<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    value[field].as_array().into_iter().flatten()
}

fn quantity(value: &Value) -> Option<Quantity> {
    serde_json::from_value(value.clone()).ok()
}

fn name(value: &Value) -> &str {
    value["name"].as_str().or_else(|| value["metadata"]["name"].as_str()).unwrap_or_default()
}

fn is_sidecar(container: &Value) -> bool {
    container["restartPolicy"] == "Always"
}

impl<'a> Consumer<'a> {
    fn containers(self) -> impl Iterator<Item = &'a Value> {
        ["initContainers", "containers"].into_iter().flat_map(move |field| list(&self.pod["spec"], field))
    }

    /// What a container requests or may use (`requests` or `limits`), with what its namespace gives it.
    fn of_container(self, container: &Value, kind: &str, resource: &str) -> Option<Quantity> {
        let written = |kind: &str| quantity(&container["resources"][kind][resource]);
        let bounds = self.limits.of(resource);
        // The API server fills in a LimitRange's defaults from its bounds.
        let limit_given = bounds.default_limit.or(bounds.max);
        match kind {
            "limits" => written("limits").or(limit_given),
            // A request that is left out is the limit that was written.
            _ => written("requests")
                .or_else(|| written("limits"))
                .or(bounds.default_request)
                .or(limit_given)
                .or(bounds.min),
        }
    }

    /// What the pod counts for, as the scheduler, quotas and LimitRanges count it: what runs together, or the most that runs while it
    /// starts. The sidecars among its init containers run beside those behind them.
    fn of_pod(self, kind: &str, resource: &str) -> Option<Quantity> {
        let spec = &self.pod["spec"];
        let of_whole = |kind: &str| quantity(&spec["resources"][kind][resource]);
        let all = of_whole(kind).or_else(|| self.of_containers(kind, resource)).or_else(|| of_whole("limits"))?;
        Some(quantity(&spec["overhead"][resource]).map_or(all, |overhead| all.plus(overhead)))
    }

    fn of_containers(self, kind: &str, resource: &str) -> Option<Quantity> {
        let amount = |container: &Value| self.of_container(container, kind, resource);
        if self.containers().all(|container| amount(container).is_none()) {
            return None;
        }
        let amount = |container: &Value| amount(container).unwrap_or(Quantity::ZERO);
        let (mut sidecars, mut most) = (Quantity::ZERO, Quantity::ZERO);
        for container in list(&self.pod["spec"], "initContainers") {
            let meanwhile = sidecars.plus(amount(container));
            if is_sidecar(container) {
                sidecars = meanwhile;
            }
            most = most.max(meanwhile);
        }
        let together =
            list(&self.pod["spec"], "containers").fold(sidecars, |sum, container| sum.plus(amount(container)));
        Some(most.max(together))
    }

    /// Whether no container requests any CPU or memory, nor has a limit of it.
    fn is_best_effort(self) -> bool {
        DEMANDED
            .into_iter()
            .all(|resource| self.of_pod("requests", resource).is_none_or(|amount| amount == Quantity::ZERO))
    }

    /// Whether a quota counts this pod; nothing if that cannot be told.
    fn is_counted_by(self, quota: &Value) -> Option<bool> {
        if !quota["spec"]["scopeSelector"].is_null() {
            return None;
        }
        let has_deadline = !self.pod["spec"]["activeDeadlineSeconds"].is_null();
        list(&quota["spec"], "scopes").try_fold(true, |so_far, scope| {
            let is_in = match scope.as_str()? {
                "BestEffort" => self.is_best_effort(),
                "NotBestEffort" => !self.is_best_effort(),
                "Terminating" => has_deadline,
                "NotTerminating" => !has_deadline,
                _ => return None,
            };
            Some(so_far && is_in)
        })
    }

    pub(super) fn by_quota(self, quota: &Value) -> Vec<Prediction> {
        let quota_name = name(quota);
        match self.is_counted_by(quota) {
            Some(true) => {}
            Some(false) => return vec![fine(format!("ResourceQuota {quota_name}: does not count such pods (scopes)"))],
            None => return vec![fine(format!("ResourceQuota {quota_name}: has a scope that is not looked at"))],
        }
        let hard = quota["spec"]["hard"].as_object().into_iter().flatten();
        let mut found: Vec<Prediction> = hard
            .filter_map(|(key, hard)| {
                let used = quantity(&quota["status"]["used"][key]).unwrap_or(Quantity::ZERO);
                let told = self.by_quota_of(key, quantity(hard)?, used)?;
                Some(trouble(format!("ResourceQuota {quota_name}: {told}")))
            })
            .collect();
        if found.is_empty() {
            found.push(fine(format!("ResourceQuota {quota_name}: has room for it")));
        }
        found
    }

    /// Why a quota of one resource would refuse the pod.
    fn by_quota_of(self, key: &str, hard: Quantity, used: Quantity) -> Option<String> {
        let total = match key {
            "pods" | "count/pods" => Quantity::ONE,
            _ => {
                let (kind, resource) = key.split_once('.').unwrap_or(("requests", key));
                if !matches!(kind, "requests" | "limits") || !COUNTED.contains(&resource) {
                    return None;
                }
                let is_without = |container: &&Value| self.of_container(container, kind, resource).is_none();
                let without: Vec<&str> = self.containers().filter(is_without).map(name).collect();
                let of_whole = quantity(&self.pod["spec"]["resources"][kind][resource]);
                if DEMANDED.contains(&resource) && of_whole.is_none() && !without.is_empty() {
                    let who = without.join(", ");
                    return Some(format!(
                        "demands {key} of every container, and {who} has none: write resources.{kind}.{resource}"
                    ));
                }
                self.of_pod(kind, resource).unwrap_or(Quantity::ZERO)
            }
        };
        (used.plus(total) > hard)
            .then(|| format!("the pod counts for {total} of {key}, {used} of {hard} are used: it would be refused"))
    }

    pub(super) fn by_limit_range(self, range: &Value) -> Vec<Prediction> {
        let range_name = name(range);
        let mut found = Vec::new();
        for item in list(&range["spec"], "limits") {
            for bound in bounds(item) {
                let mut check = |who: &str, request: Option<Quantity>, limit: Option<Quantity>| {
                    if let Some(why) = bound.broken_by(request, limit) {
                        found.push(trouble(format!("LimitRange {range_name}: {who} {why}: it would be refused")));
                    }
                };
                match item["type"].as_str() {
                    Some("Pod") => {
                        check(
                            "the pod",
                            self.of_pod("requests", bound.resource),
                            self.of_pod("limits", bound.resource),
                        );
                    }
                    Some("Container") => self.containers().for_each(|container| {
                        let amount = |kind| self.of_container(container, kind, bound.resource);
                        check(&format!("container {}", name(container)), amount("requests"), amount("limits"));
                    }),
                    _ => {}
                }
            }
        }
        if found.is_empty() {
            found.push(fine(format!("LimitRange {range_name}: lets it through")));
        }
        found
    }
}

fn bounds(item: &Value) -> impl Iterator<Item = Bound<'_>> {
    ["min", "max", "maxLimitRequestRatio"].into_iter().flat_map(|field| {
        let map = item[field].as_object().into_iter().flatten();
        map.filter_map(move |(resource, bound)| Some(Bound { field, resource, bound: quantity(bound)? }))
    })
}

impl Bound<'_> {
    /// Why these are out of bounds.
    fn broken_by(&self, request: Option<Quantity>, limit: Option<Quantity>) -> Option<String> {
        let Self { field, resource, bound } = self;
        let without = |kind: &str| Some(format!("has no {kind}.{resource}, which {field} demands"));
        let beyond =
            |kind: &str, amount: Quantity| Some(format!("has {kind}.{resource} {amount}, and {field} is {bound}"));
        match (*field, request, limit) {
            ("min", None, _) | ("maxLimitRequestRatio", None, _) => without("requests"),
            ("max" | "maxLimitRequestRatio", _, None) => without("limits"),
            ("min", Some(request), _) if request < *bound => beyond("requests", request),
            ("min", _, Some(limit)) if limit < *bound => beyond("limits", limit),
            ("max", _, Some(limit)) if limit > *bound => beyond("limits", limit),
            ("max", Some(request), _) if request > *bound => beyond("requests", request),
            ("maxLimitRequestRatio", Some(request), Some(limit))
                if limit.divided_by(*bound, Quantity::LEAST) > request =>
            {
                Some(format!("has limits.{resource} {limit} for requests.{resource} {request}, and {field} is {bound}"))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A pod with the sidecar, an init container, and one container of these resources.
    fn pod(resources: &Value) -> Value {
        json!({"metadata": {}, "spec": {
            "initContainers": [
                {"name": "dot-proxy", "restartPolicy": "Always", "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "64Mi"}}},
                {"name": "migrate", "resources": {"requests": {"cpu": "200m", "memory": "1Mi"}}},
            ],
            "containers": [{"name": "app", "resources": resources}],
        }})
    }

    fn texts(found: Vec<Prediction>) -> String {
        let troubles = found.into_iter().filter(|prediction| prediction.is_trouble);
        troubles.map(|prediction| prediction.text).collect::<Vec<_>>().join("\n")
    }

    fn by_quota(pod: &Value, spec: &Value, used: &Value) -> String {
        let quota = json!({"metadata": {"name": "q"}, "spec": spec, "status": {"used": used}});
        texts(Consumer { pod, limits: &ContainerLimits::default() }.by_quota(&quota))
    }

    /// With the defaults that the same LimitRange gives.
    fn by_limit_range(pod: &Value, item: &Value) -> String {
        let range = json!({"metadata": {"name": "r"}, "spec": {"limits": [item]}});
        let mut limits = ContainerLimits::default();
        limits.add(&range).unwrap();
        texts(Consumer { pod, limits: &limits }.by_limit_range(&range))
    }

    #[test]
    fn a_pod_counts_for_what_runs_together_or_for_the_most_while_it_starts() {
        let (mut pod, none) = (pod(&json!({"requests": {"cpu": "100m", "memory": "100Mi"}})), json!({}));
        let quota = |pod: &Value, hard: Value| by_quota(pod, &json!({"hard": hard}), &none);
        // migrate runs beside the sidecar before it.
        assert_eq!(quota(&pod, json!({"requests.cpu": "210m", "requests.memory": "132Mi"})), "");
        assert!(quota(&pod, json!({"cpu": "209m"})).contains("counts for 210m of cpu"));
        pod["spec"]["overhead"] = json!({"cpu": "1m"});
        assert!(quota(&pod, json!({"cpu": "210m"})).contains("counts for 211m of cpu"));
        pod["spec"]["resources"] = json!({"requests": {"cpu": "50m"}});
        assert_eq!(quota(&pod, json!({"cpu": "51m"})), "", "what is said of the whole pod counts alone");
    }

    #[test]
    fn what_others_have_used_of_a_quota_is_not_there_any_more() {
        let pod = pod(&json!({"requests": {"cpu": "100m", "memory": "100Mi"}}));
        let hard = json!({"hard": {"requests.memory": "1Gi"}});
        assert!(by_quota(&pod, &hard, &json!({"requests.memory": "1000Mi"})).contains("1000Mi of 1Gi are used"));
        assert!(
            by_quota(&pod, &json!({"hard": {"pods": "1"}}), &json!({"pods": "1"})).contains("counts for 1 of pods")
        );
        assert_eq!(by_quota(&pod, &json!({"hard": {"count/secrets": "1", "requests.storage": "1"}}), &json!({})), "");
    }

    #[test]
    fn a_quota_demands_of_every_container_the_cpu_and_memory_that_it_counts() {
        let (pod, none) = (pod(&json!({})), json!({}));
        let limits = by_quota(&pod, &json!({"hard": {"limits.memory": "1Gi"}}), &none);
        assert!(limits.contains("migrate, app has none"), "{limits}");
        assert_eq!(by_quota(&pod, &json!({"hard": {"limits.ephemeral-storage": "1Gi"}}), &none), "");
        let mut given = ContainerLimits::default();
        given.add(&json!({"spec": {"limits": [{"type": "Container", "default": {"memory": "10Mi"}}]}})).unwrap();
        let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"limits.memory": "1Gi"}}});
        assert_eq!(texts(Consumer { pod: &pod, limits: &given }.by_quota(&quota)), "");
    }

    #[test]
    fn a_quota_counts_the_pods_of_its_scopes() {
        let none = json!({});
        let scoped = |scope: &str| by_quota(&pod(&none), &json!({"scopes": [scope], "hard": {"pods": "0"}}), &none);
        assert_eq!(scoped("BestEffort"), "", "the sidecar requests something");
        assert_eq!(scoped("Terminating"), "");
        assert_eq!(scoped("PriorityClass"), "");
        assert!(
            scoped("NotBestEffort").contains("would be refused")
                && scoped("NotTerminating").contains("would be refused")
        );
    }

    #[test]
    fn limit_ranges_bound_containers_and_whole_pods() {
        let pod = pod(&json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "1"}}));
        let found = by_limit_range(&pod, &json!({"type": "Container", "max": {"cpu": "500m"}}));
        assert!(found.contains("container app has limits.cpu 1, and max is 500m"), "{found}");
        let found = by_limit_range(&pod, &json!({"type": "Pod", "min": {"cpu": "300m"}}));
        assert!(found.contains("the pod has requests.cpu 210m"), "{found}");
        assert_eq!(by_limit_range(&pod, &json!({"type": "Pod", "max": {"cpu": "2"}})), "");
        let found = by_limit_range(&pod, &json!({"type": "Pod", "max": {"ephemeral-storage": "1Gi"}}));
        assert!(found.contains("the pod has no limits.ephemeral-storage"), "{found}");
        let found = by_limit_range(&pod, &json!({"type": "Container", "maxLimitRequestRatio": {"cpu": "9"}}));
        assert!(found.contains("container app has limits.cpu 1 for requests.cpu 100m"), "{found}");
        assert!(found.contains("container dot-proxy has no limits.cpu"), "{found}");
        assert_eq!(by_limit_range(&pod, &json!({"type": "PersistentVolumeClaim", "max": {"storage": "1Gi"}})), "");
    }

    #[test]
    fn a_limit_range_gives_what_it_demands_to_containers_that_say_nothing() {
        assert_eq!(
            by_limit_range(&pod(&json!({})), &json!({"type": "Container", "max": {"cpu": "1"}, "min": {"cpu": "1m"}})),
            ""
        );
    }
}
