//! What owners are told of their pods: once an hour at most, many pods in one sentence, few Events at a time.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::PartialObjectMeta;
use kube::{Api, Client, ResourceExt};
use tokio::time::Instant;
use tracing::debug;

use super::super::fleet::Place;
use crate::events::{Notice, Tell, Teller};

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
#[derive(Debug, Clone, Copy)]
pub(super) struct Trouble<'a> {
    pub(super) place: &'a Place,
    /// What made the pod, for people.
    pub(super) maker: &'a str,
    pub(super) lack: Lack<'a>,
}

/// What a pod lacks.
#[derive(Debug, Clone, Copy)]
pub(super) enum Lack<'a> {
    /// The sidecar, and why.
    Sidecar(&'a str),
    /// Another image than the one that it has.
    Image { has: &'a str, wanted: &'a str },
}

/// What its owner is told of a pod, for all that lack the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Due {
    place: Place,
    tell: Tell,
}

/// The same lack of the same owner.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    namespace: String,
    maker: String,
    code: &'static str,
}

impl Lack<'_> {
    const fn code(self) -> &'static str {
        match self {
            Self::Sidecar(_) => "missing",
            Self::Image { .. } => "outdated-image",
        }
    }

    /// The sentence about so many pods, one of which has this name.
    fn tell(self, name: &str, pods: usize) -> Tell {
        let (is_warning, reason, note) = match self {
            Self::Sidecar(why) => {
                let who = match pods {
                    1 => format!("pod {name} asked for the sidecar and does not have it"),
                    _ => format!("{pods} pods asked for the sidecar and do not have it, such as {name}"),
                };
                (true, "DnsNotEncrypted", format!("DNS is not encrypted: {who}: {why}"))
            }
            Self::Image { has, wanted } => {
                let who = match pods {
                    1 => format!("the sidecar of pod {name} is outdated"),
                    _ => format!("the sidecars of {pods} pods are outdated, such as that of {name}"),
                };
                let why =
                    format!("its image is {has}, and would be {wanted} now: restart it (kubectl rollout restart)");
                (false, "SidecarOutdated", format!("{who}: {why}"))
            }
        };
        Tell { is_warning, reason, code: self.code(), note }
    }
}

impl Told {
    pub(super) fn new(client: Client, teller: Teller) -> Self {
        Self { client, teller, when: HashMap::new() }
    }

    /// What has to be told now: one pod's trouble for all of its owner, and how many have it.
    pub(super) fn due<'a>(&mut self, troubles: impl Iterator<Item = Trouble<'a>>, now: Instant) -> Vec<Due> {
        self.when.retain(|_, when| now.duration_since(*when) < AGAIN);
        let mut same: BTreeMap<(&str, &str, &'static str), (Trouble<'a>, usize)> = BTreeMap::new();
        for trouble in troubles {
            let key = (trouble.place.namespace.as_str(), trouble.maker, trouble.lack.code());
            let (first, pods) = same.entry(key).or_insert((trouble, 0));
            *pods += 1;
            // Always the same one is named, so that repeated Events are counted as one.
            if trouble.place < first.place {
                *first = trouble;
            }
        }
        let mut due = Vec::new();
        for ((namespace, maker, code), (Trouble { place, lack, .. }, pods)) in same {
            if due.len() == MOST {
                break;
            }
            let key = Key { namespace: namespace.to_owned(), maker: maker.to_owned(), code };
            if let Entry::Vacant(new) = self.when.entry(key) {
                new.insert(now);
                due.push(Due { place: place.clone(), tell: lack.tell(&place.name, pods) });
            }
        }
        due
    }

    pub(super) async fn tell(&self, due: Vec<Due>) {
        for Due { place, tell } in due {
            if let Some(owner) = self.owner(&place).await {
                self.teller.tell(Notice::new(place.namespace, owner, tell));
            }
        }
    }

    /// The controller of a pod, or the pod itself. It is read anew: of thousands of pods that may lack something few are told of.
    async fn owner(&self, Place { namespace, name }: &Place) -> Option<OwnerReference> {
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

fn itself(pod: &PartialObjectMeta<Pod>) -> OwnerReference {
    OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        name: pod.name_any(),
        uid: pod.uid().unwrap_or_default(),
        ..OwnerReference::default()
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

    fn places(names: &[&str]) -> Vec<Place> {
        let place = |name: &&str| Place { namespace: "shop".to_owned(), name: (*name).to_owned() };
        names.iter().map(place).collect()
    }

    fn outdated(place: &Place) -> Trouble<'_> {
        Trouble { place, maker: &place.name[..3], lack: Lack::Image { has: "a:1", wanted: "a:2" } }
    }

    #[tokio::test]
    async fn the_pods_of_an_owner_are_told_in_one_sentence_and_not_again_within_an_hour() {
        let (mut told, now) = (told(), Instant::now());
        let places = places(&["web-2", "web-1", "api-1"]);
        let troubles = || places.iter().map(outdated);
        let due = told.due(troubles(), now);
        assert_eq!(due.len(), 2);
        assert_eq!(due[1].place.name, "web-1");
        let expected = "the sidecars of 2 pods are outdated, such as that of web-1: its image is a:1";
        assert!(due[1].tell.note.starts_with(expected), "{due:?}");
        assert_eq!(told.due(troubles(), now + AGAIN / 2), []);
        assert_eq!(told.due(troubles(), now + AGAIN).len(), 2);
    }

    #[tokio::test]
    async fn a_large_cluster_is_told_little_by_little() {
        let (mut told, now) = (told(), Instant::now());
        let names: Vec<String> = (100..150).map(|number| format!("{number}-x")).collect();
        let places = places(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let mut rounds = 0;
        while !told.due(places.iter().map(outdated), now).is_empty() {
            rounds += 1;
        }
        assert_eq!(rounds, 3);
    }
}
