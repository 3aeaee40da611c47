//! Where a profile may be used.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ProfileError, rules};

/// Where the profile may be used: in the namespaces that are named, and in those that the selector matches.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = rules::of_namespaces()))]
pub struct Namespaces {
    /// The namespaces' names.
    #[schemars(length(max = 256), inner(length(max = 63)), extend("x-kubernetes-list-type" = "set"))]
    pub names: Vec<String>,
    /// Labels of namespaces. Every one that matches is meant, whether it is named or not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<Selector>,
}

/// A label selector: all of it must match. An empty one matches every namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Selector {
    /// Labels that the namespace must have, with these values.
    pub match_labels: BTreeMap<String, String>,
    /// Further conditions on the namespace's labels.
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "atomic"))]
    pub match_expressions: Vec<Expression>,
}

/// A condition on a label.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = rules::of_expression()))]
pub struct Expression {
    /// The label's name.
    #[schemars(length(max = 317))]
    pub key: String,
    /// In or NotIn: the label's value is one of the values, or none of them; Exists or DoesNotExist: there is such a label, or
    /// there is none.
    pub operator: Operator,
    /// The values that In and NotIn compare with.
    #[serde(default)]
    #[schemars(length(max = 64), inner(length(max = 63)), extend("x-kubernetes-list-type" = "atomic"))]
    pub values: Vec<String>,
}

/// How a label is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Operator {
    /// The label has one of the values.
    In,
    /// The label has none of the values, or is missing.
    NotIn,
    /// There is such a label.
    Exists,
    /// There is no such label.
    DoesNotExist,
}

impl Namespaces {
    /// Whether the profile may be used in a namespace.
    pub fn include(&self, name: &str, labels: &BTreeMap<String, String>) -> bool {
        self.names.iter().any(|named| named == name)
            || self.selector.as_ref().is_some_and(|selector| selector.matches(labels))
    }

    pub(super) fn check(&self) -> Result<(), ProfileError> {
        if self.names.is_empty() && self.selector.is_none() {
            return Err(ProfileError::at("namespaces", rules::NO_NAMESPACE));
        }
        let expressions = self.selector.iter().flat_map(|selector| &selector.match_expressions);
        for (index, Expression { operator, values, .. }) in expressions.enumerate() {
            let path = format!("namespaces.selector.matchExpressions[{index}].values");
            let needs_values = matches!(operator, Operator::In | Operator::NotIn);
            if needs_values && values.is_empty() {
                return Err(ProfileError::at(&path, format!("is empty: {operator:?} needs values")));
            }
            if !needs_values && !values.is_empty() {
                return Err(ProfileError::at(&path, format!("{operator:?} takes no values: leave them out")));
            }
        }
        Ok(())
    }
}

impl Selector {
    fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.match_expressions.iter().all(|expression| expression.matches(labels))
    }
}

impl Expression {
    fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        let listed = value.is_some_and(|value| self.values.contains(value));
        match self.operator {
            Operator::In => listed,
            Operator::NotIn => !listed,
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}
