//! The injector's configuration file: the sidecar's container, the cluster, and the profile `default` that is to be kept.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::certs::CertificateSettings;
use crate::cluster::ClusterSettings;
use crate::operator::SelfCheckSettings;
use crate::profile::{Profile, ProfileError};

/// The injector's configuration file, as written.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Settings {
    /// The container that is put into pods.
    pub sidecar: Sidecar,
    /// What the injector has to know about the cluster.
    pub cluster: ClusterSettings,
    /// How long the webhook's certificates last, and who makes them.
    pub certificates: CertificateSettings,
    /// How a changed profile is brought to the pods that run.
    pub rollout: Rollout,
    /// Whether is checked on and on that the API server calls the webhook.
    pub self_check: SelfCheckSettings,
    /// The ProxyProfile `default` as the injector is to keep it; `null` leaves it to the administrator.
    pub profile: Option<Profile>,
    /// Namespaces of which the API server shows no pod to the injector.
    pub excluded_namespaces: BTreeSet<String>,
    /// Whether pods are replaced that lack what a new pod would have.
    pub repair: Repair,
}

/// Whether, and how fast, pods are evicted that lack the sidecar or have an outdated image of it, so that their controllers make new ones.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Repair {
    /// Whether it is done at all.
    pub enabled: bool,
    /// So many evictions a minute at most, in the whole cluster.
    pub evictions_per_minute: u32,
    /// So many pods of one owner may be down at most, whatever the cause.
    pub at_once_per_owner: usize,
}

impl Default for Repair {
    fn default() -> Self {
        Self { enabled: false, evictions_per_minute: 6, at_once_per_owner: 1 }
    }
}

/// The container that is put into pods.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Sidecar {
    /// Its image.
    pub image: String,
    /// When the image is pulled.
    pub image_pull_policy: PullPolicy,
    /// The user and group it runs as; `null` leaves them to the platform (OpenShift).
    pub run_as_user: Option<i64>,
}

/// How a changed profile is brought to the pods that run.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Rollout {
    /// So many pods are written in a second at most.
    pub writes_per_second: u32,
    /// Whether the leader itself asks servers that are new, those of routes too, before pods are told of them.
    pub prove_upstreams: bool,
    /// It is stopped when more of the pods that were asked have rejected it, in percent.
    pub most_rejected_percent: u8,
}

/// When an image is pulled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PullPolicy {
    /// At every start.
    Always,
    /// When the node does not have it.
    #[default]
    IfNotPresent,
    /// Never: the node must have it.
    Never,
}

/// Why the injector's configuration was refused: where, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingsError(String);

/// More would be felt by the API server's other users.
const MOST_WRITES_PER_SECOND: u32 = 100;

impl Default for Settings {
    fn default() -> Self {
        Self {
            sidecar: Sidecar::default(),
            cluster: ClusterSettings::default(),
            rollout: Rollout::default(),
            certificates: CertificateSettings::default(),
            self_check: SelfCheckSettings::default(),
            profile: Some(Profile::default()),
            excluded_namespaces: BTreeSet::from(["kube-system".to_owned()]),
            repair: Repair::default(),
        }
    }
}

impl Default for Sidecar {
    fn default() -> Self {
        Self {
            image: concat!("ghcr.io/dot-sidecar/dot-proxy:", env!("CARGO_PKG_VERSION")).to_owned(),
            image_pull_policy: PullPolicy::default(),
            run_as_user: Some(64_053),
        }
    }
}

impl Default for Rollout {
    fn default() -> Self {
        Self { writes_per_second: 50, prove_upstreams: true, most_rejected_percent: 10 }
    }
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SettingsError {}

impl Settings {
    /// Reads the configuration from YAML, of which JSON is a part.
    pub fn from_yaml(text: &str) -> Result<Self, SettingsError> {
        let mut value: serde_json::Value = if text.trim().is_empty() {
            serde_json::json!({})
        } else {
            serde_saphyr::from_str(text).map_err(|error| SettingsError(format!("not readable as YAML: {error}")))?
        };
        // What stands empty in a chart's values is left out.
        if let Some(upstream) = value.pointer_mut("/profile/upstream").and_then(|value| value.as_object_mut()) {
            upstream.retain(|name, value| name != "ca" || value.as_str() != Some(""));
        }
        if let Some(events) = value.pointer_mut("/profile/events").and_then(|value| value.as_object_mut()) {
            events.retain(|name, value| name != "syslog" || value["server"].as_str() != Some(""));
            if let Some(syslog) = events.get_mut("syslog").and_then(|value| value.as_object_mut()) {
                syslog.retain(|name, value| name != "ca" || value.as_str() != Some(""));
            }
        }
        let settings: Self =
            serde_path_to_error::deserialize(value).map_err(|error| match error.path().to_string() {
                path if path == "." => SettingsError(error.inner().to_string()),
                path => SettingsError(format!("{path}: {}", error.inner())),
            })?;
        settings.check()?;
        Ok(settings)
    }

    fn check(&self) -> Result<(), SettingsError> {
        let at = |path: &str, message: &str| Err(SettingsError(format!("{path}: {message}")));
        if self.sidecar.image.trim().is_empty() {
            return at("sidecar.image", "is empty: name the image of dot-proxy");
        }
        match self.sidecar.run_as_user {
            Some(0) => return at("sidecar.runAsUser", "0 is root, which the sidecar never is: write 64053"),
            Some(user) if !(1..=i64::from(i32::MAX)).contains(&user) => {
                return at("sidecar.runAsUser", "is no user id: write a number from 1 to 2147483647, or null");
            }
            _ => {}
        }
        if let Err((field, sentence)) = self.certificates.check() {
            return at(&format!("certificates.{field}"), &sentence);
        }
        if !(1..=MOST_WRITES_PER_SECOND).contains(&self.rollout.writes_per_second) {
            return at("rollout.writesPerSecond", "is out of range: write a number from 1 to 100");
        }
        if self.rollout.most_rejected_percent > 100 {
            return at("rollout.mostRejectedPercent", "is out of range: write a number from 0 to 100");
        }
        if let Err((field, sentence)) = self.self_check.check() {
            return at(&format!("selfCheck.{field}"), &sentence);
        }
        if !(1..=600).contains(&self.repair.evictions_per_minute) {
            return at(
                "repair.evictionsPerMinute",
                "is not from 1 to 600: to evict nothing, set repair.enabled to false",
            );
        }
        if self.repair.at_once_per_owner == 0 {
            return at("repair.atOncePerOwner", "is 0: write 1 or more; to evict nothing, set repair.enabled to false");
        }
        let checked = self.profile.as_ref().map_or(Ok(()), Profile::check);
        checked.map_err(|error: ProfileError| SettingsError(format!("profile.{error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::annotations::Override;

    #[test]
    fn an_empty_file_means_the_defaults() {
        let settings = Settings::from_yaml("").unwrap();
        assert_eq!(settings.sidecar.run_as_user, Some(64_053));
        assert_eq!(settings.profile, Some(Profile::default()));
    }

    #[test]
    fn what_the_chart_renders_is_read() {
        let settings = Settings::from_yaml(
            r#"
sidecar: {image: "registry.example/dot-proxy:1", imagePullPolicy: Never, runAsUser: null}
cluster: {domain: "", dnsAddresses: [], searches: [], options: ["ndots:5"]}
rollout: {writesPerSecond: 20, proveUpstreams: false, mostRejectedPercent: 0}
profile:
  upstream: {servers: ["tls://192.0.2.53#dns.example"], strategy: fastest, ca: "", pins: []}
  routes: [{suffixes: [corp.example], servers: ["udp://192.0.2.1"]}]
  cache: {minTtlSeconds: 0, maxTtlSeconds: 86400, staleSeconds: 86400, prefetch: true}
  log: {format: json, level: info}
  events: {stdout: false, syslog: {server: "", ca: ""}, names: false, buffer: 1024, labels: {}}
  resources: {requests: {cpu: 10m, memory: 32Mi}, limits: {memory: 64Mi}}
  annotations: {allowed: [upstream, log-level]}
  optOut: false
"#,
        )
        .unwrap();
        assert_eq!(settings.sidecar.run_as_user, None);
        assert_eq!(settings.sidecar.image_pull_policy, PullPolicy::Never);
        let rollout = Rollout { writes_per_second: 20, prove_upstreams: false, most_rejected_percent: 0 };
        assert_eq!(settings.rollout, rollout);
        let profile = settings.profile.unwrap();
        assert_eq!(profile.events, crate::profile::Events::default());
        assert_eq!(profile.annotations.allowed, [Override::Upstream, Override::LogLevel]);
        assert!(!profile.opt_out);
    }

    #[test]
    fn the_default_profile_may_be_left_to_others() {
        assert_eq!(Settings::from_yaml("profile: null").unwrap().profile, None);
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_its_path_and_the_remedy() {
        for (text, path, remedy) in [
            ("sidecars: {}", "sidecars", "expected one of"),
            ("sidecar: {image: ''}", "sidecar.image: ", "name the image"),
            ("sidecar: {runAsUser: 0}", "sidecar.runAsUser: ", "64053"),
            ("sidecar: {imagePullPolicy: Sometimes}", "sidecar.imagePullPolicy", "IfNotPresent"),
            ("rollout: {writesPerSecond: 0}", "rollout.writesPerSecond: ", "from 1 to 100"),
            ("rollout: {mostRejectedPercent: 101}", "rollout.mostRejectedPercent: ", "from 0 to 100"),
            ("cluster: {dnsAddresses: [kube-dns]}", "cluster.dnsAddresses[0]: ", "IP address"),
            ("certificates: {leafSeconds: 2592001}", "certificates.leafSeconds: ", "30 days"),
            ("certificates: {leafSeconds: 0}", "certificates.leafSeconds: ", "from 15"),
            ("certificates: {authoritySeconds: 2592000}", "certificates.authoritySeconds: ", "three times"),
            ("certificates: {graceSeconds: 86400}", "certificates.graceSeconds: ", "3600"),
            ("selfCheck: {seconds: 1}", "selfCheck.seconds: ", "from 5"),
            ("profile: {upstream: {servers: []}}", "profile.upstream.servers: ", "name a server"),
            ("profile: {upstream: {servers: [\"udp://10.0.0.1\"]}}", "profile.upstream.servers[0]: ", "tls://"),
            ("profile: {upstream: {caFile: /x}}", "profile.upstream.caFile: ", "`ca`"),
            ("profile: {clients: {inFlight: 0}}", "profile.clients.inFlight: ", "from 1 to 65536"),
            ("profile: {upstream: {pins: [x]}}", "profile.upstream.pins[0]: ", "sha256/"),
            (
                "profile: {upstream: {clientCertificate: {certificateFile: /c, keyFile: /k}}}",
                "profile.upstream.clientCertificate: ",
                "expected one of",
            ),
            (
                "profile: {events: {syslog: {server: \"tls://192.0.2.5#a\", caFile: /x}}}",
                "profile.events.syslog.caFile: ",
                "`ca`",
            ),
            (
                "profile: {events: {names: true, syslog: {server: \"tcp://192.0.2.5\", ca: \"\"}}}",
                "profile.events.names: ",
                "in the clear",
            ),
            ("profile: {resources: {limits: {gpu: 1}}}", "profile.resources.limits.gpu: ", "`cpu`, `memory`"),
            (
                "profile: {resources: {requests: {cpu: 2}, limits: {cpu: 1}}}",
                "profile.resources.requests.cpu: ",
                "lower",
            ),
            ("profile: {annotations: {allowed: [config]}}", "profile.annotations.allowed[0]: ", "upstream"),
            ("repair: {evictionsPerMinute: 0}", "repair.evictionsPerMinute: ", "from 1 to 600"),
            ("repair: {atOncePerOwner: 0}", "repair.atOncePerOwner: ", "enabled"),
            ("profile: [", "not readable as YAML", ""),
        ] {
            let error = Settings::from_yaml(text).unwrap_err().to_string();
            assert!(error.starts_with(path) && error.contains(remedy), "{text}: {error}");
        }
    }
}
