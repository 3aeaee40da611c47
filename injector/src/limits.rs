//! What the LimitRanges of a namespace demand of every container.

mod watched;

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::quantity::Quantity;

pub use watched::LimitRanges;

/// The bounds for one resource of a container; the tightest, where a namespace has several LimitRanges.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bounds {
    /// The least request and limit.
    pub min: Option<Quantity>,
    /// The largest request and limit; a limit must be given.
    pub max: Option<Quantity>,
    /// The limit of containers that give none.
    pub default_limit: Option<Quantity>,
    /// The request of containers that give none.
    pub default_request: Option<Quantity>,
    /// The largest limit per request; both must be given.
    pub max_ratio: Option<Quantity>,
}

/// The bounds for each resource of the containers of a namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerLimits(BTreeMap<String, Bounds>);

#[derive(Deserialize)]
struct LimitRange {
    spec: Option<Spec>,
}

#[derive(Deserialize)]
struct Spec {
    limits: Option<Vec<Item>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Item {
    #[serde(rename = "type")]
    kind: String,
    min: BTreeMap<String, Quantity>,
    max: BTreeMap<String, Quantity>,
    default: BTreeMap<String, Quantity>,
    default_request: BTreeMap<String, Quantity>,
    max_limit_request_ratio: BTreeMap<String, Quantity>,
}

impl ContainerLimits {
    /// Adds what one LimitRange demands. The error names the field that cannot be read.
    pub fn add(&mut self, limit_range: &Value) -> Result<(), String> {
        let limit_range: LimitRange = serde_path_to_error::deserialize(limit_range)
            .map_err(|error| format!("LimitRange: {}: {}", error.path(), error.inner()))?;
        let items = limit_range.spec.and_then(|spec| spec.limits).unwrap_or_default();
        for item in items.into_iter().filter(|item| item.kind == "Container") {
            self.merge(item.min, |bounds| &mut bounds.min, Ord::max);
            self.merge(item.max, |bounds| &mut bounds.max, Ord::min);
            self.merge(item.default, |bounds| &mut bounds.default_limit, Ord::min);
            self.merge(item.default_request, |bounds| &mut bounds.default_request, Ord::min);
            self.merge(item.max_limit_request_ratio, |bounds| &mut bounds.max_ratio, Ord::min);
        }
        Ok(())
    }

    /// What is demanded of one resource.
    pub fn of(&self, resource: &str) -> Bounds {
        self.0.get(resource).copied().unwrap_or_default()
    }

    fn merge(
        &mut self,
        values: BTreeMap<String, Quantity>,
        field: impl Fn(&mut Bounds) -> &mut Option<Quantity>,
        tighter: impl Fn(Quantity, Quantity) -> Quantity,
    ) {
        for (resource, value) in values {
            let slot = field(self.0.entry(resource).or_default());
            *slot = Some(slot.map_or(value, |earlier| tighter(earlier, value)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn of_several_limit_ranges_the_tightest_bounds_hold() {
        let mut limits = ContainerLimits::default();
        limits.add(&json!({"spec": {"limits": [
            {"type": "Container", "min": {"cpu": "10m"}, "max": {"cpu": "1", "memory": "1Gi"}, "default": {"cpu": "500m"}},
            {"type": "Pod", "max": {"cpu": "1m"}}
        ]}})).unwrap();
        limits.add(&json!({"spec": {"limits": [
            {"type": "Container", "min": {"cpu": "5m"}, "max": {"cpu": "200m"}, "maxLimitRequestRatio": {"cpu": "4"}}
        ]}})).unwrap();
        let cpu = limits.of("cpu");
        assert_eq!(cpu.min, Some(Quantity::from_millis(10)));
        assert_eq!(cpu.max, Some(Quantity::from_millis(200)));
        assert_eq!(cpu.default_limit, Some(Quantity::from_millis(500)));
        assert_eq!(cpu.max_ratio, Some(Quantity::from_millis(4000)));
        assert_eq!(limits.of("memory").max, Some("1Gi".parse().unwrap()));
        assert_eq!(limits.of("ephemeral-storage"), Bounds::default());
    }

    #[test]
    fn a_limit_range_that_cannot_be_read_is_refused_with_its_field() {
        let error = ContainerLimits::default()
            .add(&json!({"spec": {"limits": [{"type": "Container", "max": {"cpu": "many"}}]}}))
            .unwrap_err();
        assert!(error.contains("spec.limits[0].max.cpu"), "{error}");
    }
}
