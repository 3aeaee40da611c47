//! What is read of a pod to decide about it: few fields, and never what is written back.
//!
//! The patch is made on the raw JSON, so that fields that this version does not know survive untouched.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::annotations::STATUS;
use crate::quantity::Quantity;

use super::original::Status;
use super::refusal::Refusal;

/// A pod, as far as it matters here.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Pod {
    pub(super) metadata: Metadata,
    pub(super) spec: Spec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Metadata {
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) labels: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Spec {
    pub(super) containers: Vec<Container>,
    pub(super) init_containers: Vec<Container>,
    pub(super) volumes: Vec<Named>,
    pub(super) security_context: PodSecurityContext,
    pub(super) host_network: bool,
    #[serde(rename = "hostUsers")]
    pub(super) host_users: Option<bool>,
    pub(super) os: Named,
    pub(super) node_selector: BTreeMap<String, String>,
    pub(super) affinity: Affinity,
    pub(super) dns_policy: Option<String>,
    pub(super) dns_config: DnsConfig,
    /// Pod-level resources (KEP-2837): a budget that all containers share.
    pub(super) resources: Option<Resources>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Affinity {
    pub(super) node_affinity: NodeAffinity,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct NodeAffinity {
    #[serde(rename = "requiredDuringSchedulingIgnoredDuringExecution")]
    pub(super) required: NodeSelector,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct NodeSelector {
    /// A node need fulfil one of them.
    pub(super) node_selector_terms: Vec<NodeSelectorTerm>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct NodeSelectorTerm {
    /// A node must fulfil each of them.
    pub(super) match_expressions: Vec<NodeRequirement>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct NodeRequirement {
    pub(super) key: String,
    pub(super) operator: String,
    pub(super) values: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Container {
    pub(super) name: String,
    pub(super) ports: Vec<Port>,
    pub(super) volume_mounts: Vec<VolumeMount>,
    pub(super) security_context: SecurityContext,
    pub(super) resources: Resources,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Named {
    pub(super) name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Port {
    pub(super) container_port: i64,
    pub(super) protocol: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct VolumeMount {
    pub(super) mount_path: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct SecurityContext {
    pub(super) run_as_user: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct PodSecurityContext {
    pub(super) run_as_user: Option<i64>,
    pub(super) sysctls: Vec<Sysctl>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Sysctl {
    pub(super) name: String,
    pub(super) value: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct DnsConfig {
    pub(super) nameservers: Vec<String>,
    pub(super) searches: Vec<String>,
    pub(super) options: Vec<super::dns::DnsOption>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Resources {
    pub(super) requests: BTreeMap<String, Quantity>,
    pub(super) limits: BTreeMap<String, Quantity>,
}

impl Pod {
    /// A pod that has the sidecar, as far as the annotations tell of it: what it was before is recorded there.
    pub(super) fn recorded(annotations: &BTreeMap<String, String>) -> Result<Self, Refusal> {
        let original = annotations.get(STATUS).and_then(|text| serde_json::from_str::<Status>(text).ok());
        let original = original.map(|status| status.original).unwrap_or_default();
        let dns_config = original.dns_config.map_or(Ok(DnsConfig::default()), |written| {
            serde_json::from_value(Value::Object(written))
                .map_err(|error| Refusal::Malformed(format!("annotation {STATUS}: {error}")))
        })?;
        let spec = Spec { dns_policy: original.dns_policy, dns_config, ..Spec::default() };
        let metadata = Metadata { annotations: annotations.clone(), ..Metadata::default() };
        Ok(Self { metadata, spec })
    }

    /// Reads a pod's JSON; what is `null` counts as left out. The error names the field.
    pub(super) fn read(pod: &Value) -> Result<Self, String> {
        // A null where it matters cannot be read at first. Nor is kept track of the field before one is known to be wrong: it takes a
        // copy of every key.
        Self::deserialize(pod).or_else(|_| {
            let read = serde_path_to_error::deserialize(without_nulls(pod));
            read.map_err(|error| format!("{}: {}", error.path(), error.inner()))
        })
    }
}

impl Spec {
    /// Every container of the pod, those that run before the others first.
    pub(super) fn all_containers(&self) -> impl Iterator<Item = &Container> {
        self.init_containers.iter().chain(&self.containers)
    }
}

fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let present = map.iter().filter(|(_, value)| !value.is_null());
            Value::Object(present.map(|(key, value)| (key.clone(), without_nulls(value))).collect())
        }
        Value::Array(list) => Value::Array(list.iter().map(without_nulls).collect()),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn null_counts_as_left_out_and_unknown_fields_do_not_disturb() {
        let pod = Pod::read(&json!({
            "metadata": {"annotations": null},
            "spec": {"containers": [{"name": "app", "ports": null, "future": [1]}], "initContainers": null, "novel": {}}
        }))
        .unwrap();
        assert_eq!(pod.spec.containers[0].name, "app");
        assert!(pod.spec.init_containers.is_empty());
    }

    #[test]
    fn what_cannot_be_read_is_named_by_its_path() {
        let error = Pod::read(&json!({"spec": {"containers": [{"ports": [{"containerPort": "x"}]}]}})).unwrap_err();
        assert!(error.starts_with("spec.containers[0].ports[0].containerPort: "), "{error}");
    }
}
