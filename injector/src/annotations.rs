//! The annotations `dot-sidecar.io/…` of a pod: their names, their values, and what is said about unknown ones.

use std::collections::BTreeMap;
use std::fmt;

use dot_proxy_config::{Server, log::Level};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::profile;
use crate::quantity::Quantity;

/// What the names of all our annotations and labels begin with.
pub const PREFIX: &str = "dot-sidecar.io/";
/// Asks for the sidecar (`"true"`) or declines it (`"false"`); on a namespace, a label that asks for all its pods.
pub const INJECT: &str = "dot-sidecar.io/inject";
/// Names the profile; `default` where it is left out.
pub const PROFILE: &str = "dot-sidecar.io/profile";
/// Written by the injector: the proxy's configuration, which the kubelet hands to the proxy as a file.
pub const CONFIG: &str = "dot-sidecar.io/config";
/// Written by the injector: what was done, and what was there before.
pub const STATUS: &str = "dot-sidecar.io/status";
/// Written by the leader on its Lease: what it knows of cluster DNS, for who looks from outside.
pub const CLUSTER: &str = "dot-sidecar.io/cluster";
/// Label written by the injector on every pod that has the sidecar.
pub const INJECTED_LABEL: &str = "dot-sidecar.io/injected";

/// An annotation by which a pod's author overrides a part of the profile, where the profile allows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Override {
    /// `dot-sidecar.io/upstream`: servers, separated by commas, in place of the profile's.
    Upstream,
    /// `dot-sidecar.io/log-level`: the proxy's log level.
    LogLevel,
    /// `dot-sidecar.io/cpu-request`: a quantity.
    CpuRequest,
    /// `dot-sidecar.io/cpu-limit`: a quantity.
    CpuLimit,
    /// `dot-sidecar.io/memory-request`: a quantity.
    MemoryRequest,
    /// `dot-sidecar.io/memory-limit`: a quantity.
    MemoryLimit,
    /// `dot-sidecar.io/image`: the sidecar's image.
    Image,
}

/// What `dot-sidecar.io/inject` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inject {
    /// `"true"`: inject.
    Yes,
    /// `"false"`: leave the pod alone.
    No,
}

/// The overrides of a pod, parsed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Servers in place of the profile's.
    pub upstream: Option<Vec<Server>>,
    /// The proxy's log level.
    pub log_level: Option<Level>,
    /// CPU to request.
    pub cpu_request: Option<Quantity>,
    /// CPU that the sidecar may use.
    pub cpu_limit: Option<Quantity>,
    /// Memory to request.
    pub memory_request: Option<Quantity>,
    /// Memory that the sidecar may use.
    pub memory_limit: Option<Quantity>,
    /// The sidecar's image.
    pub image: Option<String>,
}

/// An annotation whose value cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadValue {
    /// The annotation's name.
    pub annotation: String,
    /// The value, why it cannot be used, and what can.
    pub message: String,
}

impl Override {
    /// Every one of them.
    pub const ALL: [Self; 7] = [
        Self::Upstream,
        Self::LogLevel,
        Self::CpuRequest,
        Self::CpuLimit,
        Self::MemoryRequest,
        Self::MemoryLimit,
        Self::Image,
    ];

    /// The whole name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Upstream => "dot-sidecar.io/upstream",
            Self::LogLevel => "dot-sidecar.io/log-level",
            Self::CpuRequest => "dot-sidecar.io/cpu-request",
            Self::CpuLimit => "dot-sidecar.io/cpu-limit",
            Self::MemoryRequest => "dot-sidecar.io/memory-request",
            Self::MemoryLimit => "dot-sidecar.io/memory-limit",
            Self::Image => "dot-sidecar.io/image",
        }
    }

    /// The name after the prefix, as the profile lists it.
    pub fn short_name(self) -> &'static str {
        self.name().trim_start_matches(PREFIX)
    }
}

impl fmt::Display for BadValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "annotation {}: {}", self.annotation, self.message)
    }
}

/// Reads `dot-sidecar.io/inject`.
pub fn inject(annotations: &BTreeMap<String, String>) -> Result<Option<Inject>, BadValue> {
    match annotations.get(INJECT).map(String::as_str) {
        None => Ok(None),
        Some("true") => Ok(Some(Inject::Yes)),
        Some("false") => Ok(Some(Inject::No)),
        Some(value) => Err(BadValue {
            annotation: INJECT.to_owned(),
            message: format!(
                r#"{value:?} is neither "true", to have the sidecar, nor "false", to be left alone: write one of them"#
            ),
        }),
    }
}

/// The profile that a pod names, or gets where it names none.
pub fn profile(annotations: &BTreeMap<String, String>) -> &str {
    annotations.get(PROFILE).map_or(profile::DEFAULT, String::as_str)
}

/// The candidate that `name` most resembles, if it resembles one at all.
pub fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .map(|candidate| {
            let distance = strsim::damerau_levenshtein(&name.to_ascii_lowercase(), &candidate.to_ascii_lowercase());
            (distance, candidate)
        })
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Whether a namespace's labels ask for the sidecar in all its pods.
pub fn namespace_asks(labels: &BTreeMap<String, String>) -> bool {
    labels.get(INJECT).is_some_and(|value| value == "true")
}

/// The overrides that a pod's author used, whether allowed or not.
pub fn used_overrides(annotations: &BTreeMap<String, String>) -> impl Iterator<Item = Override> + '_ {
    Override::ALL.into_iter().filter(|known| annotations.contains_key(known.name()))
}

/// Reads every override.
pub fn overrides(annotations: &BTreeMap<String, String>) -> Result<Overrides, BadValue> {
    let mut overrides = Overrides::default();
    for known in used_overrides(annotations) {
        let name = known.name();
        let value = annotations.get(name).map_or("", |value| value.trim());
        let bad = |message: String| BadValue { annotation: name.to_owned(), message };
        match known {
            Override::Upstream => overrides.upstream = Some(servers(value).map_err(bad)?),
            Override::LogLevel => overrides.log_level = Some(log_level(value).map_err(bad)?),
            Override::CpuRequest => overrides.cpu_request = Some(cpu(value).map_err(bad)?),
            Override::CpuLimit => overrides.cpu_limit = Some(cpu(value).map_err(bad)?),
            Override::MemoryRequest => overrides.memory_request = Some(memory(value).map_err(bad)?),
            Override::MemoryLimit => overrides.memory_limit = Some(memory(value).map_err(bad)?),
            Override::Image => overrides.image = Some(image(value).map_err(bad)?),
        }
    }
    Ok(overrides)
}

/// What the author should hear about names that look like ours and are not.
pub fn warnings(annotations: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> Vec<String> {
    let is_unknown = |name: &&String| name.starts_with(PREFIX) && known_names().all(|known| known != *name);
    let unknown = annotations.keys().filter(is_unknown).map(|name| {
        let tails = known_names().map(|known| known.trim_start_matches(PREFIX));
        let hint = nearest(name.trim_start_matches(PREFIX), tails).map_or_else(
            || format!("known are {}", known_names().collect::<Vec<_>>().join(", ")),
            |nearest| format!("did you mean {PREFIX}{nearest}?"),
        );
        format!("annotation {name} is not known and has no effect: {hint}")
    });
    let misplaced = labels.keys().filter(|name| name.starts_with(PREFIX) && *name != INJECTED_LABEL).map(|name| {
        format!("label {name} has no effect on a pod: dot-sidecar reads annotations; move it to metadata.annotations")
    });
    unknown.chain(misplaced).collect()
}

fn known_names() -> impl Iterator<Item = &'static str> {
    [INJECT, PROFILE, STATUS, CONFIG].into_iter().chain(Override::ALL.map(Override::name))
}

fn servers(value: &str) -> Result<Vec<Server>, String> {
    let servers: Vec<Server> = value
        .split(',')
        .map(|server| server.trim().parse().map_err(|error: dot_proxy_config::ParseError| error.to_string()))
        .collect::<Result<_, _>>()?;
    match servers.iter().find(|server| matches!(server, Server::Plain(_))) {
        Some(plain) => {
            Err(format!("\"{plain}\" would leave in the clear: write tls://ADDRESS#NAME (or https://, quic://)"))
        }
        None => Ok(servers),
    }
}

fn log_level(value: &str) -> Result<Level, String> {
    value.parse().map_err(|error: dot_proxy_config::ParseError| error.to_string())
}

fn cpu(value: &str) -> Result<Quantity, String> {
    let quantity: Quantity = value.parse().map_err(|error: crate::quantity::QuantityError| error.to_string())?;
    if quantity < Quantity::from_millis(1) {
        return Err(format!("{value:?} is less than the least amount of CPU: write 1m, a thousandth, or more"));
    }
    Ok(quantity)
}

fn memory(value: &str) -> Result<Quantity, String> {
    let quantity: Quantity = value.parse().map_err(|error: crate::quantity::QuantityError| error.to_string())?;
    if !quantity.is_whole() {
        return Err(format!("{value:?} is no whole number of bytes: write Mi for mebibytes, such as 64Mi"));
    }
    if quantity < Quantity::from_mebibytes(LEAST_MEMORY_MEBIBYTES) {
        return Err(format!("{value:?} is less than the proxy needs: write {LEAST_MEMORY_MEBIBYTES}Mi or more"));
    }
    Ok(quantity)
}

/// Below this the container's start itself fails (runc asks for 6Mi and more), and the proxy has no room for a cache.
const LEAST_MEMORY_MEBIBYTES: u32 = 16;

fn image(value: &str) -> Result<String, String> {
    if value.is_empty() || value.chars().any(|char| char.is_whitespace() || char.is_control()) {
        return Err(format!("{value:?} is no image reference: write one such as registry.example/dot-proxy:0.1.0"));
    }
    Ok(value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| (format!("{PREFIX}{name}"), (*value).to_owned())).collect()
    }

    #[test]
    fn inject_is_true_or_false_and_nothing_else() {
        assert_eq!(inject(&map(&[])), Ok(None));
        assert_eq!(inject(&map(&[("inject", "true")])), Ok(Some(Inject::Yes)));
        assert_eq!(inject(&map(&[("inject", "false")])), Ok(Some(Inject::No)));
        for value in ["perhaps", "True", "yes", "1", "", " true"] {
            let error = inject(&map(&[("inject", value)])).unwrap_err().to_string();
            assert!(error.contains(INJECT) && error.contains(&format!("{value:?}")), "{error}");
            assert!(error.contains("write one of them"), "{error}");
        }
    }

    #[test]
    fn a_misspelt_annotation_is_answered_with_the_nearest_known_name() {
        for (written, meant) in [
            ("injct", "inject"),
            ("Inject", "inject"),
            ("injected", "inject"),
            ("upstreams", "upstream"),
            ("upstraem", "upstream"),
            ("loglevel", "log-level"),
            ("cpu-requests", "cpu-request"),
            ("memory_limit", "memory-limit"),
            ("profil", "profile"),
        ] {
            let warnings = warnings(&map(&[(written, "true")]), &map(&[]));
            let hint = format!("did you mean {PREFIX}{meant}?");
            assert_eq!(warnings.len(), 1);
            assert!(warnings[0].contains(&hint), "{written}: {warnings:?}");
        }
    }

    #[test]
    fn an_annotation_like_none_of_ours_is_answered_with_all_known_names() {
        let warnings = warnings(&map(&[("zebra-crossing", "1")]), &map(&[]));
        assert!(warnings[0].contains("known are dot-sidecar.io/inject, "), "{warnings:?}");
    }

    #[test]
    fn known_annotations_and_those_of_others_earn_no_warning() {
        let mut annotations = map(&[("inject", "true"), ("status", "{}"), ("config", "{}"), ("cpu-limit", "1")]);
        annotations.insert("example.com/injct".to_owned(), "true".to_owned());
        assert_eq!(warnings(&annotations, &map(&[("injected", "true")])), [""; 0]);
    }

    #[test]
    fn our_annotation_written_as_a_label_earns_a_warning() {
        let warnings = warnings(&map(&[]), &map(&[("inject", "true")]));
        assert!(warnings[0].contains("metadata.annotations"), "{warnings:?}");
    }

    #[test]
    fn overrides_are_parsed_into_what_they_mean() {
        let parsed = overrides(&map(&[
            (
                "upstream",
                "quad9, tls://192.0.2.53#dns.example,https://192.0.2.53#dns.example, quic://192.0.2.53#dns.example",
            ),
            ("log-level", "debug"),
            ("cpu-request", "0.02"),
            ("memory-limit", "128Mi"),
            ("image", "registry.example/dot-proxy@sha256:0"),
        ]))
        .unwrap();
        assert_eq!(
            parsed.upstream.unwrap().iter().map(ToString::to_string).collect::<Vec<_>>(),
            [
                "quad9",
                "tls://192.0.2.53:853#dns.example",
                "https://192.0.2.53:443/dns-query#dns.example",
                "quic://192.0.2.53:853#dns.example"
            ]
        );
        assert_eq!(parsed.log_level, Some(Level::Debug));
        assert_eq!(parsed.cpu_request, Some(Quantity::from_millis(20)));
        assert_eq!(parsed.memory_limit, Some(Quantity::from_mebibytes(128)));
        assert_eq!(parsed.cpu_limit, None);
    }

    #[test]
    fn a_value_that_cannot_be_used_is_named_with_its_annotation_and_the_remedy() {
        for (name, value, remedy) in [
            ("upstream", "udp://192.0.2.53", "in the clear"),
            ("upstream", "dns.example", "tls://"),
            ("upstream", "quad9,", "tls://"),
            ("upstream", "", "tls://"),
            ("log-level", "loud", "debug"),
            ("cpu-request", "lots", "100m"),
            ("cpu-limit", "0", "1m"),
            ("memory-request", "100m", "Mi"),
            ("memory-limit", "1Mi", "16Mi"),
            ("image", "", "image reference"),
            ("image", "a b", "image reference"),
        ] {
            let error = overrides(&map(&[(name, value)])).unwrap_err().to_string();
            let annotation = format!("{PREFIX}{name}");
            assert!(error.contains(&annotation) && error.contains(remedy), "{name}={value}: {error}");
        }
    }
}
