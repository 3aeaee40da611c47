//! Whether an API server takes what injection makes of pods: of each shape in `injector/tests/shapes`, and of pods made at random.
//!
//! Each pod is created in a dry run, injected in the form in which the API server then has it, and created so in a dry run again.
//! `DOT_SHAPES_PODS` is how many pods are made at random (300), `DOT_SHAPES_SEED` makes others.

use std::collections::BTreeMap;
use std::path::Path;

use dot_injector::manifest::Manifest;
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::{Value, json};

use crate::ROOT;
use crate::gate::ControlPlane;
use crate::laws::broken;
use crate::shape::{NAMESPACE, Shape, documents};
use crate::valid_pods::valid_pod;

/// Tells objects apart in what kubectl prints: names are generated, or left out where something fails.
const MARK: &str = "example.com/mark";
/// How many objects kubectl is given at once.
const AT_ONCE: usize = 100;

/// Objects by their mark.
type Marked = BTreeMap<String, Value>;

#[test]
fn each_shape_is_what_an_api_server_takes_before_and_after_injection() {
    let control_plane = ControlPlane::start("shapes");
    control_plane.namespace(NAMESPACE, &json!({}));
    let shapes = Shape::all(Path::new(&format!("{ROOT}/injector/tests/shapes")));
    let around: Vec<Value> = shapes.iter().flat_map(|shape| documents(&shape.text)).filter(is_around).collect();
    prepare(&control_plane, &around);

    let before: Marked = shapes.iter().flat_map(|shape| marked(shape, &shape.text)).collect();
    let (stored, complaint) = created(&control_plane, &before);
    assert_all(&before, &stored, "before injection", &complaint);
    let mut after = Marked::new();
    for shape in &shapes {
        // A webhook is shown pods as they are stored; templates are injected as they are written.
        let objects = before.iter().filter(|(mark, _)| is_of(shape, mark));
        let shown = objects.map(|(mark, object)| if object["kind"] == "Pod" { &stored[mark] } else { object });
        after.extend(marked(shape, &shape.inject_into(&shape_with(shape, shown)).1));
    }
    let (stored_after, complaint) = created(&control_plane, &after);
    assert_all(&after, &stored_after, "after injection", &complaint);
    for shape in &shapes {
        let objects = || stored_after.iter().filter(|(mark, _)| is_of(shape, mark));
        let again = marked(shape, &shape.inject_into(&shape_with(shape, objects().map(|(_, object)| object))).1);
        for (mark, stored) in objects() {
            assert_eq!(
                known(stored),
                known(&again[mark]),
                "{mark}: a second call changes what the API server has stored"
            );
            if stored["kind"] == "Pod" {
                assert_eq!(known(stored), known(&after[mark]), "{mark}: the API server adds to what injection made");
            }
        }
    }
}

#[test]
fn an_api_server_takes_whatever_injection_makes_of_valid_pods() {
    // This plugin writes into our container after the webhook, and refuses the pod where a second call takes it back.
    let control_plane = ControlPlane::start_with("valid-pods", &["AlwaysPullImages"]);
    control_plane.namespace(NAMESPACE, &json!({}));
    let number = |name: &str, default: u64| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let pods = pods_at_random(number("DOT_SHAPES_PODS", 300), number("DOT_SHAPES_SEED", 1));
    let (stored, complaint) = created(&control_plane, &pods);
    assert_all(&pods, &stored, "before injection", &complaint);

    let surroundings = crate::shape::surroundings("profile: {ownNameservers: keep-for-searches}");
    let inject = |pod: &Value| {
        let mut manifest = Manifest::read(&pod.to_string(), NAMESPACE).unwrap();
        let findings = manifest.inject(&surroundings);
        (findings[0].verdict.decision.outcome(), documents(&manifest.write().unwrap()).remove(0))
    };
    let mut after = Marked::new();
    for (mark, pod) in &stored {
        let (outcome, injected) = inject(pod);
        if outcome == "injected" {
            let broken = broken(pod, &injected);
            assert!(broken.is_none(), "{}", broken.unwrap());
            after.insert(mark.clone(), injected);
        }
    }
    assert!(after.len() * 5 > pods.len(), "only {} of {} can be injected", after.len(), pods.len());
    let (stored_after, complaint) = created(&control_plane, &after);
    assert_all(&after, &stored_after, "after injection", &complaint);
    for (mark, stored) in &stored_after {
        assert_eq!(known(stored), known(&inject(stored).1), "a second call changes what the API server has stored");
        let expected = after.get_mut(mark).unwrap();
        expected["spec"]["initContainers"][0]["imagePullPolicy"] = json!("Always");
        assert_eq!(known(stored), known(expected), "the API server adds to what injection made");
    }
}

fn pods_at_random(count: u64, seed: u64) -> Marked {
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed.to_le_bytes(); 4].concat());
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let strategy = valid_pod();
    let pod = |number| {
        let mut pod = strategy.new_tree(&mut runner).unwrap().current();
        pod["metadata"]["annotations"][MARK] = json!(format!("pod#{number}"));
        pod["metadata"]["namespace"] = json!(NAMESPACE);
        (format!("pod#{number}"), pod)
    };
    (0..count).map(pod).collect()
}

fn is_of(shape: &Shape, mark: &str) -> bool {
    mark.split('#').next() == Some(shape.name.as_str())
}

/// Whether an object is there for a pod to be beside.
fn is_around(object: &Value) -> bool {
    matches!(object["kind"].as_str(), Some("Namespace" | "LimitRange" | "ResourceQuota"))
}

/// Makes what is around the shapes, as controllers would complete it.
fn prepare(control_plane: &ControlPlane, around: &[Value]) {
    for object in around {
        let name = object["metadata"]["name"].as_str().unwrap();
        if object["kind"] == "Namespace" {
            control_plane.namespace(name, &object["metadata"]["labels"]);
        }
    }
    for object in around.iter().filter(|object| object["kind"] != "Namespace") {
        let said = control_plane.kubectl("apply --server-side -f -", object);
        assert!(said.stderr.is_empty(), "{}", said.stderr);
        if object["kind"] == "ResourceQuota" {
            let hard = &object["spec"]["hard"];
            let used: serde_json::Map<_, _> =
                hard.as_object().unwrap().keys().map(|key| (key.clone(), json!("0"))).collect();
            let mut counted = object.clone();
            counted["status"] = json!({"hard": hard, "used": used});
            let said =
                control_plane.kubectl("apply --server-side --subresource=status --force-conflicts -f -", &counted);
            assert!(said.stderr.is_empty(), "{}", said.stderr);
        }
    }
}

/// The pods, or what makes pods, in a shape's documents.
fn marked(shape: &Shape, text: &str) -> Marked {
    let mut objects = Vec::new();
    for document in documents(text) {
        match document["kind"].as_str() {
            Some("List") => objects.extend(document["items"].as_array().unwrap().clone()),
            Some("Namespace" | "LimitRange" | "ResourceQuota" | "ConfigMap" | "ProxyProfile") => {}
            _ => objects.push(document),
        }
    }
    let mark = |(number, mut object): (usize, Value)| {
        let mark = format!("{}#{number}", shape.name);
        if object["metadata"]["namespace"].is_null() {
            object["metadata"]["namespace"] = json!(NAMESPACE);
        }
        object["metadata"]["annotations"][MARK] = json!(mark);
        (mark, object)
    };
    objects.into_iter().enumerate().map(mark).collect()
}

/// A shape's documents with these objects in the place of its own.
fn shape_with<'a>(shape: &Shape, objects: impl Iterator<Item = &'a Value>) -> String {
    let around = documents(&shape.text).into_iter().filter(|it| is_around(it) || it["kind"] == "ProxyProfile");
    let all: Vec<String> = around.chain(objects.cloned()).map(|document| document.to_string()).collect();
    format!("---\n{}\n", all.join("\n---\n"))
}

/// Creates objects in a dry run: what the API server has then, and what it complained of.
fn created(control_plane: &ControlPlane, objects: &Marked) -> (Marked, String) {
    let (mut stored, mut complaints) = (Marked::new(), String::new());
    let all: Vec<&Value> = objects.values().collect();
    for items in all.chunks(AT_ONCE) {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
        let said = control_plane.kubectl("create --dry-run=server --validate=strict -o json -f -", &list);
        for object in serde_json::Deserializer::from_str(&said.stdout).into_iter::<Value>() {
            let object = object.unwrap();
            let items = object["items"].as_array().cloned().unwrap_or_else(|| vec![object]);
            stored.extend(
                items.into_iter().map(|it| (it["metadata"]["annotations"][MARK].as_str().unwrap().to_owned(), it)),
            );
        }
        complaints.push_str(&said.stderr);
    }
    (stored, complaints)
}

fn assert_all(sent: &Marked, stored: &Marked, when: &str, complaint: &str) {
    let refused: Vec<&String> = sent.keys().filter(|mark| !stored.contains_key(*mark)).collect();
    let first = refused.first().map(|mark| format!("{:#}", sent[*mark]));
    let first: String = first.unwrap_or_default().chars().take(6_000).collect();
    let complaint: String = complaint.chars().take(20_000).collect();
    assert!(refused.is_empty(), "the API server refuses {when} {refused:?}:\n{complaint}\nthe first:\n{first}");
}

/// What injection has a word in.
fn known(object: &Value) -> (&Value, &Value, &Value) {
    (&object["spec"], &object["metadata"]["labels"], &object["metadata"]["annotations"])
}
