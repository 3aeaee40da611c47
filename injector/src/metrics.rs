//! What the injector counts: `dot_injector_*`, with bounded labels.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::profile::PodCounts;

/// The injector's metrics. Clones share them.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    admissions: Family<Admission, Counter>,
    duration: Histogram,
    certificate_expiry: Family<Certificate, Gauge<f64, AtomicU64>>,
    certificate_rotations: Family<Certificate, Counter>,
    certificate_writes: Family<Written, Counter>,
    events: Family<Delivery, Counter>,
    refused: Family<Refusal, Counter>,
    leader: Gauge,
    pods: Family<Standing, Gauge>,
    configuration_writes: Family<Delivery, Counter>,
    rollouts: Family<Delivery, Counter>,
    self_checks: Family<SelfCheck, Counter>,
    self_check_time: Family<SelfCheck, Gauge<f64, AtomicU64>>,
    drifted: Family<Drifted, Gauge>,
    evictions: Family<Delivery, Counter>,
}

/// How an admission ended. Both labels come from fixed lists.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Admission {
    outcome: &'static str,
    reason: &'static str,
}

/// `leaf` or `ca`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Certificate {
    certificate: &'static str,
}

/// `secret` or `ca-bundle`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Written {
    object: &'static str,
}

/// `reached`, `not-called`, `unreachable` or `inconclusive`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SelfCheck {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Delivery {
    outcome: &'static str,
}

/// Why a client was not served; from a fixed list.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Refusal {
    reason: &'static str,
}

/// How pods stand to their profile; of the profiles, so many are told apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Standing {
    profile: String,
    state: &'static str,
}

/// Of further profiles the metrics do not tell: their status does.
const MOST_PROFILES: usize = 64;

/// What a pod lacks; from a fixed list.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Drifted {
    state: &'static str,
}

/// What a pod lacks that asked for the sidecar; those that have it are told of by profile.
const DRIFTED: [&str; 3] = ["missing", "outdated-image", "unserved"];

/// Admissions take some 100 µs; the slow ones wait for the API server (a namespace that must be read).
const DURATION_SECONDS: [f64; 10] = [0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.05, 0.25, 1.0];

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("dot_injector");
        let admissions = Family::default();
        let duration = Histogram::new(DURATION_SECONDS);
        let certificate_expiry = Family::default();
        let certificate_rotations = Family::default();
        let certificate_writes = Family::default();
        let events = Family::default();
        registry.register("admissions", "Pods that were decided about, by outcome and reason", admissions.clone());
        registry.register_with_unit(
            "admission_duration",
            "Time from the whole request to the answer",
            Unit::Seconds,
            duration.clone(),
        );
        registry.register_with_unit(
            "certificate_expiry_timestamp",
            "When the certificate that is served (leaf) and its authority (ca) expire, since 1970",
            Unit::Seconds,
            certificate_expiry.clone(),
        );
        registry.register(
            "certificate_rotations",
            "Certificates that this replica has made as the leader: leaf, or ca",
            certificate_rotations.clone(),
        );
        registry.register(
            "certificate_writes",
            "Times that this replica has written the Secret without a new certificate, because it was corrupted (secret), or the caBundle (ca-bundle)",
            certificate_writes.clone(),
        );
        registry.register("events", "Events on owners of pods that could not be served, by outcome", events.clone());
        let refused = Family::default();
        registry.register("refused", "Connections and requests that were not served, by reason", refused.clone());
        let leader = Gauge::default();
        registry.register("leader", "Whether this replica leads: 1 or 0", leader.clone());
        let pods = Family::default();
        registry.register("pods", "Pods with the sidecar by profile and state, as the leader sees them", pods.clone());
        let configuration_writes = Family::default();
        registry.register(
            "configuration_writes",
            "Configurations that were written onto running pods, by outcome",
            configuration_writes.clone(),
        );
        let rollouts = Family::default();
        registry.register("rollouts", "What became of bringing profiles to their pods, by outcome", rollouts.clone());
        let self_checks = Family::default();
        registry.register(
            "self_checks",
            "Checks by this replica, as the leader, whether the API server calls the webhook, by result",
            self_checks.clone(),
        );
        let self_check_time = Family::default();
        registry.register_with_unit(
            "self_check_timestamp",
            "When such a check last had this result, since 1970",
            Unit::Seconds,
            self_check_time.clone(),
        );
        let (drifted, evictions) = (Family::default(), Family::default());
        registry.register(
            "drifted_pods",
            "Pods without the sidecar that they asked for, or with an outdated image of it, as the leader sees them",
            drifted.clone(),
        );
        registry.register("evictions", "Pods that were to be evicted to be made anew, by outcome", evictions.clone());
        registry.register("build", "Version of the injector", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        Self {
            registry: Arc::new(registry),
            admissions,
            duration,
            certificate_expiry,
            certificate_rotations,
            certificate_writes,
            events,
            refused,
            leader,
            pods,
            configuration_writes,
            rollouts,
            self_checks,
            self_check_time,
            drifted,
            evictions,
        }
    }
}

impl Metrics {
    /// An admission was answered.
    pub fn admission(&self, outcome: &'static str, reason: &'static str, took: Duration) {
        self.admissions.get_or_create(&Admission { outcome, reason }).inc();
        self.duration.observe(took.as_secs_f64());
    }

    /// The certificate that is served (`leaf`), or its authority (`ca`), is valid until `not_after`.
    pub fn certificate_expires(&self, certificate: &'static str, not_after: SystemTime) {
        let since_epoch = not_after.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.certificate_expiry.get_or_create(&Certificate { certificate }).set(since_epoch.as_secs_f64());
    }

    /// A certificate (`leaf` or `ca`) was made anew.
    pub fn certificate_rotated(&self, certificate: &'static str) {
        self.certificate_rotations.get_or_create(&Certificate { certificate }).inc();
    }

    /// The `secret` was put right, or the `ca-bundle` written.
    pub fn certificate_written(&self, object: &'static str) {
        self.certificate_writes.get_or_create(&Written { object }).inc();
    }

    /// An Event was `sent`, `failed`, or `dropped` because too many were waiting.
    pub fn event(&self, outcome: &'static str) {
        self.events.get_or_create(&Delivery { outcome }).inc();
    }

    /// A connection or a request was not served.
    pub fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&Refusal { reason }).inc();
    }

    /// Whether this replica leads. Who does not knows nothing of pods.
    pub fn leads(&self, leads: bool) {
        self.leader.set(leads.into());
        self.pods.clear();
    }

    /// How the pods of all profiles stand.
    pub fn pods<'a>(&self, profiles: impl Iterator<Item = (&'a str, PodCounts)>) {
        self.pods.clear();
        for (profile, pods) in profiles.take(MOST_PROFILES) {
            let outdated = pods.total - pods.updated - pods.refused;
            let states = [
                ("updated", pods.updated),
                ("outdated", outdated),
                ("refused", pods.refused),
                ("rejected", pods.rejected),
                ("unknown", pods.unknown),
            ];
            for (state, number) in states {
                self.pods.get_or_create(&Standing { profile: profile.to_owned(), state }).set(number.into());
            }
        }
    }

    /// A configuration was `written` onto a pod, the pod was `gone`, or the write `failed`.
    pub fn configuration_write(&self, outcome: &'static str) {
        self.configuration_writes.get_or_create(&Delivery { outcome }).inc();
    }

    /// What a profile says is `complete` on all its pods, has new servers that are `unproved`, or was `rejected` by pods.
    pub fn rollout(&self, outcome: &'static str) {
        self.rollouts.get_or_create(&Delivery { outcome }).inc();
    }

    /// Whether the API server calls the webhook was checked, with this result.
    pub fn self_checked(&self, result: &'static str) {
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.self_checks.get_or_create(&SelfCheck { result }).inc();
        self.self_check_time.get_or_create(&SelfCheck { result }).set(since_epoch.as_secs_f64());
    }

    /// So many pods lack that. What is not named none lacks.
    pub fn drifted(&self, counts: &HashMap<&'static str, i64>) {
        for state in DRIFTED {
            self.drifted.get_or_create(&Drifted { state }).set(counts.get(state).copied().unwrap_or_default());
        }
    }

    /// Another one counts what pods lack.
    pub fn not_drifted(&self) {
        self.drifted.clear();
    }

    /// A pod was `evicted`; or not, because of a disruption `budget`, or because that `failed`.
    pub fn eviction(&self, outcome: &'static str) {
        self.evictions.get_or_create(&Delivery { outcome }).inc();
    }

    /// All metrics in the OpenMetrics text format.
    pub fn encoded(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_have_base_units_and_our_prefix() {
        let metrics = Metrics::default();
        metrics.admission("denied", "host-network", Duration::from_micros(150));
        metrics.certificate_expires("leaf", SystemTime::UNIX_EPOCH + Duration::from_secs(5));
        metrics.certificate_rotated("ca");
        metrics.certificate_written("ca-bundle");
        metrics.event("sent");
        metrics.refused("tls-failed");
        metrics.leads(true);
        metrics.pods([("default", PodCounts { total: 5, updated: 3, ..PodCounts::default() })].into_iter());
        metrics.configuration_write("written");
        metrics.rollout("complete");
        metrics.self_checked("reached");
        let text = metrics.encoded().unwrap();
        for line in [
            r#"dot_injector_admissions_total{outcome="denied",reason="host-network"} 1"#,
            "dot_injector_admission_duration_seconds_count 1",
            r#"dot_injector_certificate_expiry_timestamp_seconds{certificate="leaf"} 5.0"#,
            r#"dot_injector_certificate_rotations_total{certificate="ca"} 1"#,
            r#"dot_injector_certificate_writes_total{object="ca-bundle"} 1"#,
            r#"dot_injector_events_total{outcome="sent"} 1"#,
            r#"dot_injector_refused_total{reason="tls-failed"} 1"#,
            "dot_injector_leader 1",
            r#"dot_injector_pods{profile="default",state="outdated"} 2"#,
            r#"dot_injector_configuration_writes_total{outcome="written"} 1"#,
            r#"dot_injector_rollouts_total{outcome="complete"} 1"#,
            r#"dot_injector_self_checks_total{result="reached"} 1"#,
            r#"dot_injector_self_check_timestamp_seconds{result="reached"} "#,
        ] {
            assert!(text.contains(line), "{line} is not in:\n{text}");
        }
    }
}
