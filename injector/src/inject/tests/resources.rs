//! What the sidecar requests and may use.

use serde_json::{Value, json};

use super::{asking, decide_with, injected_with, resources};
use crate::settings::Settings;

#[test]
fn resources_fit_the_pod_and_its_namespace() {
    let containers =
        |resources: Value| json!({"containers": [{"name": "app", "image": "app", "resources": resources}]});
    let limit_range = |item: Value| {
        let mut item = item;
        item["type"] = json!("Container");
        json!({"spec": {"limits": [item]}})
    };
    let cases: Vec<(&str, Value, Vec<Value>, Value)> = vec![
        (
            "the profile's, where nothing is said",
            containers(json!({})),
            vec![],
            json!({"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "64Mi"}}),
        ),
        (
            "a Guaranteed pod stays Guaranteed",
            containers(json!({"limits": {"cpu": 1, "memory": "1Gi"}})),
            vec![],
            json!({"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"cpu": "100m", "memory": "64Mi"}}),
        ),
        (
            "every container has a CPU limit, as a quota may demand",
            containers(json!({"requests": {"cpu": "1m"}, "limits": {"cpu": "1"}})),
            vec![],
            json!({"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"cpu": "100m", "memory": "64Mi"}}),
        ),
        (
            "the same for storage",
            containers(json!({"requests": {"ephemeral-storage": "1Gi"}})),
            vec![],
            json!({"requests": {"cpu": "10m", "memory": "32Mi", "ephemeral-storage": "0"}, "limits": {"memory": "64Mi"}}),
        ),
        (
            "pod-level resources are the author's budget",
            json!({"resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "1"}}}),
            vec![],
            json!({}),
        ),
        (
            "pod-level resources do not excuse from a LimitRange",
            json!({"resources": {"limits": {"cpu": "1"}}}),
            vec![limit_range(json!({"max": {"memory": "48Mi"}, "default": {"cpu": "1"}}))],
            json!({"requests": {"memory": "32Mi"}, "limits": {"memory": "48Mi"}}),
        ),
        (
            "a LimitRange's bounds",
            containers(json!({})),
            vec![limit_range(json!({"min": {"cpu": "50m"}, "max": {"cpu": "80m", "memory": "40Mi"}}))],
            json!({"requests": {"cpu": "50m", "memory": "32Mi"}, "limits": {"cpu": "80m", "memory": "40Mi"}}),
        ),
        (
            "a LimitRange's default",
            containers(json!({})),
            vec![limit_range(
                json!({"default": {"cpu": "250m", "memory": "512Mi"}, "defaultRequest": {"cpu": "200m"}}),
            )],
            json!({"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"cpu": "250m", "memory": "64Mi"}}),
        ),
        (
            "a LimitRange's ratio raises the request, and no further than it must",
            containers(json!({})),
            vec![limit_range(json!({"default": {"cpu": "2"}, "maxLimitRequestRatio": {"cpu": "3", "memory": 1}}))],
            json!({"requests": {"cpu": "34m", "memory": "64Mi"}, "limits": {"cpu": "100m", "memory": "64Mi"}}),
        ),
        (
            "a Guaranteed pod within bounds",
            containers(json!({"limits": {"cpu": 1, "memory": "1Gi"}})),
            vec![limit_range(json!({"max": {"cpu": "50m"}, "min": {"memory": "128Mi"}}))],
            json!({"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"cpu": "50m", "memory": "128Mi"}}),
        ),
    ];
    for (name, spec, limits, expected) in cases {
        let after = injected_with(&asking(spec), &Settings::default(), &limits);
        assert_eq!(*resources(&after), expected, "{name}");
    }
}

#[test]
fn a_limit_range_that_lowers_what_was_asked_for_is_told() {
    let limits = [json!({"spec": {"limits": [{"type": "Container", "max": {"memory": "48Mi"}}]}})];
    let verdict = decide_with(&asking(json!({})), false, &Settings::default(), &limits);
    assert_eq!(verdict.warnings.len(), 1);
    assert!(verdict.warnings[0].contains("memory limit is 48Mi instead of 64Mi"), "{:?}", verdict.warnings);
}
