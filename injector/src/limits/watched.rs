//! The LimitRanges of the whole cluster, watched, so that an admission need not ask the API server.

use futures_util::{Stream, StreamExt};
use k8s_openapi::api::core::v1::LimitRange;
use kube::runtime::reflector::{self, Store, store::Writer};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use tracing::warn;

use super::ContainerLimits;
use crate::causes::with_causes;
use crate::readiness::{Condition, Readiness};

/// The LimitRanges that are known now. Clones share them.
#[derive(Clone)]
pub struct LimitRanges(Store<LimitRange>);

impl LimitRanges {
    /// What is known, and the work that keeps it so until it is dropped.
    pub fn watch(client: &Client, readiness: Readiness) -> (Self, impl Future<Output = ()> + use<>) {
        let (known, writer) = Self::empty();
        let events = watcher(Api::<LimitRange>::all(client.clone()), watcher::Config::default());
        (known, follow(writer, events.default_backoff(), readiness))
    }

    /// None yet, and where they are written.
    pub fn empty() -> (Self, Writer<LimitRange>) {
        let (store, writer) = reflector::store();
        (Self(store), writer)
    }

    /// What the LimitRanges of a namespace demand of every container.
    pub fn of(&self, namespace: &str) -> ContainerLimits {
        let mut limits = ContainerLimits::default();
        for limit_range in self.0.state().iter().filter(|found| found.namespace().as_deref() == Some(namespace)) {
            let read = serde_json::to_value(limit_range.as_ref()).map_err(|error| error.to_string());
            if let Err(error) = read.and_then(|value| limits.add(&value)) {
                warn!(namespace, name = limit_range.name_any(), error, "a LimitRange is not honoured");
            }
        }
        limits
    }
}

async fn follow(
    writer: Writer<LimitRange>,
    events: impl Stream<Item = watcher::Result<watcher::Event<LimitRange>>>,
    readiness: Readiness,
) {
    let slim = events.modify(|limit_range| {
        limit_range.managed_fields_mut().clear();
        limit_range.annotations_mut().clear();
    });
    let mut reflected = std::pin::pin!(reflector::reflector(writer, slim));
    while let Some(event) = reflected.next().await {
        match event {
            Ok(watcher::Event::InitDone) => readiness.set(Condition::LimitRangesKnown),
            Ok(_) => {}
            Err(error) => {
                warn!(error = with_causes(&error), "the cluster's LimitRanges could not be watched; trying again");
            }
        }
    }
}
