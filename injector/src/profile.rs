//! What pods get that ask for the sidecar and say nothing else. There is one profile, called `default`.

use std::collections::BTreeMap;

use dot_proxy_config::log::{Format, Log};
use dot_proxy_config::{Cache, Clients, Events, Route, Upstream};
use serde::Deserialize;

use crate::annotations::Override;
use crate::quantity::Quantity;

/// The name of the profile that applies where none is named.
pub const DEFAULT: &str = "default";

/// What pods get.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Profile {
    /// Who answers names outside the cluster.
    pub upstream: Upstream,
    /// Further routes, beside those to cluster DNS.
    pub routes: Vec<Route>,
    /// How answers are kept.
    pub cache: Cache,
    /// What each client of the proxy may take, and what becomes of those that misbehave.
    pub clients: Clients,
    /// How the proxy logs.
    pub log: Log,
    /// Who is told of security events.
    pub events: Events,
    /// What the sidecar requests and may use.
    pub resources: Resources,
    /// Which annotations the authors of pods may use.
    pub annotations: AnnotationPolicy,
    /// Whether the pods of a namespace that asks for the sidecar may decline it.
    pub opt_out: bool,
}

/// What the sidecar requests and may use: `cpu`, `memory`, `ephemeral-storage`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Resources {
    /// What is set aside for it.
    pub requests: BTreeMap<String, Quantity>,
    /// What it may use at most.
    pub limits: BTreeMap<String, Quantity>,
}

/// Which annotations the authors of pods may use.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct AnnotationPolicy {
    /// Their names after `dot-sidecar.io/`.
    pub allowed: Vec<Override>,
}

impl Default for Profile {
    fn default() -> Self {
        Self {
            upstream: Upstream::default(),
            routes: Vec::new(),
            cache: Cache::default(),
            clients: Clients::default(),
            log: Log { format: Format::Json, ..Log::default() },
            events: Events::default(),
            resources: Resources {
                requests: BTreeMap::from([
                    ("cpu".to_owned(), Quantity::from_millis(10)),
                    ("memory".to_owned(), Quantity::from_mebibytes(32)),
                ]),
                limits: BTreeMap::from([("memory".to_owned(), Quantity::from_mebibytes(64))]),
            },
            annotations: AnnotationPolicy::default(),
            opt_out: true,
        }
    }
}

impl Default for AnnotationPolicy {
    /// All but the image, which is code that runs with the proxy's name.
    fn default() -> Self {
        Self { allowed: Override::ALL.into_iter().filter(|known| *known != Override::Image).collect() }
    }
}

impl Profile {
    /// The proxy's configuration as far as the profile alone says it.
    pub fn proxy_config(&self) -> dot_proxy_config::Config {
        dot_proxy_config::Config {
            upstream: self.upstream.clone(),
            routes: self.routes.clone(),
            cache: self.cache.clone(),
            clients: self.clients.clone(),
            log: self.log.clone(),
            events: self.events.clone(),
            ..dot_proxy_config::Config::default()
        }
    }
}
