//! Types that are written as one string: their serde and schema follow from `FromStr` and `Display`.

/// Implements `Serialize`, `Deserialize` and `JsonSchema` for a type written as one string. What an API server can check of it
/// in a custom resource may be added.
macro_rules! written_as_text {
    ($type:ty, $name:literal, $description:literal, $example:literal $(, $rules:expr)?) => {
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str> as serde::Deserialize>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        impl schemars::JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                $name.into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                #[allow(unused_mut, reason = "not every type has rules")]
                let mut schema = schemars::json_schema!({"type": "string", "description": $description, "examples": [$example]});
                $(
                    let crate::rules::Rules { longest, rules } = $rules;
                    schema.insert("maxLength".to_owned(), longest.into());
                    schema.insert("x-kubernetes-validations".to_owned(), rules.into());
                )?
                schema
            }
        }
    };
}

pub(crate) use written_as_text;
