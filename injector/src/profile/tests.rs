//! What a profile may say.

use serde_json::{Value, json};

use super::*;

/// Specs that cannot be used: the path of the field, and words that are said of it. The API server is asked about the same ones
/// in the chart's tests.
#[derive(Deserialize)]
struct Refused {
    spec: Value,
    path: String,
    words: String,
}

fn refused() -> Vec<Refused> {
    serde_saphyr::from_str(include_str!("refused.yaml")).unwrap()
}

#[test]
fn what_cannot_be_used_is_refused_with_its_path_and_the_remedy() {
    for Refused { spec, path, words } in refused() {
        let error = Profile::read(spec.clone()).unwrap_err().to_string();
        assert!(error.starts_with(&path) && error.contains(&words), "{spec}: {error}");
    }
}

#[test]
fn a_profile_is_written_as_it_is_read() {
    let default = Profile::default();
    assert_eq!(Profile::read(serde_json::to_value(&default).unwrap()), Ok(default.clone()));
    assert_eq!(Profile::read(json!({})), Ok(default));
}

#[test]
fn fields_of_a_later_version_keep_no_stored_profile_from_being_used() {
    let spec = json!({"novel": 1, "upstream": {"servers": ["quad9"], "novel": {}}, "routes": [
        {"suffixes": ["a.example"], "servers": ["udp://192.0.2.1"], "novel": []}]});
    assert!(Profile::read(spec.clone()).is_err());
    let profile = Profile::stored(spec).unwrap();
    assert_eq!(profile.upstream.servers[0].to_string(), "quad9");
    assert_eq!(profile.routes.len(), 1);
    assert!(Profile::stored(json!({"upstream": {"servers": ["novel"]}})).is_err());
}

#[test]
fn the_definition_says_of_every_field_what_it_is_and_of_every_optional_one_its_default() {
    let mut undocumented = Vec::new();
    visit(&SPEC_SCHEMA, "spec", &mut undocumented);
    assert_eq!(undocumented, [""; 0]);
    let default = |path: &str| {
        SPEC_SCHEMA.pointer(&format!("/properties/{}/default", path.replace('/', "/properties/"))).cloned()
    };
    assert_eq!(default("upstream/servers"), Some(json!(["cloudflare"])));
    assert_eq!(default("cache/staleSeconds"), Some(json!(86_400)));
    assert_eq!(default("optOut"), Some(json!(true)));
    assert_eq!(default("ownNameservers"), Some(json!("refuse")));
    assert_eq!(default("resources/limits/memory"), None, "what is left out of them has no default");
}

/// Finds fields without a description, whose names are sorted out of the structure of the schema.
fn visit(schema: &Value, path: &str, undocumented: &mut Vec<String>) {
    if schema["description"].as_str().is_none_or(str::is_empty) {
        undocumented.push(path.to_owned());
    }
    for (name, member) in schema["properties"].as_object().into_iter().flatten() {
        visit(member, &format!("{path}.{name}"), undocumented);
    }
    for (name, member) in schema["items"]["properties"].as_object().into_iter().flatten() {
        visit(member, &format!("{path}[].{name}"), undocumented);
    }
}
