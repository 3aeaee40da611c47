//! The pods that have the sidecar, as far as the leader needs them: a few hundred bytes each.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use dot_proxy::reload::Hash;

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
    /// Which no other pod of its name has, now or later.
    pub(super) uid: &'a str,
    pub(super) annotations: &'a BTreeMap<String, String>,
    /// What made it, for people: `Deployment web`.
    pub(super) maker: String,
}

/// Whether a pod's configuration is what its profile says now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Updated,
    Outdated,
    /// The profile cannot be applied to the pod: it is gone or unusable, or does not allow one of the pod's annotations any more.
    Refused,
}

/// What a pod's proxy said of the configuration that stands on the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Taken,
    Rejected(Box<str>),
    /// It could not be asked, or has not made up its mind in time.
    Unknown(Box<str>),
}

/// The pods of a profile that it can be applied to, in the order of their names.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Behind {
    pub(super) outdated: Vec<Place>,
    pub(super) updated: Vec<Place>,
}

/// What is to be written onto a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Task {
    pub(super) uid: String,
    pub(super) config: String,
}

/// All pods that have the sidecar.
#[derive(Debug, Default)]
pub(super) struct Fleet {
    pods: HashMap<Place, Member>,
    /// Pods of one workload, and most of a namespace, are given the same: it is kept, and its configuration made, once.
    groups: HashMap<Arc<Given>, Group>,
    /// What pods of each profile lack, as `drift` has counted it.
    lacks: BTreeMap<String, Lacks>,
}

/// What pods of a profile lack that only a new pod has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Lacks {
    /// Pods that asked for the sidecar and do not have it.
    pub(super) missing: u32,
    /// Pods whose sidecar would have another image now.
    pub(super) outdated_image: u32,
}

#[derive(Debug)]
struct Member {
    uid: Box<str>,
    maker: Box<str>,
    /// Of the configuration that stands on the pod.
    config: Hash,
    given: Arc<Given>,
    /// What the configuration that its profile says now would be; none if the profile cannot be applied to it.
    wanted: Option<Hash>,
    /// What its proxy said of it, if it was asked.
    answer: Option<Answer>,
}

/// What a pod's configuration is made of, its profile apart.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Given {
    namespace: String,
    /// Ours, without the configuration.
    annotations: BTreeMap<String, String>,
}

#[derive(Debug)]
struct Group {
    wanted: Option<Hash>,
    members: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl Given {
    /// Ours, without the configuration.
    pub(super) fn annotations(&self) -> &BTreeMap<String, String> {
        &self.annotations
    }

    pub(super) fn profile(&self) -> &str {
        annotations::profile(&self.annotations)
    }

    fn wanted(&self, cluster: &ClusterDns, profiles: &Profiles) -> Option<Hash> {
        let config = inject::configuration(&self.annotations, &self.namespace, cluster, profiles);
        config.ok().map(|config| Hash::of(config.as_bytes()))
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
        let config = Hash::of(config.as_bytes());
        let ours = seen.annotations.iter().filter(|(name, _)| name.starts_with(annotations::PREFIX));
        let ours = ours.filter(|(name, _)| *name != annotations::CONFIG);
        let annotations = ours.map(|(name, value)| (name.clone(), value.clone())).collect();
        let given = Given { namespace: seen.place.namespace.clone(), annotations };
        let before = self.remove(&seen.place);
        let answer = before.filter(|before| *before.uid == *seen.uid && before.config == config);
        let answer = answer.and_then(|before| before.answer);
        let given = match self.groups.get_key_value(&given) {
            Some((known, _)) => Arc::clone(known),
            None => Arc::new(given),
        };
        let group = self.groups.entry(Arc::clone(&given));
        let group = group.or_insert_with(|| Group { wanted: given.wanted(cluster, profiles), members: 0 });
        group.members += 1;
        let member =
            Member { uid: seen.uid.into(), maker: seen.maker.into(), config, wanted: group.wanted, given, answer };
        self.pods.insert(seen.place, member);
    }

    /// A pod is gone, or has ended.
    pub(super) fn delete(&mut self, place: &Place) {
        self.remove(place);
    }

    fn remove(&mut self, place: &Place) -> Option<Member> {
        let member = self.pods.remove(place)?;
        if let Some(group) = self.groups.get_mut(&member.given) {
            group.members -= 1;
            if group.members == 0 {
                self.groups.remove(&member.given);
            }
        }
        Some(member)
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

    /// Every pod but those to which their profile cannot be applied, what made it, and what it was given.
    pub(super) fn each(&self) -> impl Iterator<Item = (&Place, &str, &Arc<Given>)> {
        let members = self.pods.iter().filter(|(_, member)| member.standing() != Standing::Refused);
        members.map(|(place, member)| (place, &*member.maker, &member.given))
    }

    /// What pods were given, each once.
    pub(super) fn given(&self) -> impl Iterator<Item = &Arc<Given>> {
        self.groups.keys()
    }

    /// Pods of each profile lack so much. Whether that is news.
    pub(super) fn lacks(&mut self, lacks: BTreeMap<String, Lacks>) -> bool {
        let is_news = self.lacks != lacks;
        self.lacks = lacks;
        is_news
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
            counts.rejected += u32::from(matches!(member.answer, Some(Answer::Rejected(_))));
            counts.unknown += u32::from(matches!(member.answer, Some(Answer::Unknown(_))));
        }
        for (profile, lacks) in &self.lacks {
            let counts = all.entry(profile).or_default();
            (counts.missing, counts.outdated_image) = (lacks.missing, lacks.outdated_image);
        }
        all
    }

    /// The profiles of which some pod has not what they say now.
    pub(super) fn profiles_behind(&self) -> BTreeSet<String> {
        let outdated = self.pods.values().filter(|member| member.standing() == Standing::Outdated);
        outdated.map(|member| member.given.profile()).collect::<BTreeSet<_>>().into_iter().map(str::to_owned).collect()
    }

    /// How the pods of a profile stand to these profiles, which need not be those of the last judgement.
    pub(super) fn behind(&self, profile: &str, cluster: &ClusterDns, profiles: &Profiles) -> Behind {
        let groups = self.groups.keys().filter(|given| given.profile() == profile);
        let wanted: HashMap<*const Given, _> =
            groups.map(|given| (Arc::as_ptr(given), given.wanted(cluster, profiles))).collect();
        let mut behind = Behind::default();
        for (place, member) in &self.pods {
            match wanted.get(&Arc::as_ptr(&member.given)) {
                Some(Some(wanted)) if *wanted == member.config => behind.updated.push(place.clone()),
                Some(Some(_)) => behind.outdated.push(place.clone()),
                _ => {}
            }
        }
        behind.outdated.sort_unstable();
        behind.updated.sort_unstable();
        behind
    }

    /// What is to be written onto a pod, so that it has what these profiles say; nothing if it has, is gone, or cannot have it.
    pub(super) fn task(&self, place: &Place, cluster: &ClusterDns, profiles: &Profiles) -> Option<Task> {
        let Member { uid, config: present, given, .. } = self.pods.get(place)?;
        let config = inject::configuration(&given.annotations, &given.namespace, cluster, profiles).ok()?;
        (Hash::of(config.as_bytes()) != *present).then(|| Task { uid: uid.to_string(), config })
    }

    /// That was written. The watch may tell so later.
    pub(super) fn written(&mut self, place: &Place, task: &Task) {
        if let Some(member) = self.pods.get_mut(place).filter(|member| *member.uid == *task.uid) {
            member.config = Hash::of(task.config.as_bytes());
            member.answer = None;
        }
    }

    /// Of the configuration that stands on a pod.
    pub(super) fn config(&self, place: &Place) -> Option<Hash> {
        self.pods.get(place).map(|member| member.config)
    }

    /// A pod's proxy said so of the configuration with this hash.
    pub(super) fn answered(&mut self, place: &Place, hash: Hash, answer: Answer) {
        if let Some(member) = self.pods.get_mut(place).filter(|member| member.config == hash) {
            member.answer = Some(answer);
        }
    }

    /// The pods of a profile whose proxy was asked and has not taken what stands on the pod, as far as is known.
    pub(super) fn open(&self, profile: &str) -> Vec<Place> {
        let is_open = |member: &Member| member.answer.as_ref().is_some_and(|answer| *answer != Answer::Taken);
        let open = self.pods.iter().filter(|(_, member)| member.given.profile() == profile && is_open(member));
        let mut open: Vec<Place> = open.map(|(place, _)| place.clone()).collect();
        open.sort_unstable();
        open
    }

    /// Who has the profile: what made the pods, those of most pods first, `most` of them at most.
    pub(super) fn users(&self, profile: &str, most: usize) -> Vec<String> {
        let mut makers: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for (place, member) in self.pods.iter().filter(|(_, member)| member.given.profile() == profile) {
            *makers.entry((&place.namespace, &member.maker)).or_default() += 1;
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
        let (place, uid) = (place(name), format!("uid-of-{name}"));
        let maker = format!("Deployment {}", name.split('-').next().unwrap());
        fleet.insert(Seen { place, uid: &uid, annotations: &annotations, maker }, &cluster(), profiles);
    }

    fn counted(total: u32, updated: u32, refused: u32) -> PodCounts {
        PodCounts { total, updated, refused, ..PodCounts::default() }
    }

    fn place(name: &str) -> Place {
        Place { namespace: "shop".to_owned(), name: name.to_owned() }
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
    fn what_pods_lack_is_counted_with_their_profile() {
        let (mut fleet, profiles) = (Fleet::default(), profiles(&["quad9"]));
        injected(&mut fleet, "web-1", &[(INJECT, "true")], &profiles);
        let lacks = |missing| BTreeMap::from([("default".to_owned(), Lacks { missing, outdated_image: 1 })]);
        assert!(fleet.lacks(lacks(2)) && !fleet.lacks(lacks(2)) && fleet.lacks(lacks(3)));
        assert_eq!(fleet.counts()["default"], PodCounts { missing: 3, outdated_image: 1, ..counted(1, 1, 0) });
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
            fleet.delete(&place(name));
        }
        assert_eq!(users(&fleet, 8), ["Deployment web in shop (1 pod)"]);
        assert_eq!(fleet.groups.len(), 1, "what nobody is given any more is forgotten");
    }

    #[test]
    fn what_is_written_brings_a_pod_up_to_date_and_is_for_that_pod_alone() {
        let (mut fleet, before, after) = (Fleet::default(), profiles(&["quad9"]), profiles(&["google"]));
        injected(&mut fleet, "web-1", &[(INJECT, "true")], &before);
        injected(&mut fleet, "web-2", &[(PROFILE, "other")], &before);
        fleet.judge(&cluster(), &after);
        assert_eq!(fleet.profiles_behind(), BTreeSet::from(["default".to_owned()]));
        let behind = |fleet: &Fleet| fleet.behind("default", &cluster(), &after);
        assert_eq!(behind(&fleet), Behind { outdated: vec![place("web-1")], updated: vec![] });
        let task = fleet.task(&place("web-1"), &cluster(), &after).unwrap();
        assert!(task.config.contains("google") && task.uid == "uid-of-web-1");
        assert_eq!(fleet.task(&place("web-2"), &cluster(), &after), None, "its profile is gone: it keeps what it has");
        fleet.written(&place("web-1"), &Task { uid: "another".to_owned(), ..task.clone() });
        assert_eq!(fleet.task(&place("web-1"), &cluster(), &after), Some(task.clone()));
        fleet.written(&place("web-1"), &task);
        assert_eq!(fleet.task(&place("web-1"), &cluster(), &after), None);
        assert_eq!(behind(&fleet), Behind { outdated: vec![], updated: vec![place("web-1")] });
        assert_eq!(fleet.counts()["default"], counted(1, 1, 0));
    }

    #[test]
    fn an_answer_is_about_the_configuration_that_stood_on_the_pod_then() {
        let (mut fleet, before, after) = (Fleet::default(), profiles(&["quad9"]), profiles(&["google"]));
        injected(&mut fleet, "web-1", &[(INJECT, "true")], &before);
        let hash = fleet.config(&place("web-1")).unwrap();
        fleet.answered(&place("web-1"), Hash::of(b"another"), Answer::Rejected("unproved".into()));
        assert_eq!(fleet.open("default"), []);
        fleet.answered(&place("web-1"), hash, Answer::Rejected("unproved".into()));
        assert_eq!((fleet.open("default"), fleet.counts()["default"].rejected), (vec![place("web-1")], 1));
        injected(&mut fleet, "web-1", &[(INJECT, "true")], &before);
        assert_eq!(fleet.open("default"), [place("web-1")], "another change of the pod leaves it as it is");
        fleet.answered(&place("web-1"), hash, Answer::Taken);
        assert_eq!(fleet.open("default"), []);
        fleet.answered(&place("web-1"), hash, Answer::Unknown("no answer".into()));
        injected(&mut fleet, "web-1", &[(INJECT, "true")], &after);
        assert_eq!(fleet.open("default"), []);
    }
}
