//! What the sidecar requests and may use.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ProfileError, rules};
use crate::quantity::Quantity;

/// What the sidecar requests and may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = rules::of_resources()))]
pub struct Resources {
    /// What is set aside for it on the node.
    pub requests: Amounts,
    /// What it may use at most. A quarter of the memory is for the cache, where cache.size does not say otherwise.
    pub limits: Amounts,
}

/// An amount of each resource; none of those that are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Amounts {
    /// Processor time, such as 10m, a hundredth of a core.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Quantity>,
    /// Memory, such as 64Mi.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Quantity>,
    /// Storage on the node, which the sidecar uses for its log alone, such as 64Mi.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ephemeral_storage: Option<Quantity>,
}

impl Default for Resources {
    fn default() -> Self {
        let mebibytes = |number| Some(Quantity::from_mebibytes(number));
        Self {
            requests: Amounts { cpu: Some(Quantity::from_millis(10)), memory: mebibytes(32), ..Amounts::default() },
            limits: Amounts { memory: mebibytes(64), ..Amounts::default() },
        }
    }
}

impl Resources {
    pub(super) fn check(&self) -> Result<(), ProfileError> {
        for name in Amounts::NAMES {
            let above = |request| self.limits.of(name).is_some_and(|limit| request > limit);
            if self.requests.of(name).is_some_and(above) {
                return Err(ProfileError::at(&format!("resources.requests.{name}"), rules::ABOVE_THE_LIMIT));
            }
        }
        Ok(())
    }
}

impl Amounts {
    /// The resources there are.
    pub const NAMES: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

    /// The amount of a resource, by its name.
    pub fn of(&self, name: &str) -> Option<Quantity> {
        match name {
            "cpu" => self.cpu,
            "memory" => self.memory,
            "ephemeral-storage" => self.ephemeral_storage,
            _ => None,
        }
    }
}
