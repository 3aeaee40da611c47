//! What injection makes of each shape: the decision, what people are told, and the objects afterwards.
//!
//! `INSTA_UPDATE=always cargo test -p dot-injector --test integration shapes` writes them anew; what has changed is then in the diff.

use std::collections::BTreeSet;
use std::path::Path;

use dot_injector::inject::Decision;
use dot_injector::manifest::Finding;
use serde_json::Value;

use crate::shape::{Shape, documents};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/shapes");

fn shapes() -> Vec<Shape> {
    let shapes = Shape::all(Path::new(FOLDER));
    assert!(shapes.len() >= 60, "only {} shapes", shapes.len());
    shapes
}

#[test]
fn each_shape_becomes_what_stands_beside_it() {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(Path::new(FOLDER).join("injected"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| {
        for shape in shapes() {
            let (findings, after) = shape.inject_into(&shape.text);
            let before = documents(&shape.text);
            let is_new = |text: &&str| documents(text).first().is_some_and(|document| !before.contains(document));
            let changed: Vec<&str> = after.split("\n---\n").filter(is_new).collect();
            insta::assert_snapshot!(
                shape.name.clone(),
                unversioned(&[&[told(&findings).as_str()], &changed[..]].concat().join("---\n"))
            );
        }
    });
}

#[test]
fn whichever_of_istios_injector_and_ours_comes_first_the_pod_becomes_the_same() {
    let shapes = shapes();
    let pod = |name: String| {
        let shape = shapes.iter().find(|shape| shape.name == name).unwrap();
        let mut pod = documents(&shape.inject_into(&shape.text).1).remove(0);
        // Volumes have no order; those of the two injectors stand in the order in which they came.
        pod["spec"]["volumes"].as_array_mut().unwrap().sort_by_key(|volume| volume["name"].to_string());
        // Istio offers to ask our first liveness probe for the kubelet, which the second call has replaced.
        for list in ["initContainers", "containers"] {
            for container in pod["spec"][list].as_array_mut().unwrap() {
                let environment = container.get_mut("env").and_then(Value::as_array_mut);
                environment.into_iter().for_each(|all| all.retain(|it| it["name"] != "ISTIO_KUBE_APP_PROBERS"));
            }
        }
        pod
    };
    for mode in ["native", "classic"] {
        let (before, after) = (pod(format!("istio-{mode}-before-ours")), pod(format!("istio-{mode}-after-ours")));
        assert_eq!(after["spec"], before["spec"], "{mode}");
        assert_eq!(after["metadata"]["annotations"], before["metadata"]["annotations"], "{mode}");
        assert_eq!(after["spec"]["initContainers"][0]["name"], "dot-proxy");
    }
}

/// What was decided, in two words each, and what people are told.
fn told(findings: &[Finding]) -> String {
    let mut told = String::new();
    for Finding { object, namespace, verdict, .. } in findings {
        let (outcome, reason) = (verdict.decision.outcome(), verdict.decision.reason());
        told.push_str(&format!("{object} in {namespace}: {outcome}: {reason}\n"));
        if let Decision::Deny(refusal) = &verdict.decision {
            told.push_str(&format!("  {refusal}\n"));
        }
        verdict.warnings.iter().for_each(|warning| told.push_str(&format!("  warning: {warning}\n")));
    }
    told
}

/// Without the version, which each release changes.
fn unversioned(text: &str) -> String {
    let version = env!("CARGO_PKG_VERSION");
    text.replace(&format!("dot-proxy:{version}"), "dot-proxy:VERSION")
        .replace(&format!(r#"injector\":\"{version}\""#), r#"injector\":\"VERSION\""#)
}

#[test]
fn no_shape_has_a_snapshot_without_a_file() {
    let names: BTreeSet<String> = shapes().into_iter().map(|shape| format!("{}.snap", shape.name)).collect();
    let kept = std::fs::read_dir(Path::new(FOLDER).join("injected")).unwrap();
    let kept = kept.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    assert_eq!(kept.filter(|name| name.ends_with(".snap")).collect::<BTreeSet<_>>(), names);
}

#[test]
fn each_shape_says_in_its_name_whether_it_is_denied_or_warned_about() {
    for shape in shapes() {
        let (findings, _) = shape.inject_into(&shape.text);
        let denied = findings.iter().any(Finding::is_denied);
        let warned = findings.iter().any(|finding| !finding.verdict.warnings.is_empty());
        let says = |word: &str| shape.name.contains(word);
        assert_eq!(denied, says("denied"), "{}", shape.name);
        assert_eq!(warned && !denied, says("warn"), "{}", shape.name);
    }
}

#[test]
fn each_shape_injected_twice_is_what_it_is_injected_once() {
    for shape in shapes() {
        let (first, once) = shape.inject_into(&shape.text);
        let (second, twice) = shape.inject_into(&once);
        assert_eq!(twice, once, "{}", shape.name);
        for (first, second) in first.iter().zip(&second) {
            assert_eq!(first.verdict.decision, second.verdict.decision, "{}: {}", shape.name, first.object);
        }
    }
}
