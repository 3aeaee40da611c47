//! What one replica does for all of them: a file a reconciler. Admissions are answered by every replica, leader or not.
//!
//! ```text
//! Lease ──► lease: leading? ──► pods (their metadata) ──► fleet ──► status ──► the profiles' status
//! ```

mod fleet;
mod lease;
mod pods;
mod status;

use kube::Client;
use tokio::sync::watch;

use crate::cluster::ClusterDns;
use crate::metrics::Metrics;
use crate::profile::WatchedProfiles;

pub use lease::Candidate;

/// The leader's work.
pub struct Operator {
    /// A client of the API server.
    pub client: Client,
    /// What the injector knows of the cluster's DNS.
    pub cluster: ClusterDns,
    /// The profiles.
    pub profiles: WatchedProfiles,
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
        let pods = pods::WatchedPods::new(self.cluster.clone(), self.profiles.clone());
        let status = status::StatusKeeper::new(self.client.clone(), self.profiles.clone(), &pods);
        tokio::join!(pods.follow(self.client.clone()), status.run());
    }
}
