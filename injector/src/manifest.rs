//! Manifests as people keep them: YAML or JSON, many documents, pods and what makes pods, facts beside them.
//!
//! What is decided here offline is what admission decides: the same pure function, on the same raw pod.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::Value;

use crate::annotations;
use crate::cluster::ClusterDns;
use crate::inject::{self, Decision, Subject, Verdict};
use crate::limits::ContainerLimits;
use crate::profile::{Profile, ProfileError, Profiles};
use crate::settings::Settings;

/// A file's documents, and what some of them say about namespaces.
#[derive(Debug)]
pub struct Manifest {
    documents: Vec<Document>,
    /// JSON in, JSON out.
    is_json: bool,
    facts: Facts,
}

/// What is known about a pod's surroundings beside the manifest.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// The namespace of what names none.
    pub namespace: String,
    /// The injector's configuration.
    pub settings: Settings,
    /// The cluster's DNS.
    pub cluster: ClusterDns,
    /// The cluster's profiles; those of the manifest take their place.
    pub profiles: Profiles,
}

/// The decision about one pod, or pod template, of a manifest.
#[derive(Debug)]
pub struct Finding {
    /// Such as `Deployment/web`.
    pub object: String,
    /// Where its pods will be.
    pub namespace: String,
    /// What is decided.
    pub verdict: Verdict,
    /// What the decision makes of the pod.
    pub pod: Value,
}

/// Why a text is no manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestError(String);

#[derive(Debug)]
struct Document {
    /// As it was written, to be passed through where nothing is to be changed.
    text: String,
    value: Value,
    changed: bool,
}

/// What Namespace, LimitRange and ProxyProfile documents say, and others that say something about pods.
#[derive(Debug, Default)]
pub struct Facts {
    namespaces: BTreeMap<String, BTreeMap<String, String>>,
    limits: BTreeMap<String, ContainerLimits>,
    profiles: Vec<(String, Result<Profile, ProfileError>)>,
    /// LimitRanges, ResourceQuotas and MutatingWebhookConfigurations, the latter in no namespace.
    others: Vec<(String, Value)>,
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ManifestError {}

impl Manifest {
    /// Reads all documents of a text. What names no namespace is in `namespace`.
    pub fn read(text: &str, namespace: &str) -> Result<Self, ManifestError> {
        let is_json = text.trim_start().starts_with('{');
        let documents = if is_json { json_documents(text)? } else { yaml_documents(text)? };
        let mut facts = Facts::default();
        for document in &documents {
            facts.gather(&document.value, namespace)?;
        }
        Ok(Self { documents, is_json, facts })
    }

    /// Decides about every pod, and changes those that are to have the sidecar.
    pub fn inject(&mut self, surroundings: &Surroundings) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut profiles = surroundings.profiles.clone();
        for (name, profile) in self.facts.profiles.drain(..) {
            profiles.insert(name, profile);
        }
        for document in &mut self.documents {
            inject_into(
                &mut document.value,
                surroundings,
                &self.facts,
                &profiles,
                &mut findings,
                &mut document.changed,
            );
        }
        findings
    }

    /// Heeds what another manifest says about namespaces and the like, too.
    pub fn know(&mut self, other: Self) {
        let Facts { namespaces, limits, profiles, others } = other.facts;
        self.facts.namespaces.extend(namespaces);
        self.facts.limits.extend(limits);
        self.facts.profiles.extend(profiles);
        self.facts.others.extend(others);
    }

    /// What is known of namespaces and the like.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The namespaces of everything that makes pods; `default` is that of what names none.
    pub fn namespaces(&self, default: &str) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        self.documents.iter().for_each(|document| namespaces_of(&document.value, default, &mut found));
        found
    }

    /// Takes the sidecar, and all that came with it, out of every pod. Tells the objects of which it is not recorded what their DNS
    /// was before.
    pub fn uninject(&mut self) -> Vec<String> {
        let mut unrecorded = Vec::new();
        for document in &mut self.documents {
            uninject_from(&mut document.value, &mut unrecorded, &mut document.changed);
        }
        unrecorded
    }

    /// The manifest as text; documents in which nothing was changed stand as they were written.
    pub fn write(&self) -> Result<String, ManifestError> {
        let texts = self.documents.iter().map(|document| match (document.changed, self.is_json) {
            (false, _) => Ok(document.text.clone()),
            (true, true) => serde_json::to_string_pretty(&document.value).map_err(failed),
            (true, false) => serde_saphyr::to_string(&document.value).map_err(failed),
        });
        let mut whole = String::new();
        for (index, text) in texts.enumerate() {
            if index > 0 && !self.is_json {
                whole.push_str("---\n");
            }
            whole.push_str(text?.trim_matches('\n'));
            whole.push('\n');
        }
        Ok(whole)
    }
}

impl Facts {
    /// The labels of a namespace; none of one that is not known.
    pub fn labels_of(&self, namespace: &str) -> &BTreeMap<String, String> {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        self.namespaces.get(namespace).unwrap_or(&NONE)
    }

    /// What a namespace demands of containers.
    pub fn limits_of(&self, namespace: &str) -> ContainerLimits {
        self.limits.get(namespace).cloned().unwrap_or_default()
    }

    /// The LimitRanges or ResourceQuotas of a namespace, or the MutatingWebhookConfigurations (of the namespace `""`).
    pub fn others(&self, of_kind: &str, namespace: &str) -> impl Iterator<Item = &Value> {
        self.others
            .iter()
            .filter(move |(its, value)| its == namespace && kind(value) == of_kind)
            .map(|(_, value)| value)
    }

    fn gather(&mut self, value: &Value, default_namespace: &str) -> Result<(), ManifestError> {
        let metadata = |key: &str| value.pointer(&format!("/metadata/{key}"));
        match kind(value) {
            "Namespace" => {
                let labels = metadata("labels").and_then(|labels| serde_json::from_value(labels.clone()).ok());
                let name = metadata("name").and_then(Value::as_str).unwrap_or_default();
                self.namespaces.insert(name.to_owned(), labels.unwrap_or_default());
            }
            "LimitRange" => {
                let namespace = metadata("namespace").and_then(Value::as_str).unwrap_or(default_namespace);
                self.limits.entry(namespace.to_owned()).or_default().add(value).map_err(ManifestError)?;
                self.others.push((namespace.to_owned(), value.clone()));
            }
            "ResourceQuota" => {
                let namespace = metadata("namespace").and_then(Value::as_str).unwrap_or(default_namespace);
                self.others.push((namespace.to_owned(), value.clone()));
            }
            "MutatingWebhookConfiguration" => self.others.push((String::new(), value.clone())),
            "ProxyProfile" => {
                let name = metadata("name").and_then(Value::as_str).unwrap_or_default();
                let spec = value.get("spec").cloned().unwrap_or_else(|| Value::Object(serde_json::Map::new()));
                self.profiles.push((name.to_owned(), Profile::read(spec)));
            }
            _ => {}
        }
        let items = value.get("items").and_then(Value::as_array);
        items
            .into_iter()
            .flatten()
            .filter(|_| kind(value).ends_with("List"))
            .try_for_each(|item| self.gather(item, default_namespace))
    }
}

/// Decides about the pods in an object, and in the items of a list.
fn inject_into(
    value: &mut Value,
    surroundings: &Surroundings,
    facts: &Facts,
    profiles: &Profiles,
    findings: &mut Vec<Finding>,
    changed: &mut bool,
) {
    let object_kind = kind(value).to_owned();
    if object_kind.ends_with("List") {
        let items = value.get_mut("items").and_then(Value::as_array_mut);
        for item in items.into_iter().flatten() {
            inject_into(item, surroundings, facts, profiles, findings, changed);
        }
        return;
    }
    let Some(path) = pod_path(&object_kind) else { return };
    let name = name(value);
    let namespace = value.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or(&surroundings.namespace);
    let namespace = namespace.to_owned();
    let Some(pod) = value.pointer_mut(path) else { return };
    let (limits, labels) = (facts.limits_of(&namespace), facts.labels_of(&namespace));
    let subject = Subject {
        pod,
        namespace: &namespace,
        namespace_asks: annotations::namespace_asks(labels),
        namespace_labels: labels,
        limits: &limits,
    };
    let verdict = inject::decide(subject, &surroundings.settings, &surroundings.cluster, profiles);
    let after = inject::patched(&verdict.decision, pod);
    if after != *pod {
        pod.clone_from(&after);
        *changed = true;
    }
    findings.push(Finding { object: format!("{object_kind}/{name}"), namespace, verdict, pod: after });
}

/// Takes the sidecar out of the pods in an object, and in the items of a list.
fn uninject_from(value: &mut Value, unrecorded: &mut Vec<String>, changed: &mut bool) {
    if kind(value).ends_with("List") {
        let items = value.get_mut("items").and_then(Value::as_array_mut);
        items.into_iter().flatten().for_each(|item| uninject_from(item, unrecorded, changed));
        return;
    }
    let Some(path) = pod_path(kind(value)) else { return };
    let object = format!("{}/{}", kind(value), name(value));
    let Some(pod) = value.pointer_mut(path) else { return };
    let stripped = inject::without_sidecar(pod);
    if *stripped.pod == *pod {
        return;
    }
    let (bare, dns_unrecorded) = (stripped.pod.into_owned(), stripped.dns_unrecorded);
    let had_context = !is_empty(pod.pointer("/spec/securityContext"));
    *pod = bare;
    // The sysctl was all that it held.
    if had_context && is_empty(pod.pointer("/spec/securityContext")) {
        pod.get_mut("spec").and_then(Value::as_object_mut).map(|spec| spec.shift_remove("securityContext"));
    }
    *changed = true;
    if dns_unrecorded {
        unrecorded.push(object);
    }
}

fn namespaces_of(value: &Value, default: &str, found: &mut BTreeSet<String>) {
    if kind(value).ends_with("List") {
        let items = value.get("items").and_then(Value::as_array).into_iter().flatten();
        return items.into_iter().for_each(|item| namespaces_of(item, default, found));
    }
    if pod_path(kind(value)).is_some() {
        let namespace = value.pointer("/metadata/namespace").and_then(Value::as_str);
        found.insert(namespace.unwrap_or(default).to_owned());
    }
}

fn is_empty(map: Option<&Value>) -> bool {
    map.and_then(Value::as_object).is_none_or(serde_json::Map::is_empty)
}

/// The object's name, or what its name begins with.
fn name(value: &Value) -> String {
    let text = |path: &str| value.pointer(path).and_then(Value::as_str).map(str::to_owned);
    text("/metadata/name").or_else(|| text("/metadata/generateName")).unwrap_or_default()
}

impl Finding {
    /// Whether the pod asked for the sidecar and cannot have it.
    pub fn is_denied(&self) -> bool {
        matches!(self.verdict.decision, Decision::Deny(_))
    }
}

/// Where the pod stands in an object of this kind.
fn pod_path(kind: &str) -> Option<&'static str> {
    match kind {
        "Pod" => Some(""),
        "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "ReplicationController" | "Job" => {
            Some("/spec/template")
        }
        "CronJob" => Some("/spec/jobTemplate/spec/template"),
        "PodTemplate" => Some("/template"),
        _ => None,
    }
}

fn kind(value: &Value) -> &str {
    value.get("kind").and_then(Value::as_str).unwrap_or_default()
}

fn json_documents(text: &str) -> Result<Vec<Document>, ManifestError> {
    let values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    let documents = values.map(|value| {
        let value = value.map_err(|error| ManifestError(format!("not readable as JSON: {error}")))?;
        let text = serde_json::to_string_pretty(&value).map_err(failed)?;
        Ok(Document { text, value, changed: false })
    });
    documents.collect()
}

/// The documents of a YAML stream. `---` at the beginning of a line always ends a document (YAML 1.2, 9.1.2).
fn yaml_documents(text: &str) -> Result<Vec<Document>, ManifestError> {
    let mut documents = Vec::new();
    let mut current = String::new();
    let mut first_line = 1;
    for (number, line) in (1..).zip(text.lines().chain(["---"])) {
        if !is_separator(line) {
            current.push_str(line);
            current.push('\n');
            continue;
        }
        documents.extend(yaml_document(&current, first_line)?);
        // What stands beside the separator belongs to the next document.
        current = format!("{}\n", line.trim_start_matches("---").trim());
        first_line = number;
    }
    Ok(documents)
}

fn is_separator(line: &str) -> bool {
    line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r']))
}

/// One document, or none where there are only comments.
fn yaml_document(text: &str, first_line: usize) -> Result<Option<Document>, ManifestError> {
    let is_content = |line: &str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    if !text.lines().any(is_content) {
        return Ok(None);
    }
    let value = serde_saphyr::from_str(text).map_err(|error| {
        ManifestError(format!("the document that begins in line {first_line} is not readable as YAML: {error}"))
    })?;
    Ok(Some(Document { text: text.to_owned(), value, changed: false }))
}

fn failed(error: impl fmt::Display) -> ManifestError {
    ManifestError(format!("the result could not be written: {error}"))
}

#[cfg(test)]
mod tests;
