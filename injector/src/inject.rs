//! The decision about a pod, and what it makes of the pod. Pure: no clock, no network, no Kubernetes client.
//!
//! ```text
//! pod ──original──► pod without anything of ours ──obstacles──► Skip | Deny
//!                        │                                         ▲
//!                        └──dns, resources, sidecar──► Plan ───────┘ (what does not fit)
//!                                                       │
//!                                            pod ──apply┴──► pod with the sidecar
//! ```

mod apply;
mod dns;
mod obstacles;
mod original;
mod pod;
pub mod policy;
mod refusal;
mod resources;
mod sidecar;

use std::collections::BTreeMap;
use std::fmt;

use dot_proxy_config::{Cluster, Config, Listen, Server, Suffix};
use serde_json::Value;

use crate::annotations::{self, Inject, Override, Overrides};
use crate::cluster::ClusterDns;
use crate::limits::ContainerLimits;
use crate::profile::{self, Profile, Profiles};
use crate::settings::Settings;

pub use apply::{patch, patched, touched};
pub use dns::{DnsOption, search_warnings};
pub use original::{Record, Stripped};
pub use refusal::Refusal;
pub use sidecar::ADMIN_PORT;

use dns::Resolution;
use original::{Original, Status};
use pod::Pod;
use sidecar::Particulars;

/// Where the pod's resolver looks: the proxy, on loopback.
const LOOPBACK: &str = "127.0.0.1";
/// The port of DNS, which resolv.conf cannot change.
const PORT: u16 = 53;
/// The safe sysctl (Kubernetes 1.22) that lets a process without privilege have low ports, in the pod's network alone.
const PORT_START: &str = "net.ipv4.ip_unprivileged_port_start";
/// The longest configuration that is put on a pod: all annotations together may have 256 KiB.
pub const LARGEST_CONFIG: usize = 64 * 1024;
/// How long the names and values of a pod's annotations may be together (`TotalAnnotationSizeLimitB`).
const LONGEST_ANNOTATIONS: usize = 256 * 1024;

/// A pod about to be created, and what is known of where.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The pod, raw, as the API server sent it or a file says it.
    pub pod: &'a Value,
    /// The namespace it will be in.
    pub namespace: &'a str,
    /// Whether the namespace is labelled `dot-sidecar.io/inject: "true"`.
    pub namespace_asks: bool,
    /// The namespace's labels. They count only where `needs_namespace` says so.
    pub namespace_labels: &'a BTreeMap<String, String>,
    /// What the namespace's LimitRanges demand.
    pub limits: &'a ContainerLimits,
}

/// What is to be done with a pod, and what its author should hear.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// What is to be done.
    pub decision: Decision,
    /// Shown to who creates the pod.
    pub warnings: Vec<String>,
}

/// What is to be done with a pod.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// It gets the sidecar.
    Inject(Box<Plan>),
    /// It is left as it is.
    Skip(Skip),
    /// It asked for the sidecar and cannot have it.
    Deny(Refusal),
}

/// Why a pod is left as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Skip {
    /// Nobody asked.
    NotAsked,
    /// It declined.
    OptedOut,
    /// Its namespace alone asked, and it cannot be served.
    CannotBeServed(Refusal),
}

/// All that injection writes into a pod.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    container: Value,
    volume: Value,
    dns_config: Value,
    port_start: String,
    proxy: Config,
    /// `proxy` as it is written on the pod.
    config: String,
    searches: Vec<String>,
    status: String,
}

/// The profile of a pod, and its name.
#[derive(Debug, Clone, Copy)]
struct Chosen<'a> {
    name: &'a str,
    profile: &'a Profile,
}

/// Who wants the sidecar in a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asker {
    /// Its author, by annotation or by copying a pod that has it.
    Author,
    /// Its namespace alone.
    Namespace,
}

impl Plan {
    /// Whether there is room for our annotations beside those of the pod.
    fn fits_beside(&self, annotations: &BTreeMap<String, String>) -> Result<(), Refusal> {
        let ours = [(annotations::CONFIG, self.config.as_str()), (annotations::STATUS, self.status.as_str())];
        let theirs = annotations.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let bytes = theirs.chain(ours).map(|(name, value)| name.len() + value.len()).sum();
        if bytes > LONGEST_ANNOTATIONS { Err(Refusal::AnnotationsTooLong { bytes }) } else { Ok(()) }
    }

    /// What a person wants to know about it, by name.
    pub fn facts(&self) -> [(&'static str, String); 5] {
        let of_container = |path: &str| self.container.pointer(path).map(Value::to_string).unwrap_or_default();
        let upstream: Vec<String> = self.proxy.upstream.servers.iter().map(ToString::to_string).collect();
        let routes = self.proxy.routes.iter().map(|route| {
            let servers: Vec<String> = route.servers.iter().map(ToString::to_string).collect();
            let names = route.suffixes.iter().filter(|suffix| !suffix.as_str().ends_with(".arpa"));
            let names: Vec<&str> = names.map(Suffix::as_str).collect();
            format!("{} to {}", names.join(" "), servers.join(" "))
        });
        [
            ("sidecar", of_container("/image").trim_matches('"').to_owned()),
            ("resources", of_container("/resources")),
            ("over TLS", upstream.join(" ")),
            (
                "in clear",
                format!("{}, and reverse lookups of private addresses", routes.collect::<Vec<_>>().join(", ")),
            ),
            ("search", self.searches.join(" ")),
        ]
    }
}

impl Decision {
    /// One word for metrics.
    pub fn outcome(&self) -> &'static str {
        match self {
            Self::Inject(_) => "injected",
            Self::Skip(_) => "skipped",
            Self::Deny(_) => "denied",
        }
    }

    /// One word for metrics: why.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Inject(_) => "asked",
            Self::Skip(Skip::NotAsked) => "not-asked",
            Self::Skip(Skip::OptedOut) => "opted-out",
            Self::Skip(Skip::CannotBeServed(refusal)) | Self::Deny(refusal) => refusal.code(),
        }
    }
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAsked => f.write_str(
                r#"neither the pod (annotation dot-sidecar.io/inject: "true") nor its namespace (the same as a label) asks for the sidecar"#,
            ),
            Self::OptedOut => f.write_str(r#"the pod declines the sidecar: annotation dot-sidecar.io/inject: "false""#),
            Self::CannotBeServed(refusal) => {
                write!(f, "not encrypted, though the namespace asks for it: {refusal}")
            }
        }
    }
}

/// Decides about a pod.
pub fn decide(subject: Subject<'_>, settings: &Settings, cluster: &ClusterDns, profiles: &Profiles) -> Verdict {
    let mut warnings = Vec::new();
    let decision = decided(subject, settings, cluster, profiles, &mut warnings);
    if let Decision::Skip(skip @ Skip::CannotBeServed(_)) = &decision {
        warnings.push(skip.to_string());
    }
    Verdict { decision, warnings }
}

/// Whether the decision about a pod depends on whether its namespace asks: not if the pod itself says that it wants the sidecar.
pub fn depends_on_asking(pod: &Value) -> bool {
    annotation(pod, annotations::INJECT) != Some("true")
}

/// Whether the decision about a pod depends on the labels of its namespace: only where its profile is for namespaces with certain
/// labels.
pub fn depends_on_labels(pod: &Value, namespace: &str, profiles: &Profiles) -> bool {
    let name = annotation(pod, annotations::PROFILE).unwrap_or(profile::DEFAULT);
    let namespaces = profiles.get(name).and_then(Result::ok).and_then(|profile| profile.namespaces.as_ref());
    namespaces
        .is_some_and(|allowed| !allowed.names.iter().any(|named| named == namespace) && allowed.selector.is_some())
}

fn annotation<'a>(pod: &'a Value, name: &str) -> Option<&'a str> {
    pod.pointer("/metadata/annotations").and_then(|annotations| annotations.get(name)).and_then(Value::as_str)
}

fn decided(
    subject: Subject<'_>,
    settings: &Settings,
    cluster: &ClusterDns,
    profiles: &Profiles,
    warnings: &mut Vec<String>,
) -> Decision {
    let stripped = original::strip(subject.pod);
    let pod = match Pod::read(&stripped.pod) {
        Ok(pod) => pod,
        Err(error) => return Decision::Deny(Refusal::Malformed(error)),
    };
    warnings.extend(annotations::warnings(&pod.metadata.annotations, &pod.metadata.labels));
    let profile = Chosen::for_pod(&pod, subject, profiles);
    let asker = match asker(&pod, &stripped, subject.namespace_asks, &profile, warnings) {
        Ok(Ok(asker)) => asker,
        Ok(Err(skip)) => return Decision::Skip(skip),
        Err(refusal) => return Decision::Deny(refusal),
    };
    match profile.and_then(|profile| plan(&pod, &stripped, subject, settings, cluster, profile, warnings)) {
        Ok(plan) => Decision::Inject(Box::new(plan)),
        Err(refusal) if asker == Asker::Namespace && !refusal.is_about_the_request() => {
            Decision::Skip(Skip::CannotBeServed(refusal))
        }
        Err(refusal) => Decision::Deny(refusal),
    }
}

impl<'a> Chosen<'a> {
    /// The profile that the annotations name, or the default one, wherever it can be used.
    fn named(annotations: &'a BTreeMap<String, String>, profiles: &'a Profiles) -> Result<Self, Refusal> {
        let name = annotations::profile(annotations);
        match profiles.get(name) {
            Some(Ok(profile)) => Ok(Self { name, profile }),
            Some(Err(error)) => Err(Refusal::ProfileUnusable { profile: name.to_owned(), error: error.to_string() }),
            None => {
                let nearest = annotations::nearest(name, profiles.names()).map(str::to_owned);
                Err(Refusal::NoSuchProfile { name: name.to_owned(), nearest })
            }
        }
    }

    /// The profile that the pod names, or the default one, if it can be used here.
    fn for_pod(pod: &'a Pod, subject: Subject<'_>, profiles: &'a Profiles) -> Result<Self, Refusal> {
        let Self { name, profile } = Self::named(&pod.metadata.annotations, profiles)?;
        let allowed =
            |namespaces: &profile::Namespaces| namespaces.include(subject.namespace, subject.namespace_labels);
        if profile.namespaces.as_ref().is_none_or(allowed) {
            return Ok(Self { name, profile });
        }
        Err(Refusal::ProfileNotHere { profile: name.to_owned(), namespace: subject.namespace.to_owned() })
    }
}

/// Who asks for the sidecar; `Err` inside when nobody does, or the pod declines it.
fn asker(
    pod: &Pod,
    stripped: &Stripped<'_>,
    namespace_asks: bool,
    profile: &Result<Chosen<'_>, Refusal>,
    warnings: &mut Vec<String>,
) -> Result<Result<Asker, Skip>, Refusal> {
    let annotations = &pod.metadata.annotations;
    match annotations::inject(annotations)? {
        Some(Inject::Yes) => Ok(Ok(Asker::Author)),
        Some(Inject::No) if namespace_asks => match profile {
            Ok(chosen) if chosen.profile.opt_out => Ok(Err(Skip::OptedOut)),
            Ok(chosen) => Err(Refusal::OptOutNotAllowed { profile: chosen.name.to_owned() }),
            // Else naming a profile that there is not would be a way out.
            Err(refusal) => Err(refusal.clone()),
        },
        Some(Inject::No) => Ok(Err(Skip::OptedOut)),
        // A copy of an injected pod resolves by the proxy: without it, it would not resolve at all, or in clear.
        None if stripped.had_sidecar => Ok(Ok(Asker::Author)),
        None if namespace_asks => Ok(Ok(Asker::Namespace)),
        None => {
            let profile = annotations.contains_key(annotations::PROFILE).then_some(annotations::PROFILE);
            let unheard = annotations::used_overrides(annotations).map(Override::name).chain(profile);
            warnings.extend(
                unheard
                    .map(|name| format!(r#"annotation {name} has no effect without {}: "true""#, annotations::INJECT)),
            );
            Ok(Err(Skip::NotAsked))
        }
    }
}

/// What to write into the pod, or why it cannot be served.
fn plan(
    pod: &Pod,
    stripped: &Stripped<'_>,
    subject: Subject<'_>,
    settings: &Settings,
    cluster: &ClusterDns,
    chosen: Chosen<'_>,
    warnings: &mut Vec<String>,
) -> Result<Plan, Refusal> {
    let profile = chosen.profile;
    let overrides = allowed_overrides(&pod.metadata.annotations, chosen)?;
    obstacles::find(pod, profile.own_nameservers)?;
    if stripped.dns_unrecorded {
        warnings
            .push("spec.dnsPolicy: what it was before the sidecar is not recorded: taken as ClusterFirst".to_owned());
    }
    let (config, resolution) = resolved(pod, subject.namespace, cluster, profile, &overrides, warnings)?;
    let resources = resources::for_sidecar(&pod.spec, &profile.resources, &overrides, subject.limits, warnings)?;
    let user = sidecar::user(&pod.spec, settings.sidecar.run_as_user)?;
    let image = image_of(&overrides, profile, settings);
    let original = Original::of(&stripped.pod);
    let (platform, meshed) = (stripped.platform, sidecar::is_meshed(&pod.spec));
    let particulars = Particulars { image, user, resources: &resources, platform, meshed };
    let plan = Plan {
        container: sidecar::container(&settings.sidecar, particulars),
        volume: sidecar::volume(),
        dns_config: resolution.dns_config(),
        // The pod's own value is lower, or `obstacles` would have found it.
        port_start: original.unprivileged_port_start.clone().unwrap_or_else(|| PORT.to_string()),
        config: checked(&config)?,
        proxy: config,
        searches: resolution.searches,
        status: Status {
            injector: env!("CARGO_PKG_VERSION").to_owned(),
            profile: chosen.name.to_owned(),
            image: Some(image.to_owned()),
            original,
        }
        .to_json(),
    };
    plan.fits_beside(&pod.metadata.annotations)?;
    Ok(plan)
}

fn image_of<'a>(overrides: &'a Overrides, profile: &'a Profile, settings: &'a Settings) -> &'a str {
    overrides.image.as_deref().or(profile.image.as_deref()).unwrap_or(&settings.sidecar.image)
}

/// The proxy's configuration for a pod, and the pod's own resolver.
fn resolved(
    pod: &Pod,
    namespace: &str,
    cluster: &ClusterDns,
    profile: &Profile,
    overrides: &Overrides,
    warnings: &mut Vec<String>,
) -> Result<(Config, Resolution), Refusal> {
    let resolution = Resolution::new(cluster, namespace, &pod.spec, warnings);
    let mut proxy = overridden(profile.proxy_config(), overrides);
    if proxy.events.stdout || proxy.events.syslog.is_some() {
        // The pod tells its own name; its namespace it does not know.
        proxy.events.labels.add("namespace", namespace);
    }
    let config = Config {
        listen: Listen { host: [127, 0, 0, 1].into(), port: PORT, ..Listen::default() },
        admin: dot_proxy_config::Admin { address: (std::net::Ipv6Addr::UNSPECIFIED, ADMIN_PORT).into() },
        routes: dns::routes(cluster, profile, &resolution, &pod.spec.dns_config, warnings)?,
        cluster: Some(Cluster { domain: cluster.domain.clone() }),
        ..proxy
    };
    Ok((config, resolution))
}

/// The configuration that a pod which has the sidecar would be given now, by the annotations that it carries.
pub fn configuration(
    annotations: &BTreeMap<String, String>,
    namespace: &str,
    cluster: &ClusterDns,
    profiles: &Profiles,
) -> Result<String, Refusal> {
    let chosen = Chosen::named(annotations, profiles)?;
    let pod = Pod::recorded(annotations)?;
    let overrides = allowed_overrides(annotations, chosen)?;
    let (config, _) = resolved(&pod, namespace, cluster, chosen.profile, &overrides, &mut Vec::new())?;
    checked(&config)
}

/// The image that the sidecar of a pod with these annotations would have now.
pub fn image(
    annotations: &BTreeMap<String, String>,
    settings: &Settings,
    profiles: &Profiles,
) -> Result<String, Refusal> {
    let chosen = Chosen::named(annotations, profiles)?;
    let overrides = allowed_overrides(annotations, chosen)?;
    Ok(image_of(&overrides, chosen.profile, settings).to_owned())
}

/// The pod without the sidecar and all that came with it, as it was before.
pub fn without_sidecar(pod: &Value) -> Stripped<'_> {
    original::strip(pod)
}

/// Whether the sidecar is among the pod's init containers, and the pod's DNS points to it.
pub fn is_served(pod: &Value) -> bool {
    original::sidecar(pod).is_some() && original::has_our_dns(pod)
}

/// The sidecar's image, where it has one.
pub fn sidecar_image(pod: &Value) -> Option<&str> {
    original::sidecar(pod)?.get("image").and_then(Value::as_str)
}

/// The namespace in a configuration that is made for no pod in particular. No namespace has such a name.
pub const ANY_NAMESPACE: &str = "$(NAMESPACE)";

/// The configuration that a pod gets by a profile if it overrides nothing and has no dnsConfig, with [`ANY_NAMESPACE`] in the place of its
/// namespace.
pub fn ordinary_configuration(name: &str, cluster: &ClusterDns, profiles: &Profiles) -> Result<String, Refusal> {
    let annotations = BTreeMap::from([(annotations::PROFILE.to_owned(), name.to_owned())]);
    configuration(&annotations, ANY_NAMESPACE, cluster, profiles)
}

/// What the pod's author overrides, if the profile lets them.
fn allowed_overrides(annotations: &BTreeMap<String, String>, chosen: Chosen<'_>) -> Result<Overrides, Refusal> {
    let mut used = annotations::used_overrides(annotations);
    if let Some(annotation) = used.find(|known| !chosen.profile.annotations.allowed.contains(known)) {
        return Err(Refusal::NotAllowed { annotation, profile: chosen.name.to_owned() });
    }
    Ok(annotations::overrides(annotations)?)
}

fn overridden(mut config: Config, overrides: &Overrides) -> Config {
    if let Some(servers) = &overrides.upstream {
        config.upstream.servers.clone_from(servers);
        // The profile's authorities and pins are of its own servers; for the well-known ones the public roots vouch.
        if servers.iter().all(|server| matches!(server, Server::Preset(_))) {
            config.upstream.ca = None;
            config.upstream.pins.clear();
        }
    }
    if let Some(level) = overrides.log_level {
        config.log.level = level;
    }
    config
}

/// The configuration as it is written on the pod, if the proxy will accept it.
fn checked(config: &Config) -> Result<String, Refusal> {
    config.check().map_err(|error| Refusal::ConfigRefused(error.to_string()))?;
    let text = config.to_json();
    if text.len() > LARGEST_CONFIG { Err(Refusal::ConfigTooLarge { bytes: text.len() }) } else { Ok(text) }
}

#[cfg(test)]
mod tests;
