//! JSON as CEL of MutatingAdmissionPolicies writes it: objects by the type that their place in a pod gives them.

use serde_json::{Map, Value};

/// An expression in the place of a field.
pub(super) struct Raw<'a> {
    pointer: &'static str,
    expression: &'a str,
    is_optional: bool,
}

impl<'a> Raw<'a> {
    /// The field at this place is what the expression gives.
    pub(super) fn field(pointer: &'static str, expression: &'a str) -> Self {
        Self { pointer, expression, is_optional: false }
    }

    /// The same, of an optional value: without one there is no such field.
    pub(super) fn optional(pointer: &'static str, expression: &'a str) -> Self {
        Self { pointer, expression, is_optional: true }
    }
}

/// A string.
pub(super) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// An object of this type, and what is in it.
pub(super) fn object(of_type: &str, value: &Value, raw: &[Raw<'_>]) -> String {
    literal(of_type, "", value, raw)
}

fn literal(of_type: &str, pointer: &str, value: &Value, raw: &[Raw<'_>]) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(text) => quoted(text),
        // The items of a list have the type of the list.
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(|item| literal(of_type, pointer, item, raw)).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Object(members) => format!("{of_type}{{{}}}", fields(of_type, pointer, members, raw).join(", ")),
    }
}

fn fields(of_type: &str, pointer: &str, members: &Map<String, Value>, raw: &[Raw<'_>]) -> Vec<String> {
    let field = |(name, member): (&String, &Value)| {
        let pointer = format!("{pointer}/{name}");
        match raw.iter().find(|raw| raw.pointer == pointer) {
            Some(raw) if raw.is_optional => format!("?{name}: {}", raw.expression),
            Some(raw) => format!("{name}: {}", raw.expression),
            None => format!("{name}: {}", literal(&format!("{of_type}.{name}"), &pointer, member, raw)),
        }
    };
    members.iter().map(field).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_object_is_written_with_the_types_of_its_places_and_expressions_in_theirs() {
        let value = json!({"name": "it's", "ports": [{"port": 1}], "on": true, "user": 1, "drop": ["A\\B"]});
        let raw = [Raw::optional("/user", "variables.user"), Raw::field("/on", "variables.on")];
        let written = object("Object.spec", &value, &raw);
        for part in [
            "name: 'it\\'s'",
            "ports: [Object.spec.ports{port: 1}]",
            "on: variables.on",
            "?user: variables.user",
            "drop: ['A\\\\B']",
        ] {
            assert!(written.contains(part), "{part}: {written}");
        }
        assert!(written.starts_with("Object.spec{") && written.ends_with('}'));
    }
}
