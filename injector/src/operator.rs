//! What one replica does for all of them: a file a reconciler. Admissions are answered by every replica, leader or not.
//!
//! ```text
//! Lease ──► lease: leading? ─┬─► pods (their metadata) ──► fleet ──┬──► rollout ──► the pods' annotation
//!                            │                                     ├──► status ──► the profiles' status
//!                            ├─► pods without the sidecar ─────────┴──► drift ───► counts, Events, repair
//!                            └─► self_check: a pod, as a dry run ──► log, metrics, Event on the Deployment,
//!                                                                     status of the profile `default`
//! ```

mod drift;
mod fleet;
mod lease;
mod pods;
mod repair;
mod rollout;
mod self_check;
mod status;

use std::sync::Arc;

use kube::Client;
use tokio::sync::watch;

use crate::cluster::ClusterDns;
use crate::events::Teller;
use crate::metrics::Metrics;
use crate::profile::WatchedProfiles;
use crate::settings::{self, Settings};
use self_check::SelfCheck;

pub use lease::Candidate;
pub use self_check::SelfCheckSettings;

/// The leader's work.
pub struct Operator {
    /// A client of the API server.
    pub client: Client,
    /// What the injector knows of the cluster's DNS.
    pub cluster: ClusterDns,
    /// The injector's configuration.
    pub settings: Settings,
    /// Who tells owners.
    pub teller: Teller,
    /// The profiles.
    pub profiles: WatchedProfiles,
    /// How changes are brought to pods.
    pub rollout: settings::Rollout,
    /// Where is counted.
    pub metrics: Metrics,
    /// Whether and where is checked that the API server calls the webhook.
    pub self_check: SelfCheckSettings,
    /// The injector's Deployment: its namespace and its name.
    pub deployment: (String, String),
}

impl Operator {
    /// Works while this replica leads, until it is dropped.
    pub async fn run(self, mut leading: watch::Receiver<bool>) {
        // An error means that nobody stands for election any more.
        while leading.wait_for(|leading| *leading).await.is_ok() {
            self.metrics.leads(true);
            tokio::select! {
                () = self.lead() => {}
                _ = leading.wait_for(|leading| !*leading) => {}
            }
            self.metrics.leads(false);
        }
    }

    async fn lead(&self) {
        let (known, metrics) = (&self.profiles, &self.metrics);
        let pods = Arc::new(pods::WatchedPods::new(self.cluster.clone(), known.clone()));
        let board = Arc::new(rollout::ProgressBoard::default());
        let shared = (Arc::clone(&pods), board);
        let facts = (self.cluster.clone(), known.clone());
        let (namespace, deployment) = &self.deployment;
        let check = SelfCheck::new(&self.client, &self.self_check, (namespace, deployment), self.metrics.clone());
        let checked = check.as_ref().map(SelfCheck::findings);
        let status =
            status::StatusKeeper::new(self.client.clone(), facts.clone(), shared.clone(), checked, metrics.clone());
        let rollouts = rollout::Rollouts::new(&self.client, facts, shared, self.rollout.clone(), metrics.clone());
        let checking = async {
            if let Some(check) = check {
                check.run().await;
            }
        };
        let drift = drift::Drift::new(
            self.client.clone(),
            self.cluster.clone(),
            &self.settings,
            known.clone(),
            &pods,
            (self.teller.clone(), metrics.clone()),
        );
        tokio::join!(pods.follow(self.client.clone()), status.run(), rollouts.run(), checking, drift.run());
    }
}
