//! Who leads: one replica at a time, by a Lease (`coordination.k8s.io/v1`), as Kubernetes' own controllers do it.
//!
//! Clocks are not compared: another's lease is over when it was seen not to change for as long as it is meant to last.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{info, warn};

use crate::annotations::CLUSTER;
use crate::causes::with_causes;
use crate::certs::owner_reference;
use crate::cluster::ClusterDns;

/// Another one takes over when the leader was not heard of for so long.
const DURATION_SECONDS: i32 = 15;
/// The leader itself gives up so long after it asked for the last renewal that it got: earlier, so that there are never two.
const GIVE_UP: Duration = Duration::from_secs(10);
/// How often the leader says that it is there, and the others look.
const ROUND: Duration = Duration::from_secs(2);
/// An API server that takes longer is asked again.
const PATIENCE: Duration = Duration::from_secs(4);

/// A replica that would lead.
pub struct Candidate {
    leases: Api<Lease>,
    name: String,
    /// This replica, as nobody else is called.
    identity: String,
    /// The Deployment with which the Lease goes.
    owner: Option<String>,
    /// Annotations of the Lease.
    told: BTreeMap<String, String>,
    deployments: Api<Deployment>,
    leading: watch::Sender<bool>,
    /// What was seen of another's lease, and since when.
    seen: Option<(LeaseSpec, Instant)>,
    renewed: Option<Instant>,
}

impl Candidate {
    /// A candidate for the Lease of this name.
    pub fn new(client: Client, namespace: &str, name: &str, identity: String) -> Self {
        Self {
            leases: Api::namespaced(client.clone(), namespace),
            name: name.to_owned(),
            identity,
            owner: None,
            told: BTreeMap::new(),
            deployments: Api::namespaced(client, namespace),
            leading: watch::channel(false).0,
            seen: None,
            renewed: None,
        }
    }

    /// Has the Lease removed with this Deployment.
    pub fn owned_by(mut self, deployment: &str) -> Self {
        self.owner = Some(deployment.to_owned());
        self
    }

    /// Tells on the Lease what this replica knows of cluster DNS: it read it where nobody outside can look.
    pub fn telling(mut self, cluster: &ClusterDns) -> Self {
        // Made of strings, it has a JSON form.
        self.told.insert(CLUSTER.to_owned(), serde_json::to_string(cluster).unwrap_or_default());
        self
    }

    /// The candidate, and whether it leads.
    pub fn stand(self) -> (Self, watch::Receiver<bool>) {
        let watched = self.leading.subscribe();
        (self, watched)
    }

    /// Stands for election until told to stop; whoever leads then hands over at once.
    pub async fn run(mut self, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        loop {
            let renewed = self.renewed;
            tokio::select! {
                () = self.round() => {}
                () = over(renewed) => self.step_down(),
                () = &mut stop => break,
            }
            tokio::select! {
                () = sleep(ROUND) => {}
                () = over(self.renewed) => self.step_down(),
                () = &mut stop => break,
            }
        }
        if self.leading.send_replace(false) {
            self.release().await;
        }
    }

    async fn round(&mut self) {
        let asked = Instant::now();
        match timeout(PATIENCE, self.try_to_hold()).await {
            Ok(Ok(true)) => {
                self.renewed = Some(asked);
                if !self.leading.send_replace(true) {
                    info!(lease = self.name, identity = self.identity, "leading");
                }
            }
            Ok(Ok(false)) => self.step_down(),
            Ok(Err(error)) => warn!(
                error = with_causes(&error),
                lease = self.name,
                "the Lease could not be read or written; trying again"
            ),
            Err(_) => warn!(lease = self.name, "the Lease could not be read or written in time; trying again"),
        }
    }

    fn step_down(&mut self) {
        self.renewed = None;
        if self.leading.send_replace(false) {
            warn!(lease = self.name, "no longer leading");
        }
    }

    /// Takes or renews the lease; `false` when another one has it.
    async fn try_to_hold(&mut self) -> kube::Result<bool> {
        let Some(lease) = self.leases.get_opt(&self.name).await? else {
            let first = self.first().await?;
            return taken(self.leases.create(&PostParams::default(), &first).await);
        };
        let found = lease.spec.clone().unwrap_or_default();
        let holder = found.holder_identity.as_deref().unwrap_or_default();
        let is_ours = holder == self.identity;
        if !is_ours && !holder.is_empty() && !self.is_over(&found) {
            return Ok(false);
        }
        let now = MicroTime(Timestamp::now());
        let spec = LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(DURATION_SECONDS),
            acquire_time: if is_ours { found.acquire_time.clone() } else { Some(now.clone()) },
            renew_time: Some(now),
            lease_transitions: Some(found.lease_transitions.unwrap_or(0) + i32::from(!is_ours)),
            ..found
        };
        // With the resource version that was read: of two who try, one succeeds.
        let mut lease = Lease { spec: Some(spec), ..lease };
        lease.annotations_mut().extend(self.told.clone());
        taken(self.leases.replace(&self.name, &PostParams::default(), &lease).await)
    }

    /// Whether another's lease was seen not to change for as long as it lasts.
    fn is_over(&mut self, found: &LeaseSpec) -> bool {
        match &self.seen {
            Some((seen, since)) if seen == found => {
                let seconds = found.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
                since.elapsed() > Duration::from_secs(seconds.unwrap_or_default())
            }
            _ => {
                self.seen = Some((found.clone(), Instant::now()));
                false
            }
        }
    }

    async fn first(&self) -> kube::Result<Lease> {
        let owner = match &self.owner {
            Some(deployment) => self.deployments.get_opt(deployment).await?,
            None => None,
        };
        let now = MicroTime(Timestamp::now());
        Ok(Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                // Run outside a cluster, the injector has none.
                owner_references: owner.map(|owner| vec![owner_reference(&owner)]),
                annotations: Some(self.told.clone()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.identity.clone()),
                lease_duration_seconds: Some(DURATION_SECONDS),
                acquire_time: Some(now.clone()),
                renew_time: Some(now),
                lease_transitions: Some(0),
                ..LeaseSpec::default()
            }),
        })
    }

    /// Leaves the lease to whoever looks next.
    async fn release(&self) {
        let release = async {
            let Some(mut lease) = self.leases.get_opt(&self.name).await? else { return Ok(()) };
            let spec = lease.spec.get_or_insert_default();
            if spec.holder_identity.as_ref() != Some(&self.identity) {
                return Ok(());
            }
            spec.holder_identity = None;
            spec.renew_time = Some(MicroTime(Timestamp::now()));
            self.leases.replace(&self.name, &PostParams::default(), &lease).await.map(drop)
        };
        match timeout(PATIENCE, release).await {
            Ok(Ok(())) => info!(lease = self.name, "handed over"),
            Ok(Err(error)) => {
                warn!(
                    error = with_causes(&error),
                    lease = self.name,
                    "the Lease could not be handed over: it runs out"
                );
            }
            Err(_) => warn!(lease = self.name, "the Lease could not be handed over in time: it runs out"),
        }
    }
}

/// When who renewed the lease at this time has to give it up; never for who does not have it.
async fn over(renewed: Option<Instant>) {
    match renewed {
        Some(renewed) => sleep_until(renewed + GIVE_UP).await,
        None => std::future::pending().await,
    }
}

/// Whether a write took the lease: not when another one was faster.
fn taken(written: kube::Result<Lease>) -> kube::Result<bool> {
    match written {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => Ok(false),
        Err(error) => Err(error),
    }
}
