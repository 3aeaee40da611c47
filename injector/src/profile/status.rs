//! What the injector tells of a profile.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use schemars::transform::RecursiveTransform;
use serde::{Deserialize, Serialize};

use super::rules;
use crate::cluster::ClusterDns;
use crate::inject::{self, DnsOption};

/// What the injector tells of the profile.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct ProfileStatus {
    /// The generation of the profile (metadata.generation) that the rest of the status is about.
    pub observed_generation: Option<i64>,
    /// Ready: whether pods can get the profile, and why not. Propagated: whether those that have it have what it says now. WebhookReached, on the
    /// profile default, where the self-check is on: whether the API server calls the injector's webhook, and if not, why and what to do.
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The pods that have the profile, counted.
    #[schemars(transform = RecursiveTransform(rules::without_width))]
    pub pods: PodCounts,
    /// Some of those who have the profile, such as "Deployment web in shop (3 pods)": those of most pods first.
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub users: Vec<String>,
    /// The configuration of a pod that overrides nothing, as it stands in the annotation dot-sidecar.io/config, with $(NAMESPACE) in the place of
    /// its namespace. It is what injection by policy gives; absent where the profile cannot be used.
    #[schemars(length(max = inject::LARGEST_CONFIG))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub configuration: Option<String>,
    /// What injection by policy makes a pod's dnsConfig of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resolver: Option<Resolver>,
}

/// The cluster's DNS, as a pod of dnsPolicy ClusterFirst sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Resolver {
    /// The cluster's domain.
    pub domain: String,
    /// Search suffixes that all pods have after those of their namespace.
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "atomic"))]
    pub searches: Vec<String>,
    /// Resolver options of all pods.
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "atomic"))]
    pub options: Vec<DnsOption>,
}

/// Something that holds of the profile, or does not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What is told: Ready, Propagated, or WebhookReached.
    #[serde(rename = "type")]
    pub kind: String,
    /// True, False or Unknown.
    pub status: String,
    /// The generation of the profile that this is about.
    pub observed_generation: Option<i64>,
    /// Since when it is so.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub last_transition_time: Time,
    /// Why, in one word.
    pub reason: String,
    /// Why, as a sentence.
    pub message: String,
}

/// Pods with the sidecar that have the profile, and have not ended; and those that should have it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct PodCounts {
    /// All of them.
    pub total: u32,
    /// Those whose configuration is what the profile says now. The others were made before it was changed.
    pub updated: u32,
    /// Those to which it could not be applied as it is now, because it does not allow one of their annotations, for example.
    pub refused: u32,
    /// Those of the ones that were asked, a sample, whose proxy has rejected what stands on the pod, and goes on with what it had.
    pub rejected: u32,
    /// Those of the ones that were asked that could not be reached, or have neither taken nor rejected it in time.
    pub unknown: u32,
    /// Those whose sidecar has another image than it would be given now: a restart gives it to them.
    pub outdated_image: u32,
    /// Pods that asked for the sidecar and do not have it, because they were made while the webhook was away, for example. They are no part of
    /// the total; `dot-injector status` names them, and says why.
    pub missing: u32,
}

impl ProfileStatus {
    /// What is told under this name.
    pub fn condition(&self, kind: &str) -> Option<&Condition> {
        self.conditions.iter().find(|condition| condition.kind == kind)
    }
}

impl Resolver {
    /// That of this cluster.
    pub fn of(cluster: &ClusterDns) -> Self {
        Self {
            domain: cluster.domain.to_string(),
            searches: cluster.searches.clone(),
            options: cluster.options.clone(),
        }
    }
}
