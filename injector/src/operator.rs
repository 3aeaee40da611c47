//! What one replica does for all of them: a file a reconciler. Admissions are answered by every replica, leader or not.
//!
//! ```text
//! Lease ──► lease: leading? ──► pods (their metadata) ──► fleet ──┬──► rollout ──► the pods' annotation
//!                                                               └──► status ──► the profiles' status
//! ```

mod fleet;
mod lease;
mod pods;
mod rollout;
mod status;

use std::sync::Arc;

use kube::Client;
use tokio::sync::watch;

use crate::cluster::ClusterDns;
use crate::metrics::Metrics;
use crate::profile::WatchedProfiles;
use crate::settings;

pub use lease::Candidate;

/// The leader's work.
pub struct Operator {
    /// A client of the API server.
    pub client: Client,
    /// What the injector knows of the cluster's DNS.
    pub cluster: ClusterDns,
    /// The profiles.
    pub profiles: WatchedProfiles,
    /// How changes are brought to pods.
    pub rollout: settings::Rollout,
    /// Where is counted.
    pub metrics: Metrics,
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
        let status = status::StatusKeeper::new(self.client.clone(), facts.clone(), shared.clone(), metrics.clone());
        let rollouts = rollout::Rollouts::new(&self.client, facts, shared, self.rollout.clone(), metrics.clone());
        tokio::join!(pods.follow(self.client.clone()), status.run(), rollouts.run());
    }
}
