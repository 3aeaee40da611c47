//! The pod without anything of ours: what a client sends in our fields is never trusted, only made anew.
//!
//! Pods are copied (`kubectl get pod -o yaml | kubectl create -f -`), restored from backups, and sent to the webhook a
//! second time. What the DNS fields and the sysctl were before is recorded in the annotation `dot-sidecar.io/status`;
//! what is read from there counts as the user's own input, and is checked like it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::annotations::{CONFIG, INJECTED_LABEL, STATUS};

use super::sidecar::{CONFIG_DIRECTORY, CONTAINER, VOLUME};
use super::{LOOPBACK, PORT, PORT_START};

/// What the injector did to a pod, and what was there before: the annotation `dot-sidecar.io/status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Status {
    /// The injector's version.
    pub(super) injector: String,
    /// The profile that was used.
    pub(super) profile: String,
    /// The sidecar's image, told here for whoever sees the pod's metadata alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) image: Option<String>,
    /// What injection replaced.
    pub(super) original: Original,
}

/// The fields that injection replaces, as they were.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Original {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) dns_policy: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) dns_config: Option<Map<String, Value>>,
    /// The pod's own `net.ipv4.ip_unprivileged_port_start`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) unprivileged_port_start: Option<String>,
}

/// A pod without anything of ours.
#[derive(Debug, Clone, PartialEq)]
pub struct Stripped<'a> {
    /// The pod: as it came, if there was nothing.
    pub pod: Cow<'a, Value>,
    /// It had our sidecar, or its volume, already: a copy, or the webhook's second call.
    pub had_sidecar: bool,
    /// What the platform has written into our container since.
    pub(super) platform: Platform,
    /// Its DNS fields were ours, and what they were before is not recorded.
    pub dns_unrecorded: bool,
}

/// By what a pod was injected, as its annotation `dot-sidecar.io/status` tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The injector's version.
    pub injector: String,
    /// The profile's name.
    pub profile: String,
    /// The sidecar's image.
    pub image: Option<String>,
}

impl Record {
    /// Reads it; `None` where there is none that can be read.
    pub fn read(annotations: &BTreeMap<String, String>) -> Option<Self> {
        let status: Status = serde_json::from_str(annotations.get(STATUS)?).ok()?;
        Some(Self { injector: status.injector, profile: status.profile, image: status.image })
    }
}

/// What a cluster's own admission plugins write into every container after the webhook, and demand to find there in the end. When
/// the webhook is called again it keeps that, or the pod would be refused. A client may write it too, and gains nothing by it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Platform {
    /// The plugin AlwaysPullImages has set the pull policy.
    pub(super) pulls_always: bool,
    /// The user that the platform (OpenShift) has chosen, where that is left to it.
    pub(super) user: Option<i64>,
}

impl Status {
    /// As it is written on the pod.
    pub(super) fn to_json(&self) -> String {
        serde_json::to_string(self).expect("strings and JSON values always have a JSON form")
    }
}

impl Original {
    /// What injection is about to replace in a pod without anything of ours.
    pub(super) fn of(pod: &Value) -> Self {
        Self {
            dns_policy: pod.pointer("/spec/dnsPolicy").and_then(Value::as_str).map(str::to_owned),
            dns_config: pod.pointer("/spec/dnsConfig").and_then(Value::as_object).cloned(),
            unprivileged_port_start: sysctls(pod).find_map(port_start).map(str::to_owned),
        }
    }
}

impl Platform {
    fn of(pod: &Value) -> Self {
        let containers = pod.pointer("/spec/initContainers").and_then(Value::as_array);
        let Some(ours) = containers.into_iter().flatten().find(|it| is_our_container(it)) else {
            return Self::default();
        };
        Self {
            pulls_always: ours.get("imagePullPolicy").and_then(Value::as_str) == Some("Always"),
            user: ours.pointer("/securityContext/runAsUser").and_then(Value::as_i64).filter(|user| *user > 0),
        }
    }
}

/// Takes away what injection adds, and puts back what it replaces. What stays keeps its order, for who reads it.
pub(super) fn strip(pod: &Value) -> Stripped<'_> {
    let mut pod = Cow::Borrowed(pod);
    let platform = Platform::of(&pod);
    let had_container = remove_from(&mut pod, "/spec", "initContainers", is_our_container);
    // `kubectl debug --copy-to --keep-init-containers=false` leaves the volume alone to tell whose DNS fields these are.
    let had_sidecar = remove_from(&mut pod, "/spec", "volumes", is_our_volume) || had_container;
    remove_key(&mut pod, "/metadata/labels", INJECTED_LABEL);
    remove_key(&mut pod, "/metadata/annotations", CONFIG);
    let status = remove_key(&mut pod, "/metadata/annotations", STATUS);
    let record = status.as_ref().and_then(Value::as_str).and_then(|text| serde_json::from_str::<Status>(text).ok());
    let original = record.map(|status| status.original);

    let mut dns_unrecorded = false;
    if had_sidecar || original.is_some() {
        if has_our_dns(&pod) {
            dns_unrecorded = original.is_none();
            // ClusterFirst is what the pod most likely had: it is the API's default.
            let likely = Original { dns_policy: Some("ClusterFirst".to_owned()), ..Original::default() };
            restore_dns(pod.to_mut(), original.as_ref().unwrap_or(&likely));
        }
        restore_sysctl(&mut pod, original.and_then(|original| original.unprivileged_port_start).as_deref());
    }
    Stripped { pod, had_sidecar, platform, dns_unrecorded }
}

/// Ours by its name and by the mount that only our sidecar has; any other container of that name is the user's.
pub(super) fn is_our_container(container: &Value) -> bool {
    let mounts = container.get("volumeMounts").and_then(Value::as_array);
    container.get("name").and_then(Value::as_str) == Some(CONTAINER)
        && mounts.into_iter().flatten().any(|mount| {
            mount.get("name").and_then(Value::as_str) == Some(VOLUME)
                && mount.get("mountPath").and_then(Value::as_str) == Some(CONFIG_DIRECTORY)
        })
}

/// Ours by its name and by the annotation that it hands out; any other volume of that name is the user's.
pub(super) fn is_our_volume(volume: &Value) -> bool {
    if volume.get("name").and_then(Value::as_str) != Some(VOLUME) {
        return false;
    }
    let ours = format!("metadata.annotations['{CONFIG}']");
    let items = volume.pointer("/downwardAPI/items").and_then(Value::as_array);
    let mut paths = items.into_iter().flatten().map(|item| item.pointer("/fieldRef/fieldPath").and_then(Value::as_str));
    paths.any(|path| path == Some(ours.as_str()))
}

/// Whether a sysctl is the one that opens low ports; the API takes both spellings of its name.
pub(super) fn is_port_start(name: &str) -> bool {
    name.replace('/', ".") == PORT_START
}

/// Our container, where the pod has it.
pub(super) fn sidecar(pod: &Value) -> Option<&Value> {
    let containers = pod.pointer("/spec/initContainers").and_then(Value::as_array);
    containers.into_iter().flatten().find(|container| is_our_container(container))
}

pub(super) fn has_our_dns(pod: &Value) -> bool {
    pod.pointer("/spec/dnsPolicy").and_then(Value::as_str) == Some("None")
        && pod.pointer("/spec/dnsConfig/nameservers") == Some(&json!([LOOPBACK]))
}

fn restore_dns(pod: &mut Value, original: &Original) {
    let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) else { return };
    match &original.dns_policy {
        Some(policy) => spec.insert("dnsPolicy".to_owned(), json!(policy)),
        None => spec.shift_remove("dnsPolicy"),
    };
    match &original.dns_config {
        Some(config) => spec.insert("dnsConfig".to_owned(), Value::Object(config.clone())),
        None => spec.shift_remove("dnsConfig"),
    };
}

/// Puts the sysctl back where it still says what injection made it say; what the user has written since is kept.
fn restore_sysctl(pod: &mut Cow<'_, Value>, original: Option<&str>) {
    let ours = PORT.to_string();
    if !sysctls(pod).any(|sysctl| port_start(sysctl) == Some(&ours)) {
        return;
    }
    match original {
        Some(value) => {
            let list = pod.to_mut().pointer_mut("/spec/securityContext/sysctls").and_then(Value::as_array_mut);
            for sysctl in list.into_iter().flatten().filter(|sysctl| port_start(sysctl).is_some()) {
                sysctl["value"] = json!(value);
            }
        }
        None => {
            remove_from(pod, "/spec/securityContext", "sysctls", |sysctl| port_start(sysctl).is_some());
        }
    }
}

fn sysctls(pod: &Value) -> impl Iterator<Item = &Value> {
    pod.pointer("/spec/securityContext/sysctls").and_then(Value::as_array).into_iter().flatten()
}

/// The value of the sysctl that opens low ports, if `sysctl` is it.
fn port_start(sysctl: &Value) -> Option<&str> {
    let name = sysctl.get("name").and_then(Value::as_str)?;
    sysctl.get("value").and_then(Value::as_str).filter(|_| is_port_start(name))
}

/// Removes the items of a list that are `unwanted`, and the list itself when none is left. Tells whether there were any.
fn remove_from(pod: &mut Cow<'_, Value>, parent: &str, key: &str, unwanted: impl Fn(&Value) -> bool) -> bool {
    let list = pod.pointer(parent).and_then(|parent| parent.get(key)).and_then(Value::as_array);
    if !list.is_some_and(|list| list.iter().any(&unwanted)) {
        return false;
    }
    let Some(parent) = pod.to_mut().pointer_mut(parent).and_then(Value::as_object_mut) else { return false };
    let Some(list) = parent.get_mut(key).and_then(Value::as_array_mut) else { return false };
    list.retain(|item| !unwanted(item));
    if list.is_empty() {
        parent.shift_remove(key);
    }
    true
}

/// Removes one key of a map, and the map itself when it was the last.
fn remove_key(pod: &mut Cow<'_, Value>, map: &str, key: &str) -> Option<Value> {
    pod.pointer(map)?.get(key)?;
    let pod = pod.to_mut();
    let entries = pod.pointer_mut(map)?.as_object_mut()?;
    let removed = entries.shift_remove(key)?;
    if entries.is_empty() {
        let (parent, name) = map.rsplit_once('/')?;
        pod.pointer_mut(parent)?.as_object_mut()?.shift_remove(name);
    }
    Some(removed)
}
