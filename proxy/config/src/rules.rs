//! Rules in CEL, by which a Kubernetes API server refuses in a custom resource what these types refuse, in the same words
//! (`x-kubernetes-validations`). They know less than the parsers: an address of IPv6, for one, is only looked at for its form.
//! What they let pass and a parser does not, whoever reads the resource has to report.

use serde_json::{Value, json};

/// What an API server checks of a value that is written as one string.
pub(crate) struct Rules {
    /// The longest text, in characters: from this an API server estimates what the rules cost.
    pub(crate) longest: usize,
    /// Each of them must hold.
    pub(crate) rules: Vec<Value>,
}

/// A condition on `self`, and what is said where it does not hold: CEL expressions of strings, joined.
pub(crate) fn rule(condition: &str, message: &[&str]) -> Value {
    json!({"rule": condition, "messageExpression": message.join(" + ")})
}

/// The value of a CEL expression in quotation marks, as messages show what was written.
pub(crate) fn quoted(expression: &str) -> String {
    format!(r#"'"' + {expression} + '"'"#)
}

/// Fixed words, as a CEL expression.
pub(crate) fn words(text: &str) -> String {
    // What JSON writes as a string, CEL reads as one.
    Value::from(text).to_string()
}
