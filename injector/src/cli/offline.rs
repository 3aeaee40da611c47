//! What `inject` and `explain` are given: manifests, and the facts that a live injector reads from its cluster.

use std::io::Read as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use clap::Args;

use super::Failure;
use crate::cluster::{ClusterDns, ResolvConf};
use crate::manifest::{Finding, Manifest, Surroundings};
use crate::profile::Profiles;
use crate::settings::Settings;

/// Manifests.
#[derive(Debug, Args)]
pub(super) struct Manifests {
    /// Manifests in YAML or JSON, one or many; - reads standard input
    #[arg(long, short, value_name = "FILE")]
    filename: PathBuf,
}

/// Manifests, and what the cluster is like.
#[derive(Debug, Args)]
pub(super) struct Offline {
    #[command(flatten)]
    manifests: Manifests,
    /// The injector's configuration (in a cluster: the ConfigMap dot-injector); left out: the defaults
    #[arg(long, value_name = "FILE", env = "DOT_INJECTOR_CONFIG")]
    config: Option<PathBuf>,
    /// Namespace of what names none
    #[arg(long, short, value_name = "NAME", default_value = "default")]
    namespace: String,
    /// Address of cluster DNS; repeat it for several
    #[arg(long, value_name = "ADDRESS")]
    cluster_dns: Vec<IpAddr>,
    /// The cluster's domain [default: cluster.local]
    #[arg(long, value_name = "DOMAIN")]
    cluster_domain: Option<String>,
}

impl Manifests {
    /// Reads all documents. What names no namespace is in `namespace`.
    pub(super) fn read(&self, namespace: &str) -> Result<Manifest, Failure> {
        Manifest::read(&self.text()?, namespace)
            .map_err(|error| Failure::Usage(format!("{}: {error}", self.filename.display())))
    }

    fn text(&self) -> Result<String, Failure> {
        let mut text = String::new();
        let read = if self.filename == Path::new("-") {
            std::io::stdin().lock().read_to_string(&mut text)
        } else {
            std::fs::File::open(&self.filename).and_then(|mut file| file.read_to_string(&mut text))
        };
        read.map_err(|error| Failure::Usage(format!("--filename {}: {error}", self.filename.display())))?;
        Ok(text)
    }
}

impl Offline {
    /// Reads the manifests and decides about their pods.
    pub(super) fn decide(&self) -> Result<(Manifest, Vec<Finding>), Failure> {
        let surroundings = self.surroundings()?;
        let mut manifest = self.read()?;
        let findings = manifest.inject(&surroundings);
        Ok((manifest, findings))
    }

    /// Reads the manifests.
    pub(super) fn read(&self) -> Result<Manifest, Failure> {
        self.manifests.read(&self.namespace)
    }

    /// The namespace of what names none.
    pub(super) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// What the flags say of the cluster.
    pub(super) fn surroundings(&self) -> Result<Surroundings, Failure> {
        let mut settings = settings(self.config.as_deref())?;
        if !self.cluster_dns.is_empty() {
            settings.cluster.dns_addresses.clone_from(&self.cluster_dns);
        }
        if settings.cluster.dns_addresses.is_empty() {
            return Err(Failure::usage(
                "--cluster-dns: the address of cluster DNS is needed (`kubectl -n kube-system get service kube-dns` shows it), or a --config with cluster.dnsAddresses",
            ));
        }
        if let Some(domain) = &self.cluster_domain {
            settings.cluster.domain.clone_from(domain);
        } else if settings.cluster.domain.is_empty() {
            settings.cluster.domain = "cluster.local".to_owned();
        }
        // This machine's resolv.conf says nothing about the cluster.
        let cluster = ClusterDns::new(&settings.cluster, &ResolvConf::default()).map_err(Failure::usage)?;
        let profiles = Profiles::of_default(settings.profile.clone().unwrap_or_default());
        Ok(Surroundings { namespace: self.namespace.clone(), settings, cluster, profiles })
    }
}

/// Reads the injector's configuration; without a file, the defaults.
pub(super) fn settings(file: Option<&Path>) -> Result<Settings, Failure> {
    let Some(file) = file else { return Settings::from_yaml("").map_err(Failure::usage) };
    let at = |error: &dyn std::fmt::Display| Failure::Usage(format!("--config {}: {error}", file.display()));
    let text = std::fs::read_to_string(file).map_err(|error| at(&error))?;
    Settings::from_yaml(&text).map_err(|error| at(&error))
}
