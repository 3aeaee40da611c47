//! Writes what is known of profiles into their status: by whoever leads.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{Timestamp, Unit};
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::{Api, Client, Resource};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::warn;

use super::pods::WatchedPods;
use super::rollout::{CONDITION, Progress, ProgressBoard};
use super::self_check::Verdict;
use crate::causes::with_causes;
use crate::cluster::ClusterDns;
use crate::inject;
use crate::metrics::Metrics;
use crate::profile::{Condition, DEFAULT, PodCounts, ProfileStatus, Profiles, ProxyProfile, Resolver, WatchedProfiles};

/// Field manager of the status, and of nothing else.
const FIELD_MANAGER: &str = "dot-injector-status";
/// What happens in so short a time is told at once.
const ROUND: Duration = Duration::from_millis(500);
/// Counts change with every pod; they are told no more often than this.
const COUNTS: Duration = Duration::from_secs(5);
/// How soon a status is tried again that could not be written.
const RETRY: Duration = Duration::from_secs(2);
/// What the condition is called that says whether the API server calls the webhook.
const REACHED: &str = "WebhookReached";
/// So many of those who have a profile are named.
const USERS: usize = 8;

/// Keeps the status of all profiles.
pub(super) struct StatusKeeper {
    client: Client,
    cluster: ClusterDns,
    known: WatchedProfiles,
    pods: Arc<WatchedPods>,
    board: Arc<ProgressBoard>,
    /// Whether the API server calls the webhook; `None` where that is not checked.
    checked: Option<watch::Receiver<Option<Verdict>>>,
    metrics: Metrics,
    /// What was written, and when.
    written: HashMap<String, (ProfileStatus, Instant)>,
}

impl StatusKeeper {
    pub(super) fn new(
        client: Client,
        (cluster, known): (ClusterDns, WatchedProfiles),
        (pods, board): (Arc<WatchedPods>, Arc<ProgressBoard>),
        checked: Option<watch::Receiver<Option<Verdict>>>,
        metrics: Metrics,
    ) -> Self {
        Self { client, cluster, known, pods, board, checked, metrics, written: HashMap::new() }
    }

    /// Works until it is dropped.
    pub(super) async fn run(mut self) {
        let mut news = self.pods.news();
        // An error means that nobody watches any more.
        while news.wait_for(|listed| *listed).await.is_ok() {
            news.borrow_and_update();
            let again = self.tell().await;
            sleep(ROUND).await;
            tokio::select! {
                changed = news.changed() => if changed.is_err() { return },
                () = another_finding(self.checked.as_mut()) => {}
                () = in_a_while(again) => {}
            }
        }
    }

    /// Writes the status of each profile of which there is something new. When that has to be looked at again, if nothing changes.
    async fn tell(&mut self) -> Option<Duration> {
        let profiles = self.known.now();
        self.written.retain(|name, _| profiles.get(name).is_some());
        let mut again = None;
        let wanted = self.all_wanted(&profiles);
        self.metrics.pods(wanted.iter().map(|(name, status)| (name.as_str(), status.pods)));
        for (name, wanted) in wanted {
            if let Some((written, when)) = self.written.get(&name) {
                if *written == wanted {
                    continue;
                }
                let but_for_counts =
                    ProfileStatus { pods: wanted.pods, users: wanted.users.clone(), ..written.clone() };
                if but_for_counts == wanted && when.elapsed() < COUNTS {
                    again = again.or(Some(COUNTS));
                    continue;
                }
            }
            match self.write(&name, &wanted).await {
                Ok(()) => drop(self.written.insert(name, (wanted, Instant::now()))),
                // Gone since: the watch will tell.
                Err(kube::Error::Api(status)) if status.is_not_found() => {}
                Err(error) => {
                    warn!(
                        error = with_causes(&error),
                        profile = name,
                        "the profile's status could not be written; trying again"
                    );
                    again = Some(RETRY);
                }
            }
        }
        again
    }

    fn all_wanted(&self, profiles: &Profiles) -> Vec<(String, ProfileStatus)> {
        let fleet = self.pods.fleet();
        let counts = fleet.counts();
        let wanted = |name: &str| {
            let pods = counts.get(name).copied().unwrap_or_default();
            let conditions = [self.ready(name, profiles), self.propagated(name, pods, profiles)];
            let conditions = conditions.into_iter().chain(self.reached(name, profiles)).collect();
            let users = fleet.users(name, USERS);
            ProfileStatus {
                observed_generation: profiles.generation(name),
                conditions,
                pods,
                users,
                configuration: inject::ordinary_configuration(name, &self.cluster, profiles).ok(),
                resolver: Some(Resolver::of(&self.cluster)),
            }
        };
        profiles.names().map(|name| (name.to_owned(), wanted(name))).collect()
    }

    fn ready(&self, name: &str, profiles: &Profiles) -> Condition {
        match profiles.get(name) {
            Some(Err(error)) => {
                let message = format!("spec.{error}: pods that would get the profile are refused");
                self.condition(name, profiles, "Ready", ("False", "Unusable"), message)
            }
            _ => self.condition(name, profiles, "Ready", ("True", "Accepted"), "pods can get the profile".to_owned()),
        }
    }

    fn propagated(&self, name: &str, pods: PodCounts, profiles: &Profiles) -> Condition {
        let progress = self.board.of(name).filter(|(generation, _)| *generation == profiles.generation(name));
        let progress = progress.map_or(Progress::Going, |(_, progress)| progress);
        let (holds, said) = match profiles.get(name) {
            Some(Err(_)) => (("False", "Unusable"), "pods keep what they have".to_owned()),
            _ => progress.told(pods),
        };
        self.condition(name, profiles, CONDITION, holds, said)
    }

    /// Whether the API server calls the webhook, which is no profile's own: it stands on the one that every installation has.
    fn reached(&self, name: &str, profiles: &Profiles) -> Option<Condition> {
        let found = self.checked.as_ref().filter(|_| name == DEFAULT)?.borrow().clone();
        let (holds, reason, said) = match found {
            Some(verdict) => (verdict.holds(), verdict.reason(), verdict.to_string()),
            None => ("Unknown", "NotChecked".to_owned(), "who leads now has not checked it yet".to_owned()),
        };
        Some(self.condition(name, profiles, REACHED, (holds, &reason), said))
    }

    /// A condition, since when it is so included.
    fn condition(
        &self,
        name: &str,
        profiles: &Profiles,
        kind: &str,
        (status, reason): (&str, &str),
        message: String,
    ) -> Condition {
        let written = self.written.get(name).map(|(written, _)| written);
        // Who led before has told of it.
        let earlier = written.or_else(|| profiles.status(name));
        let earlier = earlier.and_then(|earlier| earlier.condition(kind));
        let since = earlier.filter(|earlier| earlier.status == status);
        Condition {
            kind: kind.to_owned(),
            status: status.to_owned(),
            observed_generation: profiles.generation(name),
            last_transition_time: since.map_or_else(now, |earlier| earlier.last_transition_time.clone()),
            reason: reason.to_owned(),
            message,
        }
    }

    async fn write(&self, name: &str, status: &ProfileStatus) -> kube::Result<()> {
        // As a value: the spec may be one that cannot be read.
        let resource = ApiResource::erase::<ProxyProfile>(&());
        let profiles: Api<DynamicObject> = Api::all_with(self.client.clone(), &resource);
        let patch = json!({
            "apiVersion": ProxyProfile::api_version(&()),
            "kind": ProxyProfile::kind(&()),
            "metadata": {"name": name},
            "status": status,
        });
        let params = PatchParams::apply(FIELD_MANAGER).force();
        profiles.patch_status(name, &params, &Patch::Apply(patch)).await.map(drop)
    }
}

async fn another_finding(checked: Option<&mut watch::Receiver<Option<Verdict>>>) {
    let changed = match checked {
        Some(checked) => checked.changed().await,
        None => return std::future::pending().await,
    };
    if changed.is_err() {
        // Nothing is checked any more.
        std::future::pending::<()>().await;
    }
}

async fn in_a_while(after: Option<Duration>) {
    match after {
        Some(after) => sleep(after).await,
        None => std::future::pending().await,
    }
}

/// The API keeps whole seconds.
fn now() -> Time {
    let now = Timestamp::now();
    Time(now.round(Unit::Second).unwrap_or(now))
}
