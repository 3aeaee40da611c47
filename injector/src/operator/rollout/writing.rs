//! Writes configurations onto pods, at no more than so many a second.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use kube::core::Status;
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::Mutex;
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};

use super::super::fleet::{Place, Task};
use super::super::pods::WatchedPods;
use crate::annotations::CONFIG;
use crate::metrics::Metrics;

/// Field manager of the configuration of running pods, and of nothing else.
const FIELD_MANAGER: &str = "dot-injector-config";
/// Writes under way at once: enough for the rate at an API server that takes 80 ms.
const AT_ONCE: usize = 8;
/// An API server that takes longer is tried again later.
const PATIENCE: Duration = Duration::from_secs(10);

/// Writes onto pods.
pub(super) struct Writer {
    client: Client,
    pace: Mutex<Interval>,
    metrics: Metrics,
}

/// What became of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    Written,
    /// The pod is gone, another one of its name is there, or it has this configuration.
    Gone,
    Failed(String),
}

impl Writer {
    pub(super) fn new(client: Client, a_second: u32, metrics: Metrics) -> Self {
        let mut pace = interval(Duration::from_secs(1) / a_second.max(1));
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { client, pace: Mutex::new(pace), metrics }
    }

    /// Writes onto these pods what is asked for when their turn comes.
    pub(super) async fn write(
        &self,
        places: Vec<Place>,
        task: impl Fn(&Place) -> Option<Task>,
        pods: &WatchedPods,
    ) -> Vec<(Place, Outcome)> {
        let task = &task;
        let writes = stream::iter(places).map(|place| async move {
            self.pace.lock().await.tick().await;
            let outcome = match task(&place) {
                Some(task) => self.write_one(&place, task, pods).await,
                None => Outcome::Gone,
            };
            (place, outcome)
        });
        writes.buffer_unordered(AT_ONCE).collect().await
    }

    async fn write_one(&self, place: &Place, task: Task, pods: &WatchedPods) -> Outcome {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &place.namespace);
        // With the identity of the pod that was read, which another one of its name does not have, and cannot be given.
        let patch = json!({"metadata": {"uid": task.uid, "annotations": {CONFIG: task.config}}});
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let patch = Patch::Merge(&patch);
        let outcome = match timeout(PATIENCE, api.patch_metadata(&place.name, &params, &patch)).await {
            Ok(Ok(_)) => {
                pods.fleet().written(place, &task);
                Outcome::Written
            }
            Ok(Err(kube::Error::Api(status))) if status.is_not_found() || is_another(&status) => Outcome::Gone,
            Ok(Err(kube::Error::Api(status))) => Outcome::Failed(status.message),
            Ok(Err(error)) => Outcome::Failed(error.to_string()),
            Err(_) => Outcome::Failed(format!("the API server did not answer within {} s", PATIENCE.as_secs())),
        };
        self.metrics.configuration_write(match outcome {
            Outcome::Written => "written",
            Outcome::Gone => "gone",
            Outcome::Failed(_) => "failed",
        });
        outcome
    }
}

/// Whether a pod of that name is there, but not the one that was meant.
fn is_another(status: &Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    status.is_conflict() || causes.into_iter().any(|cause| cause.field == "metadata.uid")
}
