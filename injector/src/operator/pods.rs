//! Watches the pods that have the sidecar, and have not ended: their metadata alone.

use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::PartialObjectMeta;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::sync::watch;
use tracing::warn;

use super::fleet::{Fleet, Place, Seen};
use crate::annotations::INJECTED_LABEL;
use crate::causes::with_causes;
use crate::cluster::ClusterDns;
use crate::profile::WatchedProfiles;

/// A page of a listing: a pod's annotations may take 256 KiB.
pub(super) const PAGE: u32 = 100;
/// Pods that have ended ask nothing any more.
pub(super) const NOT_ENDED: &str = "status.phase!=Succeeded,status.phase!=Failed";
/// What a Deployment adds to the name of each of its ReplicaSets.
pub(super) const TEMPLATE_HASH: &str = "pod-template-hash";

/// The fleet, as it was listed and has changed since: shared by the reconcilers.
pub(super) struct WatchedPods {
    cluster: ClusterDns,
    known: WatchedProfiles,
    fleet: Mutex<Fleet>,
    /// Told of each change; true once all pods were listed.
    news: watch::Sender<bool>,
}

impl WatchedPods {
    pub(super) fn new(cluster: ClusterDns, known: WatchedProfiles) -> Self {
        Self { cluster, known, fleet: Mutex::default(), news: watch::channel(false).0 }
    }

    /// The fleet, never held while something is waited for.
    pub(super) fn fleet(&self) -> MutexGuard<'_, Fleet> {
        // One who panicked has left a pod out at worst, which its next change brings back.
        self.fleet.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Told of each change; true once all pods were listed.
    pub(super) fn news(&self) -> watch::Receiver<bool> {
        self.news.subscribe()
    }

    /// Has everything looked at again.
    pub(super) fn stir(&self) {
        self.news.send_modify(|_| {});
    }

    /// Works until it is dropped.
    pub(super) async fn follow(&self, client: Client) {
        let pods: Api<PartialObjectMeta<Pod>> = Api::all(client);
        let with_sidecar = watcher::Config::default().labels(&format!("{INJECTED_LABEL}=true")).fields(NOT_ENDED);
        let mut pods = std::pin::pin!(watcher(pods, with_sidecar.page_size(PAGE)).default_backoff());
        let mut known = self.known.clone();
        loop {
            tokio::select! {
                event = pods.next() => match event {
                    Some(Ok(event)) => self.see(event),
                    Some(Err(error)) => warn!(error = with_causes(&error), "the cluster's pods could not be watched; trying again"),
                    None => return,
                },
                changed = known.changed() => match changed {
                    Some(profiles) => {
                        self.fleet().judge(&self.cluster, &profiles);
                        self.stir();
                    }
                    None => return,
                },
            }
        }
    }

    fn see(&self, event: watcher::Event<PartialObjectMeta<Pod>>) {
        match event {
            watcher::Event::Init => {
                self.news.send_replace(false);
                self.fleet().clear();
            }
            watcher::Event::InitApply(pod) => self.insert(&pod),
            watcher::Event::InitDone => drop(self.news.send_replace(true)),
            watcher::Event::Apply(pod) => {
                self.insert(&pod);
                self.stir();
            }
            watcher::Event::Delete(pod) => {
                self.fleet().delete(&place(&pod));
                self.stir();
            }
        }
    }

    fn insert(&self, pod: &PartialObjectMeta<Pod>) {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let seen = Seen { place: place(pod), uid, annotations: pod.annotations(), maker: maker(pod) };
        self.fleet().insert(seen, &self.cluster, &self.known.now());
    }
}

/// Where a pod is, by its metadata.
pub(super) fn place(pod: &PartialObjectMeta<Pod>) -> Place {
    Place { namespace: pod.namespace().unwrap_or_default(), name: pod.name_any() }
}

/// What people know a pod by: its Deployment, what else controls it, or its own name.
pub(super) fn maker(pod: &PartialObjectMeta<Pod>) -> String {
    let controller = pod.owner_references().iter().find(|owner| owner.controller == Some(true));
    let Some(controller) = controller else { return format!("Pod {}", pod.name_any()) };
    let hash = pod.labels().get(TEMPLATE_HASH).map(|hash| format!("-{hash}"));
    match hash.and_then(|hash| controller.name.strip_suffix(&hash)) {
        Some(deployment) if controller.kind == "ReplicaSet" => format!("Deployment {deployment}"),
        _ => format!("{} {}", controller.kind, controller.name),
    }
}
