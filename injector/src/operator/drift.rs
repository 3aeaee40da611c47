//! Finds the pods that asked for the sidecar and do not have it, and those whose sidecar has an outdated image: counted, told to
//! their owners by Events, and left to `repair`.
//!
//! ```text
//! namespaces (metadata) ─────────► which of them ask ─┐
//! pods without it (metadata) ──► those that asked ────┴─ read one by one ──► state ──┐
//! fleet: pods with it ────────────────────────────────────────────────► their image ─┴─► counts, Events, repair
//! ```
//!
//! Of pods that did not ask nothing is kept.

mod asked;
mod told;

use std::collections::HashMap;
use std::time::Duration;

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{ApiResource, DynamicObject, ListParams, PartialObjectMeta};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, warn};

use super::fleet::Place;
use super::pods::WatchedPods;
use super::repair::{Repair, Worn};
use crate::annotations::INJECTED_LABEL;
use crate::cluster::ClusterDns;
use crate::events::Teller;
use crate::metrics::Metrics;
use crate::profile::WatchedProfiles;
use crate::settings::Settings;
use crate::state::{self, Facts, State};
use asked::Asked;
use told::{Told, Trouble};

/// A page of a listing.
const PAGE: u32 = 100;
/// Pods that have ended ask nothing any more.
const NOT_ENDED: &str = "status.phase!=Succeeded,status.phase!=Failed";
/// Pods that asked are read one by one, so far apart: a namespace that begins to ask may have thousands.
const LOOK: Duration = Duration::from_millis(20);
/// How often it is counted, told and repaired.
const ROUND: Duration = Duration::from_secs(5);

/// Keeps account of what pods lack.
pub(super) struct Drift<'a> {
    client: Client,
    cluster: ClusterDns,
    settings: &'a Settings,
    profiles: WatchedProfiles,
    fleet: &'a WatchedPods,
    metrics: Metrics,
    asked: Asked,
    told: Told,
    repair: Option<Repair>,
}

/// Takes the counts back when this replica leads no more: the next leader counts the same pods.
struct Uncounted(Metrics);

impl Drop for Uncounted {
    fn drop(&mut self) {
        self.0.not_drifted();
    }
}

impl<'a> Drift<'a> {
    pub(super) fn new(
        client: Client,
        cluster: ClusterDns,
        settings: &'a Settings,
        profiles: WatchedProfiles,
        fleet: &'a WatchedPods,
        (teller, metrics): (Teller, Metrics),
    ) -> Self {
        let repair =
            settings.repair.enabled.then(|| Repair::new(client.clone(), settings.repair.clone(), metrics.clone()));
        let told = Told::new(client.clone(), teller);
        Self { client, cluster, settings, profiles, fleet, metrics, asked: Asked::default(), told, repair }
    }

    /// Works until it is dropped.
    pub(super) async fn run(mut self) {
        let _uncounted = Uncounted(self.metrics.clone());
        let namespaces: Api<PartialObjectMeta<Namespace>> = Api::all(self.client.clone());
        let namespaces = watcher(namespaces, watcher::Config::default().page_size(PAGE)).default_backoff();
        let mut namespaces = std::pin::pin!(namespaces);
        // Whether a pod asks is not known before.
        while !self.asked.knows_namespaces() {
            let Some(event) = namespaces.next().await else { return };
            self.see_namespace(event).await;
        }
        let pods: Api<PartialObjectMeta<Pod>> = Api::all(self.client.clone());
        let without = watcher::Config::default().labels(&format!("{INJECTED_LABEL}!=true")).fields(NOT_ENDED);
        let mut pods = std::pin::pin!(watcher(pods, without.page_size(PAGE)).default_backoff());
        let mut profiles = self.profiles.clone();
        let (mut look, mut round) = (interval(LOOK), interval(ROUND));
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        round.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = namespaces.next() => match event {
                    Some(event) => self.see_namespace(event).await,
                    None => return,
                },
                event = pods.next() => match event {
                    Some(Ok(event)) => self.asked.see(event),
                    Some(Err(error)) => warn!(%error, "pods without the sidecar could not be watched; trying again"),
                    None => return,
                },
                changed = profiles.changed() => match changed {
                    Some(_) => self.asked.look_at_all_again(),
                    None => return,
                },
                _ = look.tick(), if self.asked.is_anything_unknown() => self.look().await,
                _ = round.tick() => self.round().await,
            }
        }
    }

    async fn see_namespace(&mut self, event: watcher::Result<watcher::Event<PartialObjectMeta<Namespace>>>) {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                warn!(%error, "the cluster's namespaces could not be watched; trying again");
                return;
            }
        };
        for namespace in self.asked.see_namespace(event, &self.settings.excluded_namespaces) {
            // Of its pods nothing was kept while it did not ask.
            if let Err(error) = self.list(&namespace).await {
                warn!(%error, namespace, "the pods of a namespace that asks now could not be listed; found when they change");
            }
        }
    }

    async fn list(&mut self, namespace: &str) -> kube::Result<()> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let without = format!("{INJECTED_LABEL}!=true");
        let mut params = ListParams::default().labels(&without).fields(NOT_ENDED).limit(PAGE);
        loop {
            let page = pods.list_metadata(&params).await?;
            page.items.iter().for_each(|pod| self.asked.insert(pod));
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(()),
            }
        }
    }

    /// Reads one pod of which it is not known how it stands.
    async fn look(&mut self) {
        let Some(place) = self.asked.next_unknown() else { return };
        let resource = ApiResource::erase::<Pod>(&());
        let pods: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &place.namespace, &resource);
        let pod = match pods.get_opt(&place.name).await {
            Ok(Some(pod)) => serde_json::to_value(pod).unwrap_or_default(),
            // The watch tells, or has told.
            Ok(None) => return self.asked.remove(&place),
            Err(error) => {
                debug!(%error, namespace = place.namespace, pod = place.name, "a pod could not be read; trying again");
                return self.asked.later(place);
            }
        };
        let profiles = self.profiles.now();
        let facts = Facts { settings: self.settings, cluster: Some(&self.cluster), profiles: &profiles };
        let labels = self.asked.labels(&place.namespace).clone();
        let namespace = state::Namespace { name: &place.namespace, labels: &labels };
        match State::of(&pod, namespace, facts) {
            State::NotAsked | State::Over => self.asked.remove(&place),
            state => self.asked.know(&place, state),
        }
    }

    /// Counts, tells and repairs.
    async fn round(&mut self) {
        // Until all pods are known the counts would be wrong.
        if !(self.asked.is_complete() && *self.fleet.news().borrow()) {
            return;
        }
        let mut counts: HashMap<&'static str, i64> = HashMap::new();
        let mut troubles = Trouble::all_of(&self.asked);
        let mut worn: Vec<Worn> = self.asked.healed_by_restart().map(Worn::new).collect();
        for state in self.asked.states() {
            *counts.entry(state.name()).or_default() += 1;
        }
        self.add_fleet(&mut counts, &mut troubles, &mut worn);
        self.metrics.drifted(&counts);
        self.told.tell(troubles).await;
        if let Some(repair) = &mut self.repair {
            let profiles = self.profiles.now();
            let facts = Facts { settings: self.settings, cluster: Some(&self.cluster), profiles: &profiles };
            repair.round(worn, facts, |namespace| self.asked.labels(namespace).clone()).await;
        }
    }

    fn add_fleet(&self, counts: &mut HashMap<&'static str, i64>, troubles: &mut Vec<Trouble>, worn: &mut Vec<Worn>) {
        let profiles = self.profiles.now();
        // Pods of one workload share what they were given.
        let mut images = HashMap::new();
        let fleet = self.fleet.fleet();
        for (place, maker, given) in fleet.each() {
            let image = images.entry(std::sync::Arc::as_ptr(given)).or_insert_with(|| {
                state::outdated_image(given.annotations(), None, self.settings, &profiles).ok().flatten()
            });
            if let Some((has, wanted)) = image {
                troubles.push(Trouble::outdated(place.clone(), maker, has, wanted));
                worn.push(Worn::new(place.clone()));
                *counts.entry("outdated-image").or_default() += 1;
            }
        }
    }
}

/// Where a pod is, by its metadata.
fn place(pod: &PartialObjectMeta<Pod>) -> Place {
    Place { namespace: pod.namespace().unwrap_or_default(), name: pod.name_any() }
}
