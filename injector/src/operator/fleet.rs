//! The pods that have the sidecar, as far as the leader needs them: a few hundred bytes each.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use crate::annotations;
use crate::cluster::ClusterDns;
use crate::inject;
use crate::profile::{PodCounts, Profiles};

/// Where a pod is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) namespace: String,
    pub(super) name: String,
}

/// What is read of a pod.
#[derive(Debug, Clone)]
pub(super) struct Seen<'a> {
    pub(super) place: Place,
    pub(super) annotations: &'a BTreeMap<String, String>,
    /// What made it, for people: `Deployment web`.
    pub(super) maker: String,
}

/// The SHA-256 of a configuration, shortened: what the proxy's metrics call its hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ConfigHash([u8; 8]);

/// Whether a pod's configuration is what its profile says now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Updated,
    Outdated,
    /// The profile cannot be applied to the pod: it is gone or unusable, or does not allow one of the pod's annotations any more.
    Refused,
}

/// All pods that have the sidecar.
#[derive(Debug, Default)]
pub(super) struct Fleet {
    pods: HashMap<Place, Member>,
    /// Pods of one workload are given the same: it is kept, and its configuration made, once.
    groups: HashMap<Arc<Given>, Group>,
}

#[derive(Debug)]
struct Member {
    /// Of the configuration that stands on the pod.
    config: ConfigHash,
    given: Arc<Given>,
    /// What the configuration that its profile says now would be; none if the profile cannot be applied to it.
    wanted: Option<ConfigHash>,
}

/// What a pod's configuration is made of, its profile apart.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Given {
    namespace: String,
    maker: String,
    /// Ours, without the configuration.
    annotations: BTreeMap<String, String>,
}

#[derive(Debug)]
struct Group {
    wanted: Option<ConfigHash>,
    members: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Display for ConfigHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

impl ConfigHash {
    pub(super) fn of(config: &str) -> Self {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, config.as_bytes());
        let mut first = [0; 8];
        first.copy_from_slice(&digest.as_ref()[..8]);
        Self(first)
    }
}

impl Given {
    fn profile(&self) -> &str {
        annotations::profile(&self.annotations)
    }

    fn wanted(&self, cluster: &ClusterDns, profiles: &Profiles) -> Option<ConfigHash> {
        let config = inject::configuration(&self.annotations, &self.namespace, cluster, profiles);
        config.ok().map(|config| ConfigHash::of(&config))
    }
}

impl Member {
    fn standing(&self) -> Standing {
        match self.wanted {
            Some(wanted) if wanted == self.config => Standing::Updated,
            Some(_) => Standing::Outdated,
            None => Standing::Refused,
        }
    }
}

impl Fleet {
    pub(super) fn clear(&mut self) {
        self.pods.clear();
        self.groups.clear();
    }

    /// A pod is there, or has changed.
    pub(super) fn insert(&mut self, seen: Seen<'_>, cluster: &ClusterDns, profiles: &Profiles) {
        let config = seen.annotations.get(annotations::CONFIG).map_or("", String::as_str);
        let config = ConfigHash::of(config);
        let ours = seen.annotations.iter().filter(|(name, _)| name.starts_with(annotations::PREFIX));
        let ours = ours.filter(|(name, _)| *name != annotations::CONFIG);
        let annotations = ours.map(|(name, value)| (name.clone(), value.clone())).collect();
        let given = Given { namespace: seen.place.namespace.clone(), maker: seen.maker, annotations };
        self.remove(&seen.place);
        let given = match self.groups.get_key_value(&given) {
            Some((known, _)) => Arc::clone(known),
            None => Arc::new(given),
        };
        let group = self.groups.entry(Arc::clone(&given));
        let group = group.or_insert_with(|| Group { wanted: given.wanted(cluster, profiles), members: 0 });
        group.members += 1;
        let member = Member { config, wanted: group.wanted, given };
        self.pods.insert(seen.place, member);
    }

    /// A pod is gone, or has ended.
    pub(super) fn remove(&mut self, place: &Place) {
        let Some(member) = self.pods.remove(place) else { return };
        if let Some(group) = self.groups.get_mut(&member.given) {
            group.members -= 1;
            if group.members == 0 {
                self.groups.remove(&member.given);
            }
        }
    }

    /// Looks at every pod again, after profiles have changed.
    pub(super) fn judge(&mut self, cluster: &ClusterDns, profiles: &Profiles) {
        for (given, group) in &mut self.groups {
            group.wanted = given.wanted(cluster, profiles);
        }
        for member in self.pods.values_mut() {
            member.wanted = self.groups.get(&member.given).and_then(|group| group.wanted);
        }
    }

    /// The pods of each profile, counted.
    pub(super) fn counts(&self) -> BTreeMap<&str, PodCounts> {
        let mut all: BTreeMap<&str, PodCounts> = BTreeMap::new();
        for member in self.pods.values() {
            let counts = all.entry(member.given.profile()).or_default();
            let standing = member.standing();
            counts.total += 1;
            counts.updated += u32::from(standing == Standing::Updated);
            counts.refused += u32::from(standing == Standing::Refused);
        }
        all
    }

    /// Who has the profile: what made the pods, those of most pods first, `most` of them at most.
    pub(super) fn users(&self, profile: &str, most: usize) -> Vec<String> {
        let mut makers: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for (given, group) in self.groups.iter().filter(|(given, _)| given.profile() == profile) {
            *makers.entry((&given.namespace, &given.maker)).or_default() += group.members;
        }
        let mut makers: Vec<_> = makers.into_iter().collect();
        makers.sort_by_key(|(_, pods)| std::cmp::Reverse(*pods));
        let pods = |number| if number == 1 { "1 pod".to_owned() } else { format!("{number} pods") };
        makers
            .into_iter()
            .take(most)
            .map(|((namespace, maker), number)| format!("{maker} in {namespace} ({})", pods(number)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::annotations::{CONFIG, INJECT, PROFILE};
    use crate::cluster::{ClusterSettings, ResolvConf};
    use crate::profile::Profile;

    fn cluster() -> ClusterDns {
        ClusterDns::new(
            &ClusterSettings::default(),
            &ResolvConf::parse("nameserver 10.96.0.10\nsearch a.svc.cluster.local svc.cluster.local cluster.local"),
        )
        .unwrap()
    }

    fn profiles(servers: &[&str]) -> Profiles {
        let spec = serde_json::json!({"upstream": {"servers": servers}, "annotations": {"allowed": ["log-level"]}});
        Profiles::of_default(Profile::read(spec).unwrap())
    }

    fn annotations(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    /// A pod that was injected with these annotations while the profiles were these.
    fn injected(fleet: &mut Fleet, name: &str, pairs: &[(&str, &str)], profiles: &Profiles) {
        let mut annotations = annotations(pairs);
        let config = inject::configuration(&annotations, "shop", &cluster(), profiles);
        annotations.insert(CONFIG.to_owned(), config.unwrap_or_default());
        let place = Place { namespace: "shop".to_owned(), name: name.to_owned() };
        let maker = format!("Deployment {}", name.split('-').next().unwrap());
        fleet.insert(Seen { place, annotations: &annotations, maker }, &cluster(), profiles);
    }

    fn counted(total: u32, updated: u32, refused: u32) -> PodCounts {
        PodCounts { total, updated, refused }
    }

    #[test]
    fn a_pod_is_updated_until_its_profile_says_something_else() {
        let (mut fleet, before, after) = (Fleet::default(), profiles(&["quad9"]), profiles(&["google"]));
        injected(&mut fleet, "web-1", &[(INJECT, "true")], &before);
        injected(&mut fleet, "web-2", &[(INJECT, "true")], &before);
        assert_eq!(fleet.counts()["default"], counted(2, 2, 0));
        fleet.judge(&cluster(), &after);
        assert_eq!(fleet.counts()["default"], counted(2, 0, 0));
        injected(&mut fleet, "web-2", &[(INJECT, "true")], &after);
        assert_eq!(fleet.counts()["default"], counted(2, 1, 0));
        fleet.judge(&cluster(), &before);
        assert_eq!(fleet.counts()["default"], counted(2, 1, 0));
    }

    #[test]
    fn a_pod_whose_profile_is_gone_or_does_not_allow_its_annotations_is_refused() {
        let (mut fleet, profiles) = (Fleet::default(), profiles(&["quad9"]));
        injected(&mut fleet, "web-1", &[(PROFILE, "gone")], &profiles);
        injected(&mut fleet, "web-2", &[("dot-sidecar.io/upstream", "google")], &profiles);
        injected(&mut fleet, "web-3", &[("dot-sidecar.io/log-level", "debug")], &profiles);
        assert_eq!(fleet.counts()["gone"], counted(1, 0, 1));
        assert_eq!(fleet.counts()["default"], counted(2, 1, 1));
    }

    #[test]
    fn users_are_named_by_what_made_the_pods_those_of_most_pods_first() {
        let (mut fleet, profiles) = (Fleet::default(), profiles(&["quad9"]));
        for name in ["web-1", "api-1", "api-2"] {
            injected(&mut fleet, name, &[(INJECT, "true")], &profiles);
        }
        let users = |fleet: &Fleet, most| fleet.users("default", most);
        assert_eq!(users(&fleet, 8), ["Deployment api in shop (2 pods)", "Deployment web in shop (1 pod)"]);
        assert_eq!(users(&fleet, 1), ["Deployment api in shop (2 pods)"]);
        for name in ["api-1", "api-2"] {
            fleet.remove(&Place { namespace: "shop".to_owned(), name: name.to_owned() });
        }
        assert_eq!(users(&fleet, 8), ["Deployment web in shop (1 pod)"]);
        assert_eq!(fleet.groups.len(), 1, "what nobody is given any more is forgotten");
    }
}
