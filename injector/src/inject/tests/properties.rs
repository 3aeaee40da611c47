//! Laws that hold for pods of any shape.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::decide_with;
use crate::inject::{Decision, PORT_START, original, patch, patched, touched};
use crate::settings::Settings;

/// Pods of many shapes, ours and others' fields mixed, servable or not.
fn any_pod() -> impl Strategy<Value = Value> {
    let container = (0..6u8, prop::option::of(0..3u8)).prop_map(|(number, resources)| {
        let mut container =
            json!({"name": format!("c{number}"), "image": "app", "ports": [{"containerPort": 50 + i64::from(number)}]});
        match resources {
            Some(0) => container["resources"] = json!({"limits": {"cpu": "1", "memory": "1Gi"}}),
            Some(1) => container["resources"] = json!({"requests": {"cpu": 1}}),
            _ => container["securityContext"] = json!({"runAsUser": 64_053 + i64::from(number % 2)}),
        }
        container
    });
    let containers = prop::collection::vec(container, 1..4);
    let annotation = prop::option::of(prop::sample::select(vec!["true", "true", "true", "false", "perhaps"]));
    let policy =
        prop::option::of(prop::sample::select(vec!["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"]));
    let searches = prop::option::of(prop::collection::vec("[a-z]{1,8}(\\.[a-z]{1,8}){0,2}", 0..36));
    let port_start = prop::option::of(0..60u16);
    let shape = (containers.clone(), prop::option::of(containers), annotation, policy, searches, port_start);
    (shape, any::<bool>(), prop::option::of("[a-z]{1,5}")).prop_map(
        |((containers, init, annotation, policy, searches, port_start), host_network, volume)| {
            let mut pod = json!({"metadata": {"name": "p"}, "spec": {"containers": containers}});
            if let Some(annotation) = annotation {
                pod["metadata"]["annotations"] = json!({"dot-sidecar.io/inject": annotation, "keep": "me"});
            }
            let optional = [
                ("initContainers", init.map(|init| json!(init))),
                ("dnsPolicy", policy.map(|policy| json!(policy))),
                ("dnsConfig", searches.map(|searches| json!({"searches": searches}))),
                ("securityContext", port_start.map(|start| {
                    json!({"sysctls": [{"name": "a.b", "value": "1"}, {"name": PORT_START, "value": start.to_string()}]})
                })),
                ("hostNetwork", (host_network && volume.is_none()).then_some(json!(true))),
                ("volumes", volume.map(|name| json!([{"name": name, "emptyDir": {}}]))),
            ];
            for (key, value) in optional {
                if let Some(value) = value {
                    pod["spec"][key] = value;
                }
            }
            pod
        },
    )
}

proptest! {
    #[test]
    fn to_inject_twice_is_to_inject_once(pod in any_pod(), namespace_asks: bool) {
        let first = decide_with(&pod, namespace_asks, &Settings::default(), &[]);
        let once = patched(&first.decision, &pod);
        let second = decide_with(&once, namespace_asks, &Settings::default(), &[]);
        let twice = patched(&second.decision, &once);
        prop_assert_eq!(first.decision.outcome(), second.decision.outcome());
        prop_assert_eq!(&patch(&once, twice).0, &[]);
    }

    #[test]
    fn a_pod_that_is_skipped_or_denied_stays_untouched(pod in any_pod(), namespace_asks: bool) {
        let verdict = decide_with(&pod, namespace_asks, &Settings::default(), &[]);
        let after = patched(&verdict.decision, &pod);
        if !matches!(verdict.decision, Decision::Inject(_)) {
            prop_assert_eq!(after.to_string(), pod.to_string());
        }
    }

    #[test]
    fn the_patch_makes_of_the_pod_what_was_decided(pod in any_pod(), position in 0usize..4) {
        let verdict = decide_with(&pod, true, &Settings::default(), &[]);
        let mut before = patched(&verdict.decision, &pod);
        // Wherever our container stands, and whatever else does.
        if let Some(list) = before["spec"].get_mut("initContainers").and_then(Value::as_array_mut) {
            let last = list.len() - 1;
            list.swap(0, position.min(last));
        }
        let verdict = decide_with(&before, true, &Settings::default(), &[]);
        let after = patched(&verdict.decision, &before);
        let mut by_patch = before.clone();
        let whole = patch(&before, after.clone());
        json_patch::patch(&mut by_patch, &whole).unwrap();
        prop_assert_eq!(by_patch, after);
        // The rest of the pod has no part in it.
        let part = touched(before);
        prop_assert_eq!(patch(&part, patched(&verdict.decision, &part)), whole);
    }

    #[test]
    fn what_injection_replaced_is_restored_when_it_is_undone(pod in any_pod()) {
        let verdict = decide_with(&pod, true, &Settings::default(), &[]);
        if matches!(verdict.decision, Decision::Inject(_)) {
            let mut restored = original::strip(&patched(&verdict.decision, &pod)).pod.into_owned();
            // Empty maps and lists that injection had to make say nothing.
            for key in ["securityContext", "initContainers"] {
                let spec = restored["spec"].as_object_mut().unwrap();
                if spec.get(key).is_some_and(|value| *value == json!({}) || *value == json!([])) {
                    spec.remove(key);
                }
            }
            prop_assert_eq!(restored, pod);
        }
    }
}
