//! What a decision makes of the pod, on its raw JSON: what is not ours is never touched, known or not.

use std::borrow::Cow;

use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, Patch, PatchOperation, RemoveOperation};
use serde_json::{Map, Value, json};

use crate::annotations::{CONFIG, INJECTED_LABEL, STATUS};

use super::original::{is_our_container, is_our_volume, is_port_start, strip};
use super::{Decision, PORT_START, Plan};

/// The pod after the decision. A denied pod stays what it is; a skipped one loses what it carries of ours.
pub fn patched(decision: &Decision, pod: &Value) -> Value {
    match decision {
        Decision::Inject(plan) => plan.apply(pod),
        Decision::Skip(_) => strip(pod).pod.into_owned(),
        Decision::Deny(_) => pod.clone(),
    }
}

/// What injection writes to, of a pod: all that a patch is made of. The rest need be neither copied nor compared.
pub fn touched(mut pod: Value) -> Value {
    let parts: [(&str, &[&str]); 2] = [
        ("metadata", &["labels", "annotations"]),
        ("spec", &["initContainers", "volumes", "dnsPolicy", "dnsConfig", "securityContext"]),
    ];
    for (part, fields) in parts {
        if let Some(part) = pod.get_mut(part).and_then(Value::as_object_mut) {
            part.retain(|name, _| fields.contains(&name.as_str()));
        }
    }
    pod
}

/// The JSON patch (RFC 6902) that makes the one pod of the other; empty when they are the same.
pub fn patch(before: &Value, after: Value) -> Patch {
    let mut before = Cow::Borrowed(before);
    // A comparison by position would rewrite every init container after ours.
    let mut operations = move_sidecar(&mut before, &after);
    compare(&mut PointerBuf::new(), &before, after, &mut operations);
    Patch(operations)
}

/// Adds what makes `after` of `before` at this place. Most of a pod stays as it is, and is looked at once; what is new is moved.
fn compare(place: &mut PointerBuf, before: &Value, after: Value, operations: &mut Vec<PatchOperation>) {
    if *before == after {
        return;
    }
    let (old, mut new) = match (before, after) {
        (Value::Object(old), Value::Object(new)) => (old, new),
        (before, after) => return operations.extend(difference(place, before, &after)),
    };
    for (name, value) in old {
        place.push_back(name.as_str());
        match new.get_mut(name) {
            Some(kept) => compare(place, value, kept.take(), operations),
            None => operations.push(PatchOperation::Remove(RemoveOperation { path: place.clone() })),
        }
        place.pop_back();
    }
    for (name, value) in new.into_iter().filter(|(name, _)| !old.contains_key(name)) {
        place.push_back(name);
        operations.push(PatchOperation::Add(AddOperation { path: place.clone(), value }));
        place.pop_back();
    }
}

/// What makes `after` of `before` at this place, where one of them is no object.
fn difference(place: &PointerBuf, before: &Value, after: &Value) -> impl Iterator<Item = PatchOperation> {
    json_patch::diff(before, after).0.into_iter().map(move |mut operation| {
        let path = place.concat(operation.path());
        match &mut operation {
            PatchOperation::Add(add) => add.path = path,
            PatchOperation::Remove(remove) => remove.path = path,
            PatchOperation::Replace(replace) => replace.path = path,
            // `diff` makes no others.
            PatchOperation::Move(_) | PatchOperation::Copy(_) | PatchOperation::Test(_) => {}
        }
        operation
    })
}

/// Removes our container from wherever it is, and puts it where `after` has it.
fn move_sidecar(before: &mut Cow<'_, Value>, after: &Value) -> Vec<PatchOperation> {
    const LIST: &str = "/spec/initContainers";
    let wanted = after.pointer(LIST).and_then(Value::as_array).and_then(|list| list.first());
    let wanted = wanted.filter(|container| is_our_container(container));
    let Some(container) = wanted else { return Vec::new() };
    let lacks_it_there = |list: &&Vec<Value>| !list.first().is_some_and(is_our_container);
    if before.pointer(LIST).and_then(Value::as_array).filter(lacks_it_there).is_none() {
        return Vec::new();
    }
    let Some(list) = before.to_mut().pointer_mut(LIST).and_then(Value::as_array_mut) else { return Vec::new() };
    let path = |index: usize| PointerBuf::from_tokens(["spec", "initContainers", &index.to_string()]);
    let mut operations = Vec::new();
    for index in (0..list.len()).rev() {
        if is_our_container(&list[index]) {
            list.remove(index);
            operations.push(PatchOperation::Remove(RemoveOperation { path: path(index) }));
        }
    }
    list.insert(0, container.clone());
    operations.push(PatchOperation::Add(AddOperation { path: path(0), value: container.clone() }));
    operations
}

impl Plan {
    fn apply(&self, pod: &Value) -> Value {
        let mut pod = pod.clone();
        let metadata = object(&mut pod, "metadata");
        let labels = child(metadata, "labels");
        labels.insert(INJECTED_LABEL.to_owned(), json!("true"));
        let annotations = child(metadata, "annotations");
        annotations.insert(CONFIG.to_owned(), json!(self.config));
        annotations.insert(STATUS.to_owned(), json!(self.status));

        let spec = object(&mut pod, "spec");
        let init_containers = list(spec, "initContainers");
        init_containers.retain(|container| !is_our_container(container));
        init_containers.insert(0, self.container.clone());
        put(list(spec, "volumes"), self.volume.clone(), is_our_volume);
        spec.insert("dnsPolicy".to_owned(), json!("None"));
        spec.insert("dnsConfig".to_owned(), self.dns_config.clone());
        self.open_low_ports(child(spec, "securityContext"));
        pod
    }

    fn open_low_ports(&self, security_context: &mut Map<String, Value>) {
        let is_ours = |sysctl: &Value| sysctl.get("name").and_then(Value::as_str).is_some_and(is_port_start);
        let sysctls = list(security_context, "sysctls");
        match sysctls.iter_mut().find(|sysctl| is_ours(sysctl)) {
            Some(sysctl) => sysctl["value"] = json!(self.port_start),
            None => sysctls.push(json!({"name": PORT_START, "value": self.port_start})),
        }
    }
}

/// Puts `item` in the place of the one that `is_same`, else last.
fn put(list: &mut Vec<Value>, item: Value, is_same: impl Fn(&Value) -> bool) {
    match list.iter_mut().find(|earlier| is_same(earlier)) {
        Some(earlier) => *earlier = item,
        None => list.push(item),
    }
}

/// The object at `key`, made where there is none.
fn object<'a>(parent: &'a mut Value, key: &str) -> &'a mut Map<String, Value> {
    if !parent.is_object() {
        *parent = Value::Object(Map::new());
    }
    child(parent.as_object_mut().expect("made an object in the line above"), key)
}

fn child<'a>(parent: &'a mut Map<String, Value>, key: &str) -> &'a mut Map<String, Value> {
    let value = parent.entry(key).or_insert(Value::Null);
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().expect("made an object in the lines above")
}

fn list<'a>(parent: &'a mut Map<String, Value>, key: &str) -> &'a mut Vec<Value> {
    let value = parent.entry(key).or_insert(Value::Null);
    if !value.is_array() {
        *value = Value::Array(Vec::new());
    }
    value.as_array_mut().expect("made a list in the lines above")
}
