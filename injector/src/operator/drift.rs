//! Finds the pods that asked for the sidecar and do not have it, and those whose sidecar has an outdated image: counted, told to
//! their owners by Events, and left to `repair`.
//!
//! ```text
//! namespaces (metadata) ─────────► which of them ask ─┐
//! pods without it (metadata) ──► those that asked ────┴─ read one by one ──► state ──┐
//! fleet: pods with it ────────────────────────────────────────────────► their image ─┴─► counts, Events, repair
//! ```
//!
//! Of pods that did not ask nothing is kept. The counts go into metrics, and by way of the fleet into the status of profiles.

mod asked;
mod told;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{ApiResource, DynamicObject, ListParams, PartialObjectMeta};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{debug, warn};

use super::fleet::{Fleet, Given, Lacks};
use super::pods::{NOT_ENDED, PAGE, WatchedPods};
use super::repair::{Repair, Worn};
use crate::annotations::INJECTED_LABEL;
use crate::causes::with_causes;
use crate::cluster::ClusterDns;
use crate::events::Teller;
use crate::metrics::Metrics;
use crate::pages;
use crate::profile::{Profiles, WatchedProfiles};
use crate::settings::Settings;
use crate::state::{self, Facts, State};
use asked::Asked;
use told::{Due, Lack, Told, Trouble};

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
                    Some(Err(error)) => warn!(error = with_causes(&error), "pods without the sidecar could not be watched; trying again"),
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
                warn!(error = with_causes(&error), "the cluster's namespaces could not be watched; trying again");
                return;
            }
        };
        for namespace in self.asked.see_namespace(event, &self.settings.excluded_namespaces) {
            // Of its pods nothing was kept while it did not ask.
            if let Err(error) = self.list(&namespace).await {
                warn!(
                    error = with_causes(&error),
                    namespace, "the pods of a namespace that asks now could not be listed; found when they change"
                );
            }
        }
    }

    async fn list(&mut self, namespace: &str) -> kube::Result<()> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let without = format!("{INJECTED_LABEL}!=true");
        let params = ListParams::default().labels(&without).fields(NOT_ENDED).limit(PAGE);
        let list = async |params| pods.list_metadata(&params).await;
        pages::each(params, list, |pod| self.asked.insert(&pod)).await
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
            state => self.asked.know(&place, &state),
        }
    }

    /// Counts, tells and repairs.
    async fn round(&mut self) {
        // Until all pods are known the counts would be wrong.
        if !(self.asked.is_complete() && *self.fleet.news().borrow()) {
            return;
        }
        let profiles = self.profiles.now();
        let (due, worn) = self.count(&profiles);
        self.told.tell(due).await;
        if let Some(repair) = &mut self.repair {
            let facts = Facts { settings: self.settings, cluster: Some(&self.cluster), profiles: &profiles };
            repair.round(worn, facts, |namespace| self.asked.labels(namespace).clone()).await;
        }
    }

    /// Counts what pods lack. What has to be told of it now, and, if they are repaired, the pods that a restart would heal.
    fn count(&mut self, profiles: &Profiles) -> (Vec<Due>, Vec<Worn>) {
        let mut fleet = self.fleet.fleet();
        let images = self.outdated_images(&fleet, profiles);
        let outdated = || {
            fleet
                .each()
                .filter_map(|(place, maker, given)| Some((place, maker, given, images.get(&Arc::as_ptr(given))?)))
        };

        let mut counts: HashMap<&'static str, i64> = HashMap::new();
        let mut lacks: BTreeMap<String, Lacks> = BTreeMap::new();
        for pod in self.asked.each() {
            *counts.entry(pod.state).or_default() += 1;
            if pod.missing.is_some() {
                lacks.entry(pod.profile.to_owned()).or_default().missing += 1;
            }
        }
        for (_, _, given, _) in outdated() {
            *counts.entry("outdated-image").or_default() += 1;
            lacks.entry(given.profile().to_owned()).or_default().outdated_image += 1;
        }
        self.metrics.drifted(&counts);

        let missing = self
            .asked
            .each()
            .filter_map(|pod| Some(Trouble { place: pod.place, maker: pod.maker, lack: Lack::Sidecar(pod.missing?) }));
        let of_fleet = outdated().map(|(place, maker, _, (has, wanted))| Trouble {
            place,
            maker,
            lack: Lack::Image { has, wanted },
        });
        let due = self.told.due(missing.chain(of_fleet), Instant::now());

        let mut worn = Vec::new();
        if self.repair.is_some() {
            let missing = self.asked.each().filter(|pod| pod.heals_by_restart).map(|pod| pod.place);
            worn.extend(missing.chain(outdated().map(|(place, ..)| place)).cloned().map(Worn::new));
        }
        let is_news = fleet.lacks(lacks);
        drop(fleet);
        if is_news {
            self.fleet.stir();
        }
        (due, worn)
    }

    /// The image that pods which were given this have, and the one that they would have now, where that is another one. Pods of one
    /// workload share what they were given.
    fn outdated_images(&self, fleet: &Fleet, profiles: &Profiles) -> HashMap<*const Given, (String, String)> {
        let image = |given: &Arc<Given>| {
            let image = state::outdated_image(given.annotations(), None, self.settings, profiles).ok().flatten();
            Some((Arc::as_ptr(given), image?))
        };
        fleet.given().filter_map(image).collect()
    }
}
