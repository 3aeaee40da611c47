//! How a pod stands that exists: whether it has the sidecar that it asked for, as it would be given now. Pure.
//!
//! One function for the operator, which sees the metadata of pods with the sidecar, and for `dot-injector status`, which sees
//! whole pods. What would be done with a pod without the sidecar is decided as admission decides it.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use crate::annotations::{CONFIG, INJECTED_LABEL, namespace_asks};
use crate::cluster::ClusterDns;
use crate::inject::{self, Decision, Record, Refusal, Skip, Subject};
use crate::limits::ContainerLimits;
use crate::profile::Profiles;
use crate::settings::Settings;

/// How a pod stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It has the sidecar as it would be given now.
    Injected,
    /// It has the sidecar; made now, the sidecar would be another one.
    Outdated(Outdated),
    /// It has the sidecar; its profile cannot be applied to it as it is now.
    Refused(Refusal),
    /// It asked for the sidecar and does not have it.
    Missing(Missing),
    /// Its namespace alone asked, and it cannot be served: its author was told.
    Unserved(Refusal),
    /// Nobody asked, or it declined.
    NotAsked,
    /// It has ended, or is being removed.
    Over,
}

/// What of a sidecar is not as it would be now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outdated {
    /// The configuration, which running pods are given without a restart.
    pub config: bool,
    /// The image: the one that it has, and the one that it would have. Only a new pod has another one.
    pub image: Option<(String, String)>,
}

/// Why a pod that asked does not have the sidecar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    /// The injector never saw it: it was made while the webhook was away and not required, or before the namespace asked.
    Unseen,
    /// The sidecar was there, and was taken out, or the pod's DNS points elsewhere: another webhook did it.
    Undone,
    /// The injector is shown no pods of its namespace.
    Excluded,
    /// The injector would refuse it.
    Refused(Refusal),
}

/// What is known beside the pod.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The injector's configuration.
    pub settings: &'a Settings,
    /// The cluster's DNS; where it is not known, configurations are not judged.
    pub cluster: Option<&'a ClusterDns>,
    /// The cluster's profiles.
    pub profiles: &'a Profiles,
}

/// A namespace, as far as it matters here.
#[derive(Debug, Clone, Copy)]
pub struct Namespace<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its labels.
    pub labels: &'a BTreeMap<String, String>,
}

impl State {
    /// How this pod stands. Of one that is labelled as injected the metadata is enough.
    pub fn of(pod: &Value, namespace: Namespace<'_>, facts: Facts<'_>) -> Self {
        if is_over(pod) {
            return Self::Over;
        }
        let annotations = strings(pod, "/metadata/annotations");
        if annotations.contains_key("kubernetes.io/config.mirror") {
            return Self::NotAsked; // the node's own, which no webhook may change
        }
        let labelled = strings(pod, "/metadata/labels").get(INJECTED_LABEL).is_some_and(|value| value == "true");
        let is_whole = pod.pointer("/spec/containers").is_some();
        if if is_whole { inject::is_served(pod) } else { labelled } {
            return Self::of_injected(pod, &annotations, namespace, facts);
        }
        let excluded = facts.settings.excluded_namespaces.contains(namespace.name);
        let unknown = ClusterDns::unknown();
        let subject = Subject {
            pod,
            namespace: namespace.name,
            namespace_asks: namespace_asks(namespace.labels) && !excluded,
            namespace_labels: namespace.labels,
            limits: &ContainerLimits::default(),
        };
        let cluster = facts.cluster.unwrap_or(&unknown);
        match inject::decide(subject, facts.settings, cluster, facts.profiles).decision {
            Decision::Skip(Skip::NotAsked | Skip::OptedOut) => Self::NotAsked,
            Decision::Skip(Skip::CannotBeServed(refusal)) => Self::Unserved(refusal),
            _ if excluded => Self::Missing(Missing::Excluded),
            _ if labelled || inject::without_sidecar(pod).had_sidecar => Self::Missing(Missing::Undone),
            Decision::Deny(refusal) => Self::Missing(Missing::Refused(refusal)),
            Decision::Inject(_) => Self::Missing(Missing::Unseen),
        }
    }

    fn of_injected(
        pod: &Value,
        annotations: &BTreeMap<String, String>,
        namespace: Namespace<'_>,
        facts: Facts<'_>,
    ) -> Self {
        let image = match outdated_image(annotations, inject::sidecar_image(pod), facts.settings, facts.profiles) {
            Ok(image) => image,
            Err(refusal) => return Self::Refused(refusal),
        };
        let config = match facts.cluster {
            None => false,
            Some(cluster) => match inject::configuration(annotations, namespace.name, cluster, facts.profiles) {
                Ok(config) => annotations.get(CONFIG) != Some(&config),
                Err(refusal) => return Self::Refused(refusal),
            },
        };
        if config || image.is_some() { Self::Outdated(Outdated { config, image }) } else { Self::Injected }
    }

    /// One word, for metrics and tables; their number is bounded by this list.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Injected => "injected",
            Self::Outdated(Outdated { image: Some(_), .. }) => "outdated-image",
            Self::Outdated(_) => "outdated-config",
            Self::Refused(_) => "refused",
            Self::Missing(_) => "missing",
            Self::Unserved(_) => "unserved",
            Self::NotAsked => "not-asked",
            Self::Over => "over",
        }
    }

    /// Whether nothing is left to be done.
    pub const fn is_well(&self) -> bool {
        matches!(self, Self::Injected | Self::Unserved(_) | Self::NotAsked | Self::Over)
    }

    /// Whether a new pod in its place would have what this one lacks. Where another webhook undid the sidecar it would do so again.
    pub const fn heals_by_restart(&self) -> bool {
        matches!(self, Self::Outdated(Outdated { image: Some(_), .. }) | Self::Missing(Missing::Unseen))
    }
}

/// Why it is so, and what to do; nothing where all is well.
impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Injected | Self::NotAsked | Self::Over => Ok(()),
            Self::Outdated(Outdated { config, image: Some((has, wanted)) }) => {
                let and = if *config { "; its configuration is an earlier one, too" } else { "" };
                write!(f, "the sidecar's image is {has}, and would be {wanted} now{and}: restart the pod")
            }
            Self::Outdated(_) => f.write_str("its configuration is not yet what its profile says now"),
            Self::Refused(refusal) => write!(f, "it keeps the configuration that it has: {refusal}"),
            Self::Missing(missing) => missing.fmt(f),
            Self::Unserved(refusal) => write!(f, "not encrypted, though the namespace asks for it: {refusal}"),
        }
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unseen => f.write_str(
                "the injector never saw it: it was made before its namespace asked, or while the webhook was away and not required (failurePolicy: Ignore): restart the pod",
            ),
            Self::Undone => f.write_str(
                "the sidecar was taken out again, or the pod's DNS points past it: another webhook or controller did it: `dot-injector check` names those that may",
            ),
            Self::Excluded => f.write_str(
                "pods of its namespace are never shown to the injector (webhook.excludedNamespaces of the chart): remove the annotation, or move the pod",
            ),
            Self::Refused(refusal) => write!(f, "it would be refused now: {refusal}"),
        }
    }
}

/// The image that the sidecar of a pod has, and the one that it would have now, if that is another one.
pub fn outdated_image(
    annotations: &BTreeMap<String, String>,
    in_spec: Option<&str>,
    settings: &Settings,
    profiles: &Profiles,
) -> Result<Option<(String, String)>, Refusal> {
    let wanted = inject::image(annotations, settings, profiles)?;
    // What was given counts: that another webhook has it pulled from elsewhere, as many do, makes no pod outdated.
    let given = Record::read(annotations).and_then(|record| record.image);
    let image = given.or_else(|| in_spec.map(str::to_owned));
    Ok(image.filter(|image| *image != wanted).map(|image| (image, wanted)))
}

fn is_over(pod: &Value) -> bool {
    let phase = pod.pointer("/status/phase").and_then(Value::as_str);
    matches!(phase, Some("Succeeded" | "Failed"))
        || pod.pointer("/metadata/deletionTimestamp").is_some_and(|at| !at.is_null())
}

/// The strings of a map in the pod; what is no string is passed over.
fn strings(pod: &Value, path: &str) -> BTreeMap<String, String> {
    let map = pod.pointer(path).and_then(Value::as_object);
    let pairs = map.into_iter().flatten();
    pairs.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::annotations::STATUS;
    use crate::profile::Profile;
    use serde_json::json;

    const ASKS: &str = "dot-sidecar.io/inject";

    struct World {
        settings: Settings,
        cluster: ClusterDns,
        profiles: Profiles,
        labels: BTreeMap<String, String>,
    }

    impl World {
        fn new() -> Self {
            let settings = Settings::from_yaml("excludedNamespaces: [kube-system, away]").unwrap();
            let profiles = Profiles::of_default(Profile::default());
            Self { settings, cluster: ClusterDns::unknown(), profiles, labels: BTreeMap::new() }
        }

        fn asking() -> Self {
            let mut world = Self::new();
            world.labels.insert(ASKS.to_owned(), "true".to_owned());
            world
        }

        fn state_in(&self, namespace: &str, pod: &Value) -> State {
            let facts = Facts { settings: &self.settings, cluster: Some(&self.cluster), profiles: &self.profiles };
            State::of(pod, Namespace { name: namespace, labels: &self.labels }, facts)
        }

        fn state(&self, pod: &Value) -> State {
            self.state_in("shop", pod)
        }

        fn injected(&self, pod: &Value) -> Value {
            let limits = ContainerLimits::default();
            let subject = Subject {
                pod,
                namespace: "shop",
                namespace_asks: namespace_asks(&self.labels),
                namespace_labels: &self.labels,
                limits: &limits,
            };
            let verdict = inject::decide(subject, &self.settings, &self.cluster, &self.profiles);
            inject::patched(&verdict.decision, pod)
        }
    }

    fn silent() -> Value {
        json!({"metadata": {"name": "web"}, "spec": {"containers": [{"name": "app", "image": "app"}]}})
    }

    fn asking() -> Value {
        let mut pod = silent();
        pod["metadata"]["annotations"] = json!({ASKS: "true"});
        pod
    }

    fn metadata_of(pod: &Value) -> Value {
        json!({"metadata": pod["metadata"]})
    }

    #[test]
    fn a_pod_with_the_sidecar_that_it_would_be_given_now_is_injected() {
        let world = World::new();
        let pod = world.injected(&asking());
        assert_eq!(world.state(&pod), State::Injected);
        assert_eq!(world.state(&metadata_of(&pod)), State::Injected);
        let by_namespace = World::asking();
        assert_eq!(by_namespace.state(&by_namespace.injected(&silent())), State::Injected);
    }

    #[test]
    fn a_changed_profile_makes_the_configuration_outdated_and_a_changed_image_the_pod() {
        let mut world = World::new();
        let pod = world.injected(&asking());
        let profile = |spec| Profile::read(spec).unwrap();
        world.profiles = Profiles::of_default(profile(json!({"upstream": {"servers": ["quad9"]}})));
        assert_eq!(world.state(&pod), State::Outdated(Outdated { config: true, image: None }));
        world.profiles = Profiles::of_default(profile(json!({"image": "registry.example/new:2"})));
        for pod in [&pod, &metadata_of(&pod)] {
            let state = world.state(pod);
            assert_eq!(state.name(), "outdated-image");
            assert!(state.heals_by_restart() && state.to_string().contains("would be registry.example/new:2"));
        }
    }

    #[test]
    fn another_webhook_may_have_the_image_pulled_from_elsewhere() {
        let world = World::new();
        let mut pod = world.injected(&asking());
        pod["spec"]["initContainers"][0]["image"] = json!("mirror.example/dot-proxy:1");
        assert_eq!(world.state(&pod), State::Injected);
    }

    #[test]
    fn of_an_older_record_without_an_image_the_spec_tells_it_if_it_is_known() {
        let world = World::new();
        let mut pod = world.injected(&asking());
        let status = json!({"injector": "0.0.1", "profile": "default", "original": {}});
        pod["metadata"]["annotations"][STATUS] = json!(status.to_string());
        pod["spec"]["initContainers"][0]["image"] = json!("registry.example/old:1");
        assert_eq!(world.state(&pod).name(), "outdated-image");
        assert_eq!(world.state(&metadata_of(&pod)), State::Injected);
    }

    #[test]
    fn where_cluster_dns_is_not_known_configurations_are_not_judged() {
        let mut world = World::new();
        let pod = world.injected(&asking());
        world.profiles = Profiles::of_default(Profile::read(json!({"upstream": {"servers": ["quad9"]}})).unwrap());
        let facts = Facts { settings: &world.settings, cluster: None, profiles: &world.profiles };
        assert_eq!(State::of(&pod, Namespace { name: "shop", labels: &world.labels }, facts), State::Injected);
    }

    #[test]
    fn a_pod_whose_profile_is_gone_is_told_apart_from_one_that_waits_for_it() {
        let mut world = World::new();
        let pod = world.injected(&asking());
        world.profiles = Profiles::default();
        let state = world.state(&pod);
        assert_eq!(state.name(), "refused");
        assert!(!state.is_well() && !state.heals_by_restart(), "{state}");
    }

    #[test]
    fn a_pod_that_asked_and_was_never_seen_is_missing_and_heals_by_a_restart() {
        for (world, pod) in [(World::new(), asking()), (World::asking(), silent())] {
            let state = world.state(&pod);
            assert_eq!(state, State::Missing(Missing::Unseen));
            assert!(state.heals_by_restart() && state.to_string().ends_with("restart the pod"));
        }
    }

    #[test]
    fn a_pod_that_nobody_could_serve_is_not_healed_by_a_restart() {
        let mut pod = asking();
        pod["spec"]["hostNetwork"] = json!(true);
        let state = World::new().state(&pod);
        assert!(matches!(&state, State::Missing(Missing::Refused(refusal)) if refusal.code() == "host-network"));
        assert!(!state.heals_by_restart());
        let mut covered = silent();
        covered["spec"]["hostNetwork"] = json!(true);
        let state = World::asking().state(&covered);
        assert!(matches!(&state, State::Unserved(_)) && state.is_well(), "{state}");
    }

    #[test]
    fn a_sidecar_that_was_taken_out_or_is_passed_by_is_missing() {
        let world = World::new();
        let injected = world.injected(&asking());
        let mut without = injected.clone();
        without["spec"]["initContainers"] = json!([]);
        let mut passed_by = injected;
        passed_by["spec"]["dnsConfig"]["nameservers"] = json!(["127.0.0.1", "192.0.2.1"]);
        for pod in [without, passed_by] {
            assert_eq!(world.state(&pod), State::Missing(Missing::Undone));
        }
    }

    #[test]
    fn in_an_excluded_namespace_only_an_annotation_counts_as_asking() {
        let world = World::asking();
        assert_eq!(world.state_in("away", &asking()), State::Missing(Missing::Excluded));
        assert_eq!(world.state_in("away", &silent()), State::NotAsked);
    }

    #[test]
    fn who_did_not_ask_declined_has_ended_or_is_the_nodes_own_is_left_alone() {
        assert_eq!(World::new().state(&silent()), State::NotAsked);
        let mut declining = silent();
        declining["metadata"]["annotations"] = json!({ASKS: "false"});
        assert_eq!(World::asking().state(&declining), State::NotAsked);
        let mut mirror = asking();
        mirror["metadata"]["annotations"]["kubernetes.io/config.mirror"] = json!("x");
        assert_eq!(World::new().state(&mirror), State::NotAsked);
        let mut ended = asking();
        ended["status"] = json!({"phase": "Succeeded"});
        assert_eq!(World::new().state(&ended), State::Over);
        let mut going = asking();
        going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert_eq!(World::new().state(&going), State::Over);
    }
}
