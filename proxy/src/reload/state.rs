//! Which configuration is in force, and what became of the last one that was seen: for metrics and for who debugs.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::file::Hash;

/// Why a configuration was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// There is no file, or no text in it.
    Unreadable,
    /// It does not parse, or names what cannot be used.
    Invalid,
    /// Servers that it adds did not prove themselves.
    Unproved,
    /// It takes a restart.
    Restart,
}

/// A configuration that was not taken.
#[derive(Debug, Clone)]
pub(super) struct Rejected {
    /// Of its text, if there is one.
    pub(super) hash: Option<Hash>,
    /// Why, in a word.
    pub(super) reason: Reason,
    /// Why, in a sentence for a person.
    pub(super) why: String,
}

/// What is told of configurations.
#[derive(Debug)]
pub struct State(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    in_force: Hash,
    rejected: Option<Rejected>,
    /// What is being proved.
    considered: Option<Hash>,
    /// Fields of the configuration in force whose values wait for a restart.
    waiting: Vec<&'static str>,
    waiting_of_considered: Vec<&'static str>,
    taken: u64,
    refused: u64,
}

impl Reason {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::Invalid => "invalid",
            Self::Unproved => "unproved",
            Self::Restart => "restart",
        }
    }

    /// What the proxy does, in a sentence for a person.
    pub(super) fn consequence(self) -> &'static str {
        match self {
            Self::Unproved => "what it adds is tried again; what it removes beside others is out of use",
            Self::Unreadable | Self::Invalid | Self::Restart => "the last one goes on",
        }
    }
}

impl State {
    /// The configuration that the process was started with is in force.
    pub(super) fn new(hash: Hash) -> Self {
        Self(Mutex::new(Inner {
            in_force: hash,
            rejected: None,
            considered: None,
            waiting: Vec::new(),
            waiting_of_considered: Vec::new(),
            taken: 0,
            refused: 0,
        }))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes it known to the registry.
    pub(super) fn register(self: &Arc<Self>, registry: &mut Registry) {
        registry.register_collector(Box::new(Arc::clone(self)));
    }

    /// A configuration that can be used was read; these fields of it wait for a restart.
    pub(super) fn considers(&self, hash: Hash, waiting: Vec<&'static str>) {
        let mut inner = self.inner();
        if inner.rejected.as_ref().is_some_and(|rejected| rejected.hash != Some(hash)) {
            inner.rejected = None;
        }
        (inner.considered, inner.waiting_of_considered) = (Some(hash), waiting);
    }

    /// The configuration is in force. False if it was before, and nothing else was seen since.
    pub(super) fn takes(&self, hash: Hash) -> bool {
        let mut inner = self.inner();
        let is_news = inner.in_force != hash || inner.rejected.is_some();
        inner.taken += u64::from(is_news);
        (inner.in_force, inner.rejected, inner.considered) = (hash, None, None);
        let waiting = std::mem::take(&mut inner.waiting_of_considered);
        if waiting != inner.waiting && !waiting.is_empty() {
            tracing::warn!(fields = waiting.join(", "), "these fields of the configuration wait for a restart");
        }
        inner.waiting = waiting;
        is_news
    }

    /// The configuration was not taken. False if that was told already.
    pub(super) fn rejects(&self, rejected: Rejected) -> bool {
        let mut inner = self.inner();
        let same = |told: &Rejected| told.hash == rejected.hash && told.reason == rejected.reason;
        let is_news = !inner.rejected.as_ref().is_some_and(same);
        inner.refused += u64::from(is_news);
        inner.rejected = Some(rejected);
        is_news
    }
}

/// What an operator wants to read.
impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.inner();
        writeln!(f, "in force: {}", inner.in_force)?;
        if !inner.waiting.is_empty() {
            writeln!(f, "waiting for a restart: {}", inner.waiting.join(", "))?;
        }
        match &inner.rejected {
            Some(Rejected { hash, reason, why }) => {
                let hash = hash.map_or_else(|| "a file that cannot be read".to_owned(), |hash| hash.to_string());
                writeln!(f, "not taken: {hash} ({}): {why}\n  {}", reason.as_str(), reason.consequence())
            }
            None => match inner.considered {
                Some(hash) => writeln!(f, "being proved: {hash}"),
                None => Ok(()),
            },
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InForceLabel {
    hash: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RejectedLabel {
    hash: String,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

impl Collector for State {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let inner = self.inner();
        let one = ConstGauge::new(1_u64);
        let help = "Always 1; the label tells which configuration is in force";
        let mut metric = encoder.encode_descriptor("config_info", help, None, MetricType::Gauge)?;
        one.encode(metric.encode_family(&InForceLabel { hash: inner.in_force.to_string() })?)?;
        if let Some(Rejected { hash, reason, .. }) = &inner.rejected {
            let help = "Always 1; the label tells which configuration was seen last, if it was not taken, and why";
            let mut metric = encoder.encode_descriptor("config_rejected", help, None, MetricType::Gauge)?;
            let hash = hash.map(|hash| hash.to_string()).unwrap_or_default();
            one.encode(metric.encode_family(&RejectedLabel { hash, reason: reason.as_str() })?)?;
        }
        let help = "Whether fields of the configuration in force wait for a restart";
        let metric = encoder.encode_descriptor("config_restart_needed", help, None, MetricType::Gauge)?;
        ConstGauge::new(u64::from(!inner.waiting.is_empty())).encode(metric)?;
        let help = "Configurations that were taken, or not, since the start";
        let mut metric = encoder.encode_descriptor("config_reloads", help, None, MetricType::Counter)?;
        for (result, count) in [("taken", inner.taken), ("rejected", inner.refused)] {
            ConstCounter::new(count).encode(metric.encode_family(&ResultLabel { result })?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(state: &Arc<State>) -> String {
        let mut registry = Registry::with_prefix("dot_proxy");
        state.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn metrics_tell_one_configuration_in_force_and_one_that_was_not_taken() {
        let (first, second) = (Hash::of(b"1"), Hash::of(b"2"));
        let state = Arc::new(State::new(first));
        let rest = |needed, taken, rejected| {
            format!(
                "dot_proxy_config_restart_needed {needed}\ndot_proxy_config_reloads_total{{result=\"taken\"}} {taken}\n\
                 dot_proxy_config_reloads_total{{result=\"rejected\"}} {rejected}"
            )
        };
        assert_eq!(told(&state), format!("dot_proxy_config_info{{hash=\"{first}\"}} 1\n{}", rest(0, 0, 0)));
        let rejected = Rejected { hash: Some(second), reason: Reason::Unproved, why: "refused at x".to_owned() };
        state.considers(second, vec!["threads"]);
        assert!(state.rejects(rejected.clone()) && !state.rejects(rejected));
        let both = format!(
            "dot_proxy_config_info{{hash=\"{first}\"}} 1\ndot_proxy_config_rejected{{hash=\"{second}\",reason=\"unproved\"}} 1\n{}",
            rest(0, 0, 1)
        );
        assert_eq!(told(&state), both);
        assert!(state.to_string().contains("(unproved): refused at x"));
        assert!(state.takes(second) && !state.takes(second));
        assert_eq!(told(&state), format!("dot_proxy_config_info{{hash=\"{second}\"}} 1\n{}", rest(0, 1, 1)));
    }
}
