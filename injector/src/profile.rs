//! `ProxyProfile`: what pods get that ask for the sidecar. An administrator writes it; a pod names it by annotation, or gets the
//! one called `default`.
//!
//! Everything of the proxy that a profile may say is listed here once more, in the same newtypes: the file that the proxy reads
//! may grow without the custom resource doing so unseen.

mod amounts;
mod events;
mod namespaces;
mod resolving;
mod rules;
mod status;
mod watched;

use std::fmt;
use std::sync::LazyLock;

use dot_proxy_config::Clients;
use dot_proxy_config::log::{Format, Level};
use kube::{CustomResource, CustomResourceExt as _};
use schemars::JsonSchema;
use schemars::transform::RecursiveTransform;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::annotations::Override;

pub use amounts::{Amounts, Resources};
pub use events::{Events, Syslog};
pub use namespaces::{Expression, Namespaces, Operator, Selector};
pub use resolving::{Cache, OwnNameservers, Route, Upstream};
pub use status::{Condition, PodCounts, ProfileStatus, Resolver};
pub use watched::{Profiles, WatchedProfiles, keep_default};

/// The name of the profile that applies where none is named.
pub const DEFAULT: &str = "default";

/// What the sidecar of a pod is like, which names it asks of whom, and who may have it otherwise. Changes reach
/// the pods that run, without a restart; image and resources are those of pods that are created from then on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, CustomResource)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
#[kube(
    group = "dot-sidecar.io",
    version = "v1alpha1",
    kind = "ProxyProfile",
    plural = "proxyprofiles",
    singular = "proxyprofile",
    shortname = "pxp",
    category = "dot-sidecar",
    status = "ProfileStatus",
    doc = "What pods get that ask for the sidecar dot-proxy, by the annotation dot-sidecar.io/inject or by the label of the same name on their namespace. A pod names its profile by the annotation dot-sidecar.io/profile; where it names none, the one called \"default\" applies.",
    printcolumn = r#"{"name": "Upstreams", "type": "string", "jsonPath": ".spec.upstream.servers", "description": "Who is asked, encrypted and authenticated, for names outside the cluster."}"#,
    printcolumn = r#"{"name": "Strategy", "type": "string", "jsonPath": ".spec.upstream.strategy", "description": "Which of them is asked first.", "priority": 1}"#,
    printcolumn = r#"{"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type == 'Ready')].status", "description": "Whether pods can get the profile."}"#,
    printcolumn = r#"{"name": "Propagated", "type": "string", "jsonPath": ".status.conditions[?(@.type == 'Propagated')].status", "description": "Whether the pods that have the profile have what it says now."}"#,
    printcolumn = r#"{"name": "Pods", "type": "integer", "jsonPath": ".status.pods.total", "description": "Pods that have the profile."}"#,
    printcolumn = r#"{"name": "Updated", "type": "integer", "jsonPath": ".status.pods.updated", "description": "Those of them whose configuration is what the profile says now."}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
pub struct Profile {
    /// Who answers names outside the cluster: encrypted and authenticated always.
    pub upstream: Upstream,
    /// Names that others than the upstream answer, by their suffix; the longest suffix wins. Names of the cluster, search
    /// suffixes and reverse lookups of private addresses are asked of cluster DNS, and need no route.
    #[schemars(length(max = MOST_ROUTES), extend("x-kubernetes-list-type" = "atomic"))]
    pub routes: Vec<Route>,
    /// What becomes of pods that have a resolver of their own: those of dnsPolicy Default or None, and those with nameservers in
    /// their dnsConfig.
    pub own_nameservers: OwnNameservers,
    /// How answers are kept.
    pub cache: Cache,
    /// What each client of the proxy may take, and what becomes of those that misbehave.
    #[schemars(transform = RecursiveTransform(rules::without_width))]
    pub clients: Clients,
    /// How the proxy logs, to its standard output, or to its standard error where events are on the former.
    pub log: Log,
    /// Who is told of security events.
    pub events: Events,
    /// The sidecar's image, such as registry.example/dot-proxy:0.1.0. Left out: the one that the injector was installed with.
    #[schemars(length(max = 512), extend("x-kubernetes-validations" = rules::is_an_image()))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// What the sidecar requests and may use. LimitRanges of the namespace, and a Guaranteed pod, are heeded.
    pub resources: Resources,
    /// Where the profile may be used. Left out: in every namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<Namespaces>,
    /// Which annotations the authors of pods may use.
    pub annotations: AnnotationPolicy,
    /// Whether a pod in a namespace that asks for the sidecar may decline it by the annotation dot-sidecar.io/inject: "false".
    pub opt_out: bool,
}

/// How the proxy logs, to its standard output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Log {
    /// json for machines, text for people.
    pub format: Format,
    /// The least severe level that is written: error, warn, info, debug or trace. The names that are asked appear from debug on.
    pub level: Level,
}

/// Which annotations the authors of pods may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct AnnotationPolicy {
    /// Their names after dot-sidecar.io/, each of which overrides a part of the profile: upstream, log-level, cpu-request,
    /// cpu-limit, memory-request, memory-limit, image. A pod that uses another one is refused.
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "set"))]
    pub allowed: Vec<Override>,
}

/// Why a profile cannot be used: the path of the field, what is wrong, and the remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProfileError(String);

/// Bounds of lists. An API server has to know them to tell what a rule may cost; a configuration that comes near them would not
/// fit into a pod's annotation anyway.
const MOST_SERVERS: usize = 12;
const MOST_ROUTES: usize = 32;
const MOST_SUFFIXES: usize = 128;

impl Default for Profile {
    fn default() -> Self {
        Self {
            upstream: Upstream::default(),
            routes: Vec::new(),
            own_nameservers: OwnNameservers::default(),
            cache: Cache::default(),
            clients: Clients::default(),
            log: Log::default(),
            events: Events::default(),
            image: None,
            resources: Resources::default(),
            namespaces: None,
            annotations: AnnotationPolicy::default(),
            opt_out: true,
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { format: Format::Json, level: Level::Info }
    }
}

impl Default for AnnotationPolicy {
    /// All but the image, which is code that runs with the proxy's name.
    fn default() -> Self {
        Self { allowed: Override::ALL.into_iter().filter(|known| *known != Override::Image).collect() }
    }
}

impl ProfileError {
    fn at(path: &str, message: impl fmt::Display) -> Self {
        Self(format!("{path}: {message}"))
    }
}

impl fmt::Display for ProfileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ProfileError {}

impl Profile {
    /// Reads the spec of a profile as an API server keeps it. Fields that this version does not know are passed over, as an API
    /// server of this version's definition would: while the injector is being updated, the definition is newer than it.
    pub fn stored(mut spec: Value) -> Result<Self, ProfileError> {
        prune(&mut spec, &SPEC_SCHEMA);
        Self::read(spec)
    }

    /// Reads the spec of a profile. An unknown field is an error.
    pub fn read(spec: Value) -> Result<Self, ProfileError> {
        let profile: Self = serde_path_to_error::deserialize(spec).map_err(|error| match error.path().to_string() {
            path if path == "." => ProfileError(error.inner().to_string()),
            path => ProfileError::at(&path, error.inner()),
        })?;
        profile.check()?;
        Ok(profile)
    }

    /// What no single field can know.
    pub fn check(&self) -> Result<(), ProfileError> {
        self.upstream.check()?;
        resolving::check_routes(&self.routes)?;
        if let Some(image) = &self.image
            && (image.is_empty() || image.contains(char::is_whitespace))
        {
            return Err(ProfileError::at("image", format!("{image:?} {}", rules::IS_NO_IMAGE)));
        }
        self.resources.check()?;
        if let Some(namespaces) = &self.namespaces {
            namespaces.check()?;
        }
        self.proxy_config().check().map_err(|error| ProfileError(error.to_string()))
    }

    /// The proxy's configuration as far as the profile alone says it.
    pub fn proxy_config(&self) -> dot_proxy_config::Config {
        dot_proxy_config::Config {
            upstream: self.upstream.to_config(),
            routes: self.routes.iter().map(Route::to_config).collect(),
            cache: self.cache.to_config(),
            clients: self.clients.clone(),
            events: self.events.to_config(),
            log: dot_proxy_config::log::Log { format: self.log.format, level: self.log.level },
            ..dot_proxy_config::Config::default()
        }
    }
}

/// What an API server knows of the spec.
static SPEC_SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    let definition = serde_json::to_value(ProxyProfile::crd()).unwrap_or_default();
    definition.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec").cloned().unwrap_or_default()
});

/// Takes away what the schema does not know.
fn prune(value: &mut Value, schema: &Value) {
    match value {
        Value::Object(members) => {
            if let Some(known) = schema.get("properties").and_then(Value::as_object) {
                members.retain(|name, _| known.contains_key(name));
                members.iter_mut().for_each(|(name, member)| prune(member, &known[name]));
            }
        }
        Value::Array(items) => {
            if let Some(schema) = schema.get("items") {
                items.iter_mut().for_each(|item| prune(item, schema));
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests;
