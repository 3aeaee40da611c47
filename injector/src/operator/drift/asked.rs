//! The pods without the sidecar that asked for it, and the namespaces that ask: some hundred bytes each. No client.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::ResourceExt;
use kube::api::PartialObjectMeta;
use kube::runtime::watcher::Event;

use super::super::fleet::Place;
use super::super::pods::{maker, place};
use crate::annotations::{self, INJECT, namespace_asks};
use crate::state::State;

/// Pods without the sidecar that asked for it, or seem to have.
#[derive(Debug, Default)]
pub(super) struct Asked {
    pods: HashMap<Place, Candidate>,
    /// To be looked at, those that were seen first in front; each once, but for those that have gone and come again.
    unknown: VecDeque<Place>,
    /// The labels of all namespaces.
    namespaces: BTreeMap<String, BTreeMap<String, String>>,
    /// Those that ask.
    asking: BTreeSet<String>,
    /// What a new listing has told so far.
    listed: Option<BTreeMap<String, BTreeMap<String, String>>>,
    /// Pods that a new listing has told so far.
    relisted: Option<HashSet<Place>>,
    knows_namespaces: bool,
    knows_pods: bool,
    /// Whether all were looked at once; those that come later count when they are.
    is_complete: bool,
}

/// A pod that seems to have asked.
#[derive(Debug)]
struct Candidate {
    /// `None`: not looked at yet.
    standing: Option<Standing>,
    /// What made it, for people: `Deployment web`.
    maker: Box<str>,
    profile: Box<str>,
    by_annotation: bool,
    /// Whether it is to be looked at.
    waits: bool,
}

/// What is kept of a [`State`].
#[derive(Debug)]
struct Standing {
    name: &'static str,
    /// Why it does not have the sidecar; nothing of one that cannot be served.
    missing: Option<Box<str>>,
    heals_by_restart: bool,
}

/// A pod that asked, was looked at, and does not have the sidecar.
#[derive(Debug, Clone, Copy)]
pub(super) struct Without<'a> {
    pub(super) place: &'a Place,
    /// What made it, for people.
    pub(super) maker: &'a str,
    pub(super) profile: &'a str,
    /// The name of its [`State`].
    pub(super) state: &'static str,
    /// Why it does not have the sidecar; nothing of one that cannot be served.
    pub(super) missing: Option<&'a str>,
    pub(super) heals_by_restart: bool,
}

impl Asked {
    /// Takes note of a namespace. Those that ask now and did not before: their pods are not known.
    pub(super) fn see_namespace(
        &mut self,
        event: Event<PartialObjectMeta<Namespace>>,
        excluded: &BTreeSet<String>,
    ) -> Vec<String> {
        match event {
            Event::Init => self.listed = Some(BTreeMap::new()),
            Event::InitApply(namespace) => {
                let listed = self.listed.get_or_insert_default();
                listed.insert(namespace.name_any(), namespace.labels().clone());
            }
            Event::InitDone => {
                self.namespaces = self.listed.take().unwrap_or_default();
                self.knows_namespaces = true;
            }
            Event::Apply(namespace) => {
                self.namespaces.insert(namespace.name_any(), namespace.labels().clone());
            }
            Event::Delete(namespace) => drop(self.namespaces.remove(&namespace.name_any())),
        }
        let asks = |(name, labels): (&String, &BTreeMap<String, String>)| {
            (namespace_asks(labels) && !excluded.contains(name)).then(|| name.clone())
        };
        let asking: BTreeSet<String> = self.namespaces.iter().filter_map(asks).collect();
        for gone in self.asking.difference(&asking) {
            self.pods.retain(|place, pod| pod.by_annotation || place.namespace != *gone);
        }
        let new = asking.difference(&self.asking).cloned().collect();
        self.asking = asking;
        // Before that all pods will be listed anyway.
        if self.knows_pods { new } else { Vec::new() }
    }

    /// Takes note of a pod without the sidecar.
    pub(super) fn see(&mut self, event: Event<PartialObjectMeta<Pod>>) {
        match event {
            Event::Init => self.relisted = Some(HashSet::new()),
            Event::InitApply(pod) => {
                self.insert(&pod);
                let place = place(&pod);
                if self.pods.contains_key(&place) {
                    self.relisted.get_or_insert_default().insert(place);
                }
            }
            Event::InitDone => {
                let relisted = self.relisted.take().unwrap_or_default();
                self.pods.retain(|place, _| relisted.contains(place));
                self.knows_pods = true;
            }
            Event::Apply(pod) => self.insert(&pod),
            Event::Delete(pod) => self.remove(&place(&pod)),
        }
    }

    pub(super) fn insert(&mut self, pod: &PartialObjectMeta<Pod>) {
        let place = place(pod);
        let by_annotation = pod.annotations().get(INJECT).is_some_and(|value| value != "false");
        let asks = by_annotation || self.asking.contains(&place.namespace);
        if !asks || pod.metadata.deletion_timestamp.is_some() {
            return self.remove(&place);
        }
        // What it was known by stays until it is looked at again, so that counts do not flicker.
        let known = self.pods.remove(&place);
        if !known.as_ref().is_some_and(|known| known.waits) {
            self.unknown.push_back(place.clone());
        }
        let (maker, profile) = (maker(pod).into(), annotations::profile(pod.annotations()).into());
        let standing = known.and_then(|known| known.standing);
        self.pods.insert(place, Candidate { standing, maker, profile, by_annotation, waits: true });
    }

    pub(super) fn remove(&mut self, place: &Place) {
        self.pods.remove(place);
    }

    /// What the pod was found to be.
    pub(super) fn know(&mut self, place: &Place, state: &State) {
        if let Some(pod) = self.pods.get_mut(place) {
            let missing = matches!(state, State::Missing(_)).then(|| state.to_string().into());
            let heals_by_restart = state.heals_by_restart();
            pod.standing = Some(Standing { name: state.name(), missing, heals_by_restart });
        }
    }

    pub(super) fn later(&mut self, place: Place) {
        if let Some(pod) = self.pods.get_mut(&place)
            && !pod.waits
        {
            pod.waits = true;
            self.unknown.push_back(place);
        }
    }

    pub(super) fn look_at_all_again(&mut self) {
        self.pods.values_mut().for_each(|pod| pod.waits = true);
        self.unknown = self.pods.keys().cloned().collect();
    }

    /// The next pod to look at that is still there.
    pub(super) fn next_unknown(&mut self) -> Option<Place> {
        while let Some(place) = self.unknown.pop_front() {
            if let Some(pod) = self.pods.get_mut(&place)
                && std::mem::take(&mut pod.waits)
            {
                return Some(place);
            }
        }
        None
    }

    pub(super) fn is_anything_unknown(&self) -> bool {
        !self.unknown.is_empty()
    }

    pub(super) fn knows_namespaces(&self) -> bool {
        self.knows_namespaces
    }

    /// Whether all pods were looked at once.
    pub(super) fn is_complete(&mut self) -> bool {
        self.is_complete |= self.knows_pods && self.pods.values().all(|pod| pod.standing.is_some());
        self.is_complete
    }

    pub(super) fn labels(&self, namespace: &str) -> &BTreeMap<String, String> {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        self.namespaces.get(namespace).unwrap_or(&NONE)
    }

    /// Each pod that was looked at.
    pub(super) fn each(&self) -> impl Iterator<Item = Without<'_>> {
        self.pods.iter().filter_map(|(place, pod)| {
            let Standing { name: state, missing, heals_by_restart } = pod.standing.as_ref()?;
            Some(Without {
                place,
                maker: &pod.maker,
                profile: &pod.profile,
                state,
                missing: missing.as_deref(),
                heals_by_restart: *heals_by_restart,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Missing;
    use serde_json::json;

    fn pod(namespace: &str, name: &str, inject: Option<&str>) -> PartialObjectMeta<Pod> {
        let annotations: BTreeMap<&str, &str> = inject.map(|value| (INJECT, value)).into_iter().collect();
        let metadata = json!({"namespace": namespace, "name": name, "uid": "u", "annotations": annotations});
        serde_json::from_value(json!({"metadata": metadata})).unwrap()
    }

    fn namespace(name: &str, asks: bool) -> PartialObjectMeta<Namespace> {
        let labels = if asks { json!({INJECT: "true"}) } else { json!({}) };
        serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}})).unwrap()
    }

    /// Namespace `asks` asks, `plain` does not; no pod yet.
    fn asked() -> Asked {
        let mut asked = Asked::default();
        asked.see_namespace(Event::Init, &BTreeSet::new());
        asked.see_namespace(Event::InitApply(namespace("asks", true)), &BTreeSet::new());
        asked.see_namespace(Event::InitApply(namespace("plain", false)), &BTreeSet::new());
        assert!(!asked.knows_namespaces());
        asked.see_namespace(Event::InitDone, &BTreeSet::new());
        assert!(asked.knows_namespaces());
        asked.see(Event::Init);
        asked.see(Event::InitDone);
        asked
    }

    fn names(asked: &Asked) -> BTreeSet<String> {
        asked.pods.keys().map(ToString::to_string).collect()
    }

    #[test]
    fn of_pods_that_did_not_ask_nothing_is_kept() {
        let mut asked = asked();
        for (namespace, inject) in [("plain", None), ("plain", Some("false")), ("elsewhere", None)] {
            asked.see(Event::Apply(pod(namespace, "web", inject)));
        }
        assert_eq!(names(&asked), BTreeSet::new());
        asked.see(Event::Apply(pod("plain", "web", Some("true"))));
        asked.see(Event::Apply(pod("asks", "web", None)));
        assert_eq!(names(&asked), BTreeSet::from(["asks/web".to_owned(), "plain/web".to_owned()]));
    }

    #[test]
    fn counts_hold_once_all_were_looked_at_and_are_not_held_up_by_those_that_come_later() {
        let mut asked = asked();
        asked.see(Event::Apply(pod("asks", "first", None)));
        assert!(!asked.is_complete() && asked.is_anything_unknown());
        let first = asked.next_unknown().unwrap();
        asked.know(&first, &State::Missing(Missing::Unseen));
        assert!(asked.is_complete());
        asked.see(Event::Apply(pod("asks", "later", None)));
        assert!(asked.is_complete() && asked.is_anything_unknown());
        assert_eq!(asked.each().count(), 1);
    }

    #[test]
    fn a_namespace_that_begins_to_ask_has_to_be_listed_and_one_that_stops_is_forgotten() {
        let mut asked = asked();
        let none = BTreeSet::new();
        assert_eq!(asked.see_namespace(Event::Apply(namespace("plain", true)), &none), ["plain"]);
        assert_eq!(asked.see_namespace(Event::Apply(namespace("plain", true)), &none), Vec::<String>::new());
        asked.insert(&pod("plain", "covered", None));
        asked.insert(&pod("plain", "annotated", Some("true")));
        asked.see_namespace(Event::Apply(namespace("plain", false)), &none);
        assert_eq!(names(&asked), BTreeSet::from(["plain/annotated".to_owned()]));
        let excluded = BTreeSet::from(["plain".to_owned()]);
        assert_eq!(asked.see_namespace(Event::Apply(namespace("plain", true)), &excluded), Vec::<String>::new());
    }

    #[test]
    fn what_a_new_listing_does_not_tell_any_more_is_gone() {
        let mut asked = asked();
        asked.see(Event::Apply(pod("asks", "old", None)));
        asked.see(Event::Init);
        asked.see(Event::InitApply(pod("asks", "new", None)));
        asked.see(Event::InitDone);
        assert_eq!(names(&asked), BTreeSet::from(["asks/new".to_owned()]));
        assert_eq!(asked.next_unknown().unwrap().name, "new");
        assert_eq!(asked.next_unknown(), None);
    }

    #[test]
    fn a_pod_that_changes_again_and_again_waits_once() {
        let mut asked = asked();
        for _ in 0..3 {
            asked.see(Event::Apply(pod("asks", "web", None)));
        }
        let place = asked.next_unknown().unwrap();
        assert_eq!(asked.next_unknown(), None);
        asked.later(place.clone());
        asked.look_at_all_again();
        assert_eq!((asked.next_unknown(), asked.next_unknown()), (Some(place), None));
    }

    #[test]
    fn a_pod_that_changes_is_looked_at_again_and_counts_as_before_until_then() {
        let mut asked = asked();
        asked.see(Event::Apply(pod("asks", "web", None)));
        let place = asked.next_unknown().unwrap();
        asked.know(&place, &State::Missing(Missing::Unseen));
        asked.see(Event::Apply(pod("asks", "web", None)));
        assert!(asked.is_complete() && asked.is_anything_unknown());
        let known: Vec<Without<'_>> = asked.each().collect();
        assert!(known.len() == 1 && known[0].heals_by_restart, "{known:?}");
        assert_eq!((known[0].state, known[0].maker, known[0].profile), ("missing", "Pod web", "default"));
        let mut going = pod("asks", "web", None);
        going.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        asked.see(Event::Apply(going));
        assert_eq!(names(&asked), BTreeSet::new());
    }
}
