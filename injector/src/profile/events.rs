//! Who is told of security events.

use dot_proxy_config::{CaCertificates, Collector, Labels};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules;

/// Who is told of security events, in the Elastic Common Schema. By default nobody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = rules::of_events()))]
pub struct Events {
    /// Whether events are written to standard output, one JSON object a line. The log then goes to standard error.
    pub stdout: bool,
    /// The collector to which events are sent by syslog.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub syslog: Option<Syslog>,
    /// Whether names that were asked for stand in events.
    pub names: bool,
    /// Events that wait at most for each destination that does not take them; further ones are lost, and counted.
    #[schemars(extend("x-kubernetes-validations" = rules::in_range(16, 65_536)), transform = rules::without_width)]
    pub buffer: u32,
    /// What stands in each event as labels.NAME, at most 16; namespace is added.
    pub labels: Labels,
}

/// A collector of syslog.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Syslog {
    /// Where it is: `tls://ADDRESS[:PORT]#NAME`, where NAME is what its certificate must prove, or `tcp://ADDRESS[:PORT]` in clear.
    #[schemars(length(max = 384))]
    pub server: Collector,
    /// Certificates (PEM) of the authorities that may vouch for it. Left out: the public ones built into the proxy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<CaCertificates>,
}

impl Default for Events {
    fn default() -> Self {
        let usual = dot_proxy_config::Events::default();
        Self { stdout: usual.stdout, syslog: None, names: usual.names, buffer: usual.buffer, labels: usual.labels }
    }
}

impl Events {
    pub(super) fn to_config(&self) -> dot_proxy_config::Events {
        let syslog = self.syslog.as_ref().map(|syslog| dot_proxy_config::Syslog {
            ca: syslog.ca.clone(),
            ..dot_proxy_config::Syslog::to(syslog.server.clone())
        });
        dot_proxy_config::Events {
            stdout: self.stdout,
            syslog,
            names: self.names,
            buffer: self.buffer,
            labels: self.labels.clone(),
        }
    }
}
