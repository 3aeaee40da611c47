//! Replaces pods that lack what a new pod would have, where the administrator wants that: by evicting them, one after the other.
//!
//! Disruption budgets are respected by the API server (429: later). Beyond that a pod is evicted only if it has a controller that
//! makes another one, if no more of that controller's pods are down than allowed, and if what was made for the last evicted one
//! does not lack the same.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DeleteParams, EvictParams, ListParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::fleet::Place;
use super::pods::{PAGE, TEMPLATE_HASH};
use crate::metrics::Metrics;
use crate::pages;
use crate::settings;
use crate::state::{Facts, Namespace, State};

/// So many pods are looked at in a round, if it does not take longer than this: the account of pods waits for it.
const LOOKS: usize = 50;
const LONGEST: Duration = Duration::from_secs(2);
/// What was not evicted in a longer time is not made up for at once.
const MOST_SINCE: Duration = Duration::from_secs(10);
/// A pod that cannot be evicted for a reason that does not pass by itself is looked at again after this time.
const LATER: Duration = Duration::from_secs(600);
/// A disruption budget, or pods that are not Ready yet, are asked about again after this time.
const SOON: Duration = Duration::from_secs(5);
/// An owner whose new pods lack the same, or do not become Ready, is left alone for this time.
const PAUSE: Duration = Duration::from_secs(3600);
/// A replacement has to be Ready within this time.
const PATIENCE: Duration = Duration::from_secs(600);

/// A pod that a restart would heal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Worn(Place);

/// Evicts pods.
pub(super) struct Repair {
    client: Client,
    settings: settings::Repair,
    metrics: Metrics,
    owners: HashMap<String, Owner>,
    /// Pods that are not looked at before.
    not_before: HashMap<Place, Instant>,
    /// The pod that was looked at last: those behind it are next, so that none waits for others that never can be evicted.
    turn: Option<Place>,
    last: Option<Instant>,
}

/// A controller of which a pod was evicted.
#[derive(Debug, Default)]
struct Owner {
    /// How many pods it had.
    expected: usize,
    /// The pods (their UIDs) that it had when the first one was evicted: others were made since.
    had: HashSet<String>,
    /// When the last one was evicted.
    evicted: Option<Instant>,
    not_before: Option<Instant>,
}

/// Why a pod is not evicted now, and for how long.
struct NotNow(Duration);

impl Worn {
    pub(super) fn new(place: Place) -> Self {
        Self(place)
    }
}

impl Repair {
    pub(super) fn new(client: Client, settings: settings::Repair, metrics: Metrics) -> Self {
        Self { client, settings, metrics, owners: HashMap::new(), not_before: HashMap::new(), turn: None, last: None }
    }

    /// Evicts some of these pods, as many as the pace allows since the last round.
    pub(super) async fn round(
        &mut self,
        mut worn: Vec<Worn>,
        facts: Facts<'_>,
        labels: impl Fn(&str) -> BTreeMap<String, String>,
    ) {
        let now = Instant::now();
        let pace = Duration::from_secs(60) / self.settings.evictions_per_minute.max(1);
        let since = self.last.map_or(pace, |last| now.duration_since(last).min(pace.max(MOST_SINCE)));
        let mut allowed = since.as_millis() / pace.as_millis().max(1);
        self.not_before.retain(|_, until| *until > now);
        self.owners.retain(|_, owner| {
            owner.not_before.is_some_and(|until| until > now)
                || owner.evicted.is_some_and(|when| now.duration_since(when) < PAUSE)
        });
        worn.retain(|Worn(place)| !self.not_before.contains_key(place));
        for Worn(place) in in_turn(worn, self.turn.as_ref()).into_iter().take(LOOKS) {
            if allowed == 0 || now.elapsed() > LONGEST {
                return;
            }
            self.turn = Some(place.clone());
            let labels = labels(&place.namespace);
            match self.try_to_evict(&place, &labels, facts).await {
                Ok(()) => {
                    self.last = Some(Instant::now());
                    allowed -= 1;
                }
                Err(NotNow(after)) => drop(self.not_before.insert(place, Instant::now() + after)),
            }
        }
    }

    async fn try_to_evict(
        &mut self,
        place: &Place,
        labels: &BTreeMap<String, String>,
        facts: Facts<'_>,
    ) -> Result<(), NotNow> {
        let Place { namespace, name } = place;
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let read = pods.get_opt(name).await.map_err(|error| {
            debug!(%error, %namespace, pod = %name, "a pod could not be read");
            NotNow(SOON)
        })?;
        let pod = read.ok_or(NotNow(SOON))?;
        let value = serde_json::to_value(&pod).map_err(|_| NotNow(LATER))?;
        let state = State::of(&value, Namespace { name: namespace, labels }, facts);
        let owner = controller(&pod).filter(|_| state.heals_by_restart()).ok_or(NotNow(LATER))?;
        self.may_lose_one(&pods, namespace, &pod, owner).await?;
        let params = EvictParams {
            delete_options: Some(DeleteParams {
                preconditions: Some(Preconditions { uid: pod.uid(), resource_version: None }),
                ..DeleteParams::default()
            }),
            ..EvictParams::default()
        };
        match pods.evict(name, &params).await {
            Ok(_) => {
                self.metrics.eviction("evicted");
                info!(%namespace, pod = %name, owner = %format!("{} {}", owner.kind, owner.name), why = %state, "evicted, to be made anew");
                self.owners.entry(owner.uid.clone()).or_default().evicted = Some(Instant::now());
                Ok(())
            }
            Err(kube::Error::Api(status)) if status.code == 429 => {
                self.metrics.eviction("budget");
                debug!(%namespace, pod = %name, message = status.message, "a disruption budget keeps a pod for now");
                self.owners.entry(owner.uid.clone()).or_default().not_before = Some(Instant::now() + SOON);
                Err(NotNow(SOON))
            }
            // Gone, or another one of the same name.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Err(NotNow(SOON)),
            Err(error) => {
                self.metrics.eviction("failed");
                warn!(%error, %namespace, pod = %name, "a pod could not be evicted");
                Err(NotNow(LATER))
            }
        }
    }

    /// Whether the owner can do without one of its pods now.
    async fn may_lose_one(
        &mut self,
        pods: &Api<Pod>,
        namespace: &str,
        pod: &Pod,
        owner: &OwnerReference,
    ) -> Result<(), NotNow> {
        let now = Instant::now();
        let known = self.owners.entry(owner.uid.clone()).or_default();
        if let Some(until) = known.not_before.filter(|until| *until > now) {
            return Err(NotNow(until - now));
        }
        let its = owned(pods, pod, &owner.uid).await.map_err(|error| {
            debug!(%error, namespace, "an owner's pods could not be counted");
            NotNow(SOON)
        })?;
        if known.evicted.is_none() {
            known.had = its.iter().map(|(uid, _)| uid.clone()).collect();
        } else if pod.uid().is_some_and(|uid| !known.had.contains(&uid)) {
            warn!(
                namespace,
                owner = %format!("{} {}", owner.kind, owner.name),
                "a pod that was made since one was evicted lacks the same: no more of this owner's pods are evicted for an hour"
            );
            known.not_before = Some(now + PAUSE);
            return Err(NotNow(PAUSE));
        }
        let ready = its.iter().filter(|(_, is_ready)| *is_ready).count();
        // What was evicted may be gone, and its replacement not made yet.
        let is_recent = known.evicted.is_some_and(|when| now.duration_since(when) < PATIENCE);
        known.expected = if is_recent { known.expected.max(its.len()) } else { its.len() };
        let down = known.expected.saturating_sub(ready);
        if down < self.settings.at_once_per_owner {
            return Ok(());
        }
        // Nor may its other pods, which need not be counted again for each of them.
        known.not_before = Some(Instant::now() + SOON);
        Err(NotNow(SOON))
    }
}

/// In the order of their names, from behind this one on.
fn in_turn(mut worn: Vec<Worn>, last: Option<&Place>) -> Vec<Worn> {
    worn.sort();
    let behind = last.map_or(0, |last| worn.partition_point(|Worn(place)| place <= last));
    worn.rotate_left(behind);
    worn
}

/// The pod's controller, if it makes a new pod for an evicted one: a Job counts it as failed.
fn controller(pod: &Pod) -> Option<&OwnerReference> {
    let controller = pod.owner_references().iter().find(|owner| owner.controller == Some(true))?;
    (!matches!(controller.kind.as_str(), "Job" | "Node")).then_some(controller)
}

/// The pods that the owner of this one controls and that are not on their way out: their UIDs, and whether they are Ready.
async fn owned(pods: &Api<Pod>, pod: &Pod, owner: &str) -> kube::Result<Vec<(String, bool)>> {
    let mut owned = Vec::new();
    let mut params = ListParams::default().limit(PAGE);
    // Those of a ReplicaSet have its hash in common: the namespace may have thousands of others.
    if let Some(hash) = pod.labels().get(TEMPLATE_HASH) {
        params = params.labels(&format!("{TEMPLATE_HASH}={hash}"));
    }
    let list = async |params| pods.list(&params).await;
    pages::each(params, list, |pod| {
        if pod.metadata.deletion_timestamp.is_none() && controller(&pod).is_some_and(|its| its.uid == owner) {
            owned.push((pod.uid().unwrap_or_default(), is_ready(&pod)));
        }
    })
    .await?;
    Ok(owned)
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pod_has_its_turn_whatever_becomes_of_those_before_it() {
        let place = |name: &str| Place { namespace: "shop".to_owned(), name: name.to_owned() };
        let order = |last: Option<&str>| {
            let worn = ["c", "a", "b"].map(|name| Worn::new(place(name))).to_vec();
            in_turn(worn, last.map(place).as_ref()).into_iter().map(|Worn(place)| place.name).collect::<String>()
        };
        assert_eq!([None, Some("a"), Some("aa"), Some("c")].map(order), ["abc", "bca", "bca", "abc"]);
    }
}
