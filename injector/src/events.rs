//! Events for owners of pods that could not be served, or lack what they asked for: a Deployment's author never sees a pod's admission
//! warning.
//!
//! Admissions and the leader put what is to be told into a bounded queue and go on; one worker finds the top owner and writes the Event.

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::core::{ApiResource, GroupVersionKind, PartialObjectMeta};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, Client};
use serde_json::Value;
use tokio::sync::mpsc;
use tracing::{debug, warn};

use crate::inject::Refusal;
use crate::metrics::Metrics;

/// So many Events may wait; more are dropped and counted. Their pods come again as long as their owner wants them.
const LONGEST_QUEUE: usize = 256;
/// The API's limit of an Event's note, in bytes.
const LONGEST_NOTE: usize = 1024;

/// Where admissions leave what is to be told.
#[derive(Clone)]
pub struct Teller {
    queue: mpsc::Sender<Notice>,
    metrics: Metrics,
}

/// Finds owners and writes Events.
pub struct Worker {
    queue: mpsc::Receiver<Notice>,
    client: Client,
    recorder: Recorder,
    metrics: Metrics,
}

/// What an owner is to be told about a pod.
#[derive(Debug, Clone, PartialEq)]
pub struct Notice {
    namespace: String,
    owner: OwnerReference,
    tell: Tell,
}

/// What is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tell {
    /// Whether it is a Warning, or Normal.
    pub is_warning: bool,
    /// Why, in one word of an Event's form.
    pub reason: &'static str,
    /// Events that differ by nothing but their note are counted as one: this tells them apart.
    pub code: &'static str,
    /// The sentence.
    pub note: String,
}

/// A queue, and the worker at its end.
pub fn queue(client: Client, instance: Option<String>, metrics: Metrics) -> (Teller, Worker) {
    let (sender, receiver) = mpsc::channel(LONGEST_QUEUE);
    let reporter = Reporter { controller: "dot-injector".to_owned(), instance };
    let recorder = Recorder::new(client.clone(), reporter);
    let worker = Worker { queue: receiver, client, recorder, metrics: metrics.clone() };
    (Teller { queue: sender, metrics }, worker)
}

impl Notice {
    /// What to tell this owner. A sentence longer than the API takes is cut.
    pub fn new(namespace: String, owner: OwnerReference, mut tell: Tell) -> Self {
        let fits = |end: &usize| tell.note.is_char_boundary(*end);
        let end = (0..=tell.note.len().min(LONGEST_NOTE)).rev().find(fits).unwrap_or_default();
        tell.note.truncate(end);
        Self { namespace, owner, tell }
    }

    /// What to tell the pod's controller; `None` for a pod that has none, whose author sees the warning.
    pub fn about(pod: &Value, namespace: &str, refusal: &Refusal, sentence: &str) -> Option<Self> {
        let owners = pod.pointer("/metadata/ownerReferences")?.as_array()?;
        let owner = owners.iter().find(|owner| owner.get("controller") == Some(&Value::Bool(true)))?;
        let owner = serde_json::from_value(owner.clone()).ok()?;
        let note = sentence.to_owned();
        let tell = Tell { is_warning: true, reason: "DnsNotEncrypted", code: refusal.code(), note };
        Some(Self::new(namespace.to_owned(), owner, tell))
    }
}

impl Teller {
    /// Has the owner told, soon. Never waits.
    pub fn tell(&self, notice: Notice) {
        if self.queue.try_send(notice).is_err() {
            self.metrics.event("dropped");
        }
    }
}

impl Worker {
    /// Works until every [`Teller`] is gone, or until it is dropped.
    pub async fn run(mut self) {
        while let Some(notice) = self.queue.recv().await {
            let regarding = self.top_owner(&notice).await;
            let event = Event {
                type_: if notice.tell.is_warning { EventType::Warning } else { EventType::Normal },
                reason: notice.tell.reason.to_owned(),
                note: Some(notice.tell.note),
                action: notice.tell.code.to_owned(),
                secondary: None,
            };
            match self.recorder.publish(&event, &regarding).await {
                Ok(()) => self.metrics.event("sent"),
                Err(error) => {
                    self.metrics.event("failed");
                    let owner = regarding.name.unwrap_or_default();
                    warn!(%error, namespace = notice.namespace, owner, "an Event could not be written");
                }
            }
        }
    }

    /// The Deployment of a ReplicaSet, the CronJob of a Job; others are their own top.
    async fn top_owner(&self, notice: &Notice) -> ObjectReference {
        let owner = &notice.owner;
        let above = match (owner.api_version.as_str(), owner.kind.as_str()) {
            ("apps/v1", "ReplicaSet") | ("batch/v1", "Job") => self.controller_of(&notice.namespace, owner).await,
            _ => None,
        };
        let top = above.as_ref().unwrap_or(owner);
        ObjectReference {
            api_version: Some(top.api_version.clone()),
            kind: Some(top.kind.clone()),
            name: Some(top.name.clone()),
            namespace: Some(notice.namespace.clone()),
            uid: Some(top.uid.clone()),
            ..ObjectReference::default()
        }
    }

    async fn controller_of(&self, namespace: &str, owner: &OwnerReference) -> Option<OwnerReference> {
        let (group, version) = owner.api_version.split_once('/')?;
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &owner.kind));
        let objects: Api<PartialObjectMeta> = Api::namespaced_with(self.client.clone(), namespace, &resource);
        match objects.get_metadata_opt(&owner.name).await {
            Ok(found) => {
                let owners = found?.metadata.owner_references?;
                owners.into_iter().find(|above| above.controller == Some(true))
            }
            Err(error) => {
                debug!(%error, kind = owner.kind, name = owner.name, "the owner's owner could not be read");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_note_is_never_longer_than_the_api_takes_nor_cut_within_a_character() {
        let owner = json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "uid": "u", "controller": true});
        let pod = json!({"metadata": {"ownerReferences": [owner]}});
        let note = |sentence: &str| Notice::about(&pod, "shop", &Refusal::HostNetwork, sentence).unwrap().tell.note;
        assert_eq!(note("short"), "short");
        assert_eq!(note(&"x".repeat(2000)).len(), 1024);
        assert_eq!(note(&format!("x{}", "ü".repeat(1000))).len(), 1023);
    }

    #[test]
    fn a_pod_without_a_controller_has_nobody_to_tell() {
        let pod =
            json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "X", "name": "x", "uid": "u"}]}});
        assert_eq!(Notice::about(&pod, "shop", &Refusal::HostNetwork, "why"), None);
        assert_eq!(Notice::about(&json!({}), "shop", &Refusal::HostNetwork, "why"), None);
    }
}
