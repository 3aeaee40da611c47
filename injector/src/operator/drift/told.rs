//! What owners are told of their pods: once an hour at most, many pods in one sentence, few Events at a time.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Api, Client, ResourceExt};
use tokio::time::Instant;
use tracing::debug;

use super::super::fleet::Place;
use super::asked::{Asked, itself};
use crate::events::{Notice, Tell, Teller};
use crate::state::{Missing, State};

/// What is still so is told again after this time.
const AGAIN: Duration = Duration::from_secs(3600);
/// So many Events are written in a round; the others come in the next.
const MOST: usize = 20;

/// Tells owners.
pub(super) struct Told {
    client: Client,
    teller: Teller,
    when: HashMap<Key, Instant>,
}

/// Something to be told of one pod.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Trouble {
    place: Place,
    who: Who,
    kind: Kind,
    why: String,
}

/// Who is told.
#[derive(Debug, Clone, PartialEq)]
enum Who {
    Owner(OwnerReference),
    /// Known by name alone: the pod tells its owner when it is read.
    Maker(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Kind {
    Missing,
    Outdated,
}

/// The same trouble of the same owner.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Key {
    namespace: String,
    who: String,
    kind: Kind,
}

impl Trouble {
    /// Of each pod that asked and does not have the sidecar.
    pub(super) fn all_of(asked: &Asked) -> Vec<Self> {
        let missing = asked.each().filter(|(_, _, state)| matches!(state, State::Missing(_)));
        let trouble = |(place, owner, state): (&Place, &OwnerReference, &State)| {
            Self {
            place: place.clone(),
            who: Who::Owner(owner.clone()),
            kind: Kind::Missing,
            why: match state {
                // That webhooks may be away is nothing for the owner to act on: what helps is.
                State::Missing(Missing::Unseen) => {
                    "it was made before its namespace asked, or while the webhook was away: restart it (kubectl rollout restart)".to_owned()
                }
                other => other.to_string(),
            },
        }
        };
        missing.map(trouble).collect()
    }

    /// Of a pod whose sidecar would have another image now.
    pub(super) fn outdated(place: Place, maker: &str, has: &str, wanted: &str) -> Self {
        let why = format!("its image is {has}, and would be {wanted} now: restart it (kubectl rollout restart)");
        Self { place, who: Who::Maker(maker.to_owned()), kind: Kind::Outdated, why }
    }

    fn key(&self) -> Key {
        let who = match &self.who {
            Who::Owner(owner) => format!("{} {}", owner.kind, owner.name),
            Who::Maker(maker) => maker.clone(),
        };
        Key { namespace: self.place.namespace.clone(), who, kind: self.kind }
    }

    fn note(&self, pods: usize) -> String {
        let name = &self.place.name;
        match (self.kind, pods) {
            (Kind::Missing, 1) => {
                format!("DNS is not encrypted: pod {name} asked for the sidecar and does not have it: {}", self.why)
            }
            (Kind::Missing, _) => format!(
                "DNS is not encrypted: {pods} pods asked for the sidecar and do not have it, such as {name}: {}",
                self.why
            ),
            (Kind::Outdated, 1) => format!("the sidecar of pod {name} is outdated: {}", self.why),
            (Kind::Outdated, _) => {
                format!("the sidecars of {pods} pods are outdated, such as that of {name}: {}", self.why)
            }
        }
    }
}

impl Kind {
    fn tell(self, note: String) -> Tell {
        match self {
            Self::Missing => Tell { is_warning: true, reason: "DnsNotEncrypted", code: "missing", note },
            Self::Outdated => Tell { is_warning: false, reason: "SidecarOutdated", code: "outdated-image", note },
        }
    }
}

impl Told {
    pub(super) fn new(client: Client, teller: Teller) -> Self {
        Self { client, teller, when: HashMap::new() }
    }

    pub(super) async fn tell(&mut self, troubles: Vec<Trouble>) {
        for (trouble, pods) in self.due(troubles, Instant::now()) {
            let Some(owner) = self.owner(&trouble).await else { continue };
            let tell = trouble.kind.tell(trouble.note(pods));
            self.teller.tell(Notice::new(trouble.place.namespace, owner, tell));
        }
    }

    /// What has to be told now: one pod's trouble for all of its owner, and how many have it.
    fn due(&mut self, troubles: Vec<Trouble>, now: Instant) -> Vec<(Trouble, usize)> {
        self.when.retain(|_, when| now.duration_since(*when) < AGAIN);
        let mut same: BTreeMap<Key, (Trouble, usize)> = BTreeMap::new();
        for trouble in troubles {
            let key = trouble.key();
            if self.when.contains_key(&key) {
                continue;
            }
            match same.get_mut(&key) {
                Some((first, pods)) => {
                    *pods += 1;
                    // Always the same one is named, so that repeated Events are counted as one.
                    if trouble.place < first.place {
                        *first = trouble;
                    }
                }
                None => drop(same.insert(key, (trouble, 1))),
            }
        }
        let due: Vec<_> = same.into_iter().take(MOST).collect();
        self.when.extend(due.iter().map(|(key, _)| (key.clone(), now)));
        due.into_iter().map(|(_, trouble)| trouble).collect()
    }

    async fn owner(&self, trouble: &Trouble) -> Option<OwnerReference> {
        if let Who::Owner(owner) = &trouble.who {
            return Some(owner.clone());
        }
        let Place { namespace, name } = &trouble.place;
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        match pods.get_metadata_opt(name).await {
            Ok(found) => {
                let pod = found?;
                let controller = pod.owner_references().iter().find(|owner| owner.controller == Some(true));
                Some(controller.cloned().unwrap_or_else(|| itself(&pod)))
            }
            Err(error) => {
                debug!(%error, %namespace, pod = %name, "a pod's owner could not be read, and is not told");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use kube::client::Body;

    use super::*;
    use crate::metrics::Metrics;

    fn told() -> Told {
        let silent = |_: hyper::Request<Body>| std::future::pending::<Result<hyper::Response<Body>, Infallible>>();
        let client = Client::new(tower::service_fn(silent), "default");
        let (teller, _) = crate::events::queue(client.clone(), None, Metrics::default());
        Told::new(client, teller)
    }

    fn outdated(name: &str) -> Trouble {
        let place = Place { namespace: "shop".to_owned(), name: name.to_owned() };
        Trouble::outdated(place, &format!("Deployment {}", &name[..3]), "a:1", "a:2")
    }

    #[tokio::test]
    async fn the_pods_of_an_owner_are_told_in_one_sentence_and_not_again_within_an_hour() {
        let (mut told, now) = (told(), Instant::now());
        let troubles = || vec![outdated("web-2"), outdated("web-1"), outdated("api-1")];
        let due = told.due(troubles(), now);
        assert_eq!(due.len(), 2);
        assert_eq!((due[1].0.place.name.as_str(), due[1].1), ("web-1", 2));
        assert!(
            due[1]
                .0
                .note(2)
                .starts_with("the sidecars of 2 pods are outdated, such as that of web-1: its image is a:1")
        );
        assert_eq!(told.due(troubles(), now + AGAIN / 2), []);
        assert_eq!(told.due(troubles(), now + AGAIN).len(), 2);
    }

    #[tokio::test]
    async fn a_large_cluster_is_told_little_by_little() {
        let (mut told, now) = (told(), Instant::now());
        let troubles: Vec<_> = (100..150).map(|number| outdated(&format!("{number}-x"))).collect();
        let mut rounds = 0;
        while !told.due(troubles.clone(), now).is_empty() {
            rounds += 1;
        }
        assert_eq!(rounds, 3);
    }
}
